"""Whether anybody uses the driver, and the wait for the next caller once nobody does and it has ended."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from .wire import TICK_S, ProbeFailed, StopRequested, http_json

if TYPE_CHECKING:
    from .config import Config, Door

ESTABLISHED = "01"  # include/net/tcp_states.h of Linux


class Unused(Exception):
    """Nobody has used the driver for as long as was agreed."""


class Idleness:
    """How long a driver has been idle: no client is connected to a door, and no task has run."""

    def __init__(self, config: Config, patience_s: float, stopping: Callable[[], bool]) -> None:
        """Start to count now."""
        self._config = config
        self._patience_s = patience_s
        self._stopping = stopping
        self._tasks = 0
        self._used_at = time.monotonic()

    def look(self, app_id: str, own_ports: Collection[int]) -> None:
        """Raise Unused if nobody has used the driver for long. One that cannot say so is not called unused.

        `own_ports` are the near ends of the keeper's own connections, which are nobody's use.
        """
        try:
            running, tasks = self._tasks_of(app_id)
        except ProbeFailed:
            running, tasks = 1, self._tasks
        if running or tasks > self._tasks or callers({door.port for door in self._config.doors}, own_ports):
            self._used_at = time.monotonic()
        self._tasks = tasks  # fewer when an executor goes, which is nobody's use
        if time.monotonic() - self._used_at >= self._patience_s:
            raise Unused

    def _tasks_of(self, app_id: str) -> tuple[int, int]:
        """Return how many tasks the driver's present executors run, and have been given so far."""
        url = f"{self._config.ui}/api/v1/applications/{quote(app_id)}/executors"
        found = http_json(url, self._config.probe_timeout_s, self._stopping)
        try:
            return sum(each["activeTasks"] for each in found), sum(each["totalTasks"] for each in found)
        except (KeyError, TypeError) as problem:
            raise ProbeFailed(f"{url} answered something unexpected: {problem!r}") from problem


def callers(ports: Collection[int], own_ports: Collection[int]) -> int:
    """Return how many established connections a server's `ports` have, without those from `own_ports`."""
    tables = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # IPv6 is off
            tables.append(Path(table).read_text(encoding="ascii"))
    return sum(
        here in ports and there not in own_ports for text in tables for here, there in established(text)
    )


def established(table: str) -> Iterable[tuple[int, int]]:
    """Yield the ports here and there of the established connections in the kernel's table."""
    for line in table.splitlines()[1:]:
        _, here, there, state, *_ = line.split()
        if state == ESTABLISHED:
            yield int(here.rpartition(":")[2], 16), int(there.rpartition(":")[2], 16)


def wait_for_caller(doors: Iterable[Door], stopping: Callable[[], bool]) -> None:
    """Listen at the doors until somebody connects, and hang up: the driver will answer there.

    Raises StopRequested, and OSError where another program listens.
    """
    with contextlib.ExitStack() as stack:
        listening = [stack.enter_context(_listener(door)) for door in doors]
        while not (called := select.select(listening, [], [], TICK_S)[0]):
            if stopping():
                raise StopRequested
        called[0].accept()[0].close()


def _listener(door: Door) -> socket.socket:
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    return socket.create_server((door.host, door.port), family=family)
