"""A lock on a cluster's state that names its holder and is freed by the kernel when the holder dies."""

import fcntl
import getpass
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rpicluster.errors import LocalEngineError, LockHeld

LOCK_FILE = "lock"
_POLL_S = 0.05
_HOLDER_WRITES_S = 0.5  # a new holder's record may be this late behind its lock


@contextmanager
def cluster_lock(
    directory: Path, *, cluster: str, command: str, wait_s: float = 0.0, what: str = "cluster"
) -> Iterator[None]:
    """Hold the only lock on the state folder `directory` while the block runs.

    `command` is what the holder is called in others' messages, e.g. `rpicluster up`; `what` is the kind
    of thing that is locked. Waits up to `wait_s` for another holder. Raises LockHeld, which names the
    holder, and LocalEngineError if the folder is missing.
    """
    descriptor = _acquire(directory, f"{what} {cluster}", wait_s)
    try:
        record = {
            "pid": os.getpid(),
            "user": getpass.getuser(),
            "command": command,
            "since": time.strftime("%H:%M:%S"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
        yield
    finally:
        os.ftruncate(descriptor, 0)
        # Closing alone is late: a child just forked still shares the file until its exec has gone through.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(directory: Path, locked: str, wait_s: float) -> int:
    deadline = time.monotonic() + wait_s
    while True:
        descriptor = _open(directory, locked)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                held = _held(descriptor, locked)
                os.close(descriptor)
                raise held from None
            os.close(descriptor)
            time.sleep(_POLL_S)
            continue
        if _is_current(descriptor, directory):
            return descriptor
        os.close(descriptor)  # `destroy` removed the file between our open and our lock


def _open(directory: Path, locked: str) -> int:
    try:
        return os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        raise LocalEngineError(
            f"{locked} has no state in {directory}", hint="create it with: rpicluster up"
        ) from None


def _is_current(descriptor: int, directory: Path) -> bool:
    mine = os.fstat(descriptor)
    try:
        there = (directory / LOCK_FILE).stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def _held(descriptor: int, locked: str) -> LockHeld:
    deadline = time.monotonic() + _HOLDER_WRITES_S
    while True:
        try:
            record = json.loads(os.pread(descriptor, 4096, 0))
            break
        except ValueError:
            if time.monotonic() >= deadline:
                return LockHeld(
                    f"another command is changing {locked}",
                    hint="wait until it has ended, then try again",
                )
            time.sleep(_POLL_S)
    return LockHeld(
        f"`{record['command']}` (pid {record['pid']}, user {record['user']}, since {record['since']}) "
        f"is changing {locked}",
        hint=f"wait until it has ended, or end it with: kill {record['pid']}",
    )
