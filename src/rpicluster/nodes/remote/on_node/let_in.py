"""Runs on the manager as root: lets a laptop's key tunnel, and makes and tells the tokens of sessions.

Reads {"tunnel_keys": path, "key": line, "tokens": {user: {"path", "token"}}} from stdin. A token that is
there stays. Prints {user: token}. Needs Python 3.8.
"""

import json
import os
import pwd
import sys


def main(wanted):
    """Add the key once; return the tokens that count."""
    known = read(wanted["tunnel_keys"])
    if wanted["key"] not in known.splitlines():
        write(wanted["tunnel_keys"], known + wanted["key"] + "\n", 0o644, 0, 0)
    return {user: token(user, about["path"], about["token"]) for user, about in wanted["tokens"].items()}


def token(user, path, fresh):
    """Return the token in a file, made first if there is none."""
    if not read(path).strip():
        account = pwd.getpwnam(user)
        write(path, fresh + "\n", 0o600, account.pw_uid, account.pw_gid)
    return read(path).strip()


def read(path):
    """Return a file's text, "" where there is none."""
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""


def write(path, text, mode, uid, gid):
    """Write a file whole or not at all."""
    fresh = path + ".new"
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fchown(file.fileno(), uid, gid)
        os.fsync(file.fileno())
    os.rename(fresh, path)


if __name__ == "__main__":
    print(json.dumps(main(json.load(sys.stdin))))
