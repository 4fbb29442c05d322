"""One HTTP request through a SOCKS proxy (RFC 1928), as a browser sends it."""

import socket
import struct


class SocksRefused(Exception):
    """The proxy did not connect, or what it connected to hung up at once."""


def through_socks(
    port: int, host: str, to: int, path: str, *, method: str = "GET", headers: str = ""
) -> bytes:
    """Return head and body of the answer to one request through the proxy on 127.0.0.1:`port`."""
    with socket.create_connection(("127.0.0.1", port), 30) as wire:
        wire.sendall(b"\5\1\0")
        if _exactly(wire, 2) != b"\5\0":
            raise SocksRefused("no SOCKS 5")
        name = host.encode()
        wire.sendall(b"\5\1\0\3" + bytes([len(name)]) + name + struct.pack(">H", to))
        if _exactly(wire, 10)[1] != 0:
            raise SocksRefused(f"{host}:{to}")
        wire.sendall(
            f"{method} {path} HTTP/1.0\r\nHost: {host}:{to}\r\n{headers}Content-Length: 0\r\n\r\n".encode()
        )
        answer = b""
        try:
            while more := wire.recv(65536):
                answer += more
        except ConnectionResetError:
            raise SocksRefused(f"{host}:{to} hung up") from None
        if not answer:
            raise SocksRefused(f"{host}:{to} hung up")
        return answer


def _exactly(wire: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        try:
            more = wire.recv(count - len(data))
        except ConnectionResetError:
            more = b""
        if not more:
            raise SocksRefused("closed")
        data += more
    return data
