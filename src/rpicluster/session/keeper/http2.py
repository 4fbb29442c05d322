"""HTTP/2 (RFC 9113): what one gRPC call needs and no more.

No library: nodes have the system's Python only.
"""

from __future__ import annotations

import struct
from urllib.parse import unquote

from .wire import ProbeFailed, Wire

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
FRAME_LIMIT_BYTES = 16384  # SETTINGS_MAX_FRAME_SIZE, unless one says otherwise
GRPC_WORDS = {"4": "it was too slow", "14": "it is not ready", "16": "it refused the token"}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def prefixed(value: bytes) -> bytes:
    """Return an HPACK string without Huffman coding (RFC 7541, 5.1 and 5.2)."""
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    head, length = b"\x7f", length - 127
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + value


def header_block(headers: list[tuple[str, str]]) -> bytes:
    """Return the headers as HPACK literals that are never indexed (RFC 7541, 6.2.3)."""
    return b"".join(b"\x10" + prefixed(name.encode()) + prefixed(value.encode()) for name, value in headers)


def unpadded(kind: int, flags: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS frame without padding and priority."""
    start, end = 0, len(payload)
    if flags & PADDED:
        start, end = 1, end - (payload[0] if payload else 0)
    if kind == HEADERS and flags & PRIORITY:
        start += 5
    if start > end:
        raise ProbeFailed("it sent an HTTP/2 frame shorter than its own padding")
    return payload[start:end]


def read_stream(wire: Wire) -> tuple[bytes, bytes]:
    """Return the header blocks and the data of stream 1, when its end was read. Raises ProbeFailed."""
    blocks, data, ended, block_open = b"", b"", False, False
    while not ended or block_open:
        head = wire.exactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if length > FRAME_LIMIT_BYTES:
            raise ProbeFailed(f"{wire.where} does not speak HTTP/2")
        payload = wire.exactly(length)
        if kind == SETTINGS and not flags & ACK:
            wire.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            wire.send(frame(PING, ACK, 0, payload[:8]))
        elif kind == GOAWAY and (payload[:4] < b"\0\0\0\1" or any(payload[4:8])):
            raise ProbeFailed(
                f"{wire.where} ended the connection (GOAWAY {int.from_bytes(payload[4:8], 'big')})"
            )
        elif kind == RST_STREAM and stream == 1:
            raise ProbeFailed(f"{wire.where} reset the request (code {int.from_bytes(payload[:4], 'big')})")
        elif kind == DATA and stream == 1:
            data += unpadded(kind, flags, payload)
            ended = ended or bool(flags & END_STREAM)
        elif kind in (HEADERS, CONTINUATION) and stream == 1:
            blocks += unpadded(kind, flags, payload) if kind == HEADERS else payload
            ended = ended or (kind == HEADERS and bool(flags & END_STREAM))
            block_open = not flags & END_HEADERS
    return blocks, data


def trailer(blocks: bytes, name: bytes) -> str | None:
    """Return the value of a plain header, or None if it is not there.

    The blocks are searched, not decoded: gRPC's Java and C servers Huffman-code no short plain header, and
    one call a connection leaves the dynamic table no earlier entry to point at.
    """
    _, found, rest = blocks.partition(prefixed(name))
    if not found or not rest or rest[0] & 0x80:
        return None
    length, start, shift = rest[0], 1, 0
    if length == 0x7F:  # RFC 7541, 5.1: the rest of the number follows, seven bits a byte
        for byte in rest[1:4]:
            length, start, shift = length + ((byte & 0x7F) << shift), start + 1, shift + 7
            if not byte & 0x80:
                break
    return unquote(rest[start : start + length].decode("latin-1"))


def grpc_unary(wire: Wire, path: str, message: bytes, token: str, timeout_s: float) -> bytes:
    """Return the message that answers one gRPC call over cleartext HTTP/2. Raises ProbeFailed."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", f"{max(1, int(timeout_s * 1000))}m"),
        ("authorization", f"Bearer {token}"),
    ]
    wire.send(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS, 0, 0, struct.pack(">HIHI", 1, 0, 2, 0))  # no header table, no pushes
        + frame(HEADERS, END_HEADERS, 1, header_block(headers))
        + frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message)
    )
    blocks, data = read_stream(wire)
    code = trailer(blocks, b"grpc-status")
    if code != "0":
        words = GRPC_WORDS.get(str(code), f"gRPC status {code}")
        raise ProbeFailed(
            f"{wire.where}: {words}: {(trailer(blocks, b'grpc-message') or '')[:300]}".rstrip(": ")
        )
    if data[:1] != b"\0" or len(data) < 5 or len(data) != 5 + int.from_bytes(data[1:5], "big"):
        raise ProbeFailed(f"{wire.where} answered with something that is not one gRPC message")
    return data[5:]
