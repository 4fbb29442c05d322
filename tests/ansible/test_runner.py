"""Ansible as a subprocess: events, errors that name node and task, and nothing left when it is ended."""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpicluster.errors import AnsibleFailed
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ansible.events import Event, hint_for, read_event
from rpicluster.nodes.ansible.playbook import Outcome, descendants, run_playbook
from rpicluster.nodes.ansible.rundir import Host, write_run
from rpicluster.nodes.ssh.openssh import OpenSsh

PLAY = """
- name: Try
  hosts: all
  gather_facts: false
  tasks:
    - name: {name}
      ansible.builtin.{task}
"""

# Asks with the prompt that Ansible gave it, as the real one does, and takes one password only.
ASKING_SUDO = """#!/bin/bash
while [ $# -gt 0 ]; do
  case "$1" in
  -p) prompt=$2; shift 2 ;;
  -u) shift 2 ;;
  -*) shift ;;
  *) break ;;
  esac
done
printf '%s' "$prompt" >&2
IFS= read -r given
[ "$given" = geheim ] || { echo 'Sorry, try again.' >&2; exit 1; }
exec "$@"
"""


@pytest.fixture
def ssh() -> Iterator[OpenSsh]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # pytest's are too long for control sockets
        yield OpenSsh(Path(folder) / "c")


@pytest.fixture
def run(tmp_path: Path, ssh: OpenSsh) -> Path:
    """A run of two nodes that are this machine."""
    folder = tmp_path / "run"
    local = {"ansible_connection": "local"}
    write_run(
        folder,
        {name: Host(SshTarget(host=name), local, python="/usr/bin/python3") for name in ("pi1", "pi2")},
        ssh,
    )
    return folder


def playbook(folder: Path, name: str, task: str) -> str:
    path = folder / "try.yml"
    path.write_text(PLAY.format(name=name, task=task))
    return str(path)


def test_a_run_folder_is_private_and_the_password_of_sudo_is_in_no_file_and_no_command(run: Path) -> None:
    assert run.stat().st_mode & 0o777 == 0o700
    held: list[str] = []

    def report(event: Event) -> None:
        if event.kind == "task":
            held.extend(str(path) for path in run.rglob("*") if path.is_file() and "geheim" in _text(path))
            held.extend(words for words in _command_lines() if "geheim" in words)

    path = playbook(run, "Say", "command: 'true'")
    outcome = run_playbook(run, path, report=report, sudo_password="geheim")
    assert outcome.changed == {"pi1": 1, "pi2": 1}
    assert held == []
    assert [path for path in run.rglob("*") if path.is_file() and "geheim" in _text(path)] == []


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


def test_ansible_is_given_the_password_of_sudo(run: Path) -> None:
    path = Path(playbook(run, "Ask", "command: whoami\n      become: true"))
    folder = run / "bin"
    folder.mkdir()
    (folder / "sudo").write_text(ASKING_SUDO)
    (folder / "sudo").chmod(0o755)
    path.write_text(
        path.read_text().replace(
            "gather_facts: false", f"gather_facts: false\n  vars: {{ansible_become_exe: {folder}/sudo}}"
        )
    )
    with (run / "ansible.cfg").open("a") as config:  # the tests may run as root, who would need no sudo
        config.write("[privilege_escalation]\nbecome_allow_same_user = true\n")
    for password, failed in (("geheim", set()), ("falsch", {"pi1", "pi2"})):
        outcome = run_playbook(run, str(path), report=lambda _: None, sudo_password=password)
        assert set(outcome.failed) == failed, [outcome.error(node).message for node in outcome.failed]


def test_the_shared_connection_and_its_checks_are_used_by_ansible_too(tmp_path: Path, ssh: OpenSsh) -> None:
    target = SshTarget(host="10.0.0.1", user="pi", port=2222, config="/tmp/with space/config")
    write_run(tmp_path / "run", {"pi1": Host(target, {})}, ssh)
    hosts = json.loads((tmp_path / "run" / "inventory" / "hosts.json").read_text())["all"]["hosts"]
    arguments = hosts["pi1"]["ansible_ssh_args"]
    assert "-F '/tmp/with space/config' -l pi -p 2222" in arguments
    assert "StrictHostKeyChecking=yes" in arguments
    assert f"ControlPath={ssh.control}/" in arguments
    assert hosts["pi1"]["ansible_host"] == "10.0.0.1"


def test_every_node_tells_what_it_does_and_whether_it_changed_anything(run: Path) -> None:
    events: list[Event] = []
    outcome = run_playbook(run, playbook(run, "Say", "command: echo hello"), report=events.append)
    assert outcome.failed == {}
    assert outcome.changed == {"pi1": 1, "pi2": 1}
    assert {(e.node, e.step) for e in events if e.kind == "task"} == {("pi1", "Say"), ("pi2", "Say")}
    assert all(e.seconds is not None and 0 < e.seconds < 60 for e in events if e.is_end)
    assert events[-1].kind == "end"


