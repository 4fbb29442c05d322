"""Runs on a node as root: waits until nothing is at work that an `up` which was broken off has begun here.

A connection that breaks ends no program on a node. Ours are known by the first words of this text, which
stand on their command line, and Ansible's steps by its own mark. Reads {"timeout_s"} from stdin; prints how
many seconds were waited. Needs Python 3.8.
"""

import json
import os
import sys
import time

MARKS = (b"Runs on a node as root", b"Runs on the manager as root", b"BECOME-SUCCESS-")
LOOK_S = 0.2


def main(timeout_s):
    """Wait; end with a message that names what does not end."""
    mine, begun = ancestors(), time.monotonic()
    while True:
        working = at_work(mine)
        if not working:
            return time.monotonic() - begun
        if time.monotonic() - begun > timeout_s:
            listed = ", ".join(map(str, working))
            sys.exit("an earlier command is still at work after %d s: processes %s" % (timeout_s, listed))
        time.sleep(LOOK_S)


def at_work(mine):
    """Return the processes that bear a mark, but for our own line of ancestors."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % name, "rb") as file:
                words = file.read()
        except OSError:  # it has ended
            continue
        if int(name) not in mine and any(mark in words for mark in MARKS):
            found.append(int(name))
    return found


def ancestors():
    """Return this process and those above it: sudo and shells carry our words, too."""
    found, pid = set(), os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])
    return found


if __name__ == "__main__":
    print(round(main(json.load(sys.stdin)["timeout_s"]), 1))
