"""Processes of this user as /proc shows them: whose they are, and how to end exactly those."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

UNIT_VARIABLE = "RPICLUSTER_UNIT"  # set by unit_exec.py, inherited by whatever a unit starts
HASH_VARIABLE = "RPICLUSTER_UNIT_HASH"
RUNTIME_VARIABLE = "RPICLUSTER_UNIT_RUNTIME"
_UNIT_PROPERTY = "-Drpicluster.unit="
_POLL_S = 0.05


@dataclass(frozen=True)
class Process:
    """A living process; `started` (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    started: int
    argv: tuple[str, ...]
    environment: dict[str, str]

    @property
    def unit(self) -> str | None:
        """`CLUSTER_ID/NODE/UNIT` that this process is or descends from, None for others'."""
        for argument in self.argv:
            if argument.startswith(_UNIT_PROPERTY):
                return argument.removeprefix(_UNIT_PROPERTY)
        return self.environment.get(UNIT_VARIABLE)


def own_processes() -> Iterator[Process]:
    """Yield every living process of this user except this one and its ancestors."""
    mine = _ancestors()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in mine:
            process = read_process(int(entry.name))
            if process is not None:
                yield process


def read_process(pid: int) -> Process | None:
    """Return process `pid` if it lives, is no zombie and belongs to this user, else None."""
    folder = Path(f"/proc/{pid}")
    try:
        if folder.stat().st_uid != os.getuid():
            return None
        state, started = _state_and_start(pid)
        if state in "ZX":
            return None
        argv = folder.joinpath("cmdline").read_bytes()
        environment = folder.joinpath("environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    pairs = (os.fsdecode(part).partition("=") for part in environment.split(b"\0") if part)
    return Process(
        pid,
        started,
        tuple(os.fsdecode(part) for part in argv.split(b"\0")[:-1]),
        {name: value for name, _, value in pairs},
    )


def is_stopped(pid: int) -> bool:
    """Return whether a signal has stopped process `pid`, so that it lives and answers nothing."""
    try:
        return _state_and_start(pid)[0] in "Tt"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _state_and_start(pid: int) -> tuple[str, int]:
    # The command in parentheses may itself hold spaces and parentheses: count from the last one (proc(5)).
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _ancestors() -> set[int]:
    pids: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            break
        pid = int(fields[1])
    return pids


def end_processes(
    find: Callable[[], Iterable[Process]], *, grace_s: float, deadline_s: float
) -> list[Process]:
    """End what `find` returns: SIGTERM, after `grace_s` SIGKILL; return those left at `deadline_s`.

    `find` is asked again each round, so that a process which a dying parent started is ended too.
    """
    begun = time.monotonic()
    asked: set[tuple[int, int]] = set()
    while processes := list(find()):
        waited = time.monotonic() - begun
        if waited >= deadline_s:
            return processes
        for process in processes:
            key = (process.pid, process.started)
            if waited >= grace_s:
                _signal(process, signal.SIGKILL)
            elif key not in asked:
                asked.add(key)
                _signal(process, signal.SIGTERM)
                _signal(process, signal.SIGCONT)  # a stopped process acts on SIGTERM only when it goes on
        time.sleep(_POLL_S)
    return []


def _signal(process: Process, number: signal.Signals) -> None:
    """Signal through a pidfd, so that a pid taken over by a stranger in between is never hit."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            current = read_process(process.pid)
            if current is not None and current.started == process.started:
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)
