"""What moving files up and down shares: temporary names, progress, several files at a time."""

import hashlib
import os
import re
import secrets
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

from rpicluster.errors import RpiclusterError

Progress = Callable[[int, int], None]

PARALLEL_FILES = 4
CHUNK_BYTES = 1 << 20
# A DataNode that stalls while its pipeline recovers is still at work; Hadoop's own clients wait 60 s a step.
TRANSFER_TIMEOUT_S = 120.0
# Spark leaves out files that end so when it reads a directory (PathFilterIgnoreNonData, and its file index).
SUFFIX = "._COPYING_"
_NAME_BYTES_MAX = 255  # dfs.namenode.fs-limits.max-component-length, and Linux's NAME_MAX
_TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\._COPYING_$")
_ABANDONED_AFTER_S = 86400


@dataclass(frozen=True)
class Transferred:
    """What was moved; every file's checksum was compared."""

    path: str
    bytes: int
    files: int


class Cancelled(Exception):
    """Another file of the same directory has failed."""


class Meter:
    """Adds up what several threads have moved, and lets all of them stop."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._lock = threading.Lock()
        self._done, self._total, self._progress = 0, total, progress
        self.cancelled = threading.Event()
        if progress:
            progress(0, total)

    def add(self, count: int) -> None:
        """Count `count` more bytes. Raises Cancelled once another file has failed."""
        if self.cancelled.is_set():
            raise Cancelled
        with self._lock:
            self._done += count
            if self._progress:
                self._progress(self._done, self._total)


# --- temporary names -----------------------------------------------------------------------------
@cache
def _machine() -> str:
    return hashlib.sha256(f"{socket.gethostname()}\0{uuid.getnode()}".encode()).hexdigest()[:8]


def temporary_name(name: str) -> str:
    """Return a name beside `name` that says which machine and process write it."""
    tail = f".{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{SUFFIX}"
    head = name.encode()[: _NAME_BYTES_MAX - len(tail)].decode(errors="ignore")
    return head + tail


def is_abandoned(name: str, modified_s: float, now_s: float) -> bool:
    """Return whether a temporary file belongs to a dead process of this machine, or to nobody since a day."""
    match = _TEMPORARY.search(name)
    if match is None:
        return False
    if match[1] == _machine() and not _is_alive(int(match[2])):
        return True
    return now_s - modified_s > _ABANDONED_AFTER_S


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


@contextmanager
def removed_on_failure(remove: Callable[[], object], path: str) -> Iterator[None]:
    """Run `remove` if the block ends by any exception, Ctrl-C included; the exception stays the news."""
    try:
        yield
    except BaseException as error:
        try:
            remove()
        except (RpiclusterError, OSError) as second:
            error.add_note(
                f"{path} could not be removed ({second}); the next put or get of this name removes it"
            )
        raise


def in_parallel(work: Callable[[str], None], names: Iterable[str], meter: Meter) -> None:
    """Do `work` on every name, 4 at a time; the first failure stops the others and is raised."""
    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="transfer") as pool:
        futures = [pool.submit(work, name) for name in names]
        try:
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            meter.cancelled.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        failed = [future for future in finished if future.exception()]
        if failed:
            meter.cancelled.set()
            pool.shutdown(wait=True, cancel_futures=True)
    errors = [error for future in failed if (error := future.exception())]
    if errors:
        raise next((error for error in errors if not isinstance(error, Cancelled)), errors[0])
