"""The process that keeps a tunnel open: it starts ssh, watches it, and starts it again when it is lost.

`python -m rpicluster.nodes.ssh.keeper JOB`, where JOB is `kept-job.json` in a cluster's state folder. It
has no terminal, ends on SIGTERM and when the job's file is gone, and reads the job again on SIGUSR1. Small
on purpose: nothing of rpicluster is loaded but values and the words of ssh.
"""

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rpicluster.nodes.local.processes import is_stopped
from rpicluster.nodes.ssh import failures
from rpicluster.nodes.ssh.forwards import Forward, all_words, chosen_before
from rpicluster.nodes.ssh.keeping import Job, Kept, gives_up, is_frozen, is_hopeless, pause_s, was_forgotten
from rpicluster.nodes.ssh.kept_files import ALONE, JOB, LOCK, LOG, RECORD, STATE, write_private
from rpicluster.nodes.ssh.mux import Link
from rpicluster.nodes.ssh.standing import ANSWER_S, end_ssh_at, end_ssh_of, is_free

_OPEN_S = 30.0  # until ssh has logged in; ConnectTimeout ends a try at a silent address before
_FORWARD_S = 10.0
_ASK_EVERY_S = 2.0
_LOOK_AGAIN_S = 5.0  # for numbers that were taken
_END_S = 3.0
_POLL_S = 0.02
_SAID_BYTES = 4000
_LOG_BYTES = 1 << 20
_BUSY_S = 10.0


class Lost(Exception):
    """There is no connection; `why` says it in words, `said` is what ssh said."""

    def __init__(self, why: str, said: str = "") -> None:
        """Keep both."""
        super().__init__(why)
        self.why = why
        self.said = said


class Closing(Exception):
    """Somebody wants the tunnel closed."""


