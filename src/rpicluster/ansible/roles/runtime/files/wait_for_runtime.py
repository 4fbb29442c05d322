"""Runs on a node as root: waits until the runtime's folder is there, which comes by a stream of its own.

Reads {"folder", "timeout_s", "quiet_s"} from stdin. The receiver of the stream holds a lock on the folder
above: when nobody has held it for `quiet_s`, nobody sends any more, and waiting on has no sense.
Needs Python 3.8.
"""

import fcntl
import json
import os
import sys
import time

LOOK_S = 0.5


def main(folder, timeout_s, quiet_s):
    """Return when the folder is whole; end with a message when nobody brings it."""
    parent = os.path.dirname(folder)
    begun = receiving = time.monotonic()
    while not os.path.exists(os.path.join(folder, "rpicluster-runtime.json")):
        now = time.monotonic()
        if is_locked(parent):
            receiving = now
        if now - receiving > quiet_s:
            sys.exit("the runtime has not arrived at %s, and nobody sends it any more" % folder)
        if now - begun > timeout_s:
            sys.exit("the runtime has not arrived at %s within %d s" % (folder, timeout_s))
        time.sleep(LOOK_S)


def is_locked(parent):
    """Return whether a receiver is at work."""
    try:
        descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


if __name__ == "__main__":
    wanted = json.load(sys.stdin)
    main(wanted["folder"], wanted["timeout_s"], wanted["quiet_s"])
