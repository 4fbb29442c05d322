"""The wire formats that a stranger needs: HDFS's block transfer, Spark's transport, gRPC. No library."""

import socket
import struct
from urllib.parse import quote

from keeper.doors import proto
from keeper.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame, header_block, read_stream
from keeper.wire import Wire

TIMEOUT_S = 4.0


class NotGot(Exception):
    """Somebody answered, and said no; or with something else."""


def connected(host: str, port: int) -> socket.socket:
    return socket.create_connection((host, port), timeout=TIMEOUT_S)


def exactly(wire: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = wire.recv(count - len(data))
        if not more:
            raise ConnectionResetError("closed in the middle of an answer")
        data += more
    return data


def varint(number: int) -> bytes:
    head = b""
    while number > 127:
        head, number = head + bytes([number & 127 | 128]), number >> 7
    return head + bytes([number])


def number_field(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def read_block(host: str, port: int, block: "dict[str, object]") -> bytes:
    """Return what a DataNode answers to "read this block", with the first bytes of the data.

    datatransfer.proto of Hadoop 3.5: version 28, operation 81, OpReadBlockProto with an empty token.
    """
    pool, number = str(block["pool"]), int(str(block["id"]))
    generation, count = int(str(block["generation"])), int(str(block["bytes"]))
    extended = bytes_field(1, pool.encode()) + number_field(2, number)
    extended += number_field(3, generation) + number_field(4, count)
    token = b"".join(bytes_field(index, b"") for index in (1, 2, 3, 4))
    base = bytes_field(1, extended) + bytes_field(2, token)
    header = bytes_field(1, base) + bytes_field(2, b"stranger")
    request = bytes_field(1, header) + number_field(2, 0) + number_field(3, count)
    with connected(host, port) as wire:
        wire.sendall(struct.pack(">HB", 28, 81) + varint(len(request)) + request)
        # BlockOpResponseProto: its length, below 128, then field 1, the status; 0 is SUCCESS.
        answer = exactly(wire, exactly(wire, 1)[0])
        if answer[:2] != b"\x08\x00":
            raise NotGot(f"status {answer[1]}")
        wire.settimeout(1.0)
        try:
            while more := wire.recv(65536):
                answer += more
        except TimeoutError:
            pass  # the DataNode waits for our thanks; the data has come
        return answer


def spark_message(kind: int, request: bytes, body: bytes = b"") -> bytes:
    """Return a frame of Spark's transport: length, kind, header, body."""
    return struct.pack(">QB", 9 + len(request) + len(body), kind) + request + body


def spark_answer(wire: socket.socket) -> "tuple[int, bytes]":
    length, kind = struct.unpack(">QB", exactly(wire, 9))
    return kind, exactly(wire, min(length - 9, 1 << 20))


def text(value: str) -> bytes:
    return struct.pack(">I", len(value)) + value.encode()


def driver_file(host: str, port: int, path: str) -> bytes:
    """Return a file that a driver serves to its executors: StreamRequest (6), StreamResponse (7)."""
    with connected(host, port) as wire:
        wire.sendall(spark_message(6, text(path)))
        kind, answer = spark_answer(wire)
        if kind != 7:
            raise NotGot(f"message of kind {kind}: {answer[:120]!r}")
        (count,) = struct.unpack(">Q", answer[4 + len(path) : 12 + len(path)])
        return exactly(wire, count)


def executor_block(host: str, port: int, block: str) -> int:
    """Return how many bytes of a cached block an executor gives: OpenBlocks by RPC, then its chunk."""
    with connected(host, port) as wire:
        message = b"\0" + text("app") + text("1") + struct.pack(">I", 1) + text(block)
        wire.sendall(spark_message(3, struct.pack(">QI", 7, len(message)), message))
        kind, answer = spark_answer(wire)
        if kind != 4:  # RpcResponse
            raise NotGot(f"message of kind {kind}: {answer[:120]!r}")
        # requestId, body length, then StreamHandle: its type, the stream's number, how many chunks.
        stream, chunks = struct.unpack(">QI", answer[13:25])
        if chunks != 1:
            raise NotGot(f"{chunks} chunks")
        wire.sendall(spark_message(0, struct.pack(">QI", stream, 0)))
        kind, answer = spark_answer(wire)
        if kind != 1:  # ChunkFetchSuccess
            raise NotGot(f"message of kind {kind}: {answer[:120]!r}")
        return len(answer)


def spark_connect(host: str, port: int, token: "str | None") -> str:
    """Return the application that Spark Connect names: Config.Get("spark.app.id"), as the keeper asks it."""
    key = b"spark.app.id"
    request = proto(1, b"5ec23e7b-29f1-4b5a-8e63-6b1d3f5a7c11") + proto(2, proto(1, b"stranger"))
    request += proto(3, proto(2, proto(1, key))) + proto(4, b"stranger")
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/spark.connect.SparkConnectService/Config"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    if token is not None:
        headers.append(("authorization", f"Bearer {token}"))
    with Wire(host, port, 2 * TIMEOUT_S, lambda: False) as wire:
        wire.send(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + frame(SETTINGS, 0, 0, struct.pack(">HIHI", 1, 0, 2, 0))
            + frame(HEADERS, END_HEADERS, 1, header_block(headers))
            + frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, len(request)) + request)
        )
        blocks, data = read_stream(wire)
    _, found, rest = data.partition(proto(1, key) + b"\x12")
    if not found:
        said = blocks.decode("latin-1")
        raise NotGot("asked for a token" if "oken" in said or "16" in said else "no such answer")
    return rest[1 : 1 + rest[0]].decode()


def quoted(path: str) -> str:
    return quote(path, safe="/")
