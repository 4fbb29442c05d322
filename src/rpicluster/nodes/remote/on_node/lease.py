"""Runs on the manager as root: takes, renews or gives back the right to change the cluster.

Reads {"path", "do": "take" | "give", "holder": {...}, "lasts_s"} from stdin. Whoever holds it is named in the
file; it ends by itself after `lasts_s` seconds by the manager's own clock, so that a laptop that died blocks
nobody for long.
Prints {"held": true} or {"held": false, "by": {...}, "ends_in_s"}. Needs Python 3.8.
"""

import fcntl
import json
import os
import sys
import time


def main(wanted):
    """Look at the file and change it, alone."""
    descriptor = os.open(wanted["path"], os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        known = json.loads(os.read(descriptor, 65536) or b"{}")
    except ValueError:
        known = {}
    left = known.get("ends", 0) - time.clock_gettime(time.CLOCK_BOOTTIME)
    mine = known.get("holder", {}).get("id") == wanted["holder"]["id"]
    if wanted["do"] == "give":
        if mine:
            os.unlink(wanted["path"])
        return {"held": False}
    if not mine and left > 0:
        return {"held": False, "by": known["holder"], "ends_in_s": round(left)}
    ends = time.clock_gettime(time.CLOCK_BOOTTIME) + wanted["lasts_s"]
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"holder": wanted["holder"], "ends": ends}).encode(), 0)
    return {"held": True}


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
