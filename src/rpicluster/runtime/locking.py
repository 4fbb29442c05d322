"""One process at a time changes the store of runtimes."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rpicluster.errors import LockHeld
from rpicluster.runtime.progress import Progress, Report

WAIT_TIMEOUT_S = 3600.0
"""A fetch over a slow line may take long; after this the holder is taken for stuck."""
POLL_S = 0.2
SAY_EVERY_S = 1.0


@contextmanager
def alone(root: Path, report: Report, *, timeout_s: float = WAIT_TIMEOUT_S) -> Iterator[None]:
    """Hold the store at `root` for this process; wait for another holder and say so through `report`.

    The kernel lets go when a holder dies, however it dies. Raises LockHeld after `timeout_s`, OSError if the
    lock cannot be made.
    """
    handle = _wait(root / ".lock", report, time.monotonic() + timeout_s)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}".encode())
        yield
    finally:
        os.close(handle)


def _wait(path: Path, report: Report, deadline: float) -> int:
    said = 0.0
    while True:
        handle = _try(path)
        if handle is not None:
            return handle
        holder = _holder(path)
        now = time.monotonic()
        if now >= deadline:
            raise LockHeld(
                f"{holder} has been fetching the runtime for too long; gave up waiting",
                hint="look at what it does, end it, then run the same command again",
            )
        if now - said >= SAY_EVERY_S:
            said = now
            report(Progress(f"waiting for {holder}, which fetches the runtime", 0, 0, "fetch"))
        time.sleep(POLL_S)


def _try(path: Path) -> int | None:
    """Lock the file and return its descriptor, or None if somebody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # `remove` deletes the lock file with the rest: a lock on a deleted file keeps nobody out.
        if os.fstat(handle).st_ino == path.stat().st_ino:
            return handle
    except (BlockingIOError, FileNotFoundError):
        os.close(handle)
        return None
    os.close(handle)
    return None


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        if pid := path.read_text(encoding="ascii").strip():
            return f"process {pid}"
    return "another process"
