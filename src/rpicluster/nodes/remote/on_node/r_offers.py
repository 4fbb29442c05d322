"""Runs on a node as root: says which R packages it has or could have from its apt, and in which version.

Fetches apt's lists where they are older than an hour: a package that is unknown may be in the new ones.
Prints {"r-base-core": "4.2.2.20221110-2", "r-cran-dplyr": …}. Needs Python 3.8.
"""

import json
import os
import subprocess
import sys
import time

FRESH_S = 3600
LISTS = "/var/lib/apt/lists"
TRIES, PAUSE_S = 20, 10  # a Pi's first hour belongs to unattended-upgrades


def main():
    """Return versions by Debian's names: the installed one, which stays, else the candidate."""
    if not is_fresh():
        update()
    names = said("apt-cache", "pkgnames", "r-cran-").split()
    found, package = {}, ""
    for line in said("apt-cache", "policy", "r-base-core", *sorted(names)).splitlines():
        if not line.startswith(" "):
            package = line.rstrip(":")
        elif line.startswith(("  Installed: ", "  Candidate: ")) and "(none)" not in line:
            found.setdefault(package, line.partition(":")[2].strip())
    return found


def is_fresh():
    """Whether apt's lists were fetched a moment ago; without any they were not."""
    listed = [name for name in os.listdir(LISTS) if name.endswith("_Packages") or "_Packages." in name]
    return bool(listed) and time.time() - os.stat(LISTS).st_mtime < FRESH_S


def update():
    """Fetch apt's lists; wait for another program that does."""
    for left in range(TRIES, 0, -1):
        done = subprocess.run(
            ["apt-get", "-q", "update"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        )
        words = done.stdout.decode(errors="replace")
        if done.returncode == 0:
            os.utime(LISTS)
            return
        if "lock" not in words or left == 1:
            sys.exit("apt-get update: " + " / ".join(words.strip().splitlines()[-3:]))
        time.sleep(PAUSE_S)


def said(*argv):
    """Return what a command prints."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    if done.returncode != 0:
        sys.exit(argv[0] + ": " + done.stderr.decode(errors="replace").strip())
    return done.stdout.decode(errors="replace")


if __name__ == "__main__":
    print(json.dumps(main()))
