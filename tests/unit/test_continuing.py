"""What an `up` that was broken off leaves on a node, and how the next one goes on: the roles' programs."""

import base64
import fcntl
import grp
import json
import os
import pwd
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rpicluster.errors import LockHeld, UsageError
from rpicluster.model.machine import Java, MachineFacts, Mount, OperatingSystem, RInstallation
from rpicluster.model.spec import SshTarget
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.fanout import send
from rpicluster.nodes.remote import lease as lease_module
from rpicluster.nodes.remote.commands import Nodes, node_script, role_script
from rpicluster.nodes.remote.observed import require_apart
from rpicluster.nodes.remote.placement import without_unseen
from rpicluster.nodes.remote.removal import kept_inventory
from rpicluster.nodes.remote.room import no_room
from rpicluster.nodes.remote.state import open_remote_state

# Knows which units run from files in a folder, and writes down what it was asked.
SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$UNITS/asked"
case "$1" in
is-active) [ -e "$UNITS/$3" ] ;;
start|restart) [ ! -e "$UNITS/broken" ] || { echo "Job for $2 failed"; exit 1; }; touch "$UNITS/$2" ;;
esac
"""


class Node:
    """A folder that stands for a node: its manifest, a systemctl, and what that was asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = folder / "manifest.json"
        self.manifest.write_text('{"schema": 1, "units": {}}')
        (folder / "bin").mkdir()
        (folder / "bin" / "systemctl").write_text(SYSTEMCTL)
        (folder / "bin" / "systemctl").chmod(0o755)

    def run(self, script: str, document: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", script],
            input=json.dumps(document),
            env={
                **os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "UNITS": str(self.folder)
            },
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )  # fmt: skip

    def start(self, what: str = "start", hash_: str = "h1") -> "subprocess.CompletedProcess[str]":
        order = {
            "unit": "namenode", "service": "rpicluster-namenode.service", "do": what, "hash": hash_,
            "manifest": str(self.manifest),
        }  # fmt: skip
        return self.run(role_script("base", "start_unit.py"), order)

    def asked(self) -> list[str]:
        path = self.folder / "asked"
        return [line for line in path.read_text().splitlines() if "is-active" not in line]

    def units(self) -> Any:
        return json.loads(self.manifest.read_text())["units"]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_unit_that_was_started_is_noted_at_once_and_not_started_again(node: Node) -> None:
    assert node.start().stdout == "started\n"
    assert node.units() == {"namenode": "h1"}
    assert node.start().stdout == "there already\n"
    assert node.start("restart").stdout == "there already\n"
    assert node.asked() == [
        "enable --quiet rpicluster-namenode.service",
        "start rpicluster-namenode.service",
    ]


def test_a_unit_with_another_configuration_is_started_again(node: Node) -> None:
    node.start()
    assert node.start("restart", "h2").stdout == "started\n"
    assert node.units() == {"namenode": "h2"}


def test_a_unit_that_was_noted_and_runs_no_more_is_started_again(node: Node) -> None:
    node.start()
    (node.folder / "rpicluster-namenode.service").unlink()
    assert node.start().stdout == "started\n"


def test_a_unit_that_does_not_start_is_not_noted_and_says_what_systemd_said(node: Node) -> None:
    (node.folder / "broken").touch()
    done = node.start()
    assert done.returncode != 0
    assert "Job for rpicluster-namenode.service failed" in done.stderr
    assert node.units() == {}


def test_a_node_without_a_manifest_starts_its_unit_and_gets_none(node: Node) -> None:
    node.manifest.unlink()
    done = node.start()
    assert (done.returncode, done.stdout.strip()) == (0, "started")
    assert (node.folder / "asked").exists()
    assert not node.manifest.exists()


# -- who must read something again ---------------------------------------------------------------------


def _place(folder: Path, stop_before_the_end: bool = False) -> None:
    """Place a file that `systemd` reads, with the program's own code and another folder as /etc/systemd."""
    scope: dict[str, Any] = {"__name__": "place"}
    exec(compile(role_script("base", "place.py"), "place.py", "exec"), scope)
    scope["READERS"] = {str(folder / "systemd"): "systemd"}
    me = pwd.getpwuid(os.getuid())
    file = {
        "path": str(folder / "systemd" / "x.service"), "mode": "0644", "owner": me.pw_name,
        "group": grp.getgrgid(me.pw_gid).gr_name, "content": base64.b64encode(b"[Unit]").decode(),
    }  # fmt: skip
    scope["place"](
        {"directories": [], "remove": [], "keep": [], "files": [file], "reread": str(folder / "reread")}
    )


