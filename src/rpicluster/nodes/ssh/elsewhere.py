"""A host that has another address than the one it is written down with, and the name its key is known by."""

import contextlib
import itertools
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rpicluster.errors import RpiclusterError
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.failures import DEFAULT_PORT, login_command

_DEADLINE_S = 5.0
_WORDS = 12
Door = tuple[str, int | None, str | None]


@dataclass(frozen=True)
class Elsewhere:
    """Where a host is now, and the name under which known_hosts has its key."""

    address: str
    known_as: str

    @property
    def options(self) -> list[str]:
        """The options by which ssh goes there; the host's own section of the configuration still counts.

        The key is looked for under the known name alone: what else is known of the new address may be
        about whoever had it before.
        """
        settings = {"HostName": self.address, "HostKeyAlias": self.known_as, "CheckHostIP": "no"}
        return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


@dataclass(frozen=True)
class Way:
    """How ssh would reach a host: the name it looks for in known_hosts, the port, and whether others help."""

    known_as: str
    port: int
    through_others: bool
    known_hosts: tuple[str, ...] = ()


def door(target: SshTarget) -> Door:
    """Return what of a target says which machine it is: all but the login."""
    return target.host, target.port, target.config


def way_to(target: SshTarget, where: Sequence[str]) -> Way:
    """Return how ssh understands a target, with the options `where` of OpenSsh.where; nobody is connected to.

    Raises RpiclusterError where ssh does not understand its configuration.
    """
    line = ["ssh", *where, "-G", "--", target.host]
    try:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RpiclusterError(
            f"ssh does not say how it reaches {target.host}: {error}", hint=login_command(target, "-G")
        ) from error
    return read_way(done.stdout, target.host)


def read_way(text: str, host: str) -> Way:
    """Return what `ssh -G` says. Pure. Without an alias the port is part of the name, unless it is 22."""
    said = dict(line.partition(" ")[::2] for line in text.splitlines())
    port = int(said.get("port", DEFAULT_PORT))
    name = said.get("hostname", host)
    own_name = name if port == DEFAULT_PORT else f"[{name}]:{port}"
    through = any(said.get(key, "none") != "none" for key in ("proxyjump", "proxycommand"))
    known: list[str] = []
    for key in ("userknownhostsfile", "globalknownhostsfile"):
        # Several files stand in one line unquoted, so a path with spaces may be any run of its words.
        words = said.get(key, "").split(" ")[:_WORDS]
        known += [" ".join(words[a:b]) for a, b in itertools.combinations(range(len(words) + 1), 2)]
    return Way(said.get("hostkeyalias") or own_name, port, through, tuple(dict.fromkeys(known)))


def known_prints(way: Way) -> frozenset[str]:
    """Return the fingerprints (`SHA256:...`) of the keys that known_hosts has under a name."""
    found: set[str] = set()
    for path in way.known_hosts:
        if not path or not Path(path).expanduser().is_file():
            continue
        line = ["ssh-keygen", "-l", "-F", way.known_as, "-f", str(Path(path).expanduser())]
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # status 1: not in this file
            done = subprocess.run(
                line,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_DEADLINE_S,
                check=True,
            )
            found |= {word for word in done.stdout.split() if word.startswith("SHA256:")}
    return frozenset(found)
