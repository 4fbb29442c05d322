"""The lines of /etc/hosts that map nodes' names to their cluster addresses, between two marks.

For people: configuration holds addresses everywhere, because Debian's own line `127.0.1.1 HOST`, which
stays, makes a name mean loopback on its own node.
"""

import ipaddress
from collections.abc import Iterator

from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import HEADER

BEGIN, END = "# BEGIN rpicluster", "# END rpicluster"


def hosts_block(inputs: Inputs) -> str:
    """Return the lines between the marks, one a node; nodes whose address is not known yet have none."""
    return "".join(
        f"{address}\t{name}\n"
        for name, address in sorted(
            ((node.name, inputs.node(node.name).address) for node in inputs.spec.nodes), key=_by_address
        )
        if is_address(address)
    )


def java_hosts(name: str) -> bytes:
    """Return all the names that a Hadoop daemon on node `name` knows, instead of the system's.

    Hadoop looks for the name of its own address, listens on what that name leads to, and a NodeManager
    registers under it. A router or a line in /etc/hosts may give the address a name; here none has one, so
    addresses stay addresses. The node's own name is here for what asks for it, as Debian has it.
    Format: OpenJDK's `jdk.net.hosts.file` (java.net, "Networking Properties").
    """
    return f"# {HEADER}\n127.0.0.1 localhost\n127.0.1.1 {name}\n".encode()


def is_address(text: str) -> bool:
    """Say whether `text` is an IP address without a zone, and not a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _by_address(entry: tuple[str, str]) -> tuple[int, int, str]:
    name, address = entry
    if not is_address(address):
        return (0, 0, name)
    parsed = ipaddress.ip_address(address)
    return (parsed.version, int(parsed), name)


def with_block(text: str, block: str) -> str:
    """Return the file `text` with `block` as its one block, at the end; everything else stays."""
    others = without_block(text)
    if others and not others.endswith("\n"):
        others += "\n"
    return f"{others}{BEGIN}\n{block}{END}\n"


def without_block(text: str) -> str:
    """Return the file `text` without our block.

    A mark without its partner goes alone: lines that may be somebody's are not ours to remove.
    """
    return "".join(_others(text.splitlines(keepends=True)))


def _others(lines: list[str]) -> Iterator[str]:
    pending: list[str] | None = None  # since a BEGIN whose END was not seen yet
    for line in lines:
        mark = line.strip()
        if mark == BEGIN:
            yield from pending or ()
            pending = []
        elif mark == END:
            pending = None
        elif pending is None:
            yield line
        else:
            pending.append(line)
    yield from pending or ()
