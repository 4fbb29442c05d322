"""The control machine's side: one stream to the first node, which passes it on to the next."""

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import IO

from rpicluster.errors import RpiclusterError
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.stream import Stream, open_stream

MANIFEST = "rpicluster-runtime.json"
_TOKEN_BYTES = 32
_HASHED_S = 120.0  # a Pi hashes 500 MB from a slow card
_STORED_S = 300.0  # a slow card writes 500 MB to its end
_REACH_S = 2.0  # for an address that may lead nowhere from here
_SILENCE_S = 60.0
_CHUNK_BYTES = 1 << 20
Report = Callable[[str, str, int], None]  # (node, phase, bytes so far)


@dataclass(frozen=True)
class Destination:
    """A node that gets the runtime: how it is reached, and its address for the node before it."""

    target: SshTarget
    address: str
    python: str = "/usr/bin/python3"
    sudo_password: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Package:
    """What is sent: the folder of a runtime, and where it goes on every node."""

    source: Path
    folder: str

    @cached_property
    def manifest(self) -> bytes:
        """What lists every file with its size and hash."""
        return (self.source / MANIFEST).read_bytes()

    @property
    def manifest_sha256(self) -> str:
        """The hash by which a node knows the right manifest, and by that every file."""
        return sha256(self.manifest).hexdigest()

    @property
    def order(self) -> dict[str, object]:
        """What every receiver is told of it."""
        return {
            "folder": self.folder,
            "manifest_sha256": self.manifest_sha256,
            "manifest_bytes": len(self.manifest),
        }

    @property
    def size_bytes(self) -> int:
        """What is sent, without the manifest."""
        return int(json.loads(self.manifest)["size_bytes"])

    def without_half_links(self, names: frozenset[str]) -> frozenset[str]:
        """Leave out names of one file on disk unless all of them are there: they are linked when all is."""
        files = json.loads(self.manifest)["files"]
        pairs = [(name, about["same_as"]) for name, about in files.items() if about.get("same_as")]
        half = {original for name, original in pairs if not {name, original} <= names}
        return names - half - {name for name, original in pairs if original in half}


def fan_out(
    package: Package,
    nodes: Mapping[str, Destination],
    ssh: OpenSsh,
    *,
    report: Report,
    cancel: threading.Event | None = None,
) -> dict[str, RpiclusterError]:
    """Bring the runtime to all nodes; return why it failed, by the name of each node where it did.

    Nodes stand in a chain, so that one copy leaves the control machine. Those that the chain does not reach,
    because one in it failed or because nodes cannot reach each other, get a copy each over SSH.
    """
    cancel = cancel or threading.Event()
    failed = _chain(package, nodes, ssh, report, cancel)
    again = {name: nodes[name] for name in failed}
    if not again or cancel.is_set() or len(nodes) == 1:
        return failed
    results: dict[str, RpiclusterError] = {}

    def alone(name: str) -> None:
        results.update(_chain(package, {name: again[name]}, ssh, report, cancel))

    threads = [threading.Thread(target=alone, args=(name,)) for name in again]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _chain(
    package: Package,
    nodes: Mapping[str, Destination],
    ssh: OpenSsh,
    report: Report,
    cancel: threading.Event,
) -> dict[str, RpiclusterError]:
    """Send along a chain of nodes; return the failures of those that did not store all of it."""
    receiver = _program("receive.py")
    kept = _kept(package, nodes, ssh)
    receivers: dict[str, _Receiver] = {}
    with ExitStack() as stack:
        following: dict[str, object] | None = None
        # The last first: each must know the port of the one behind it.
        for name, node in reversed(list(nodes.items())):
            is_first = name == next(iter(nodes))
            stream = stack.enter_context(
                open_stream(
                    ssh,
                    node.target,
                    [node.python, "-c", receiver],
                    node=name,
                    what="receiving the runtime",
                    sudo=True,
                    sudo_password=node.sudo_password,
                )
            )
            token = secrets.token_hex(_TOKEN_BYTES)
            order: dict[str, object] = {
                **package.order,
                "address": node.address,
                "listen": {"token": token, "or_stdin": is_first},
                "next": following,
                "kept": sorted(kept),
            }
            mine = receivers[name] = _Receiver(name, stream, report)
            mine.begin(order, more=is_first)
            port = mine.port()
            following = {"address": node.address, "port": port, "token": token} if port else following
            if is_first:
                way = _reach(node.address, port, token) if port else None
                if way is not None:
                    stack.callback(_close, way)
                    stream.stdin.close()  # what feeds sudo would wait for it without end
                _send(package, way or stream.stdin, cancel, kept)
        return {name: error for name, mine in receivers.items() if (error := mine.end(cancel))}


