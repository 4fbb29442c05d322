"""What `export ansible` writes makes a cluster by Ansible alone; `up` then finds nothing to do."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rack_tools import RackUnderTest

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NODES = ("pi1", "pi2")
PATHS = "/etc/rpicluster /opt/rpicluster /var/lib/rpicluster /etc/systemd/system/rpicluster*"
LIST = f"ls -d {PATHS} 2>/dev/null || true"


@dataclass
class Exported:
    """A rack, and the folder that was exported for it."""

    rack: RackUnderTest
    folder: Path
    before: dict[str, str]  # what a rack's own nodes have of these paths

    def rpicluster(self, *arguments: str) -> str:
        spec = self.rack.directory / "cluster.yml"
        return self.run(
            [sys.executable, "-m", "rpicluster", *arguments, "--cluster", str(spec)], self.folder.parent
        )

    def playbook(self, name: str) -> str:
        argv = [sys.executable, "-m", "ansible", "playbook", "-i", "inventory", name]
        return self.run(argv, self.folder)

    def run(self, argv: list[str], folder: Path) -> str:
        environment = {
            **self.rack.environment,
            "ANSIBLE_HOME": str(self.folder.parent / "home"),
            "LC_ALL": "C.UTF-8",
        }
        kept = {key: value for key, value in environment.items() if key != "ANSIBLE_CONFIG"}
        done = subprocess.run(
            argv,
            cwd=folder,
            env=kept,
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert done.returncode == 0, (
            f"{argv}: {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        )
        return done.stdout


@pytest.fixture(scope="module")
def exported(make_rack: Callable[[str], RackUnderTest], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    rack = make_rack("export")
    rack.run("up", "--nodes", "4G,2G")
    before = {node: rack.ssh(node, LIST) for node in NODES}
    made = Exported(rack, tmp_path_factory.mktemp("exported") / "lab", before)
    made.rpicluster("export", "ansible", str(made.folder))
    return made


def test_ansible_alone_makes_the_cluster(exported: Exported) -> None:
    said = exported.playbook("apply.yml")
    assert "failed=0" in said and "unreachable=0" in said
    for node, unit in (
        ("pi1", "namenode"),
        ("pi1", "session-pi"),
        ("pi2", "datanode"),
        ("pi2", "nodemanager"),
    ):
        state = exported.rack.ssh(node, "systemctl", "is-active", f"rpicluster-{unit}")
        assert state == "active", f"{unit} on {node}"


def test_up_finds_nothing_to_change_and_a_query_is_answered(exported: Exported) -> None:
    before = exported.rack.ssh("pi2", "systemctl", "show", "-p", "MainPID", "rpicluster-nodemanager")
    assert json.loads(exported.rpicluster("up", "--yes", "--json"))["changed"] == 0
    assert exported.rack.ssh("pi2", "systemctl", "show", "-p", "MainPID", "rpicluster-nodemanager") == before
    assert "499999500000" in exported.rpicluster(
        "sql", "--json", "SELECT sum(id) AS s FROM range(0, 1000000)"
    )


def test_its_token_stands_on_the_manager_only_where_its_user_reads_it(exported: Exported) -> None:
    token = exported.rack.ssh("pi1", "sudo", "cat", "/var/lib/rpicluster/session-pi/token")
    assert len(token) >= 32
    assert (
        exported.rack.ssh("pi1", "sudo", "stat", "-c", "%a:%U", "/var/lib/rpicluster/session-pi/token")
        == "600:pi"
    )
    for path in exported.folder.rglob("*"):
        if path.is_file() and path.name != "runtime.stream":
            assert os.fsencode(token) not in path.read_bytes()


def test_a_second_run_restarts_nothing(exported: Exported) -> None:
    units = ("namenode", "resourcemanager", "session-pi")
    show = ("systemctl", "show", "-p", "MainPID", *(f"rpicluster-{unit}" for unit in units))
    before = exported.rack.ssh("pi1", *show)
    said = exported.playbook("apply.yml")
    assert exported.rack.ssh("pi1", *show) == before
    tasks = re.findall(r"^TASK \[(.*?)\] \**\n((?:(?!TASK ).*\n)*)", said, re.M)
    assert {task for task, lines in tasks if "changed: [" in lines} == {"firewall : Keep the rules"}


def test_its_destroy_takes_users_units_files_and_rules_away(exported: Exported) -> None:
    exported.playbook("destroy.yml")
    for node in NODES:
        assert exported.rack.ssh(node, LIST) == exported.before[node]
        assert exported.rack.ssh(node, "getent passwd rpi-hdfs rpi-yarn rpi-tunnel || true") == ""
        assert "rpicluster" not in exported.rack.ssh(node, "sudo nft list tables")
