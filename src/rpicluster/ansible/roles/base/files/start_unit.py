"""Runs on a node as root: enables and starts a unit, and notes in the manifest what it was started with.

Reads {"unit", "service", "do": "start" | "restart", "hash", "manifest": path} from stdin. The note is made
here, at once, and not later from afar: so an `up` that was broken off anywhere behind this step finds a unit
that runs with the right configuration, and leaves it alone. Prints `started`, or `there already` where
another run has done it since. Without a manifest, which an export writes last, there is no note.
Needs Python 3.8.
"""

import fcntl
import json
import os
import subprocess
import sys


def main(wanted):
    """Start the unit unless it runs with what is wanted; one run at a time on a node."""
    folder = os.open(os.path.dirname(wanted["manifest"]), os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    manifest = read(wanted["manifest"])
    units = manifest.get("units", {}) if manifest else {}
    if units.get(wanted["unit"]) == wanted["hash"] and is_active(wanted["service"]):
        return "there already"
    systemctl("enable", "--quiet", wanted["service"])
    systemctl(wanted["do"], wanted["service"])
    if manifest:
        manifest["units"] = dict(sorted({**units, wanted["unit"]: wanted["hash"]}.items()))
        write(wanted["manifest"], json.dumps(manifest, indent=1) + "\n", folder)
    return "started"


def read(path):
    """Return the manifest, None where there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def is_active(service):
    """Return whether a unit runs."""
    done = subprocess.run(["systemctl", "is-active", "--quiet", service], stdin=subprocess.DEVNULL)
    return done.returncode == 0


def systemctl(*words):
    """Run systemctl; end with its words where it fails."""
    done = subprocess.run(
        ["systemctl", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        sys.exit("systemctl %s: %s" % (" ".join(words), done.stdout.strip()))


def write(path, text, folder):
    """Write a file whole or not at all, with the mode and owner that it had."""
    about = os.stat(path)
    fresh = path + ".new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchown(file.fileno(), about.st_uid, about.st_gid)
        os.fchmod(file.fileno(), about.st_mode & 0o7777)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
    os.fsync(folder)


if __name__ == "__main__":
    try:
        print(main(json.load(sys.stdin)))
    except OSError as error:
        sys.exit("%s: %s" % (error.filename, error.strerror))