def _reach(address: str, port: int, token: str) -> IO[bytes] | None:
    """Return a way to a receiver past SSH, whose ciphers cost as much as all the rest; None if there is none.

    The same that one node has to the next: the stream holds public software, and a hash that came over SSH
    guards it. Who cannot answer to the token is another machine at an address that means something else here.
    """
    try:
        with socket.create_connection((address, port), _REACH_S) as connection:
            connection.sendall(token.encode())
            answer = connection.recv(2 * _TOKEN_BYTES, socket.MSG_WAITALL)
            if answer != sha256(token.encode()).hexdigest().encode():
                return None
            connection.settimeout(_SILENCE_S)
            return connection.makefile("wb")  # closed with it
    except OSError:
        return None


def _close(way: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # the receiver has ended
        way.close()


def _program(name: str) -> str:
    return (Path(__file__).parent / "on_node" / name).read_text()


def _kept(package: Package, nodes: Mapping[str, Destination], ssh: OpenSsh) -> frozenset[str]:
    """Return the files that all nodes have whole from a stream that was broken off; they stay."""
    question = json.dumps({"folder": package.folder, "manifest_sha256": package.manifest_sha256}).encode()

    def ask(name: str) -> frozenset[str]:
        node = nodes[name]
        try:
            answer = ssh.check(
                node.target,
                [node.python, "-c", _program("kept.py")],
                node=name,
                deadline_s=_HASHED_S,
                stdin=question,
                sudo=True,
                sudo_password=node.sudo_password,
            )
        except RpiclusterError:  # then all is sent, and the receiver says what is wrong there
            return frozenset()
        return frozenset(json.loads(answer))

    with ThreadPoolExecutor(len(nodes)) as pool:
        return package.without_half_links(frozenset.intersection(*pool.map(ask, nodes)))


class _Receiver:
    """One node's receiver, followed in a thread."""

    def __init__(self, name: str, stream: Stream, report: Report) -> None:
        self.name = name
        self.stream = stream
        self._report = report
        self._port: int | None = None
        self._talked = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def begin(self, order: dict[str, object], *, more: bool) -> None:
        """Send the order; without `more` nothing follows: what feeds sudo would wait for it without end."""
        with contextlib.suppress(OSError):  # it has ended already: `end` says why
            self.stream.stdin.write(json.dumps(order).encode() + b"\n")
            self.stream.stdin.flush()
            if not more:
                self.stream.stdin.close()
        self._thread.start()

    def port(self) -> int | None:
        """Return where it listens, None if it ended before it did."""
        self._talked.wait(30)
        return self._port

    def end(self, cancel: threading.Event) -> RpiclusterError | None:
        """Wait until it has stored everything; return why it has not."""
        waited = 0.0
        while self._thread.is_alive() and waited < _STORED_S and not cancel.is_set():
            self._thread.join(0.2)
            waited += 0.2
        if self._done:
            return None
        if cancel.is_set():
            return RpiclusterError(f"{self.name}: sending the runtime was broken off", hint="rpicluster up")
        if self._thread.is_alive():
            self.stream.end()
        return self.stream.failure() or RpiclusterError(f"{self.name}: the runtime did not arrive")

    def _follow(self) -> None:
        for line in self.stream.lines():
            word, _, rest = line.partition(" ")
            if word == "port":
                self._port = int(rest)
                self._talked.set()
            elif word == "bytes":
                self._report(self.name, "runtime", int(rest))
            elif word == "storing":
                self._report(self.name, "storing the runtime", 0)
            elif word == "done":
                self._done = True
        self._talked.set()


def _send(
    package: Package, stdin: IO[bytes], cancel: threading.Event, kept: frozenset[str] = frozenset()
) -> None:
    """Write the stream without the files `kept`; a receiver that has ended says itself why."""
    with contextlib.suppress(OSError):
        for chunk in _stream(package, kept):
            if cancel.is_set():
                return
            stdin.write(chunk)
        stdin.close()


def write_stream(package: Package, path: Path) -> None:
    """Write to a new file what a lone receiver reads from its stdin: its order, then the stream."""
    order = {**package.order, "address": "", "listen": None, "next": None}
    with path.open("xb") as file:
        file.write(json.dumps(order).encode() + b"\n")
        for chunk in _stream(package):
            file.write(chunk)


def _stream(package: Package, kept: frozenset[str] = frozenset()) -> Iterator[memoryview]:
    """Yield the manifest, then every file that it lists, by name; receive.py says what is left out.

    Each chunk is valid until the next one. A file that is not as long as the manifest says ends the stream.
    """
    yield memoryview(package.manifest)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    for name, about in sorted(json.loads(package.manifest)["files"].items()):
        if name in kept or about.get("same_as"):
            continue
        left = int(about["size_bytes"])
        with (package.source / name).open("rb", buffering=0) as file:
            while left:
                count = file.readinto(buffer[:left])
                if not count:
                    return
                left -= count
                yield buffer[:count]
