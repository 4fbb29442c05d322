"""What an `up` refuses on real nodes: bad disks, strangers' Hadoop, a changed key, a wrong password.

One rack for all of it. No `up` here may begin anything, and that is looked at.
"""

import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from breaking import UP_TIMEOUT_S, Breaking
from rack_tools import RackUnderTest, wait_for

from rpicluster.nodes.remote.commands import node_script
from rpicluster.nodes.remote.removal import difference

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

NAME = "trouble"
NODES = ("pi1", "pi2", "pi3")
PASSWORD = "correct horse battery"
HADOOP = "org.apache.hadoop.hdfs.server.namenode.NameNode"


class Troubled(Breaking):
    """A cluster on a rack, by a cluster.yml that says nothing of the nodes' hardware."""

    spec_name = "troubled.yml"

    @property
    def spec(self) -> Path:
        return Path(self.rack.environment["RPICLUSTER_STATE_DIR"]) / self.spec_name

    def write(self, *, user: str = "pi", nodes: tuple[str, ...] = NODES) -> None:
        """Write the cluster.yml; a node `pi9=pi3` is called pi9 and is pi3."""
        status = self.rack.status()
        config = str(self.rack.directory / "ssh_config")
        described = [
            {
                "name": node.partition("=")[0],
                "ssh": {"host": status[node.rpartition("=")[2]]["address"], "user": user, "config": config},
            }
            for node in nodes
        ]
        self.spec.write_text(json.dumps({"name": NAME, "users": ["pi"], "nodes": described}))

    def inventories(self) -> dict[str, Any]:
        return {
            node: json.loads(self.on(node, "sudo", "python3", "-", stdin=node_script("inventory.py")))
            for node in NODES
        }

    def require_nothing_changed(self, before: dict[str, Any]) -> None:
        after = self.inventories()
        assert [line for node in NODES for line in difference(before[node], after[node])] == []
        assert not (self.state / "journal.jsonl").exists()
        assert not (self.state / "runs").exists()


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> Troubled:
    rack = make_rack(NAME)
    rack.run("up", "--nodes", "4G,2G,2G", "--disk", "6G")
    found = Troubled(rack, NAME)
    found.write()
    return found


@pytest.fixture
def nothing_changes(cluster: Troubled) -> Iterator[None]:
    """What a test finds on the nodes must be there afterwards, and nothing else."""
    before = cluster.inventories()
    yield
    cluster.require_nothing_changed(before)


# -- what must change nothing --------------------------------------------------------------------------


@pytest.mark.usefixtures("nothing_changes")
def test_a_node_without_room_on_its_disk_is_refused_before_anything_is_sent(cluster: Troubled) -> None:
    cluster.rack.run("fill-disk", "pi2", "--leave", "200M")
    try:
        said = cluster.run("up", "--yes", code=2)
    finally:
        cluster.rack.run("fill-disk", "pi2", "--undo")
    assert "pi2 has " in said and "MiB free on /" in said
    assert "the runtime" in said and "rpicluster ssh pi2" in said


@pytest.mark.usefixtures("nothing_changes")
def test_a_node_with_a_read_only_disk_is_refused(cluster: Troubled) -> None:
    cluster.on("pi3", "sudo sh -c 'mount --bind /opt /opt && mount -o remount,bind,ro /opt'")
    try:
        said = cluster.run("up", "--yes", code=2)
    finally:
        cluster.on("pi3", "sudo", "umount", "/opt")
    assert "pi3: /opt (" in said and "is mounted read-only" in said


@pytest.mark.usefixtures("nothing_changes")
def test_two_entries_that_are_one_machine_are_refused(cluster: Troubled) -> None:
    cluster.write(nodes=(*NODES, "pi9=pi3"))
    try:
        said = cluster.run("up", "--yes", code=2)
    finally:
        cluster.write()
    assert "pi3 and pi9 are one machine" in said


