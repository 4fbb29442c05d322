"""Start, ask and end the keeper of a cluster's tunnel; see `keeper`."""

import contextlib
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import rpicluster
from rpicluster.errors import RpiclusterError, Unreachable
from rpicluster.model.ports import LOOPBACK
from rpicluster.nodes.local.listeners import Listener, listener_on
from rpicluster.nodes.ssh.keeping import Job, Kept
from rpicluster.nodes.ssh.kept_files import ERRORS, JOB, LOCK, STARTING, STATE, socket_name, write_private

# Python's start, ssh's login and the forwards, on a busy machine; a silent node costs ConnectTimeout, 5 s.
_START_S = 60.0
_END_S = 30.0
_FORCE_S = 12.0
_POLL_S = 0.02


def keeper_pid(folder: Path) -> int | None:
    """Return the pid of the keeper that keeps a tunnel of this folder, None if none does.

    The kernel says so, by the lock that it holds: a pid in a file may be another process by now.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.pread(descriptor, 20, 0) or b"0")  # 0: it has only just begun
    finally:
        os.close(descriptor)
    return None


def told(folder: Path) -> Kept | None:
    """Return what the keeper of this folder told last, None if none ever did."""
    try:
        return Kept.read((folder / STATE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def keep(folder: Path, job: Job) -> Kept:
    """Have a keeper do `job`, and return what it tells when the tunnel is open.

    One that does it already is only asked. Raises Unreachable where a number is taken or nothing opens in
    time, RpiclusterError for a keeper that fails; a refusal of ssh's is returned: `state` is "refused".
    """
    found = told(folder)
    if found is not None and _does(found, job) and keeper_pid(folder) is not None:
        return found
    with _starting(folder):
        running, found = keeper_pid(folder) is not None, told(folder)
        tries = found.tries if running and found is not None else 0
        if not (running and found is not None and _does(found, job)):
            _require_numbers(folder, job)
            write_private(folder / JOB, job.text())
            if running:
                _signal(folder, signal.SIGUSR1)
            else:
                (folder / STATE).unlink(missing_ok=True)
                _start(folder)
    opened = _wait(folder, job, tries)
    if any(forward.required and forward.local in opened.missing for forward in job.forwards):
        _require_numbers(folder, job, every=opened.missing)
    return opened


def _does(found: Kept, job: Job) -> bool:
    return found.state == "open" and found.job == job.digest


@contextlib.contextmanager
def _starting(folder: Path) -> Iterator[None]:
    """Keep other commands from starting or ending a keeper meanwhile; raises RpiclusterError if one hangs."""
    end = time.monotonic() + _START_S
    with (folder / STARTING).open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise RpiclusterError(
                        f"another command has been opening or closing the tunnel for {_START_S:.0f} s",
                        hint=f"see which: fuser -v {folder / STARTING}",
                    ) from None
                time.sleep(_POLL_S)
        yield


def end(folder: Path) -> bool:
    """End the keeper, if there is one, and its connection with it; return whether there was one.

    Raises RpiclusterError for one that cannot be ended.
    """
    if not folder.is_dir():
        return False
    with _starting(folder):
        was_there = _end_keeper(folder)
        for name in (JOB, STATE, ERRORS):
            (folder / name).unlink(missing_ok=True)
    return was_there


def _end_keeper(folder: Path) -> bool:
    deadline, force_at = time.monotonic() + _END_S, time.monotonic() + _FORCE_S
    told_at = 0.0
    while (pid := keeper_pid(folder)) is not None:
        now = time.monotonic()
        if now > deadline:
            raise RpiclusterError(f"the keeper of the tunnel does not end: pid {pid}", hint=f"kill -9 {pid}")
        if pid and now - told_at > 1.0:
            told_at = now
            _signal(folder, signal.SIGKILL if now > force_at else signal.SIGTERM)
            _signal(folder, signal.SIGCONT)  # a stopped process acts on SIGTERM only when it goes on
        time.sleep(_POLL_S)
    return told_at > 0.0


def _start(folder: Path) -> None:
    package = str(Path(rpicluster.__file__).parent.parent)
    path = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    errors = os.open(folder / ERRORS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        # No folder to look for modules in but Python's and ours. It returns when the keeper is at work.
        subprocess.run(
            [sys.executable, "-P", "-m", "rpicluster.nodes.ssh.keeper", str(folder / JOB)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
            timeout=_START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RpiclusterError(
            f"Python did not start within {_START_S:.0f} s, to keep the tunnel open",
            hint="rpicluster connect",
        ) from None
    finally:
        os.close(errors)


def _wait(folder: Path, job: Job, tries: int) -> Kept:
    wanted, begun = job.digest, time.monotonic()
    while True:
        found = told(folder)
        if found is not None:
            if found.state == "open" and found.job == wanted:
                return found
            if found.state == "refused":
                return found
        if keeper_pid(folder) is None and told(folder) == found:
            raise RpiclusterError(
                f"the tunnel's keeper has ended: {_errors(folder) or 'somebody has closed the tunnel'}",
                hint="rpicluster connect",
            )
        if time.monotonic() - begun > _START_S or (
            found is not None and found.state == "waiting" and found.tries > tries
        ):
            why = f": {found.why}" if found and found.why else ""
            raise Unreachable(
                f"the tunnel to {job.node} is not open{why}; it is tried again by itself",
                hint="see how it goes: rpicluster connect --status",
            )
        time.sleep(_POLL_S)


def _errors(folder: Path) -> str:
    with contextlib.suppress(OSError):
        lines = (folder / ERRORS).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""
    return ""


def _signal(folder: Path, number: signal.Signals) -> None:
    pid = keeper_pid(folder)
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _require_numbers(folder: Path, job: Job, *, every: Sequence[int] = ()) -> None:
    """Raise Unreachable when a number that must be ours is not; for those in `every` it is known."""
    for forward in job.forwards:
        if forward.required:
            require_ours(folder, forward.name, forward.local)
        if forward.required and forward.local in every:
            raise Unreachable(
                f"the tunnel needs port {forward.local} on {LOOPBACK} of this machine for "
                f"{forward.name}, and another program has it",
                hint=f"see whose it is: ss -tanp 'sport = :{forward.local}'",
            )


def require_ours(folder: Path, name: str, port: int) -> None:
    """Raise Unreachable, naming who it is, when a port of 127.0.0.1 is another program's than our ssh's."""
    owner = owner_of(port)
    if owner is None:
        return
    command = owner.process()[1]
    if _is_of(folder, command):
        return
    hint = f"end that program, then: rpicluster connect; or look: ss -tlnp 'sport = :{port}'"
    other = next((beside.name for beside in folder.parent.iterdir() if _is_of(beside, command)), None)
    if other is not None:
        hint = f"that is the tunnel of cluster {other}: rpicluster disconnect --cluster {other}"
    raise Unreachable(
        f"the tunnel needs port {port} on {LOOPBACK} of this machine for {name}, and another program has it: "
        f"{owner.describe()}",
        hint=hint,
    )


def _is_of(folder: Path, command: str) -> bool:
    """Return whether a command line is that of the ssh which carries the tunnel of a cluster's folder."""
    return re.search(rf"ControlPath=\S*/{socket_name(folder)}( |$)", command) is not None


def owner_of(port: int) -> Listener | None:
    """Return who listens on a port of 127.0.0.1; None if nobody does, or where /proc does not say it."""
    return listener_on(LOOPBACK, port) if Path("/proc/net/tcp").exists() else None
