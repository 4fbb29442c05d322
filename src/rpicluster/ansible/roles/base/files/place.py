"""Runs on a node as root: places directories and files as one JSON document on stdin says.

{"directories": [{"path", "mode", "owner", "group"}],
 "files": [{"path", "mode", "owner", "group", "content": base64}],
 "remove": ["/path"], "keep": ["/directory/that/may/become/empty"], "reread": "/folder"}

Each file is written beside its place, made durable, and renamed; one that is right already is not touched.
Before a file changes that somebody must read again, that is noted in the folder `reread`, see reread.py.
Prints {"changed": [paths], "reread": "/folder"}. Needs Python 3.8 and nothing else.
"""

import base64
import grp
import json
import os
import pwd
import stat
import sys
import tempfile

READERS = {"/etc/systemd/": "systemd", "/etc/sysctl.d/": "sysctl", "/etc/ssh/": "sshd"}


def place(document):
    """Carry out the document; return the paths that were changed, in order."""
    changed = []
    reread = document["reread"]
    for about in document["directories"]:
        if place_directory(about):
            changed.append(about["path"])
    for path in document["remove"]:
        if remove(path, document["keep"], reread):
            changed.append(path)
    for about in document["files"]:
        if place_file(about, reread):
            changed.append(about["path"])
    return changed


def place_directory(about):
    """Make a directory, or mend its mode and owner; a link or a file in its place is refused."""
    path = about["path"]
    made = False
    try:
        os.mkdir(path, 0o700)
        made = True
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), 0o755)
        os.mkdir(path, 0o700)
        made = True
    except FileExistsError:
        if not stat.S_ISDIR(os.lstat(path).st_mode):
            raise SystemExit("%s is there and is no directory; move it away" % path) from None
    return own(path, about) or made


def place_file(about, reread):
    """Write a file whole or not at all."""
    path, content = about["path"], base64.b64decode(about["content"])
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        status = None
    if status is not None and stat.S_ISDIR(status.st_mode):
        raise SystemExit("%s is there and is a directory; move it away" % path)
    if status is not None and stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            if file.read() == content:
                return own(path, about)
    folder = os.path.dirname(path)
    os.makedirs(folder, 0o755, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=".rpicluster-new-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            own(fresh, about)
            os.fsync(file.fileno())
        note_reader(path, reread)
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
    sync(folder)
    return True


def own(path, about):
    """Give a path its owner and mode; return whether that changed anything."""
    status = os.lstat(path)
    uid, gid = pwd.getpwnam(about["owner"]).pw_uid, grp.getgrnam(about["group"]).gr_gid
    mode = int(about["mode"], 8)
    changed = False
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.chown(path, uid, gid)
        changed = True
    if stat.S_IMODE(status.st_mode) != mode or changed:
        changed = changed or stat.S_IMODE(status.st_mode) != mode
        os.chmod(path, mode)  # also after chown, which may clear bits
    return changed


def remove(path, keep, reread):
    """Remove a file, and directories that it leaves empty, up to those in `keep`."""
    if not os.path.lexists(path):
        return False
    note_reader(path, reread)
    os.unlink(path)
    folder = os.path.dirname(path)
    sync(folder)
    while any(folder.startswith(top + "/") for top in keep) and not os.listdir(folder):
        os.rmdir(folder)
        folder = os.path.dirname(folder)
    return True


def note_reader(path, reread):
    """Note who must read `path` again; it stays noted until they have."""
    for top, reader in READERS.items():
        if path.startswith(top):
            os.makedirs(reread, 0o755, exist_ok=True)
            with open(os.path.join(reread, reader), "w"):
                pass


def sync(folder):
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    try:
        wanted = json.load(sys.stdin)
        print(json.dumps({"changed": place(wanted), "reread": wanted["reread"]}))
    except KeyError as error:
        sys.exit("the node has no such user or group: %s" % error)
    except OSError as error:
        sys.exit("%s: %s" % (error.filename, error.strerror))
