"""Commands that run from time to time while the session is healthy."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config import Chore, Config
from .processes import base_environment, signal_group, spawn
from .records import read_json, write_json

if TYPE_CHECKING:
    from .processes import Process


class Chores:
    """Run the chores, one at a time; remember across restarts of the keeper when each is due."""

    def __init__(self, config: Config) -> None:
        """Read when each chore is due; a new one waits a full period: there is nothing to tidy yet."""
        self._config = config
        self._path = Path(config.status_file + ".chores")
        known = read_json(self._path)
        self.records: dict[str, dict[str, Any]] = {
            chore.name: dict(known.get(chore.name) or {"due_at": time.time() + chore.every_s})
            for chore in config.chores
        }
        self._running: tuple[Chore, Process, float] | None = None
        if config.chores:
            write_json(self._path, self.records)

    def tick(self) -> None:
        """Start what is due, and take note of what has ended."""
        if self._running:
            self._look_after(*self._running)
            return
        # Due the longest: a chore that is due all the time does not keep the others from running.
        first = min(self._config.chores, key=lambda chore: self.records[chore.name]["due_at"], default=None)
        if first and self.records[first.name]["due_at"] <= time.time():
            self._start(first)

    def _output(self, chore: Chore) -> Path:
        return Path(f"{self._config.log}.{chore.name}")

    def _start(self, chore: Chore) -> None:
        started = time.time()
        try:
            with self._output(chore).open("wb") as output:
                process = spawn(chore.argv, base_environment(self._config), self._config.directory, output)
            self._running = (chore, process, started)
        except OSError as problem:
            self._note(chore, started, None, f"it could not be started: {problem}")

    def _look_after(self, chore: Chore, process: Process, started: float) -> None:
        code = process.poll()
        if code is None and time.time() - started <= chore.timeout_s:
            return
        self.stop()
        lines = self._output(chore).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        words = f"stopped after {chore.timeout_s:g} s" if code is None else (lines or [""])[-1][:300]
        self._note(chore, started, code, words)

    def _note(self, chore: Chore, started: float, code: int | None, message: str) -> None:
        last = {
            "at": started,
            "took_s": round(time.time() - started, 1),
            "exit_code": code,
            "message": message,
        }
        self.records[chore.name] = {"due_at": started + chore.every_s, "last": last}
        write_json(self._path, self.records)

    def stop(self) -> None:
        """End the chore that runs, if any; without a note it is due again at once."""
        if self._running:
            process = self._running[1]
            signal_group(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
            self._running = None
