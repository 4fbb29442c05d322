"""Runs on a node as root: stops rpicluster's units, ends what its users still run, removes files and rules.

Reads {"units": [...], "users": [...], "group", "files": [...], "directories": [...],
"empty_directories": [...], "firewall_tables": [...],
"storage": {} | {"path", "mount", "unit"}} from stdin. Safe to repeat. Prints
{"removed": [...]}. Needs Python 3.8.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time

END_S = 20.0


def said(*argv):
    """Return a command's status and words."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def main(wanted):
    """Take everything away; return what was there."""
    removed = stop_units(wanted["units"])
    for user in wanted["users"]:
        removed += end_processes(user)
    removed += leave_disk(wanted["storage"])
    for path in wanted["files"]:
        if os.path.lexists(path):
            os.unlink(path)
            removed.append(path)
    for path in wanted["directories"]:
        if os.path.islink(path):
            os.unlink(path)
            removed.append(path)
        elif os.path.isdir(path):
            shutil.rmtree(path)
            removed.append(path)
    for path in wanted["empty_directories"]:
        if os.path.isdir(path) and not os.listdir(path):
            os.rmdir(path)
            removed.append(path)
    for table in wanted["firewall_tables"]:
        if shutil.which("nft") and said("nft", "list", "table", *table.split())[0] == 0:
            said("nft", "delete", "table", *table.split())
            removed.append(table)
    said("systemctl", "daemon-reload")
    said("systemctl", "reset-failed", *wanted["units"])
    return removed


def stop_units(names):
    """Stop and disable units, also those whose files are gone already; return those that were there."""
    there = []
    for name in names:
        if said("systemctl", "is-enabled", name)[1].strip() == "enabled":
            there.append(name)
            said("systemctl", "disable", name)
        elif said("systemctl", "is-active", name)[1].strip() != "inactive":
            there.append(name)
    if there:
        status, words = said("systemctl", "stop", *there)
        if status != 0 and "not loaded" not in words:
            sys.exit(f"systemctl stop: {words.strip()}")
    return there


def leave_disk(about):
    """Remove the data from their disk, and unmount it where its unit is ours; the file system stays.

    A disk that is not mounted is left alone: what lies below its mount point then is not the cluster's.
    """
    if not about:
        return []
    removed, mount = [], about["mount"]
    if is_mounted(mount) and os.path.isdir(about["path"]) and not os.path.islink(about["path"]):
        shutil.rmtree(about["path"])
        removed.append(about["path"])
    if about["unit"]:
        said("systemctl", "disable", about["unit"])
        if is_mounted(mount):
            said("systemctl", "stop", about["unit"])
            if is_mounted(mount):  # an `up` broke off before the unit was there
                words = said("umount", mount)[1]
                if is_mounted(mount):
                    sys.exit("%s cannot be unmounted: %s" % (mount, words.strip()))
            removed.append(about["unit"])
        if os.path.isdir(mount) and not os.listdir(mount):
            os.rmdir(mount)
            removed.append(mount)
    return removed


def is_mounted(path):
    """Return whether something is mounted on a folder, a bind mount included."""
    with open("/proc/self/mounts") as file:
        return path in [line.split(" ")[1] for line in file]


def end_processes(user):
    """End what a user still runs; return it in words."""
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        return []
    ended, deadline = [], time.monotonic() + END_S
    while True:
        running = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if owner(pid) == uid]
        if not running:
            return ended
        if time.monotonic() > deadline:
            sys.exit(f"processes of {user} do not end: {running}")
        for pid in running:
            ended.append(f"process {pid} of {user}")
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has ended by itself
                continue
        time.sleep(0.2)


def owner(pid):
    """Return whose process it is, None if it has ended."""
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    try:
        print(json.dumps({"removed": main(json.load(sys.stdin))}))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}")
