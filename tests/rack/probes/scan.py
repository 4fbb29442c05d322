"""Which TCP ports of a machine are open: a connection to each, thousands at a time. Standard library only."""

import errno
import selectors
import socket
import time

AT_ONCE = 2000
PATIENCE_S = 2.0
IN_PROGRESS = (errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK)


def open_ports(address: str, first: int = 1, last: int = 65535) -> "dict[str, list[int]]":
    """Return the ports that took a connection, and those that kept silent; all others refused."""
    family, *_, where = socket.getaddrinfo(address, 1, type=socket.SOCK_STREAM)[0]
    found: dict[str, list[int]] = {"open": [], "silent": []}
    chooser = selectors.DefaultSelector()
    waiting: dict[socket.socket, tuple[int, float]] = {}
    todo = iter(range(first, last + 1))
    more = True
    while more or waiting:
        while more and len(waiting) < AT_ONCE:
            port = next(todo, None)
            if port is None:
                more = False
                break
            wire = socket.socket(family, socket.SOCK_STREAM)
            wire.setblocking(False)
            said = wire.connect_ex((where[0], port, *where[2:]))
            if said in IN_PROGRESS:
                waiting[wire] = (port, time.monotonic() + PATIENCE_S)
                chooser.register(wire, selectors.EVENT_WRITE)
                continue
            if said == 0:
                found["open"].append(port)
            elif said != errno.ECONNREFUSED:
                raise OSError(said, f"port {port} of {address}")
            wire.close()
        for key, _ in chooser.select(0.05):
            _settle(key.fileobj, waiting, chooser, found)
        now = time.monotonic()
        for wire in [w for w, (_, until) in waiting.items() if until < now]:
            found["silent"].append(waiting.pop(wire)[0])
            chooser.unregister(wire)
            wire.close()
    return {kind: sorted(ports) for kind, ports in found.items()}


def _settle(wire, waiting, chooser, found) -> None:
    port, _ = waiting.pop(wire)
    chooser.unregister(wire)
    said = wire.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if said == 0:
        found["open"].append(port)
    elif said in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT):
        found["silent"].append(port)
    elif said not in (errno.ECONNREFUSED, errno.ECONNRESET):
        raise OSError(said, f"port {port}")
    wire.close()
