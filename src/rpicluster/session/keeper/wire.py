"""A TCP connection with a deadline, and JSON over HTTP through it."""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

TICK_S = 0.2  # how late a signal or a dead driver may be noticed
ANSWER_LIMIT_BYTES = 1024 * 1024

Answer = TypeVar("Answer")


class StopRequested(Exception):
    """SIGTERM or SIGINT arrived."""


class ProbeFailed(Exception):
    """A question got no right answer; the message says which question and what came back."""


class TooSlow(ProbeFailed):
    """The answer may still come."""


class Hopeless(ProbeFailed):
    """Asking again cannot help: the driver must be replaced."""


class Wire:
    """A TCP connection that never waits past its deadline, nor for long once a stop was requested."""

    def __init__(self, host: str, port: int, timeout_s: float, stopping: Callable[[], bool]) -> None:
        """Connect within `timeout_s`, which also bounds everything that follows. Raises ProbeFailed."""
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._room = ANSWER_LIMIT_BYTES
        self._ahead = b""  # received, and not taken yet
        self._taken = b""  # of the answer that is being read
        self.where = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as problem:
            raise ProbeFailed(f"{self.where} cannot be reached: {problem.strerror or problem}") from problem

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    @property
    def local_port(self) -> int:
        """The port of this end."""
        port: int = self._socket.getsockname()[1]
        return port

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def renew(self) -> None:
        """Start the deadline anew, for the next question on the same connection."""
        self._deadline = time.monotonic() + self._timeout_s
        self._room = ANSWER_LIMIT_BYTES

    def _left_s(self) -> float:
        if self._stopping():
            raise StopRequested
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TooSlow(f"{self.where} did not answer within {self._timeout_s:g} s")
        return left_s

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._socket.settimeout(self._left_s())
            self._socket.sendall(data)
        except OSError as problem:
            raise ProbeFailed(
                f"{self.where} broke the connection: {problem.strerror or problem}"
            ) from problem

    def some(self, most: int) -> bytes:
        """Return 1 to `most` bytes, or nothing at the end of the stream."""
        while True:
            if not select.select([self._socket], [], [], min(TICK_S, self._left_s()))[0]:
                continue
            try:
                data = self._socket.recv(most)
            except OSError as problem:
                raise ProbeFailed(
                    f"{self.where} broke the connection: {problem.strerror or problem}"
                ) from problem
            self._room -= len(data)
            if self._room < 0:
                raise ProbeFailed(f"{self.where} sent more than {ANSWER_LIMIT_BYTES} bytes")
            return data

    def exactly(self, count: int) -> bytes:
        """Return `count` bytes."""
        while len(self._ahead) < count:
            more = self.some(count - len(self._ahead))
            if not more:
                raise ProbeFailed(f"{self.where} closed the connection in the middle of an answer")
            self._ahead += more
        data, self._ahead = self._ahead[:count], self._ahead[count:]
        self._taken += data
        return data

    def whole(self, read: Callable[[Wire], Answer]) -> Answer:
        """Return what `read` reads. Where that is too slow, what came of it is read again the next time."""
        self._taken = b""
        try:
            return read(self)
        except TooSlow:
            self._ahead = self._taken + self._ahead
            raise


def http_json(
    url: str, timeout_s: float, stopping: Callable[[], bool], put: dict[str, str] | None = None
) -> Any:
    """Return the JSON that `url` answers to a GET, or to a PUT of `put`. Raises ProbeFailed.

    HTTP/1.0 over a Wire and not `http.client`, whose timeout starts anew with every byte that trickles in.
    """
    parts = urlsplit(url)
    body = b"" if put is None else json.dumps(put).encode()
    head = (
        f"{'GET' if put is None else 'PUT'} {parts.path}?{parts.query} HTTP/1.0\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = b""
    with Wire(parts.hostname or "", parts.port or 80, timeout_s, stopping) as wire:
        wire.send(head.encode("ascii") + body)
        more = wire.some(65536)
        while more:
            answer += more
            more = wire.some(65536)
    top, _, content = answer.partition(b"\r\n\r\n")
    status = top.split(b"\r\n")[0][:80].decode("latin-1")
    if not re.match(r"HTTP/1\.[01] 2", status):
        raise ProbeFailed(f"{url} answered {status or 'nothing'}")
    try:
        return json.loads(content)
    except ValueError as problem:
        raise ProbeFailed(f"{url} answered something that is not JSON") from problem
