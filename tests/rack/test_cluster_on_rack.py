"""One cluster's life on a rack of three: plan, up, a query, up again, stop, start, destroy.

pi2 keeps its data on a disk of their own.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_tools import CONNECT, ClusterUnderTest, inventories, not_of_packages
from data_disk import BLOCKS, MOUNT, give_disk, mount_again, take_disk
from rack_tools import RackUnderTest

from rpicluster.nodes.remote.removal import difference

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NAME = "life"
NODES = ("pi1", "pi2", "pi3")
UNITS = {"pi1": ("namenode", "resourcemanager", "session-pi"), "pi2": ("datanode", "nodemanager")}
UNITS["pi3"] = UNITS["pi2"]


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> ClusterUnderTest:
    rack = make_rack(NAME)
    rack.run("up", "--nodes", "4G,2G,2G")
    give_disk(rack, "pi2")
    return ClusterUnderTest(rack, inventories(rack, NODES), UNITS)


def test_plan_shows_everything_and_writes_nothing(cluster: ClusterUnderTest) -> None:
    plan = json.loads(cluster.rpicluster("plan", "--json"))
    assert {step["node"] for step in plan["steps"]} == set(NODES)
    assert {"prepare", "install-runtime", "write", "format", "start"} == {
        step["action"] for step in plan["steps"]
    }
    assert cluster.rpicluster("plan", "--exit-code", code=3)
    after = inventories(cluster.rack, NODES)
    assert [line for node in NODES for line in difference(cluster.before[node], after[node])] == []


def test_up_ends_with_a_job_that_ran_on_both_workers(cluster: ClusterUnderTest) -> None:
    document = json.loads(cluster.rpicluster("up", "--yes", "--json"))
    assert "a job of 20 million rows ran on 2 workers" in document["timings_s"]


def test_a_query_is_answered_through_the_tunnel(cluster: ClusterUnderTest) -> None:
    answer = cluster.rpicluster("sql", "--json", "SELECT count(*) AS n, sum(id) AS s FROM range(0, 10000000)")
    assert "49999995000000" in answer
    cluster.rpicluster("sql", "CREATE TABLE numbers AS SELECT id FROM range(0, 100000, 1, 4)")
    assert "100000" in cluster.rpicluster("sql", "--json", "SELECT count(*) AS n FROM numbers")


def test_blocks_lie_on_the_disk_that_cluster_yml_names_and_nowhere_else(cluster: ClusterUnderTest) -> None:
    assert int(cluster.on("pi2", BLOCKS)) > 0
    assert cluster.on("pi2", f"ls {MOUNT}").split() == ["photo", "rpicluster"]
    assert cluster.on("pi2", f"ls {MOUNT}/rpicluster").split() == ["datanode", "nodemanager"]
    assert cluster.on("pi2", "sudo find /var/lib/rpicluster -name 'blk_*' -o -name datanode") == ""


def test_another_storage_for_a_node_with_data_is_refused(cluster: ClusterUnderTest) -> None:
    text = cluster.spec_path.read_text()
    try:
        cluster.spec_path.write_text(text.replace(f"storage: {MOUNT}", "storage: /mnt/other"))
        refused = json.loads(cluster.rpicluster("plan", "--json"))["refusals"]
    finally:
        cluster.spec_path.write_text(text)
    assert len(refused) == 1 and "pi2: its data lie in /mnt/ssd/rpicluster" in refused[0]


def test_a_second_up_changes_nothing_and_restarts_nothing(cluster: ClusterUnderTest) -> None:
    pids, manifests = cluster.pids(), cluster.manifests()
    assert all(pid not in ("", "0") for pid in pids.values())
    assert json.loads(cluster.rpicluster("up", "--yes", "--json"))["changed"] == 0
    assert cluster.pids() == pids
    assert cluster.manifests() == manifests


def test_a_file_that_somebody_changed_is_put_back_and_its_reader_restarted(cluster: ClusterUnderTest) -> None:
    pids = cluster.pids()
    path = "/etc/rpicluster/hadoop/yarn-site.xml"
    cluster.on("pi3", "sudo", "sed", "-i", "1a<!-- by hand -->", path)
    assert "by hand" in cluster.rpicluster("plan", "--diff")
    cluster.rpicluster("up", "--yes")
    assert "by hand" not in cluster.on("pi3", "cat", path)
    changed = {unit for unit, pid in cluster.pids().items() if pids[unit] != pid}
    assert changed <= {"nodemanager on pi3"}


def test_login_shells_and_units_have_the_variables(cluster: ClusterUnderTest) -> None:
    for node in NODES:
        shell = cluster.on(
            node, "bash -lc 'echo $JAVA_HOME $SPARK_HOME $HADOOP_CONF_DIR; command -v spark-shell'"
        )
        assert shell.split() == [
            cluster.on(node, "ls -d /usr/lib/jvm/java-17-openjdk-*"),
            "/opt/rpicluster/runtime",
            "/etc/rpicluster/hadoop",
            "/opt/rpicluster/runtime/bin/spark-shell",
        ]
        unit = cluster.on(node, "systemctl", "show", "-p", "Environment", f"rpicluster-{UNITS[node][0]}")
        assert "JAVA_HOME=/usr/lib/jvm/" in unit and "HADOOP_CONF_DIR=/etc/rpicluster/hadoop" in unit


def test_another_login_of_a_node_does_not_reach_the_daemons(cluster: ClusterUnderTest) -> None:
    address = cluster.on("pi1", "getent hosts pi2").split()[0].rpartition(".")[0] + ".11"
    probe = CONNECT.format(address=address, port=9870)
    assert cluster.on("pi1", "sudo", "-u", "rpi-hdfs", "python3", "-", stdin=probe) == "in"
    cluster.on("pi1", "sudo", "-u", "nobody", "python3", "-", stdin=probe, code=1)


def test_while_the_disk_with_the_data_is_away_nothing_is_written_in_its_place(
    cluster: ClusterUnderTest,
) -> None:
    take_disk(cluster.rack, "pi2")
    cluster.on("pi2", "sudo systemctl start rpicluster-datanode", code=1)
    assert cluster.on("pi2", "systemctl is-active rpicluster-datanode rpicluster-nodemanager", code=3)
    assert cluster.on("pi2", f"ls -A {MOUNT}") == ""
    parts = json.loads(cluster.rpicluster("status", "--json", code=6))["parts"]
    (detail,) = [part["detail"] for part in parts if (part["name"], part["where"]) == ("datanode", "pi2")]
    assert "the disk with its data is not mounted on /mnt/ssd" in detail
    assert "data-disk-away" in cluster.rpicluster("doctor", "--json", code=6)
    assert "nothing is mounted on /mnt/ssd now" in cluster.rpicluster("plan", "--json")
    mount_again(cluster.rack, "pi2")
    cluster.rpicluster("start")
    assert "100000" in cluster.rpicluster("sql", "--json", "SELECT count(*) AS n FROM numbers")


def test_stop_and_start_keep_the_tables(cluster: ClusterUnderTest) -> None:
    cluster.rpicluster("stop")
    cluster.rpicluster("status", code=6)
    cluster.rpicluster("start")
    assert "100000" in cluster.rpicluster("sql", "--json", "SELECT count(*) AS n FROM numbers")


def test_destroy_leaves_nothing_on_any_node(cluster: ClusterUnderTest) -> None:
    cluster.rpicluster("destroy", "--confirm", NAME)
    after = inventories(cluster.rack, NODES)
    different = [line for node in NODES for line in difference(cluster.before[node], after[node])]
    assert not_of_packages(different) == []
    assert cluster.on("pi2", f"ls -A {MOUNT}") == "photo"


def test_nothing_of_it_is_left_on_the_control_machine(cluster: ClusterUnderTest) -> None:
    assert not (Path(cluster.rack.environment["RPICLUSTER_STATE_DIR"]) / "clusters" / NAME).exists()
    state = os.fsencode(cluster.rack.environment["RPICLUSTER_STATE_DIR"])
    left = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and folder.name != str(os.getpid()):
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if b"clusters/" + NAME.encode() in words and state in words:
                left.append(words)
    assert left == []
