"""Run supervisord while holding a lock on the cluster's alias directory: a second one can never start.

The kernel frees the lock when supervisord dies, however it dies. systemd-tmpfiles, which removes what has
not been used in /tmp and /var/tmp for weeks, leaves a locked directory alone (tmpfiles.d(5)).
"""

import fcntl
import os
import sys
import time

_PATIENCE_S = 0.5
_LOCK_FD = 3  # supervisord closes inherited descriptors from 5 up, and in its children from 3 up


def main() -> None:
    """Lock the directory in the first argument, then be supervisord with the configuration in the second."""
    directory, configuration = sys.argv[1:3]
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    if not _lock(descriptor):
        sys.exit(f"another supervisord holds {directory}")
    if descriptor != _LOCK_FD:
        os.dup2(descriptor, _LOCK_FD)
        os.close(descriptor)

    from supervisor import supervisord

    supervisord.main(["-c", configuration])


def _lock(descriptor: int) -> bool:
    """Lock, with patience: somebody who only looks whether we live holds the lock for an instant."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        else:
            return True


if __name__ == "__main__":
    main()