class Keeper:
    """One tunnel, kept."""

    def __init__(self, folder: Path) -> None:
        """Keep the tunnel whose job is in `folder`."""
        self._folder = folder
        self._state = Kept("opening", time.time(), pid=os.getpid())
        self._ssh: subprocess.Popen[bytes] | None = None
        self._wake, self._waker = os.pipe()
        for end in (self._wake, self._waker):
            os.set_blocking(end, False)
        self._closing = self._again = False
        self._job = self._read_job()

    # -- life ------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Keep the tunnel until somebody closes it or it is refused; return the exit status."""
        signal.set_wakeup_fd(self._waker)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        causes: list[failures.Cause] = []
        lost_at, tries = time.monotonic(), 0
        try:
            while True:
                try:
                    with self._open() as link:
                        causes.clear()
                        outage = self._state.opened and self._state.state != "open"
                        outage_s = time.monotonic() - lost_at if outage else None
                        missing = self._forward(self._wanted())
                        self._tell_open(link, missing, outage_s)
                        self._watch(link)
                except Lost as lost:
                    if self._state.state == "open":
                        lost_at, tries = time.monotonic(), 0
                    self._end_own()
                    causes.append(failures.cause_of(lost.said))
                    lost_for_s = time.monotonic() - lost_at
                    if not self._state.opened or gives_up(causes) or is_hopeless(lost_for_s):
                        self._tell("refused", lost)
                        return 1
                    self._tell("waiting", lost)
                    self._pause(pause_s(tries, lost_for_s))
                    tries += 1
        except Closing:
            self._end_own()
            end_ssh_at(Path(self._job.socket))
            self._tell("closed")
            return 0
        finally:
            self._end_own()

    def _signalled(self, number: int, frame: object) -> None:
        if number == signal.SIGUSR1:
            self._again = True
        else:
            self._closing = True

    def _check(self) -> None:
        """Raise Closing when it is time."""
        if self._closing or not (self._folder / JOB).exists():
            raise Closing

    def _pause(self, seconds: float) -> None:
        """Wait; not at all when a command asks for the tunnel, or when this machine has slept."""
        end = time.monotonic() + seconds
        asleep = _asleep_s()
        while (left := end - time.monotonic()) > 0 and not self._again:
            self._check()
            if _asleep_s() - asleep > 1.0:
                break
            self._wait(min(left, 1.0))
        self._check()
        self._take_job()

    def _wait(self, seconds: float, *others: Link) -> bool:
        """Wait for a signal, or for one of the others; return whether one of them is readable."""
        watched: list[int | Link] = [self._wake, *others]
        readable = select.select(watched, [], [], max(0.0, seconds))[0]
        if self._wake in readable:
            os.read(self._wake, 512)
        return any(other in readable for other in others)

    def _take_job(self) -> None:
        if not self._again:
            return
        self._again = False
        before, self._job = self._job, self._read_job()
        if before.ssh != self._job.ssh or set(before.forwards) - set(self._job.forwards):
            self._end_own()  # another way, or fewer forwards: a new connection has nothing of the old one
            end_ssh_at(Path(before.socket))

    def _read_job(self) -> Job:
        try:
            return Job.read((self._folder / JOB).read_text())
        except FileNotFoundError:
            raise Closing from None

    # -- opening ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open(self) -> Iterator[Link]:
        """Yield a link to an ssh that is logged in: one that a command has opened meanwhile, or our own."""
        with self._alone():
            self._check()
            link = self._standing()
            if link is None:
                link = self._started()
        with link:
            yield link

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep commands from opening a connection at the same moment."""
        with (self._folder / ALONE).open("a") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._check()
                    self._wait(0.1)
            yield

    def _standing(self) -> Link | None:
        """Return a link to an ssh that stands already; a frozen one is ended, a stale socket removed."""
        path = Path(self._job.socket)
        try:
            return Link(path, patience_s=_BUSY_S)  # it may be a command's, at work on a busy machine
        except FileNotFoundError:
            return None
        except TimeoutError:
            end_ssh_of(path)
        except ConnectionError:
            pass
        path.unlink(missing_ok=True)
        return None

    def _started(self) -> Link:
        path, log = Path(self._job.socket), self._folder / LOG
        log.unlink(missing_ok=True)
        if shutil.which("ssh") is None:
            raise Lost("there is no ssh on this machine")
        # No orphan: with us killed, the kernel ends it.
        death = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        try:
            self._ssh = subprocess.Popen(
                [*death, *self._job.ssh],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"},
            )
        except OSError as error:
            raise Lost(f"ssh does not start: {error.strerror}") from None
        end = time.monotonic() + _OPEN_S
        while True:
            if self._ssh.poll() is not None:
                said = _tail(log)
                raise Lost(failures.cause_of(said), said)
            with contextlib.suppress(FileNotFoundError, ConnectionError, TimeoutError):
                return Link(path, patience_s=ANSWER_S)
            if time.monotonic() > end:
                raise Lost(f"no login within {_OPEN_S:.0f} s", _tail(log))
            self._check()
            self._wait(_POLL_S)

    def _wanted(self) -> list[Forward]:
        """Return the job's forwards, and those that commands have asked for since."""
        wanted = {forward.local: forward for forward in self._job.forwards}
        # The record is written by others; one that cannot be read holds nothing that we must have.
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            for forward in chosen_before(json.loads((self._folder / RECORD).read_text())):
                wanted.setdefault(forward.local, forward)
        return list(wanted.values())

    def _forward(self, forwards: list[Forward]) -> list[Forward]:
        """Have ssh listen for all of them, by one process; return those whose number is taken."""
        if self._ask_ssh(forwards):
            return []
        # ssh does not say which: one by one.
        return [forward for forward in forwards if not self._ask_ssh([forward])]

    def _ask_ssh(self, forwards: list[Forward]) -> bool:
        # No configuration: the socket alone says which connection, and nobody's own forwards are added.
        line = ["ssh", "-F", "none", "-S", self._job.socket, "-O", "forward", *all_words(forwards)]
        try:
            done = subprocess.run(
                [*line, "--", "tunnel"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_FORWARD_S,
                check=False,
            )
        except (subprocess.TimeoutExpired, OSError) as error:
            raise Lost(f"ssh takes no forwards: {error}") from None
        return done.returncode == 0

    # -- watching --------------------------------------------------------------------------------------

    def _watch(self, link: Link) -> None:
        """Return when a new job is there; raise Lost when the connection is, and Closing."""
        asked_at: float | None = None
        next_ask = time.monotonic() + _ASK_EVERY_S
        next_look = time.monotonic() + _LOOK_AGAIN_S
        asleep = _asleep_s()
        while True:
            self._check()
            if self._again:
                self._take_job()
                return
            now = time.monotonic()
            if was_forgotten(_asleep_s() - asleep):
                _kill(link.pid)
                raise Lost(f"this machine slept for {_asleep_s() - asleep:.0f} s")
            if not Path(self._job.socket).exists():  # somebody tidied up: no command would find this ssh
                _kill(link.pid)
                raise Lost("ssh's control socket was removed")
            if asked_at is None and now >= next_ask:
                asleep = _asleep_s()
                link.ask()
                asked_at = now
            if asked_at is not None and is_frozen(now - asked_at, stopped=is_stopped(link.pid)):
                _kill(link.pid)
                raise Lost("ssh was frozen and is ended: a signal had stopped it, or it hung")
            if self._wait(min(1.0, _ASK_EVERY_S), link):
                if not link.hear():
                    said = _tail(self._folder / LOG)
                    raise Lost(failures.cause_of(said) if said else "ssh has ended", said)
                asked_at, next_ask = None, time.monotonic() + _ASK_EVERY_S
                _keep_short(self._folder / LOG)
            if self._state.missing and time.monotonic() >= next_look:
                next_look = time.monotonic() + _LOOK_AGAIN_S
                self._try_missing(link)

    def _try_missing(self, link: Link) -> None:
        """Take numbers that have become free."""
        taken = [forward for forward in self._wanted() if forward.local in self._state.missing]
        still = [f for f in taken if not (is_free(f.local) and self._ask_ssh([f]))]
        if len(still) < len(taken):
            self._tell_open(link, still, self._state.lost_s)

    # -- ending ----------------------------------------------------------------------------------------

    def _end_own(self) -> None:
        """End the ssh that we started, if it still runs; one that a command opens meanwhile is none of it."""
        if self._ssh is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._ssh.poll() is None:
                self._ssh.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._ssh.wait(_END_S)
        self._ssh = None

    # -- telling ---------------------------------------------------------------------------------------

    def _tell_open(self, link: Link, missing: list[Forward], lost_for_s: float | None) -> None:
        opened = self._state.opened + (self._state.state != "open")
        self._state = replace(
            self._state,
            state="open",
            since=self._state.since if self._state.state == "open" else time.time(),
            ssh_pid=link.pid,
            job=self._job.digest,
            opened=opened,
            lost_s=self._state.lost_s if lost_for_s is None else round(lost_for_s, 2),
            missing=tuple(forward.local for forward in missing),
        )
        self._write()

    def _tell(self, state: str, lost: Lost | None = None) -> None:
        since = self._state.since if state == self._state.state else time.time()
        why, said = (lost.why, lost.said) if lost else (self._state.why, self._state.said)
        self._state = replace(
            self._state, state=state, since=since, ssh_pid=0, why=why, said=said, tries=self._state.tries + 1
        )
        self._write()

    def _write(self) -> None:
        # On a full disk the tunnel goes on all the same; where the cluster's folder is gone, we end soon.
        with contextlib.suppress(OSError):
            write_private(self._folder / STATE, self._state.text())


def _asleep_s() -> float:
    """Return for how long this machine has slept since some moment; monotonic time stands still then."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()
    return now - time.monotonic()


def _tail(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace")[-_SAID_BYTES:].strip()
    return ""


def _keep_short(log: Path) -> None:
    """Empty a log that has grown: ssh notes every door that is shut, and appends wherever the end is."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LOG_BYTES:
            os.truncate(log, 0)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def main(job: Path) -> int:
    """Begin to keep the tunnel of `job`, in a process of its own, unless another keeper does.

    When this returns, the keeper holds its lock; it has no parent that would have to wait for it.
    """
    folder = job.parent
    os.umask(0o077)
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    if os.fork():
        os._exit(0)
    os.setsid()  # neither a terminal's end nor its Ctrl-C reaches it
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    try:
        return Keeper(folder).run()
    except Closing:
        return 0
    except OSError:
        if folder.exists():
            raise
        return 0  # the cluster was removed, and its tunnel with it


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
