"""Run supervisord while holding a lock on the cluster's alias directory: a second one can never start.

The kernel frees the lock when supervisord dies, however it dies. systemd-tmpfiles, which removes what has
not been used in /tmp and /var/tmp for weeks, leaves a locked directory alone (tmpfiles.d(5)).
"""

import fcntl
import os
import sys

BUSY = 75  # EX_TEMPFAIL of sysexits.h
_LOCK_FD = 3  # supervisord closes inherited descriptors from 5 up, and in its children from 3 up


def main() -> None:
    """Lock the directory that the first argument names, then be supervisord with the configuration of the second."""
    directory, configuration = sys.argv[1:3]
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(BUSY)
    if descriptor != _LOCK_FD:
        os.dup2(descriptor, _LOCK_FD)
        os.close(descriptor)

    from supervisor import supervisord

    supervisord.main(["-c", configuration])


if __name__ == "__main__":
    main()
