"""A question to the program that knows the manager's runs, and its answer while it comes."""

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from rpicluster.errors import RpiclusterError, Unreachable, UsageError

SILENCE_S = 30.0  # `follow` says something every five seconds
_BLOCK_BYTES = 1 << 16
Question = dict[str, Any]


class Channel:
    """The program at work: the question is asked, more bytes may follow, an answer comes."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", what: str, why: Callable[[], RpiclusterError | None]
    ) -> None:
        """Talk to `process`; `why` says how it failed, when it has ended, None if it did not."""
        self._process, self._what, self._why = process, what, why
        self._rest = b""

    def ask(self, question: Question, payload: Iterable[bytes] = ()) -> None:
        """Send the question and what follows it; a program that refuses early reads no further."""
        stdin = self._process.stdin
        assert stdin is not None  # noqa: S101  opened as a pipe
        try:
            stdin.write(json.dumps(question).encode() + b"\n")
            for block in payload:
                stdin.write(block)
            stdin.close()
        except BrokenPipeError:  # its answer says why
            return

    def read(self, size: int = _BLOCK_BYTES, *, silence_s: float = SILENCE_S) -> bytes:
        """Return the next bytes, none at the end. Raises Unreachable after `silence_s` without any."""
        stdout = self._process.stdout
        assert stdout is not None  # noqa: S101  opened as a pipe
        if not select.select([stdout], [], [], silence_s)[0]:
            raise Unreachable(f"{self._what}: no word for {silence_s:.0f} s", hint="rpicluster status")
        return os.read(stdout.fileno(), size)

    def documents(self, *, silence_s: float = SILENCE_S) -> Iterator[dict[str, Any]]:
        """Yield its answers, one a line; raises what ended it before it was done."""
        while block := self.read(silence_s=silence_s):
            *lines, self._rest = (self._rest + block).split(b"\n")
            for line in lines:
                document: dict[str, Any] = json.loads(line)
                if "refused" in document:
                    raise RunRefused(f"{self._what}: {document['refused']}")
                yield document
        self.require_end()

    def require_end(self) -> None:
        """Raise what ended the program, if it did not end well."""
        error = self._why()
        if error is not None:
            raise error


class RunRefused(UsageError):
    """The manager's program refused what was asked of it, and said why."""

    exit_code = 1


class Machine(Protocol):
    """The manager, as runs see it."""

    name: str

    def channel(self, *, as_root: bool = False) -> AbstractContextManager[Channel]:
        """Start the program there, for one question; it is ended with the block."""
        ...


def answer(
    machine: Machine,
    question: Question,
    payload: Iterable[bytes] = (),
    *,
    as_root: bool = False,
    silence_s: float = 90.0,
) -> dict[str, Any]:
    """Ask a question that has one answer, and return that."""
    with machine.channel(as_root=as_root) as channel:
        channel.ask(question, payload)
        for document in channel.documents(silence_s=silence_s):
            return document
    raise RpiclusterError(f"{machine.name} did not answer what its runs are", hint="rpicluster status")


@cache
def program(name: str) -> str:
    """Return a program of ours that runs on the manager: `tool.py` or `run.py`."""
    return (Path(__file__).parent / "on_node" / name).read_text(encoding="utf-8")


def wait_for(process: "subprocess.Popen[bytes]", timeout_s: float) -> int | None:
    """Return the status of a process that should have ended, None if it has not."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return process.poll()
