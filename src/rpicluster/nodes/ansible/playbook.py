"""One run of a playbook: a subprocess whose events are read, and that leaves no child when it is ended."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rpicluster.errors import AnsibleFailed
from rpicluster.nodes.ansible.events import Event, hint_for, read_event
from rpicluster.nodes.ansible.rundir import playbooks

DEADLINE_S = 3600.0  # apt on a Pi with a slow card and a slow line
_LOOK_S = 0.2
_GRACE_S = 2.0
PARENT_VARIABLE = "RPICLUSTER_PARENT"  # known to callback_plugins/rpicluster_events.py


@dataclass
class Outcome:
    """What became of a run: the last failure of each node that did not go on."""

    failed: dict[str, Event] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def error(self, node: str) -> AnsibleFailed:
        """Return the failure of a node as an error."""
        event = self.failed[node]
        # Of a loop Ansible says only that something in it failed; the item itself has the module's words.
        of_items = (
            e.message
            for e in reversed(self.events)
            if (e.node, e.task, e.status) == (node, event.task, "item-failed")
        )
        said = next(of_items, event.message)
        return AnsibleFailed(
            f"{node}: {event.step}: {said or event.status}",
            node=node,
            task=event.step,
            hint=hint_for(said) or "mend it, then `rpicluster up` continues",
        )


def run_playbook(
    folder: Path,
    playbook: str,
    *,
    report: Callable[[Event], None],
    cancel: threading.Event | None = None,
    deadline_s: float = DEADLINE_S,
    sudo_password: str | None = None,
) -> Outcome:
    """Run `playbook` with the folder that `rundir.write_run` wrote; return what became of every node.

    `report` is told every event. When `cancel` is set, or on Ctrl-C, all of it is ended within seconds; when
    this process is killed, Ansible ends itself. The password of sudo goes through a pipe: no file and no
    command line ever holds it.
    Raises AnsibleFailed when Ansible itself cannot run, or has not ended after `deadline_s`.
    """
    outcome = Outcome()
    log = folder / "ansible.log"
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ansible", "playbook", str(playbooks() / playbook)),
                *(() if sudo_password is None else ("--become-password-file", "-")),
            ],
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL if sudo_password is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is ours to handle
        )
    try:
        if sudo_password is not None:
            _tell(process, sudo_password)
        _follow(process, outcome, report, cancel, log, time.monotonic() + deadline_s)
    finally:
        end_tree(process)
    if process.returncode != 0 and not outcome.failed and not (cancel and cancel.is_set()):
        raise AnsibleFailed(
            f"ansible-playbook ended with status {process.returncode}: {_last_words(log)}",
            node="",
            task="",
            hint=f"all it said is in {log}",
        )
    return outcome


def _tell(process: "subprocess.Popen[bytes]", secret: str) -> None:
    assert process.stdin is not None  # noqa: S101  opened as a pipe
    with contextlib.suppress(BrokenPipeError), process.stdin:  # it has ended: its log says why
        process.stdin.write(secret.encode() + b"\n")


def _environment(folder: Path) -> dict[str, str]:
    # Settings of the user's own Ansible are for the user's own playbooks.
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {
        **kept,
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_HOME": str(folder / "home"),
        PARENT_VARIABLE: str(os.getpid()),
        "LC_ALL": "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8",  # Ansible refuses others
        "PYTHONUNBUFFERED": "1",
        "SSH_ASKPASS_REQUIRE": "never",
    }


def _follow(
    process: "subprocess.Popen[bytes]",
    outcome: Outcome,
    report: Callable[[Event], None],
    cancel: threading.Event | None,
    log: Path,
    deadline: float,
) -> None:
    events = log.with_name("events.jsonl")
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    assert process.stdout is not None  # noqa: S101  opened as a pipe
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    while True:
        if cancel is not None and cancel.is_set():
            return
        if time.monotonic() > deadline:
            raise AnsibleFailed("ansible-playbook does not end", node="", task="", hint=f"look at {log}")
        try:
            line = lines.get(timeout=_LOOK_S)
        except queue.Empty:
            continue
        if line is None:
            process.wait()
            return
        event = read_event(line.decode(errors="replace"))
        if event is None:
            with log.open("ab") as file:
                file.write(line)
            continue
        with events.open("ab") as file:
            file.write(line)
        outcome.events.append(event)
        if event.is_failure:
            outcome.failed[event.node] = event
        if event.is_end and event.changed:
            outcome.changed[event.node] = outcome.changed.get(event.node, 0) + 1
        report(event)


def _read(stdout: IO[bytes], lines: "queue.SimpleQueue[bytes | None]") -> None:
    with contextlib.suppress(ValueError):  # closed, because the run was ended
        for line in stdout:
            lines.put(line)
    lines.put(None)


def end_tree(process: "subprocess.Popen[bytes]") -> None:
    """End a process and everything below it; its workers have sessions of their own, so groups miss them."""
    if process.poll() is None:
        below = descendants(process.pid)
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
        for pid in {*below, *(descendants(process.pid) if process.poll() is None else ())}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()
    if process.stdout is not None:
        with contextlib.suppress(OSError):
            process.stdout.close()


def descendants(pid: int) -> list[int]:
    """Return the processes that `pid` has started, and those that these have started, and so on."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    children: dict[int, list[int]] = {}
    for line in listed.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "it said nothing"
