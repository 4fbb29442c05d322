"""Runs on a node as root: makes sure that the disk for data is there, before anything is written to it.

Reads {"path", "mount", "mounts": bool, "uuid", "filesystem", "format": "" | "/dev/disk/by-id/NAME", "label",
"cluster_id", "owners": {folder: login}} from stdin. With `mounts` the file system `uuid` is mounted on
`mount`, if it is not yet; with `format` it is made first, unless the disk has it already. A disk in use is
never formatted. Data of another cluster are refused; those of this one, found by a system that was
installed anew, get their owners back. Prints what was done, nothing if all was right. Needs Python 3.8.
"""

import errno
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys

FORMAT_S, MOUNT_S = 900, 90


def main(wanted):
    """Format and mount where that is wanted, and look at what is there; return what was done."""
    done = []
    if wanted["mounts"]:
        if wanted["format"] and make_file_system(wanted):
            done.append("formatted")
        if mounted_on(wanted["mount"]) is None:
            mount(wanted)
            done.append("mounted")
    source = mounted_on(wanted["mount"])
    if source is None:
        sys.exit("nothing is mounted on %s; is the disk connected?" % wanted["mount"])
    seen = uuid_of(source)
    if wanted["uuid"] and seen and seen != wanted["uuid"]:
        sys.exit(
            "on %s is another file system than the one with the data: %s, and not %s"
            % (wanted["mount"], seen, wanted["uuid"])
        )
    look_at(os.path.dirname(wanted["path"]))
    refuse_others(wanted["path"], wanted["cluster_id"])
    for folder, login in sorted(wanted["owners"].items()):
        if give_back(os.path.join(wanted["path"], folder), login):
            done.append("%s given to %s" % (folder, login))
    return done


def refuse_others(path, cluster_id):
    """End if HDFS's data of another cluster are there: its daemons would refuse them one by one."""
    for kind in ("namenode/name", "datanode/blocks"):
        try:
            with open(os.path.join(path, kind, "current", "VERSION")) as file:
                lines = file.read().splitlines()
        except FileNotFoundError:
            continue
        found = [line.partition("=")[2] for line in lines if line.startswith("clusterID=")]
        if found != [cluster_id]:
            sys.exit(
                "%s holds data of another cluster (%s); move it away: sudo mv %s %s.old"
                % (path, "".join(found) or "unknown", path, path)
            )


def give_back(folder, login):
    """Give a folder with all in it to a login whose number has changed; return whether it had."""
    account = pwd.getpwnam(login)
    if not os.path.isdir(folder) or os.lstat(folder).st_uid == account.pw_uid:
        return False
    for above, folders, files in os.walk(folder):
        for name in folders + files:
            os.lchown(os.path.join(above, name), account.pw_uid, account.pw_gid)
    os.lchown(folder, account.pw_uid, account.pw_gid)  # last: it says that all is done
    return True


def look_at(folder):
    """End with what is wrong if services could not live below a folder."""
    if not os.path.isdir(folder):
        sys.exit("%s is no folder; make it first: sudo mkdir -p %s" % (folder, folder))
    if os.path.realpath(folder) != folder:
        sys.exit("%s leads to %s; name that one" % (folder, os.path.realpath(folder)))
    flags = os.statvfs(folder).f_flag
    if flags & os.ST_RDONLY:
        sys.exit("%s is read-only" % folder)
    if flags & os.ST_NOEXEC:
        sys.exit(
            "%s is mounted with noexec, and Java loads libraries from there; take it out of /etc/fstab"
            % folder
        )
    above = folder
    while above != "/":
        if not os.stat(above).st_mode & stat.S_IXOTH:
            sys.exit("the services' users do not get into %s: sudo chmod o+x %s" % (above, above))
        above = os.path.dirname(above)


def make_file_system(wanted):
    """Make the file system, unless the disk has it already; return whether it was made."""
    named = wanted["format"]
    device = os.path.realpath(named)
    try:
        status = os.stat(device)
    except FileNotFoundError:
        sys.exit("there is no disk %s" % named)
    if not stat.S_ISBLK(status.st_mode):
        sys.exit("%s is no disk" % named)
    if uuid_of(device) == wanted["uuid"]:
        return False
    try:
        # The kernel refuses this while the disk or a part of it is mounted, is swap, or belongs to something.
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno == errno.EBUSY:
            sys.exit("%s is in use and is not formatted; see: lsblk %s" % (named, device))
        raise
    run(FORMAT_S, "wipefs", "--all", "--quiet", "--force", device)
    kind = wanted["filesystem"]
    run(FORMAT_S, "mkfs." + kind, "-q", "-F", "-m", "1", "-U", wanted["uuid"], "-L", wanted["label"], device)
    if shutil.which("udevadm"):
        run(MOUNT_S, "udevadm", "settle", "--timeout=30")
    return True


def mount(wanted):
    """Mount the file system on its mount point, as its unit will at the next boot."""
    point = wanted["mount"]
    os.makedirs(point, 0o755, exist_ok=True)
    if os.listdir(point):
        sys.exit("%s is not empty; a mount would hide what is in it: move it away" % point)
    run(MOUNT_S, "mount", "-t", wanted["filesystem"], "-o", "noatime", "UUID=" + wanted["uuid"], point)


def mounted_on(point):
    """Return what is mounted on a folder, None for nothing; the last mount hides those before."""
    found = None
    with open("/proc/self/mounts") as file:
        for line in file:
            source, path = line.split(" ")[:2]
            if unescaped(path) == point:
                found = unescaped(source)
    return found


def unescaped(text):
    """Return a name of /proc/self/mounts as it is."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, character)
    return text


def uuid_of(device):
    """Return the UUID of the file system on a device, "" where there is none, or no device."""
    if not device.startswith("/dev/"):
        return ""
    done = subprocess.run(
        ["blkid", "-p", "-s", "UUID", "-o", "value", device],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=MOUNT_S,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def run(timeout_s, *argv):
    """Run a command; end with its words where it fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
    except FileNotFoundError:
        sys.exit("%s is not there; install e2fsprogs and util-linux" % argv[0])
    except subprocess.TimeoutExpired:
        sys.exit("%s did not end within %d s; the disk may be broken" % (" ".join(argv), timeout_s))
    if done.returncode != 0:
        sys.exit("%s: %s" % (" ".join(argv), done.stdout.strip()))


if __name__ == "__main__":
    try:
        print(", ".join(main(json.load(sys.stdin))))
    except KeyError as error:
        sys.exit("the node has no such user: %s" % error)
    except OSError as error:
        sys.exit("%s: %s" % (error.filename, error.strerror))
