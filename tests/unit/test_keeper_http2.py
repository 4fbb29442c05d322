"""The keeper's HTTP/2 and HTTP against servers that say anything: an answer or ProbeFailed, and in time."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rpicluster.session.keeper.doors import ask_connect, proto
from rpicluster.session.keeper.http2 import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    frame,
    header_block,
    prefixed,
)
from rpicluster.session.keeper.wire import ProbeFailed, StopRequested, Wire, http_json

DEADLINE_S = 0.5
OK = header_block([("grpc-status", "0")])
HEAD = header_block([(":status", "200"), ("content-type", "application/grpc")])
APP = "application_1_2"
REPLY = proto(1, b"s") + proto(2, proto(1, b"spark.app.id") + proto(2, APP.encode()))
MESSAGE = struct.pack(">BI", 0, len(REPLY)) + REPLY


class Server:
    """Answer every connection with the bytes at hand, then close, or keep it open and silent."""

    def __init__(self) -> None:
        self.answer = b""
        self.keep_open = False
        self.piece = 0  # bytes at a time; 0: all at once
        self.heard = b""
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # The client may be gone in the middle of anything; that is its right.
            with connection, contextlib.suppress(OSError):
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(2)
        self.heard = connection.recv(65536)
        size = self.piece or len(self.answer) or 1
        for at in range(0, len(self.answer), size):
            connection.sendall(self.answer[at : at + size])
            if self.piece:
                time.sleep(0.001)
        if self.keep_open:
            while more := connection.recv(65536):
                self.heard += more
        else:
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                self.heard += more

    def close(self) -> None:
        self._closing = True
        self._listener.close()


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def server(shared_server: Server) -> Server:
    shared_server.answer, shared_server.keep_open, shared_server.piece = b"", False, 0
    return shared_server


def ask(server: Server, answer: bytes, keep_open: bool = False) -> str:
    """Ask as the keeper does, and fail if it takes clearly longer than its deadline."""
    assert server.thread.is_alive()
    server.answer, server.keep_open = answer, keep_open
    started = time.monotonic()
    try:
        with Wire("127.0.0.1", server.port, DEADLINE_S, lambda: False) as wire:
            return ask_connect(wire, "secret", "ana", "s" * 36, DEADLINE_S)
    finally:
        assert time.monotonic() - started < DEADLINE_S + 2  # the machine may be busy


GOOD = [
    pytest.param([frame(HEADERS, END_HEADERS, 1, HEAD), frame(DATA, 0, 1, MESSAGE)], id="plain"),
    pytest.param(
        [
            frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)),
            frame(SETTINGS, ACK, 0),
            frame(8, 0, 0, struct.pack(">I", 4096)),  # WINDOW_UPDATE
            frame(PING, 0, 0, b"12345678"),
            frame(PING, ACK, 0, b"12345678"),
            frame(0xAB, 0xFF, 7, b"a kind that nobody knows"),
            frame(HEADERS, END_HEADERS, 1, HEAD),
            frame(DATA, 0, 1, MESSAGE),
        ],
        id="with-everything-around",
    ),
    pytest.param(
        [
            frame(HEADERS, PADDED | PRIORITY | END_HEADERS, 1, b"\x03" + b"\0\0\0\0\x10" + HEAD + b"\0\0\0"),
            frame(DATA, PADDED, 1, b"\x02" + MESSAGE[:7] + b"\0\0"),
            frame(DATA, 0, 1, MESSAGE[7:]),
        ],
        id="padded-and-in-pieces",
    ),
    pytest.param(
        [
            frame(HEADERS, 0, 1, HEAD[:9]),
            frame(CONTINUATION, END_HEADERS, 1, HEAD[9:]),
            frame(DATA, 0, 1, MESSAGE),
        ],
        id="continued-headers",
    ),
    pytest.param(
        [
            frame(GOAWAY, 0, 0, struct.pack(">II", 1, 0) + b"max_age"),
            frame(DATA, 0, 3, b"another stream"),
            frame(RST_STREAM, 0, 3, struct.pack(">I", 8)),
            frame(DATA, 0, 1, MESSAGE),
        ],
        id="graceful-goaway-and-another-stream",
    ),
]


@pytest.mark.parametrize("keep_open", [False, True])
@pytest.mark.parametrize("frames", GOOD)
def test_a_right_answer_is_read_however_it_is_framed(
    server: Server, frames: list[bytes], keep_open: bool
) -> None:
    assert ask(server, b"".join(frames) + frame(HEADERS, END_HEADERS | END_STREAM, 1, OK), keep_open) == APP


def test_trailers_may_be_continued_too(server: Server) -> None:
    frames = [
        frame(DATA, 0, 1, MESSAGE),
        frame(HEADERS, END_STREAM, 1, OK[:5]),
        frame(CONTINUATION, END_HEADERS, 1, OK[5:]),
    ]
    assert ask(server, b"".join(frames)) == APP


def test_pings_and_settings_are_acknowledged(server: Server) -> None:
    frames = [frame(SETTINGS, 0, 0), frame(PING, 0, 0, b"12345678"), frame(DATA, 0, 1, MESSAGE)]
    ask(server, b"".join(frames) + frame(HEADERS, END_HEADERS | END_STREAM, 1, OK))
    deadline = time.monotonic() + 5
    while frame(PING, ACK, 0, b"12345678") not in server.heard and time.monotonic() < deadline:
        time.sleep(0.01)
    assert frame(PING, ACK, 0, b"12345678") in server.heard
    assert frame(SETTINGS, ACK, 0) in server.heard


def failed(message: str) -> bytes:
    return frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        header_block([("grpc-status", "16"), ("grpc-message", message), ("x-after", "other")]),
    )


BAD = [
    (b"", "closed the connection in the middle"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2"),
    (b"\xff\xff\xff\x00\x00\x00\x00\x00\x01", "does not speak HTTP/2"),
    (frame(DATA, 0, 1, MESSAGE)[:-3], "closed the connection in the middle"),
    (frame(GOAWAY, 0, 0, struct.pack(">II", 0, 11)), "GOAWAY 11"),
    (frame(GOAWAY, 0, 0, struct.pack(">II", 1, 2)), "GOAWAY 2"),
    (frame(GOAWAY, 0, 0), "GOAWAY 0"),
    (frame(RST_STREAM, 0, 1, struct.pack(">I", 7)), "reset the request (code 7)"),
    (frame(HEADERS, PADDED | END_HEADERS, 1, b"\xff123"), "shorter than its own padding"),
    (frame(DATA, PADDED, 1), "shorter than its own padding"),
    (frame(HEADERS, PRIORITY, 1, b"123"), "shorter than its own padding"),
    (frame(HEADERS, END_HEADERS | END_STREAM, 1, HEAD), "gRPC status None"),
    (failed("wrong%20token"), "it refused the token: wrong token"),
    (failed("long " * 60), "it refused the token: long long"),
    (frame(HEADERS, END_HEADERS | END_STREAM, 1, OK), "not one gRPC message"),
    (frame(DATA, 0, 1, b"\1" + MESSAGE[1:]) + frame(HEADERS, 5, 1, OK), "not one gRPC message"),
    (frame(DATA, 0, 1, MESSAGE + b"x") + frame(HEADERS, 5, 1, OK), "not one gRPC message"),
    (frame(DATA, 0, 1, b"\0\0\0\0\0") + frame(HEADERS, 5, 1, OK), "did not name its application"),
    (frame(PING, 0, 0, b"x" * 16000) * 100, "sent more than 1048576 bytes"),
    (frame(DATA, 0, 1, b"x" * 16384) * 100, "sent more than 1048576 bytes"),
]


@pytest.mark.parametrize(("answer", "words"), BAD, ids=[words for _, words in BAD])
def test_a_wrong_answer_says_what_is_wrong(server: Server, answer: bytes, words: str) -> None:
    with pytest.raises(ProbeFailed) as failure:
        ask(server, answer)
    assert words in str(failure.value)


def test_a_message_ends_where_its_length_says(server: Server) -> None:
    with pytest.raises(ProbeFailed) as failure:
        ask(server, failed("no" * 80))
    assert str(failure.value).endswith("it refused the token: " + "no" * 80)


def test_a_silent_server_is_left_at_the_deadline(server: Server) -> None:
    with pytest.raises(ProbeFailed, match=r"did not answer within 0\.5 s"):
        ask(server, b"", keep_open=True)


def test_a_server_that_drips_bytes_is_left_at_the_deadline(server: Server) -> None:
    server.piece = 1
    with pytest.raises(ProbeFailed, match=r"did not answer within 0\.5 s"):
        ask(server, frame(PING, ACK, 0, b"12345678") * 1000)


def test_a_closed_port_is_told_apart_from_a_silent_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ProbeFailed, match="Connection refused"):
        Wire("127.0.0.1", port, DEADLINE_S, lambda: False)


def test_a_stop_request_ends_a_wait_for_an_answer(server: Server) -> None:
    server.keep_open = True
    with (
        Wire("127.0.0.1", server.port, 60, lambda: time.monotonic() > stop_at) as wire,
        pytest.raises(StopRequested),
    ):
        stop_at = time.monotonic() + 0.3
        wire.exactly(1)
    assert time.monotonic() < stop_at + 2


GOOD_STREAM = b"".join(
    [
        frame(SETTINGS, 0, 0, struct.pack(">HI", 3, 100)),
        frame(HEADERS, END_HEADERS, 1, HEAD),
        frame(DATA, 0, 1, MESSAGE),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, OK),
    ]
)
frames = st.builds(
    frame,
    st.integers(0, 12) | st.integers(0, 255),
    st.integers(0, 255),
    st.integers(0, 3) | st.integers(0, 2**32 - 1),
    st.binary(max_size=60) | st.just(HEAD) | st.just(OK) | st.just(MESSAGE),
)


@st.composite
def damaged_streams(draw: Callable[..., object]) -> bytes:
    """Cut a good stream, flip bytes in it, or put strange bytes into its middle."""
    stream = bytearray(GOOD_STREAM)
    for _ in range(draw(st.integers(0, 4))):  # type: ignore[call-overload]
        stream[draw(st.integers(0, len(stream) - 1))] = draw(st.integers(0, 255))  # type: ignore[index,call-overload]
    cut: int = draw(st.integers(0, len(stream)))  # type: ignore[assignment]
    return bytes(stream[:cut]) + draw(st.binary(max_size=20)) + bytes(stream[cut:])  # type: ignore[operator,return-value]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.lists(frames, max_size=8).map(b"".join) | damaged_streams())
@example(b"\0" * 9 * 50)
@example(GOOD_STREAM)
def test_any_bytes_give_an_answer_or_probe_failed_and_never_hang(server: Server, answer: bytes) -> None:
    with contextlib.suppress(ProbeFailed):
        assert isinstance(ask(server, answer), str)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
@example(b"HTTP/1.1 200 OK\r\n\r\n")
@example(b"HTTP/1.1 200 OK\r\n\r\n[1")
@example(b"HTTP/1.1 200 OK\r\n\r\n\xff")
@example(b"\r\n\r\n")
def test_any_bytes_from_a_web_server_give_json_or_probe_failed(server: Server, answer: bytes) -> None:
    assert server.thread.is_alive()
    server.answer, server.keep_open = answer, False
    with contextlib.suppress(ProbeFailed):
        http_json(f"http://127.0.0.1:{server.port}/x", DEADLINE_S, lambda: False)


def test_json_is_read_and_an_error_answer_is_named(server: Server) -> None:
    server.answer = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"a": [1]}'
    assert http_json(f"http://127.0.0.1:{server.port}/x?y=1", DEADLINE_S, lambda: False) == {"a": [1]}
    assert server.heard.startswith(b"GET /x?y=1 HTTP/1.0\r\n")
    server.answer = b"HTTP/1.1 403 Forbidden\r\n\r\nno"
    with pytest.raises(ProbeFailed, match=r"answered HTTP/1\.1 403 Forbidden"):
        http_json(f"http://127.0.0.1:{server.port}/x", DEADLINE_S, lambda: False)


@given(st.integers(0, 300_000))
@settings(deadline=None, max_examples=50)
@example(126)
@example(127)
@example(128)
@example(254)
@example(255)
def test_hpack_string_lengths_decode_as_rfc_7541_says(length: int) -> None:
    coded = prefixed(b"x" * length)
    number, at = coded[0], 1
    if number == 127:
        shift = 0
        while True:
            number += (coded[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if coded[at - 1] < 128:
                break
    assert number == length
    assert len(coded) - at == length