def test_systemd_reads_its_files_although_the_run_that_changed_them_was_broken_off(node: Node) -> None:
    _place(node.folder)
    assert [path.name for path in (node.folder / "reread").iterdir()] == ["systemd"]
    _place(node.folder)  # the next `up` finds the file right, and changes nothing
    order = {"reread": str(node.folder / "reread")}
    assert node.run(role_script("base", "reread.py"), order).stdout == "systemd\n"
    assert node.asked() == ["daemon-reload"]
    assert node.run(role_script("base", "reread.py"), order).stdout == "\n"
    assert node.asked() == ["daemon-reload"]


# -- the runtime ---------------------------------------------------------------------------------------


def _wait(folder: Path, *, timeout_s: float, quiet_s: float) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", role_script("runtime", "wait_for_runtime.py")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    with process.stdin:
        process.stdin.write(json.dumps({"folder": str(folder), "timeout_s": timeout_s, "quiet_s": quiet_s}))
    process.stdin = None
    return process


def test_nobody_waits_half_an_hour_for_a_runtime_that_nobody_sends(tmp_path: Path) -> None:
    begun = time.monotonic()
    process = _wait(tmp_path / "abc", timeout_s=1800, quiet_s=1)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "nobody sends it any more" in said
    assert time.monotonic() - begun < 30


def test_a_runtime_that_is_being_received_is_waited_for(tmp_path: Path) -> None:
    receiver = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(receiver, fcntl.LOCK_EX)
    process = _wait(tmp_path / "abc", timeout_s=60, quiet_s=1)
    time.sleep(3)
    assert process.poll() is None
    (tmp_path / "abc").mkdir()
    (tmp_path / "abc" / send.MANIFEST).touch()
    process.communicate(timeout=60)
    os.close(receiver)
    assert process.returncode == 0


# -- what goes on after a break ------------------------------------------------------------------------

ROOT = Path(send.__file__).parents[2]
PROGRAMS = (*ROOT.glob("nodes/*/on_node/*.py"), *ROOT.glob("ansible/roles/*/files/*.py"))
# A run of a script is its user's own, and a change does not wait for it.
ON_NODES = sorted(path for path in PROGRAMS if "runs" not in path.parts)


@pytest.mark.parametrize("program", ON_NODES, ids=lambda path: path.name)
def test_every_program_for_nodes_bears_the_words_by_which_it_is_waited_for(program: Path) -> None:
    first = program.read_text().partition(":")[0]
    assert first in ('"""Runs on a node as root', '"""Runs on the manager as root')


