"""What an `up` meets on real nodes: bad disks, strangers' Hadoop, passwords, a second laptop, a dead node.

One rack for all of it, in this order: first what must change nothing, then what changes nodes.
"""

import json
import os
import pty
import select
import subprocess
import sys
import termios
import threading
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


# -- a password of sudo, and a second laptop meanwhile --------------------------------------------------


class Watcher(threading.Thread):
    """Looks at every command line of this machine, nodes included, for a word; and at files in a folder."""

    def __init__(self, word: str, folder: Path) -> None:
        super().__init__(daemon=True)
        self._word = word.encode()
        self._folder = folder
        self.ended = threading.Event()
        self.looks = 0
        self.found: list[str] = []

    def run(self) -> None:
        while not self.ended.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    if self._word in path.read_bytes():
                        self.found.append(path.read_bytes().decode(errors="replace"))
                except OSError:  # it has ended
                    continue
            self.looks += 1
            if self.looks % 20 == 0:
                self.look_at_files()

    def look_at_files(self) -> None:
        for path in self._folder.rglob("*"):
            try:
                if path.is_file() and self._word in path.read_bytes():
                    self.found.append(str(path))
            except OSError:  # it is gone
                continue


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


def test_the_password_of_sudo_is_asked_once_and_a_second_laptop_waits(
    cluster: Troubled, tmp_path: Path
) -> None:
    said: list[str] = []
    watcher = Watcher(PASSWORD, cluster.state)
    with at_a_terminal(cluster, "up", "--yes") as (process, terminal):
        watcher.start()
        assert read_until(terminal, process, "password of sudo on", said), "".join(said)
        type_secret(terminal, PASSWORD)
        reader = threading.Thread(target=read_until, args=(terminal, process, "never printed", said))
        reader.start()
        wait_for("the first step", lambda: len(cluster.done()) > 0 or process.poll() is not None, 300)
        assert process.poll() is None, "".join(said)
        _second_laptop_is_refused(cluster, tmp_path, process.pid)
        reader.join(UP_TIMEOUT_S)
        assert process.wait(60) == 0, "".join(said)
    watcher.ended.set()
    watcher.join(60)
    watcher.look_at_files()
    text = "".join(said)
    assert text.count("password of sudo on") == 1
    assert PASSWORD not in text
    assert watcher.looks > 50
    assert watcher.found == []


def _second_laptop_is_refused(cluster: Troubled, folder: Path, pid: int) -> None:
    home, state = folder / "home", folder / "state"
    home.mkdir()
    other = {**cluster.rack.environment, "HOME": str(home), "RPICLUSTER_STATE_DIR": str(state)}
    other["RPICLUSTER_CACHE_DIR"] = _cache(cluster)
    second = Troubled(cluster.rack, NAME)
    second.spec_name = "second.yml"
    second.write(user="pi")
    refused = second.run("up", "--yes", code=1, environment=other)
    assert f"(pid {pid}, since " in refused
    assert f"is changing cluster {NAME}" in refused
    assert "`rpicluster up` of " in refused
    assert not (state / "clusters" / NAME / "runs").exists()


def _cache(cluster: Troubled) -> str:
    from rpicluster.runtime import store

    return str(store.runtimes_dir().parent)


# -- a lease that somebody has, and one that nobody gives back ------------------------------------------


def test_a_lease_of_another_laptop_is_respected_until_it_expires(cluster: Troubled) -> None:
    cluster.write()
    cluster.on("pi3", "sudo", "sed", "-i", "1a<!-- by hand -->", "/etc/rpicluster/hadoop/yarn-site.xml")
    holder = {"id": "another", "host": "attic", "user": "bob", "pid": 77, "command": "rpicluster up"}
    order = {"path": "/run/rpicluster-lock.json", "do": "take", "lasts_s": 45, "holder": holder}
    script = node_script("lease.py")
    begun = time.monotonic()
    assert "true" in cluster.on("pi1", "sudo", "python3", "-c", script, stdin=json.dumps(order))
    done = len(cluster.done())
    said = cluster.run("up", "--yes", code=1)
    assert "`rpicluster up` of bob on attic (pid 77" in said
    assert "hint: wait until it has ended; if that machine died, it is free in" in said
    assert len(cluster.done()) == done
    time.sleep(max(0.0, begun + 46 - time.monotonic()))
    cluster.run("up", "--yes")
    assert "by hand" not in cluster.on("pi3", "cat", "/etc/rpicluster/hadoop/yarn-site.xml")


# -- a node that is dead --------------------------------------------------------------------------------


def test_a_member_that_dies_is_left_out_with_exit_code_5(cluster: Troubled) -> None:
    cluster.rack.run("cut", "pi2")
    try:
        cluster.on("pi3", "sudo", "sed", "-i", "1a<!-- by hand -->", "/etc/rpicluster/hadoop/yarn-site.xml")
        said = cluster.run("up", "--yes", code=5)
        assert "the cluster runs without pi2" in said
        assert "by hand" not in cluster.on("pi3", "cat", "/etc/rpicluster/hadoop/yarn-site.xml")
    finally:
        cluster.rack.run("boot", "pi2")
    cluster.run("up", "--yes")


def test_a_worker_that_was_never_seen_is_left_out_and_the_next_up_adds_it(cluster: Troubled) -> None:
    cluster.run("destroy", "--confirm", NAME)
    cluster.rack.run("link", "pi3", "down")
    try:
        said = cluster.run("up", "--yes", code=5)
    finally:
        cluster.rack.run("link", "pi3", "up")
    assert "the cluster runs without pi3" in said
    cluster.run("status")
    assert cluster.on("pi2", "systemctl", "is-active", "rpicluster-nodemanager") == "active"
    before = cluster.done()
    wait_for("pi3 answers", lambda: cluster.rack.status()["pi3"]["answers"], 60)
    said = cluster.run("up", "--yes")
    assert cluster.on("pi3", "systemctl", "is-active", "rpicluster-nodemanager") == "active"
    assert "2 workers" in said
    added = cluster.done()[len(before) :]
    assert not [
        step for step in added if "Format" in step[1] or (step[1] == "Send the runtime" and step[0] != "pi3")
    ]
