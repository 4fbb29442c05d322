"""Runs on a node as root: receives the runtime as a stream, passes it on, checks it, renames it in.

The first line of stdin is JSON: {"folder": where it goes, "manifest_sha256", "manifest_bytes", "address": of
this node, "listen": {"token", "or_stdin": whether the stream may come there instead} or null to read it from
stdin, "next": {"address", "port", "token"} or null, "kept": [names of files that are here already, from a
stream that was broken off; kept.py has checked them]}. The stream is the manifest, then the bytes of every
file that it lists, by name, but for those that are kept and those that are links; the manifest knows where
each ends.
Prints `port N`, `bytes N`, `next-failed WHY`, and at the end `done`. Needs Python 3.8.

Between nodes the stream is plain TCP: it holds public software only, and what arrives is checked against a
hash that came over SSH.
"""

import contextlib
import fcntl
import hashlib
import hmac
import io
import json
import os
import queue
import select
import shutil
import socket
import sys
import threading
import time

CHUNK = 1 << 18
AHEAD = 16  # chunks that a slow disk may lie behind the network
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


class Incoming:
    """The stream in pieces. A thread reads ahead and passes on: no node waits for another's hashing."""

    def __init__(self, read, following):
        """Read with `read(count)`; pass on to the socket `following`, if there is one."""
        self.read, self.following = read, following
        self.ahead = queue.Queue(AHEAD)
        self.left = memoryview(b"")
        self.thread = threading.Thread(target=self.pump, daemon=True)
        self.thread.start()

    def pump(self):
        """Read to the end of the stream; what goes wrong is raised where the pieces are taken."""
        count, told_at = 0, 0.0
        try:
            while chunk := self.read(CHUNK):
                count += len(chunk)
                self.pass_on(chunk)
                self.ahead.put(chunk)
                now = time.monotonic()
                if now - told_at > TELL_S:
                    told_at = now
                    tell(f"bytes {count}")
            self.ahead.put(b"")
        except OSError as error:
            self.ahead.put(error)
        tell(f"bytes {count}")

    def pass_on(self, chunk):
        """Send to the next node, until that fails."""
        if self.following is None:
            return
        try:
            self.following.sendall(chunk)
        except OSError as error:
            tell(f"next-failed {error}")
            self.following.close()
            self.following = None

    def pieces(self, count):
        """Yield the next `count` bytes; raises EOFError when there are fewer."""
        while count:
            if not self.left:
                chunk = self.ahead.get()
                if isinstance(chunk, OSError):
                    raise chunk
                if not chunk:
                    self.ahead.put(b"")
                    raise EOFError("it ended too early")
                self.left = memoryview(chunk)
            piece, self.left = self.left[:count], self.left[count:]
            count -= len(piece)
            yield piece

    def finish(self):
        """Wait for the end of the stream, and close what follows."""
        while not isinstance(chunk := self.ahead.get(), OSError) and chunk:
            pass
        self.thread.join()
        if self.following is not None:
            self.following.shutdown(socket.SHUT_WR)
            self.following.close()


def listen(address, token, stdin):
    """Return a connection from the one before; only who knows the token is let in, and gets the answer.

    None when `stdin`, if it is given, has something to read first: the control machine cannot reach us here.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as door:
        try:
            door.bind((address, 0))
        except OSError:
            if stdin is None:
                raise
            tell("port 0")
            return None
        door.listen(4)
        door.settimeout(ACCEPT_S)
        tell(f"port {door.getsockname()[1]}")
        while True:
            ready, _, _ = select.select([door, stdin] if stdin else [door], [], [], ACCEPT_S)
            if not ready:
                raise socket.timeout("nobody has come")
            if stdin in ready:
                return None
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
                connection.sendall(answer_to(token))
                return connection
            connection.close()


def answer_to(token):
    """Return what only the one who was told the token can answer: an address may lead to somebody else."""
    return hashlib.sha256(token.encode()).hexdigest().encode()


def connect(following):
    """Return a connection to the next node, None when it cannot be made."""
    address, port, token = following["address"], following["port"], following["token"]
    try:
        connection = socket.create_connection((address, port), CONNECT_S)
        connection.sendall(token.encode())
        if connection.recv(TOKEN_CHARACTERS, socket.MSG_WAITALL) != answer_to(token):
            raise OSError(f"{address} is somebody else")
    except OSError as error:
        tell(f"next-failed {error}")
        return None
    connection.settimeout(SILENCE_S)
    return connection


def unpack(incoming, fresh, wanted, kept):
    """Write the manifest and its files into the folder `fresh`; end at the first that is not as sent."""
    text = b"".join(incoming.pieces(wanted["manifest_bytes"]))
    if hashlib.sha256(text).hexdigest() != wanted["manifest_sha256"]:
        sys.exit("the manifest that arrived is not the one that was sent")
    write([text], os.path.join(fresh, MANIFEST), 0o644)
    files = json.loads(text)["files"]
    for name, about in sorted(files.items()):
        if name not in kept and not about.get("same_as"):
            digest = write(incoming.pieces(about["size_bytes"]), inside(fresh, name), about["mode"])
            if digest != about["sha256"]:
                sys.exit(f"{name} did not arrive as it was sent")
    for name, about in files.items():
        if name not in kept and about.get("same_as"):
            os.link(os.path.join(fresh, about["same_as"]), inside(fresh, name))


def inside(fresh, name):
    """Return the path of a file, with the folders that it needs."""
    path = os.path.join(fresh, name)
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    return path


def write(pieces, path, mode):
    """Write a file and return its SHA-256."""
    digest = hashlib.sha256()
    with open(path, "xb", buffering=0) as file:
        for piece in pieces:
            digest.update(piece)
            while piece:
                piece = piece[file.write(piece) :]
        os.fchmod(file.fileno(), mode)
        # Starts writing it out without waiting: else a card begins when all has arrived, and `sync` waits.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
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
    stdin = io.FileIO(0)  # a thread that waits in a buffered one is no way to end
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
    door = wanted["listen"]
    source = listen(wanted["address"], door["token"], stdin if door["or_stdin"] else None) if door else None
    following = connect(wanted["next"]) if wanted["next"] else None
    incoming = Incoming(source.recv if source else stdin.read, following)
    unpack(incoming, fresh, wanted, kept)
    incoming.finish()
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
    except (OSError, EOFError) as error:
        sys.exit(
            f"{getattr(error, 'filename', None) or 'the stream'}: {getattr(error, 'strerror', None) or error}"
        )
