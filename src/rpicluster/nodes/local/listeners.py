"""Who listens on which TCP port of this machine, from /proc, without root."""

import errno
import ipaddress
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from rpicluster.nodes.local.state import user_name

_EVERYWHERE = "0.0.0.0"  # noqa: S104  compared, never bound
_LISTEN = "0A"  # TCP_LISTEN in include/net/tcp_states.h


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket; `address` is 0.0.0.0 for any form of "all addresses"."""

    address: str
    port: int
    uid: int
    inode: str

    def holds(self, address: str, port: int) -> bool:
        """Return whether nobody else can listen on `address:port` beside this socket."""
        return port == self.port and self.address in (address, _EVERYWHERE)

    def process(self) -> tuple[int | None, str]:
        """Return pid and command line of who listens; None and "" for what cannot be seen from here."""
        pid = _pid_of(self.inode)
        try:
            words = b"" if pid is None else Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:  # it ended while we looked
            words = b""
        return pid, words.replace(b"\0", b" ").decode(errors="replace").strip()

    def describe(self) -> str:
        """Return `pid 812, user ana: java …`, or what can be known of another user's process."""
        user = user_name(self.uid)
        pid, command = self.process()
        if command:
            return f"pid {pid}, user {user}: {_shorten(command)}"
        return (
            "a process that cannot be seen"
            if self.uid == os.getuid()
            else f"another user's process, user {user}"
        )


def listeners() -> list[Listener]:
    """Return all listening TCP sockets, IPv4 and IPv6."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return [
        listener
        for path in tables
        if path.exists()  # a kernel without IPv6 has one of them
        for listener in parse_listeners(path.read_text())
    ]


def parse_listeners(table: str) -> list[Listener]:
    """Return the listening sockets in a table of /proc/net (proc(5))."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN:
            address, port = fields[1].split(":")
            found.append(Listener(_decode(address), int(port, 16), int(fields[7]), fields[9]))
    return found


def listener_on(address: str, port: int) -> Listener | None:
    """Return the socket that keeps `address:port` from being bound, None if nothing listens there."""
    return next((listener for listener in listeners() if listener.holds(address, port)), None)


def can_bind(address: str, port: int) -> bool:
    """Return whether a server could listen on `address:port` now; tried with a real bind."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # as Java's servers do: TIME_WAIT is no obstacle
        try:
            probe.bind((address, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    # SO_REUSEADDR lets a bind pass beside a socket that is bound and does not listen yet; a listener never.
    return listener_on(address, port) is None


def _decode(text: str) -> str:
    # The kernel prints each 32-bit word in the machine's byte order.
    words = [int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_unspecified:
            return _EVERYWHERE  # a dual-stack listener holds the IPv4 port too
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
    return str(address)


def _pid_of(inode: str) -> int | None:
    wanted = f"socket:[{inode}]"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) == wanted:
                    return int(process.name)
        except OSError:  # another user's process, or one that ended while we looked
            continue
    return None


def _shorten(command: str, limit: int = 80) -> str:
    return command if len(command) <= limit else command[: limit - 1] + "…"