def test_a_failure_names_node_task_and_the_modules_words(run: Path) -> None:
    words = "E: Could not get lock {{ inventory_hostname }}"
    task = f"fail: {{msg: '{words}'}}\n      when: inventory_hostname == 'pi2'"
    outcome = run_playbook(run, playbook(run, "Install", task), report=lambda _: None)
    assert set(outcome.failed) == {"pi2"}
    error = outcome.error("pi2")
    assert error.message == "pi2: Install: E: Could not get lock pi2"
    assert (error.node, error.task) == ("pi2", "Install")
    assert error.hint is not None
    assert "another program installs packages" in error.hint


def test_the_item_that_failed_is_what_an_error_tells_of_a_loop(run: Path) -> None:
    task = "command: 'ls {{ item }}'\n      loop: [/, /no-such-place]"
    outcome = run_playbook(run, playbook(run, "Look", task), report=lambda _: None)
    assert "/no-such-place" in outcome.error("pi1").message


def test_what_no_log_hides_reaches_no_event_and_no_file(run: Path) -> None:
    events: list[Event] = []
    task = "fail:\n        msg: topsecret\n      no_log: true"
    outcome = run_playbook(run, playbook(run, "Hide", task), report=events.append)
    assert set(outcome.failed) == {"pi1", "pi2"}
    assert "topsecret" not in json.dumps([vars(event) for event in events])
    logs = (run / "ansible.log").read_text() + (run / "events.jsonl").read_text()
    assert "topsecret" not in logs


def test_a_cancelled_run_ends_within_seconds_and_leaves_no_process(run: Path) -> None:
    cancel = threading.Event()
    seconds = 4000 + os.getpid() % 1000
    started: list[float] = []

    def report(event: Event) -> None:
        if event.kind == "task" and not started:
            started.append(time.monotonic())
            threading.Timer(1.0, cancel.set).start()

    run_playbook(run, playbook(run, "Wait", f"command: sleep {seconds}"), report=report, cancel=cancel)
    assert time.monotonic() - started[0] < 20
    time.sleep(0.5)
    assert not [words for words in _command_lines() if f"sleep\0{seconds}" in words]
    assert not [words for words in _command_lines() if str(run) in words]


KILLED = """
import sys
from pathlib import Path
from rpicluster.nodes.ansible.playbook import run_playbook
run_playbook(Path(sys.argv[1]), sys.argv[2], report=lambda event: print(event.kind, flush=True))
"""


def test_ansible_ends_with_all_it_started_when_the_program_that_ran_it_is_killed(run: Path) -> None:
    seconds = 5000 + os.getpid() % 1000
    path = playbook(run, "Wait", f"command: sleep {seconds}")
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(run), path], stdout=subprocess.PIPE, text=True
    )

    def mine() -> list[str]:
        return [w for w in _command_lines() if f"sleep\0{seconds}" in w or f"playbook\0{path}" in w]

    assert program.stdout
    while "task" not in program.stdout.readline():
        assert program.poll() is None
    deadline = time.monotonic() + 20
    while not any("sleep" in words for words in mine()):
        assert time.monotonic() < deadline, "the task has begun"
        time.sleep(0.05)
    program.kill()
    program.wait()
    program.stdout.close()
    deadline = time.monotonic() + 10
    while left := mine():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _command_lines() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((folder / "cmdline").read_text(errors="replace"))
            except OSError:  # it has ended
                continue
    return found


def test_ansible_that_cannot_run_at_all_says_why(run: Path) -> None:
    path = run / "broken.yml"
    path.write_text("- hosts: all\n  tasks: 7\n")
    with pytest.raises(AnsibleFailed, match="ansible-playbook ended with status"):
        run_playbook(run, str(path), report=lambda _: None)


def test_lines_that_are_no_events_are_left_alone() -> None:
    assert read_event("[WARNING]: something") is None
    assert read_event('{"event": broken') is None
    event = read_event('{"event": "result", "node": "pi1", "task": "base : Place", "status": "failed"}')
    assert event is not None
    assert event.is_failure
    assert event.step == "Place"
    assert hint_for("all is well") is None


def test_a_process_knows_all_its_descendants() -> None:
    process = subprocess.Popen(["sh", "-c", "sh -c 'sleep 30' & wait"], start_new_session=True)
    try:
        deadline = time.monotonic() + 10
        while len(descendants(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(descendants(process.pid)) >= 2
    finally:
        for pid in [*descendants(process.pid), process.pid]:
            os.kill(pid, 9)
        process.wait()


def test_an_outcome_without_an_items_message_still_names_the_task() -> None:
    outcome = Outcome(
        failed={"pi1": Event("result", task="yarn : Start YARN", node="pi1", status="unreachable")}
    )
    assert outcome.error("pi1").message == "pi1: Start YARN: unreachable"
