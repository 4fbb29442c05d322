"""One OpenSSH connection to the manager that carries ports: opened on demand, kept, shared by all commands.

Forwards listen on 127.0.0.1 only. They are added to the running connection (`ssh -O forward`), so that one
connection serves every command and R, and a second request for the same forward costs nothing. A command
opens it for itself; `keep` has a process of our own hold it until `end` (see `keeper`).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rpicluster.errors import RpiclusterError, Unreachable
from rpicluster.model.ports import LOOPBACK
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh import failures, kept, kept_files
from rpicluster.nodes.ssh.forwards import ALIVE, Forward, bracketed, raw_command
from rpicluster.nodes.ssh.keeping import Job, Kept
from rpicluster.nodes.ssh.mux import Link
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.standing import end_ssh_at, is_free

_OPEN_S = 15.0
_TELL_S = 5.0
_FIRST_FREE, _LAST_FREE = 20000, 29999  # local ports of doors that have no number of their own


class Tunnel:
    """The connection of one cluster. `record`, a `tunnel.json`, keeps which local port leads where."""

    def __init__(
        self, ssh: OpenSsh, target: SshTarget, *, node: str, record: Path, key: Path | None = None
    ) -> None:
        """Prepare a tunnel through `node`; nothing is opened yet. `key` is used alone, if it is given."""
        self._ssh = ssh
        self._target = target
        self._node = node
        self._record = record
        self._key = key
        self._socket = ssh.control / kept_files.socket_name(record.parent)
        self._opened: dict[tuple[str, int], int] = {}
        self._opened_mark: tuple[int, int] | None = None
        self._alone = threading.Lock()

    def local_port(self, host: str, port: int, *, wanted: int | None = None) -> int:
        """Return the port on 127.0.0.1 that leads to `host:port` as the manager sees it.

        `wanted` is the number it must have; without it one is chosen once and kept. Raises Unreachable,
        NodeUnreachable and their kin when there is no way, with what to do about it.
        """
        way = f"{bracketed(host)}:{port}"
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
            mark = self._mark()
            if mark is None or mark != self._opened_mark:  # ssh has ended, and may have been replaced
                self._opened.clear()
            known = self._opened.get(key) or self._held(*key, wanted)
            if known is not None:
                return known
            with self._only_command():
                self._ensure_open()
                local = wanted or self._chosen(*key)
                self._forward(local, words(local), what)
            self._opened[key] = local
            self._opened_mark = self._mark()
            return local

    def _held(self, host: str, port: int, wanted: int | None) -> int | None:
        """Return the local port that a keeper holds open for this, without starting a process."""
        told, job = self.told(), self.job()
        if told is None or job is None or told.state != "open" or not self.is_open:
            return None
        for forward in job.forwards:
            leads = (forward.host or "socks", forward.port) == (host, port)
            if leads and wanted in (None, forward.local) and forward.local not in told.missing:
                return forward.local
        return None

    def _mark(self) -> tuple[int, int] | None:
        """Return by which a control socket is told from the next one of the same name."""
        try:
            found = self._socket.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_ctime_ns

    @contextlib.contextmanager
    def _only_command(self) -> Iterator[None]:
        """Keep other commands of this cluster from opening a second connection meanwhile."""
        with self._record.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def close(self) -> None:
        """End the connection, if there is one; a keeper opens it again."""
        if self._socket.exists():
            end_ssh_at(self._socket)
        self._opened.clear()

    # -- kept open -------------------------------------------------------------------------------------

    def keep(self, forwards: Sequence[Forward]) -> Kept:
        """Have a process of our own hold these forwards from now on, beyond this command.

        Raises Unreachable where a number is taken, and what `local_port` raises when there is no way.
        """
        pages = Forward("pages", self._chosen("socks", 0))
        if not self._socket.exists() and not is_free(pages.local):  # somebody has taken it since
            self._record.unlink(missing_ok=True)
            pages = Forward("pages", self._chosen("socks", 0))
        job = Job(self.folder.name, self._node, self._line("-N"), str(self._socket), (*forwards, pages))
        found = kept.keep(self.folder, job)
        if found.state == "refused":
            kept.end(self.folder)
            raise failures.explain(found.said or found.why, self._target, self._node)
        return found

    def end(self) -> bool:
        """End the keeper and the connection, and forget the ports; return whether anything was open."""
        was_kept = kept.end(self.folder)
        was_open = self._socket.exists()
        self.close()
        for name in (kept_files.RECORD, kept_files.LOG):  # the locks stay: somebody may wait for them
            (self.folder / name).unlink(missing_ok=True)
        return was_kept or was_open

    def told(self) -> Kept | None:
        """Return what the keeper tells, None where no keeper is at work."""
        return kept.told(self.folder) if kept.keeper_pid(self.folder) is not None else None

    def refusal(self) -> RpiclusterError | None:
        """Return why the last keeper gave up; None where one is at work, or none did."""
        told = kept.told(self.folder)
        if told is None or told.state != "refused" or kept.keeper_pid(self.folder) is not None:
            return None
        return failures.explain(told.said or told.why, self._target, self._node)

    def job(self) -> Job | None:
        """Return what the keeper was told to do, None if there is no such thing."""
        try:
            return Job.read((self.folder / kept_files.JOB).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def command(self, forwards: Sequence[Forward]) -> str:
        """Return a line for a shell that opens the same by ssh alone."""
        where = [*self._key_words(), *self._ssh.where(self._target), "--", self._target.host]
        return raw_command(where, (*forwards, Forward("pages", self._chosen("socks", 0))))

    @property
    def folder(self) -> Path:
        """Where what is known of the tunnel is kept."""
        return self._record.parent

    @property
    def is_open(self) -> bool:
        """Whether the connection stands."""
        try:
            with Link(self._socket, patience_s=_TELL_S):
                return True
        except TimeoutError:
            raise RpiclusterError(
                f"the tunnel's ssh does not answer on {self._socket}",
                hint="rpicluster disconnect, then try again",
            ) from None
        except OSError:
            return False

    def _key_words(self) -> list[str]:
        return ["-i", str(self._key), "-o", "IdentitiesOnly=yes"] if self._key else []

    def _line(self, *more: str) -> tuple[str, ...]:
        # The first value of an option counts: a connection of its own, which stays until it is ended.
        own = ["-o", "ControlMaster=yes", "-o", f"ControlPath={self._socket}", "-o", "ControlPersist=no"]
        # A log of its own: the connection outlives the command that opens it.
        log = ["-E", str(self.folder / kept_files.LOG), *more]
        shared = self._ssh.shared_options(self._target)
        return ("ssh", *own, *ALIVE, *self._key_words(), *log, *shared, "--", self._target.host)

    def _ensure_open(self) -> None:
        if self._opened or self.is_open:
            return
        self._socket.unlink(missing_ok=True)  # of an ssh that was killed: another one would not listen there
        log = self.folder / kept_files.LOG
        log.unlink(missing_ok=True)
        try:
            done = subprocess.run(
                self._line("-f", "-N"),
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
            said = log.read_text(errors="replace") if log.exists() else ""
            raise failures.explain(said, self._target, self._node)

    def _forward(self, local: int, words: tuple[str, str], what: str) -> None:
        done = self._tell("forward", *words)
        if done.returncode == 0:
            return
        kept.require_ours(self.folder, what, local)
        if not is_free(local):
            raise Unreachable(
                f"the tunnel to {self._node} needs port {local} on {LOOPBACK} of this machine, and another "
                "program has it",
                hint=f"see which, and end it: ss -tanp 'sport = :{local}'",
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
                hint="rpicluster disconnect, then try again",
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
                if p not in taken and is_free(p)
            )
            kept_files.write_private(self._record, json.dumps(known))
        return known[name]