class Busy:
    """A process that bears a mark of its own, and the program that waits for such and for no others."""

    def __init__(self, seconds: float) -> None:
        mark = f"BUSY-{secrets.token_hex(8)}-"
        lines = node_script("settle.py").split("\n")
        place = next(number for number, line in enumerate(lines) if line.startswith("MARKS = "))
        lines[place] = f"MARKS = (b'{mark}',)"
        self.settle = "\n".join(lines)
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"# {mark}1\nimport time; time.sleep({seconds})"]
        )

    def wait(self, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        try:
            return subprocess.run(
                [sys.executable, "-c", self.settle],
                input=json.dumps({"timeout_s": timeout_s}),
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            self.process.kill()
            self.process.wait()


def test_what_a_broken_run_has_begun_on_a_node_is_waited_for() -> None:
    busy = Busy(3)
    begun = time.monotonic()
    done = busy.wait(30)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun >= 2
    assert busy.process.returncode == 0, "it ended by itself"


def test_what_does_not_end_is_named() -> None:
    busy = Busy(60)
    done = busy.wait(0.5)
    assert done.returncode != 0
    assert str(busy.process.pid) in done.stderr


# -- the lease -----------------------------------------------------------------------------------------


def _lease(path: Path, do: str, laptop: str, lasts_s: float = 60) -> Any:
    holder = {"id": laptop, "host": f"host-of-{laptop}", "user": "ann", "pid": 1, "command": "rpicluster up"}
    done = subprocess.run(
        [sys.executable, "-c", node_script("lease.py")],
        input=json.dumps({"path": str(path), "do": do, "holder": holder, "lasts_s": lasts_s}),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_a_second_laptop_is_told_who_has_the_lease_and_gets_it_when_it_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    assert _lease(path, "take", "a") == {"held": True}
    refused = _lease(path, "take", "b")
    assert (refused["held"], refused["by"]["host"]) == (False, "host-of-a")
    assert 50 < refused["ends_in_s"] <= 60
    _lease(path, "give", "b")  # not its own: nothing happens
    assert not _lease(path, "take", "b")["held"]
    _lease(path, "give", "a")
    assert _lease(path, "take", "b") == {"held": True}


def test_a_lease_that_has_expired_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    _lease(path, "take", "a", lasts_s=0.2)
    time.sleep(0.4)
    assert _lease(path, "take", "b") == {"held": True}
    assert _lease(path, "take", "a")["by"]["host"] == "host-of-b"


def test_the_next_up_of_the_same_laptop_is_not_kept_out_by_one_that_was_killed(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    state = open_remote_state("lab", root=tmp_path)
    assert _lease(path, "take", state.laptop()) == {"held": True}
    assert _lease(path, "take", open_remote_state("lab", root=tmp_path).laptop()) == {"held": True}
    other = open_remote_state("lab", root=tmp_path / "another")
    assert not _lease(path, "take", other.laptop())["held"]


class Here:
    """Stands for `Nodes`: runs a node's program here."""

    def python(self, node: str, script: str, stdin: bytes) -> bytes:
        return subprocess.run(
            [sys.executable, "-c", script], input=stdin, check=True, capture_output=True, timeout=60
        ).stdout


def _hold(laptop: str, when_lost: Callable[[], None]) -> AbstractContextManager[None]:
    nodes = cast(Any, Here())
    return lease_module.lease(
        nodes, "pi1", cluster="lab", command="rpicluster up", laptop=laptop, when_lost=when_lost
    )


def test_work_is_ended_when_somebody_has_taken_over_an_expired_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lease.json"
    monkeypatch.setattr(lease_module, "PATH", str(path))
    monkeypatch.setattr(lease_module, "_RENEW_S", 0.5)
    monkeypatch.setattr(lease_module, "LASTS_S", 0.1)  # nobody can renew so fast: it expires at once
    lost = threading.Event()
    with pytest.raises(LockHeld, match="of ann on host-of-b"), _hold("a", lost.set):
        time.sleep(0.2)
        assert _lease(path, "take", "b") == {"held": True}
        assert lost.wait(20), "it was told"
    assert not _lease(path, "take", "c")["held"], "it is still the other's"


def test_a_lease_is_renewed_while_the_work_lasts_and_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lease.json"
    monkeypatch.setattr(lease_module, "PATH", str(path))
    monkeypatch.setattr(lease_module, "_RENEW_S", 0.2)
    monkeypatch.setattr(lease_module, "LASTS_S", 8)
    with _hold("a", lambda: None):
        first = json.loads(path.read_text())["ends"]
        deadline = time.monotonic() + 20
        while json.loads(path.read_text() or "{}").get("ends", first) == first:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(LockHeld), _hold("b", lambda: None):
            pass
    assert not path.exists()


# -- disks, and nodes that nobody has seen --------------------------------------------------------------


def _machine(**facts: object) -> MachineFacts:
    java = Java(home="/usr/lib/jvm/java-17-openjdk-arm64", version="17.0", major=17)
    defaults: dict[str, object] = {
        "privilege": "sudo",
        "os": OperatingSystem(id="debian", codename="bookworm"),
        "java": (java,),
        "firewall_tables": (),
        "runtime": None,
    }
    return MachineFacts.model_validate({**defaults, **facts})


def _mount(path: str, free_mib: int | None, *, read_only: bool = False) -> Mount:
    return Mount(source="/dev/x", path=path, filesystem="ext4", read_only=read_only, free_mib=free_mib)


@pytest.mark.parametrize(
    ("free", "java", "refused"),
    [(534, True, True), (535, True, False), (884, False, True), (885, False, False)],
)
def test_a_disk_must_take_runtime_packages_and_something_to_spare(
    free: int, java: bool, refused: bool
) -> None:
    machine = _machine(mounts=(_mount("/", free),), **({} if java else {"java": ()}))
    found = no_room({"pi2": machine}, runtime_hash="abc", runtime_mib=435)
    assert bool(found) is refused
    if refused:
        assert found[0].startswith(f"pi2 has {free} MiB free on / and needs {free + 1} (")


def test_a_full_disk_of_a_node_that_has_everything_is_no_reason_to_refuse() -> None:
    machine = _machine(mounts=(_mount("/", 3),), runtime="abc")
    assert no_room({"pi2": machine, "pi3": None}, runtime_hash="abc", runtime_mib=435) == ()


def test_r_needs_room_where_it_is_asked_for_and_not_there_yet() -> None:
    machine = _machine(mounts=(_mount("/", 200),), runtime="abc")
    (reason,) = no_room({"pi2": machine}, runtime_hash="abc", runtime_mib=435, r=True)
    assert reason.startswith("pi2 has 200 MiB free on / and needs 330 (data 100, R 230)")
    assert no_room({"pi2": machine}, runtime_hash="abc", runtime_mib=435) == ()
    has = machine.model_copy(update={"r": RInstallation(version="4.2.2")})
    assert no_room({"pi2": has}, runtime_hash="abc", runtime_mib=435, r=True) == ()


def test_each_disk_is_asked_for_what_lies_on_it() -> None:
    machine = _machine(mounts=(_mount("/", 9000), _mount("/opt", 400)))
    (reason,) = no_room({"pi2": machine}, runtime_hash="abc", runtime_mib=435)
    assert reason.startswith("pi2 has 400 MiB free on /opt and needs 435 (the runtime 435)")
    unknown = _machine(mounts=(_mount("/", None),))
    assert no_room({"pi2": unknown}, runtime_hash="abc", runtime_mib=435) == ()


def test_a_disk_that_is_read_only_is_named_once_and_a_read_only_boot_partition_is_not() -> None:
    machine = _machine(mounts=(_mount("/", 9000, read_only=True), _mount("/boot", 10, read_only=True)))
    (reason,) = no_room({"pi2": machine}, runtime_hash="abc", runtime_mib=435)
    assert reason.startswith("pi2: / (/dev/x) is mounted read-only")


SPEC = parse_spec(
    """
name: lab
nodes:
  - {name: pi1, ssh: {host: pi1.lan, user: pi}}
  - {name: pi2, ssh: {host: pi2.lan, user: pi}}
  - {name: pi3, ssh: {host: pi3.lan, user: pi}, hardware: {memory: 2G}}
""",
    "cluster.yml",
)


def test_a_worker_that_nobody_has_seen_takes_no_part_and_one_that_is_described_does() -> None:
    machine = _machine()
    seen: dict[str, MachineFacts | None] = {"pi1": machine, "pi2": None, "pi3": None}
    assert [node.name for node in without_unseen(SPEC, seen).nodes] == ["pi1", "pi3"]
    assert without_unseen(SPEC, {**seen, "pi2": machine}) == SPEC


def test_a_manager_never_becomes_a_worker_because_the_others_are_off() -> None:
    spec = SPEC.model_copy(update={"nodes": SPEC.nodes[:2]})
    assert without_unseen(spec, {"pi1": _machine(), "pi2": None}) == spec


def test_copied_cards_are_two_machines_and_one_machine_under_two_names_is_not() -> None:
    one = _machine(machine_id="m", boot_id="a")
    require_apart({"pi1": one, "pi2": _machine(machine_id="m", boot_id="b"), "pi3": None, "pi4": _machine()})
    with pytest.raises(UsageError, match="pi1 and pi9 are one machine"):
        require_apart({"pi1": one, "pi9": one})


def test_a_removal_that_was_broken_off_still_knows_what_was_on_the_node_before(tmp_path: Path) -> None:
    state = open_remote_state("three", root=tmp_path)
    before = {"paths": ["/etc/sysctl.d/rpicluster-of-somebody.conf"]}
    answers = iter([(0, json.dumps(before)), (1, ""), (1, "")])

    def run(*_: Any, **__: Any) -> SimpleNamespace:
        status, stdout = next(answers)
        return SimpleNamespace(status=status, stdout=stdout)

    nodes = cast(
        Nodes,
        SimpleNamespace(ssh=SimpleNamespace(run=run), targets={"pi1": SshTarget(host="a")}, passwords={}),
    )
    assert kept_inventory(nodes, state, "pi1") == before
    assert kept_inventory(nodes, state, "pi1") == before, "the node's own copy has gone"
    state.forget_facts("pi1")
    assert kept_inventory(nodes, state, "pi1") is None