@pytest.mark.usefixtures("nothing_changes")
def test_a_node_that_runs_somebody_elses_hadoop_is_refused(cluster: Troubled) -> None:
    cluster.on(
        "pi2",
        f"sudo systemd-run --quiet --unit=strange python3 -c 'import time; time.sleep(600)' {HADOOP}",
    )
    try:
        said = cluster.run("up", "--yes", code=2)
    finally:
        cluster.on("pi2", "sudo", "systemctl", "stop", "strange")
    assert "pi2 already runs somebody else's Hadoop or Spark: NameNode" in said


@pytest.mark.usefixtures("nothing_changes")
def test_one_node_with_another_host_key_stops_everything(cluster: Troubled) -> None:
    path = cluster.rack.directory / "known_hosts"
    known = path.read_text()
    address = cluster.rack.status()["pi3"]["address"]
    lines = [line.split() for line in known.splitlines()]
    others = {kind: key for names, kind, key in lines if address not in names.split(",")}
    path.write_text(
        "".join(
            f"{names} {kind} {others[kind] if address in names.split(',') else key}\n"
            for names, kind, key in lines
        )
    )
    try:
        cluster.close_connections()
        said = cluster.run("up", "--yes", code=1)
    finally:
        path.write_text(known)
    assert "pi3" in said and "host key" in said and "ssh-keygen" in said


# -- a password of sudo ----------------------------------------------------------------------------------


@contextmanager
def at_a_terminal(cluster: Troubled, *arguments: str) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Run `rpicluster …` with a terminal as its stdin and stderr."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rpicluster", *arguments, "--cluster", str(cluster.spec)],
        env=cluster.rack.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, process: "subprocess.Popen[bytes]", text: str, said: list[str]) -> bool:
    """Read what is printed until `text` comes; return False when the command ends before."""
    deadline = time.monotonic() + UP_TIMEOUT_S
    while text not in "".join(said):
        assert time.monotonic() < deadline, "".join(said)
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                said.append(os.read(terminal, 65536).decode(errors="replace"))
            except OSError:  # EIO: nobody has the other end any more
                return False
        elif process.poll() is not None:
            return False
    return True


def type_secret(terminal: int, text: str) -> None:
    """Type a line once the terminal shows no typing any more: what comes before that is thrown away."""
    wait_for("no echo", lambda: not termios.tcgetattr(terminal)[3] & termios.ECHO, 60)
    os.write(terminal, text.encode() + b"\n")


def make_ann(cluster: Troubled) -> None:
    """Make a login on every node that sudo asks for a password."""
    key = (cluster.rack.directory / "id_ed25519.pub").read_text()
    for node in NODES:
        cluster.on(
            node,
            "sudo sh -eu",
            stdin=f"useradd -m -s /bin/bash ann\necho 'ann:{PASSWORD}' | chpasswd\n"
            f"install -d -m 700 -o ann -g ann ~ann/.ssh\nprintf '%s' '{key}' > ~ann/.ssh/authorized_keys\n"
            "chown ann:ann ~ann/.ssh/authorized_keys\n"
            "printf 'ann ALL=(ALL:ALL) ALL\\n' > /etc/sudoers.d/ann\n",
        )


def test_a_wrong_password_of_sudo_is_asked_once_and_refused(cluster: Troubled) -> None:
    make_ann(cluster)
    cluster.write(user="ann")
    said: list[str] = []
    with at_a_terminal(cluster, "check") as (process, terminal):
        assert read_until(terminal, process, "password of sudo on", said), "".join(said)
        type_secret(terminal, "wrong")
        assert not read_until(terminal, process, "never printed", said)
        assert process.wait(60) == 1
    text = "".join(said)
    assert text.count("password of sudo on") == 1
    assert "sudo does not take this password" in text
    assert "wrong" not in text


def test_without_a_terminal_nobody_is_asked_and_nothing_hangs(cluster: Troubled) -> None:
    said = cluster.run("up", "--yes", code=2)
    assert "sudo wants a password on pi1, pi2, pi3, and there is no terminal to ask for it" in said
