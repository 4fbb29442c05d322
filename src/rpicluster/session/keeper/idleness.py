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

from .wire import TICK_S, ProbeFailed, http_json

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
            is_used = self._is_used(app_id, own_ports)
        except (ProbeFailed, OSError):
            is_used = True
        if is_used:
            self._used_at = time.monotonic()
        if time.monotonic() - self._used_at >= self._patience_s:
            raise Unused

    def _is_used(self, app_id: str, own_ports: Collection[int]) -> bool:
        before = self._tasks
        running, self._tasks = self._tasks_of(app_id)  # fewer when an executor goes, which is nobody's use
        ports = {door.port for door in self._config.doors}
        return running > 0 or self._tasks > before or callers(ports, own_ports) > 0

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
    tables = [Path("/proc/self/net/tcp").read_text(encoding="ascii")]
    with contextlib.suppress(FileNotFoundError):  # IPv6 is off
        tables.append(Path("/proc/self/net/tcp6").read_text(encoding="ascii"))
    return sum(
        here in ports and there not in own_ports for text in tables for here, there in established(text)
    )


def established(table: str) -> Iterable[tuple[int, int]]:
    """Yield the ports here and there of the established connections in the kernel's table."""
    for line in table.splitlines()[1:]:
        _, here, there, state, *_ = line.split()
        if state == ESTABLISHED:
            yield int(here.rpartition(":")[2], 16), int(there.rpartition(":")[2], 16)


def wait_for_caller(doors: Iterable[Door], meanwhile: Callable[[], None]) -> None:
    """Listen at the doors until somebody connects, and hang up: the driver will answer there.

    `meanwhile` is called every now and then, and may end the wait by what it raises. Raises OSError where
    another program listens.
    """
    with contextlib.ExitStack() as stack:
        listening = [stack.enter_context(_listener(door)) for door in doors]
        while not (called := select.select(listening, [], [], TICK_S)[0]):
            meanwhile()
        called[0].accept()[0].close()


def _listener(door: Door) -> socket.socket:
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    return socket.create_server((door.host, door.port), family=family)
