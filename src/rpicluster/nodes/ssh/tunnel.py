"""One OpenSSH connection to the manager that carries ports: opened on demand, kept, shared by all commands.

Forwards listen on 127.0.0.1 only. They are added to the running connection (`ssh -O forward`), so that one
connection serves every command and R, and a second request for the same forward costs nothing.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rpicluster.errors import RpiclusterError, Unreachable
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh import failures
from rpicluster.nodes.ssh.openssh import OpenSsh

LOOPBACK = "127.0.0.1"
_OPEN_S = 15.0
_TELL_S = 5.0
_FIRST_FREE, _LAST_FREE = 20000, 29999  # local ports of doors that have no number of their own


class Tunnel:
    """The connection of one cluster. `record` is a file that keeps which local port leads where."""

    def __init__(
        self, ssh: OpenSsh, target: SshTarget, *, node: str, record: Path, key: Path | None = None
    ) -> None:
        """Prepare a tunnel through `node`; nothing is opened yet. `key` is used alone, if it is given."""
        self._ssh = ssh
        self._target = target
        self._node = node
        self._record = record
        self._key = key
        name = hashlib.sha256(os.fsencode(record)).hexdigest()[:16]
        self._socket = ssh.control / f"tunnel-{name}"
        self._opened: dict[tuple[str, int], int] = {}
        self._alone = threading.Lock()

    def local_port(self, host: str, port: int, *, wanted: int | None = None) -> int:
        """Return the port on 127.0.0.1 that leads to `host:port` as the manager sees it.

        `wanted` is the number it must have; without it one is chosen once and kept. Raises Unreachable,
        NodeUnreachable and their kin when there is no way, with what to do about it.
        """
        way = f"{_bracketed(host)}:{port}"
        return self._kept((host, port), wanted, lambda local: ("-L", f"{LOOPBACK}:{local}:{way}"), way)

    def socks_port(self) -> int:
        """Return the port on 127.0.0.1 of a SOCKS proxy: a browser that uses it sees what the manager sees.

        It leads to the same listed ports as every forward of this connection. Raises as `local_port` does.
        """
        return self._kept(("socks", 0), None, lambda local: ("-D", f"{LOOPBACK}:{local}"), "a SOCKS proxy")

    def _kept(
        self, key: tuple[str, int], wanted: int | None, words: Callable[[int], tuple[str, str]], what: str
    ) -> int:
        with self._alone:
            if not self._socket.exists():  # ssh has ended, and removed it
                self._opened.clear()
            known = self._opened.get(key)
            if known is not None:
                return known
            with self._only_command():
                self._ensure_open()
                local = wanted or self._chosen(*key)
                self._forward(local, words(local), what)
            self._opened[key] = local
            return local

    @contextlib.contextmanager
    def _only_command(self) -> Iterator[None]:
        """Keep other commands of this cluster from opening a second connection meanwhile."""
        with self._record.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """End the connection, if there is one."""
        self._tell("exit")
        self._opened.clear()
        self._record.unlink(missing_ok=True)

    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        return self._tell("check").returncode == 0

    def _ensure_open(self) -> None:
        if self._opened or self.is_open:
            return
        # A log of its own, from now on: the connection outlives this command.
        log = self._record.with_suffix(".log")
        log.unlink(missing_ok=True)
        key = ["-i", str(self._key), "-o", "IdentitiesOnly=yes"] if self._key else []
        # The first value of an option counts: a connection of its own, which stays until it is ended.
        own = ["-o", "ControlMaster=yes", "-o", f"ControlPath={self._socket}", "-o", "ControlPersist=no"]
        line = ["ssh", *own, *key, "-E", str(log), "-f", "-N", *self._ssh.shared_options(self._target)]
        try:
            done = subprocess.run(
                [*line, "--", self._target.host],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,
                timeout=_OPEN_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Unreachable(
                f"no tunnel to {self._node} within {_OPEN_S:.0f} s",
                hint=f"does a login work? {failures.login_command(self._target)}",
            ) from None
        if done.returncode != 0:
            raise failures.explain(log.read_text(errors="replace"), self._target, self._node)

    def _forward(self, local: int, words: tuple[str, str], what: str) -> None:
        done = self._tell("forward", *words)
        if done.returncode == 0:
            return
        if not _is_free(local):
            raise Unreachable(
                f"the tunnel to {self._node} needs port {local} on {LOOPBACK} of this machine, and another "
                "program listens there",
                hint=f"see which, and end it: ss -tlnp 'sport = :{local}'",
            )
        said = [*done.stderr.strip().splitlines(), "no reason given"][0]
        raise Unreachable(
            f"ssh does not forward {what} through {self._node}: {said}",
            hint=f"is forwarding allowed there? {failures.login_command(self._target)} sudo sshd -T",
        )

    def _tell(self, *words: str) -> "subprocess.CompletedProcess[str]":
        # No configuration: the socket alone says which connection, and nobody's own forwards are added.
        line = ["ssh", "-F", "none", "-S", str(self._socket), "-O", *words, "--", "tunnel"]
        try:
            return subprocess.run(
                line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TELL_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise RpiclusterError(
                f"the tunnel's ssh does not answer on {self._socket}",
                hint=f"end it: rm {self._socket}, then try again",
            ) from None

    def _chosen(self, host: str, port: int) -> int:
        """Return a local port that was chosen before, or the first free one now."""
        known: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(self._record.read_text())
        name = f"{host}:{port}"
        if name not in known:
            taken = set(known.values())
            start = _FIRST_FREE + int(hashlib.sha256(name.encode()).hexdigest(), 16) % 9000
            known[name] = next(
                p
                for p in (*range(start, _LAST_FREE), *range(_FIRST_FREE, start))
                if p not in taken and _is_free(p)
            )
            fresh = self._record.with_name(f".{self._record.name}.{os.getpid()}.{time.monotonic_ns()}")
            fresh.write_text(json.dumps(known))
            fresh.replace(self._record)
        return known[name]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
