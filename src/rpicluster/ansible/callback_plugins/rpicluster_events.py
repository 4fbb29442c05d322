"""Prints what a playbook does as JSON lines, one event a line, for the program that started it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: rpicluster_events
    type: stdout
    short_description: JSON lines for rpicluster
    description:
      - Prints events named play, task, result and end.
      - A result has node, status, changed, seconds and message.
"""

MESSAGE_CHARACTERS = 2000
PARENT_VARIABLE = "RPICLUSTER_PARENT"
LOOK_S = 0.3


class CallbackModule(CallbackBase):
    """Ansible calls a method for each event; each prints one line."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "rpicluster_events"

    def __init__(self):
        """Start with no play."""
        super().__init__()
        self._play = ""
        self._task_started = {}
        parent = os.environ.get(PARENT_VARIABLE)
        if parent is not None:
            threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()

    def _print(self, event, **fields):
        sys.stdout.write(json.dumps({"event": event, "at": round(time.time(), 3), **fields}) + "\n")
        sys.stdout.flush()

    def _result(self, result, status, item=None):
        """Print the end of a task, or of one item of its loop, on one node."""
        said = result.result
        started = self._task_started.get((result.task._uuid, result.host.get_name()))
        self._print(
            "result",
            play=self._play,
            task=result.task.get_name(),
            role=result.task._role.get_name() if result.task._role else "",
            node=result.host.get_name(),
            status=status,
            item=item,
            changed=bool(said.get("changed")),
            seconds=round(time.time() - started, 3) if started else None,
            message=_message(said, status),
        )

    def v2_playbook_on_play_start(self, play):
        """Name the play."""
        self._play = play.get_name()
        self._print("play", play=self._play)

    def v2_runner_on_start(self, host, task):
        """Name what a node begins."""
        self._task_started[task._uuid, host.get_name()] = time.time()
        self._print("task", play=self._play, task=task.get_name(), node=host.get_name())

    def v2_runner_on_ok(self, result):
        """A task has ended well."""
        self._result(result, "ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        """A task has failed."""
        self._result(result, "ignored" if ignore_errors else "failed")

    def v2_runner_on_unreachable(self, result):
        """A node does not answer."""
        self._result(result, "unreachable")

    def v2_runner_on_skipped(self, result):
        """A task was not needed."""
        self._result(result, "skipped")

    def v2_runner_retry(self, result):
        """A task has failed and is tried again."""
        self._result(result, "retry")

    def v2_runner_item_on_ok(self, result):
        """One item of a loop has ended well."""
        self._result(result, "item-ok", _item(result))

    def v2_runner_item_on_failed(self, result):
        """One item of a loop has failed."""
        self._result(result, "item-failed", _item(result))

    def v2_playbook_on_stats(self, stats):
        """Everything has ended."""
        self._print("end", nodes={host: stats.summarize(host) for host in sorted(stats.processed)})


def _end_with(parent):
    """End Ansible with all that it started, when the program that started it is no more.

    Killed by SIGKILL, that program could not; and the next `up` must not find this one still at work.
    """
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
    children = {}
    for line in listed.stdout.splitlines():
        child, above = map(int, line.split())
        children.setdefault(above, []).append(child)
    waiting = [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        waiting += below
        for pid in below:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:  # it has ended by itself, as `ps` has
                continue
    os.kill(os.getpid(), signal.SIGKILL)


def _item(result):
    return str(result.result.get("_ansible_item_label", result.result.get("item", "")))


def _message(said, status):
    """Return what a module says of its end, without anything that no_log hides."""
    if "censored" in said:
        return str(said["censored"])
    if status in ("ok", "item-ok", "skipped"):
        return ""
    words = [str(said[key]).strip() for key in ("msg", "stderr", "module_stderr", "stdout") if said.get(key)]
    return "\n".join(dict.fromkeys(words))[:MESSAGE_CHARACTERS]
