"""An OpenSSH's control socket, asked directly whether it lives: no process is started for that.

The messages are those of PROTOCOL.mux in OpenSSH's sources: a length, a type, then the type's own fields,
all big-endian 32-bit numbers.
"""

import contextlib
import select
import socket
import struct
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_HELLO, _VERSION = 0x00000001, 4
_ALIVE_CHECK, _ALIVE = 0x10000004, 0x80000005
_LONGEST = 4096  # of a message that we expect; they have 12 bytes and less


class Link:
    """A connection to the control socket of an ssh; it ends when that ssh ends."""

    def __init__(self, path: Path, *, patience_s: float) -> None:
        """Connect and ask for the first time.

        Raises ConnectionError or FileNotFoundError where nobody listens, TimeoutError for an ssh that is
        there and does not answer.
        """
        self._wire = socket.socket(socket.AF_UNIX)
        self._buffer = b""
        self.pid = 0
        try:
            self._wire.settimeout(patience_s)
            self._wire.connect(str(path))
            self._wire.sendall(_message(_HELLO, _VERSION))
            self.ask()
            end = time.monotonic() + patience_s
            while not self.pid:
                if not select.select([self._wire], [], [], max(0.0, end - time.monotonic()))[0]:
                    raise TimeoutError(f"the ssh behind {path} does not answer")
                if not self.hear():
                    raise ConnectionResetError(f"the ssh behind {path} ends")
        except BaseException:
            self._wire.close()
            raise

    def __enter__(self) -> Self:
        """Return itself; leaving closes it, and leaves the ssh alone."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def fileno(self) -> int:
        """Return what `select` takes: it is readable when an answer has come, and when the ssh has ended."""
        return self._wire.fileno()

    def ask(self) -> None:
        """Ask whether the ssh lives; nothing is waited for."""
        with contextlib.suppress(OSError):  # its end is heard
            self._wire.sendall(_message(_ALIVE_CHECK, 0))

    def hear(self) -> bool:
        """Take what has come; False when the ssh has ended."""
        try:
            came = self._wire.recv(_LONGEST)
        except TimeoutError:
            return True
        except OSError:
            return False
        self._buffer += came
        while len(self._buffer) >= 4:
            (length,) = struct.unpack(">I", self._buffer[:4])
            if length > _LONGEST:
                return False
            if len(self._buffer) < 4 + length:
                break
            body, self._buffer = self._buffer[4 : 4 + length], self._buffer[4 + length :]
            if length >= 12 and struct.unpack(">I", body[:4])[0] == _ALIVE:
                (self.pid,) = struct.unpack(">I", body[8:12])
        return bool(came)

    def close(self) -> None:
        """Leave the ssh alone."""
        self._wire.close()


def _message(*numbers: int) -> bytes:
    return struct.pack(f">I{len(numbers)}I", 4 * len(numbers), *numbers)
