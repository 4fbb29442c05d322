"""One exchange with a running ssh: feed its stdin, collect its stdout, time a round trip, keep a deadline."""

import os
import selectors
import subprocess
import threading
import time
from dataclasses import dataclass

_CHUNK = 1 << 16
_LOOK_S = 0.2  # how often `cancel` is looked at while nothing happens
STDOUT_LIMIT = 64 << 20  # a node that sends more than this is not answering our question


@dataclass(frozen=True)
class ClockProbe:
    """One round trip: when the newline left and when its answer came, in seconds since the epoch."""

    sent_s: float
    answered_s: float

    @property
    def middle_s(self) -> float:
        """When the node's clock was read, as near as one round trip tells."""
        return (self.sent_s + self.answered_s) / 2

    @property
    def uncertainty_s(self) -> float:
        """Half of the round trip: the reading happened somewhere within it."""
        return (self.answered_s - self.sent_s) / 2


class Exchange:
    """Bytes in and out of one process; afterwards `status`, `stdout`, `probe` and `timed_out` are set."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", stdin: bytes, *, probe_mark: bytes | None = None
    ) -> None:
        """Prepare to send `stdin`; with `probe_mark`, also a newline when that mark has been printed."""
        self.process = process
        self.status = -1
        self.timed_out = False
        self.flooded = False
        self.probe: ClockProbe | None = None
        self._to_send = memoryview(stdin)
        self._mark = probe_mark
        self._sent_at: float | None = None
        self._sent_tick = 0.0
        self._chunks = bytearray()

    @property
    def stdout(self) -> bytes:
        """What the process has printed."""
        return bytes(self._chunks)

    def run(self, deadline: float, cancel: threading.Event | None = None) -> None:
        """Exchange until the process has ended or `deadline` (on the monotonic clock) has passed.

        Being cancelled counts as a deadline that has passed. Then, and when more than STDOUT_LIMIT bytes
        came (`flooded`), the process is left to the caller.
        """
        assert self.process.stdin is not None and self.process.stdout is not None  # noqa: S101  opened as pipes
        stdin, stdout = self.process.stdin, self.process.stdout
        os.set_blocking(stdin.fileno(), False)
        os.set_blocking(stdout.fileno(), False)
        with selectors.DefaultSelector() as selector, stdin, stdout:
            selector.register(stdout, selectors.EVENT_READ)
            if self._to_send:
                selector.register(stdin, selectors.EVENT_WRITE)
            elif self._mark is None:
                stdin.close()
            open_streams = True
            while open_streams:
                left = deadline - time.monotonic()
                if left <= 0 or (cancel is not None and cancel.is_set()):
                    self.timed_out = True
                    return
                for key, _ in selector.select(min(left, _LOOK_S)):
                    if key.fileobj is stdin:
                        self._write(selector)
                    else:
                        open_streams = self._read()
                if len(self._chunks) > STDOUT_LIMIT:
                    self.flooded = True
                    return
        self._wait(deadline)

    def _write(self, selector: selectors.BaseSelector) -> None:
        stdin = self.process.stdin
        assert stdin is not None  # noqa: S101  opened as a pipe
        try:
            written = os.write(stdin.fileno(), self._to_send[:_CHUNK])
        except BlockingIOError:
            return
        except BrokenPipeError:  # the command does not read all of it; its status says whether that is bad
            written = len(self._to_send)
            self._mark = None
        self._to_send = self._to_send[written:]
        if not self._to_send:
            selector.unregister(stdin)
            if self._mark is None:
                stdin.close()

    def _read(self) -> bool:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None  # noqa: S101  opened as pipes
        try:
            chunk = os.read(stdout.fileno(), _CHUNK)
        except BlockingIOError:
            return True
        if self._sent_at is not None and chunk and self.probe is None:
            # The span comes from the monotonic clock: ours may be set while we wait.
            span = time.monotonic() - self._sent_tick
            self.probe = ClockProbe(self._sent_at, self._sent_at + span)
        self._chunks += chunk
        if self._mark is not None and not self._to_send and self._mark in self._chunks:
            self._mark = None
            self._sent_at, self._sent_tick = time.time(), time.monotonic()
            try:
                os.write(stdin.fileno(), b"\n")
            except (BrokenPipeError, BlockingIOError):  # it has ended; without the answer there is no probe
                self._sent_at = None
            stdin.close()
        return bool(chunk)

    def _wait(self, deadline: float) -> None:
        try:
            self.status = self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.timed_out = True
