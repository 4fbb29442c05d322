"""One cluster's life on a rack of three: plan, up, a query, up again, stop, start, destroy."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_tools import CONNECT, ClusterUnderTest, inventories, not_of_packages
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
