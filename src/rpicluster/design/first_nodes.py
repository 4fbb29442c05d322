"""The first cluster.yml for nodes behind SSH, from a list of where they are. Pure.

JSON strings are YAML strings, too, so every value is written by `json.dumps` and no character can end one.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from rpicluster.errors import UsageError
from rpicluster.model.destination import parse_destination

HINT = "rpicluster init --ssh pi@192.168.1.11,pi@192.168.1.12,pi@192.168.1.13"
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True)
class Entry:
    """A node's name, and how it is reached; not checked, which reading the finished text does."""

    name: str
    host: str
    user: str | None = None
    port: int | None = None


def node_name(number: int) -> str:
    """Return the name of the `number`th node, counted from 1."""
    return f"pi{number}"


def entries(texts: Iterable[str]) -> tuple[Entry, ...]:
    """Return the nodes of `[NAME=][USER@]HOST[:PORT]`, many in one text with commas.

    A node without a name is called as its host is, up to the first dot; by its place in the list where that
    is an address. Raises UsageError.
    """
    words = [word.strip() for text in texts for word in text.split(",")]
    found = []
    for number, word in enumerate(words, start=1):
        name, equals, rest = word.rpartition("=")
        target = parse_destination(rest, hint=HINT)
        if equals and not _LABEL.fullmatch(name):
            raise UsageError(
                f"{name!r} is no name for a node: lower-case letters, digits and dashes", hint=HINT
            )
        called = name or _called(target.host, number)
        found.append(Entry(called, target.host, target.user, target.port))
    names = [entry.name for entry in found]
    for name in names:
        if names.count(name) > 1:
            hosts = " and ".join(entry.host for entry in found if entry.name == name)
            raise UsageError(f"{hosts} would both be called {name!r}", hint="name them: --ssh NAME=HOST,…")
    return tuple(found)


def _called(host: str, number: int) -> str:
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        label = host.partition(".")[0].lower()
        return label if _LABEL.fullmatch(label) else node_name(number)
    return node_name(number)


def cluster_spec(name: str, nodes: Sequence[Entry]) -> str:
    """Return the text of the cluster.yml for these nodes."""
    lines = [
        "# What the cluster is; the first node manages, the others work.",
        f"name: {json.dumps(name)}",
        "nodes:",
        *node_lines(nodes),
    ]
    return "\n".join(lines) + "\n"


def node_lines(nodes: Sequence[Entry]) -> list[str]:
    """Return the lines of a cluster.yml that name these nodes."""
    return [f"  - {{name: {json.dumps(node.name)}, ssh: {{{_reached(node)}}}}}" for node in nodes]


def _reached(node: Entry) -> str:
    known = {"host": node.host, "user": node.user, "port": node.port}
    return ", ".join(f"{key}: {json.dumps(value)}" for key, value in known.items() if value is not None)
