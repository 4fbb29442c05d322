"""What tests of tunnels share: a port that answers, a call to it, and waits."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

NOTICED_S = 120.0  # generous: tests run on busy machines; what was measured is in docs/howto/connect.md


def hello(peer: socket.socket) -> None:
    peer.sendall(b"hello")


def echo(peer: socket.socket) -> None:
    while line := peer.recv(100):
        peer.sendall(line)


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None] = hello, port: int = 0) -> Iterator[int]:
    """A port on 127.0.0.1 that answers whoever connects. Raises OSError where another program has it."""
    with contextlib.closing(socket.create_server(("127.0.0.1", port))) as server:

        def talk(peer: socket.socket) -> None:
            with peer, contextlib.suppress(ConnectionError):
                answer(peer)

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(peer,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def greeting(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as wire:
        return wire.recv(5)


def until(happens: Callable[[], bool], timeout_s: float = NOTICED_S) -> float:
    begun = time.monotonic()
    while not happens():
        assert time.monotonic() - begun < timeout_s, f"not within {timeout_s} s"
        time.sleep(0.05)
    return time.monotonic() - begun
