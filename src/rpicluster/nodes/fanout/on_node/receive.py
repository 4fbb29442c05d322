"""Runs on a node as root: receives the runtime as a tar stream, passes it on, checks it, renames it in.

The first line of stdin is JSON: {"folder": where it goes, "manifest_sha256", "address": of this node,
"listen": {"token"} or null to read the stream from stdin, "next": {"address", "port", "token"} or null,
"kept": [names of files that are here already, from a stream that was broken off; kept.py has checked them]}.
Prints `port N`, `bytes N`, `next-failed WHY`, and at the end `done`. Needs Python 3.8.

Between nodes the stream is plain TCP: it holds public software only, and what arrives is checked against a
hash that came over SSH.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import shutil
import socket
import sys
import tarfile
import time

CHUNK = 1 << 20
CONNECT_S = 5.0
ACCEPT_S = 60.0
SILENCE_S = 60.0
OTHER_S = 25.0  # less than the control machine waits for the port
TELL_S = 0.5
MANIFEST = "rpicluster-runtime.json"
TOKEN_CHARACTERS = 64


def tell(text):
    """Print one line for the control machine."""
    print(text, flush=True)


class Relay:
    """A readable stream that passes on what is read from it."""

    def __init__(self, read, following):
        """Read with `read(count)`; pass on to the socket `following`, if there is one."""
        self.read_some, self.following = read, following
        self.count, self.told_at = 0, 0.0

    def read(self, count):
        """Return up to `count` bytes, b"" at the end."""
        chunk = self.read_some(min(count, CHUNK))
        self.count += len(chunk)
        if self.following is not None and chunk:
            try:
                self.following.sendall(chunk)
            except OSError as error:
                tell(f"next-failed {error}")
                self.following.close()
                self.following = None
        now = time.monotonic()
        if now - self.told_at > TELL_S:
            self.told_at = now
            tell(f"bytes {self.count}")
        return chunk

    def finish(self):
        """Read to the end and close what follows."""
        while self.read(CHUNK):
            pass
        tell(f"bytes {self.count}")
        if self.following is not None:
            self.following.shutdown(socket.SHUT_WR)
            self.following.close()


def listen(address, token):
    """Return a connection from the node before; only the one that knows the token is let in."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as door:
        door.bind((address, 0))
        door.listen(4)
        door.settimeout(ACCEPT_S)
        tell(f"port {door.getsockname()[1]}")
        while True:
            connection, _ = door.accept()
            connection.settimeout(CONNECT_S)
            given = b""
            with contextlib.suppress(OSError):
                while len(given) < TOKEN_CHARACTERS and (
                    more := connection.recv(TOKEN_CHARACTERS - len(given))
                ):
                    given += more
            if hmac.compare_digest(given, token.encode()):
                connection.settimeout(SILENCE_S)
                return connection
            connection.close()


def connect(following):
    """Return a connection to the next node, None when it cannot be made."""
    try:
        connection = socket.create_connection((following["address"], following["port"]), CONNECT_S)
    except OSError as error:
        tell(f"next-failed {error}")
        return None
    connection.settimeout(SILENCE_S)
    connection.sendall(following["token"].encode())
    return connection


def unpack(stream, fresh, manifest_sha256, kept):
    """Unpack into the folder `fresh`; end with a message at the first byte that is not as it should be."""
    expected, seen = None, set(kept)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=CHUNK) as archive:
        for member in archive:
            name = member.name
            if name.startswith("/") or ".." in name.split("/"):
                sys.exit(f"the stream names a file outside of its folder: {name}")
            path = os.path.join(fresh, name)
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            if expected is None and name != MANIFEST:
                sys.exit("the stream does not begin with its manifest")
            if member.islnk():
                os.link(os.path.join(fresh, member.linkname), path)
                digest = expected.get(member.linkname, {}).get("sha256")
            elif member.isreg():
                digest = write(archive.extractfile(member), path, member.mode & 0o777)
            else:
                sys.exit(f"the stream holds something that is no file: {name}")
            if expected is None:
                if digest != manifest_sha256:
                    sys.exit("the manifest that arrived is not the one that was sent")
                with open(path, encoding="utf-8") as file:
                    expected = json.load(file)["files"]
                continue
            if expected.get(name, {}).get("sha256") != digest:
                sys.exit(f"{name} did not arrive as it was sent")
            seen.add(name)
    missing = set(expected or {}) - seen
    if expected is None or missing:
        sys.exit(f"the stream ended too early: {len(missing)} files are missing")


def write(source, path, mode):
    """Write a file and return its SHA-256."""
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            file.write(chunk)
        os.fchmod(file.fileno(), mode)
    return digest.hexdigest()


def remove_others(fresh, kept):
    """Remove every file that is not kept: half of one, or one that is sent again for another node's sake."""
    for place, _, files in os.walk(fresh):
        for name in files:
            path = os.path.join(place, name)
            if os.path.relpath(path, fresh) not in kept:
                os.unlink(path)


def alone(parent):
    """Wait until no other receiver is at work here: one of a broken `up` may still be storing."""
    descriptor = os.open(parent, os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + OTHER_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(f"another stream to {parent} has not ended for {OTHER_S:.0f} s")
            time.sleep(0.1)


def main():
    """Receive, check, and put the folder in place whole."""
    stdin = sys.stdin.buffer
    wanted = json.loads(stdin.readline())
    folder = wanted["folder"]
    parent = os.path.dirname(folder)
    os.makedirs(parent, 0o755, exist_ok=True)
    alone(parent)
    kept = frozenset(wanted.get("kept", ()))
    fresh = os.path.join(parent, f".new-{os.path.basename(folder)}")
    for name in os.listdir(parent):  # what a broken stream left
        if name.startswith(".new-") and not (kept and os.path.join(parent, name) == fresh):
            shutil.rmtree(os.path.join(parent, name))
    os.makedirs(fresh, 0o755, exist_ok=True)
    remove_others(fresh, kept)
    source = listen(wanted["address"], wanted["listen"]["token"]) if wanted["listen"] else None
    following = connect(wanted["next"]) if wanted["next"] else None
    relay = Relay(source.recv if source else stdin.read1, following)
    unpack(relay, fresh, wanted["manifest_sha256"], kept)
    relay.finish()
    tell("storing")
    for place, folders, _ in os.walk(fresh):
        for name in folders:
            os.chmod(os.path.join(place, name), 0o755)
    os.sync()  # the rename must not be on the disk before what it names
    if os.path.isdir(folder):
        shutil.rmtree(folder)
    os.rename(fresh, folder)
    os.sync()
    tell("done")


if __name__ == "__main__":
    try:
        main()
    except (OSError, tarfile.TarError, EOFError) as error:
        sys.exit(
            f"{getattr(error, 'filename', None) or 'the stream'}: {getattr(error, 'strerror', None) or error}"
        )
