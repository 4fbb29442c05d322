"""Debian 13, which has Java 21 and no 17: daemons, a job, no orphans; and what a mix of both would do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cluster_tools import ClusterUnderTest, inventories
from rack_tools import RackUnderTest, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

NAME = "java21"
UNITS: dict[str, tuple[str, ...]] = {"pi1": ("namenode", "resourcemanager", "session-pi")}
UNITS |= {"pi2": ("datanode", "nodemanager"), "pi3": ("datanode", "nodemanager")}
JOBS = Path(__file__).parent / "on_node"
TOTAL = 3 * sum(range(400_000))
VERSION = "reflect('java.lang.System', 'getProperty', 'java.specification.version')"
CONTAINERS = "pgrep -f 'CoarseGrainedExecutorBackend|ExecutorLauncher' || true"
USED_MIB = "free -m | awk '/^Mem/ {print $3}'"
# Both workers at once, and no executor that comes later and finds nothing to do.
TWO = "--master yarn --conf spark.dynamicAllocation.enabled=false --conf spark.executor.instances=2"
# Debian 12's Java 17 runs on Debian 13, whose libraries are newer; without its maintainer's scripts.
OLD_JAVA = """
set -eu
cd /tmp
archives=$(grep -rhoE 'https?://[^ ]+' /etc/apt/sources.list /etc/apt/sources.list.d | grep -v security)
archive=$(echo "$archives" | head -1)
echo "deb $archive bookworm main" >bookworm.list
mkdir -p lists/partial
apt="-o Dir::Etc::sourcelist=/tmp/bookworm.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=/tmp/lists"
sudo apt-get $apt update -q
sudo apt-get $apt download -q openjdk-17-jre-headless
sudo dpkg-deb -x openjdk-17-jre-headless_*.deb /
"""
# The place that units name now leads to the other version.
SWAP = """
set -eu
home=$(ls -d /usr/lib/jvm/java-21-openjdk-*)
sudo mv "$home" /var/tmp/java-21
sudo ln -s /usr/lib/jvm/java-17-openjdk-* "$home"
sudo systemctl restart rpicluster-datanode rpicluster-nodemanager
"""
# What `up` reads to know what the system has packages of.
OLD_SYSTEM = "sudo sed -i --follow-symlinks s/trixie/bookworm/ /etc/os-release"


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> ClusterUnderTest:
    rack = make_rack(NAME)
    rack.run("up", "--suite", "trixie", "--nodes", "4G,2G,2G")
    return ClusterUnderTest(rack, inventories(rack, UNITS), UNITS)


def javas(cluster: ClusterUnderTest, node: str) -> set[str]:
    """Return what Java every unit of a node runs on."""
    pids = [
        cluster.on(node, "systemctl", "show", "-p", "MainPID", "--value", f"rpicluster-{unit}")
        for unit in UNITS[node]
        if not unit.startswith("session-")  # a keeper in Python
    ]
    return {cluster.on(node, "sudo", "readlink", f"/proc/{pid}/exe").split("/")[4] for pid in pids}


def test_up_installs_java_21_and_runs_a_job_on_both_workers(cluster: ClusterUnderTest) -> None:
    document = json.loads(cluster.rpicluster("up", "--yes", "--json"))
    assert "a job ran on 2 workers" in document["timings_s"]
    for node in UNITS:
        (java,) = javas(cluster, node)
        assert java.startswith("java-21-openjdk-")
    rows = cluster.sql(f"SELECT {VERSION} AS v, count(*), sum(id) FROM range(0, 4000000, 1, 32) GROUP BY 1")
    assert rows == [["21", 4_000_000, sum(range(4_000_000))]]


def test_doctor_finds_nothing_wrong_with_java_21(cluster: ClusterUnderTest) -> None:
    document = json.loads(cluster.rpicluster("doctor", "--json"))
    assert [found for found in document["findings"] if "java" in found["id"]] == []


def test_no_orphan_keeps_memory_when_a_nodemanager_is_killed(cluster: ClusterUnderTest) -> None:
    cluster.sql("SELECT sum(id) FROM range(0, 40000000, 1, 64)")  # executors are there
    for node in ("pi2", "pi3"):
        containers = cluster.on(node, CONTAINERS).split()
        before = int(cluster.on(node, USED_MIB))
        cluster.on(node, "sudo kill -9 $(systemctl show -p MainPID --value rpicluster-nodemanager)")

        def gone(node: str = node, pids: list[str] = containers) -> bool:
            return not set(pids) & set(cluster.on(node, CONTAINERS).split())

        wait_for(f"containers of {node} to end", gone, timeout_s=10)
        if containers:
            # An executor takes 400 MiB and more, the NodeManager 130.
            assert before - int(cluster.on(node, USED_MIB)) > 200
    rows = cluster.sql("SELECT count(*), sum(id) FROM range(0, 4000000, 1, 32)")
    assert rows == [[4_000_000, sum(range(4_000_000))]]


@pytest.fixture(scope="module")
def mixed(cluster: ClusterUnderTest) -> ClusterUnderTest:
    """The cluster with Java 17 under the daemons and executors of pi3."""
    cluster.on("pi3", "bash -s", stdin=OLD_JAVA, timeout=200)
    cluster.on("pi3", "bash -s", stdin=SWAP)
    wait_for("pi3 on Java 17", lambda: javas(cluster, "pi3") == {"java-17-openjdk-" + arch(cluster)})
    return cluster


def arch(cluster: ClusterUnderTest) -> str:
    return cluster.on("pi3", "dpkg --print-architecture")


def test_the_same_number_becomes_another_text_on_java_17_and_21(mixed: ClusterUnderTest) -> None:
    """Why a mix is refused: a group by such a text has two groups where there is one."""
    text = "SELECT CAST(2e23D + id % 1 AS STRING) AS s FROM range(0, 40000000, 1, 256)"

    def groups() -> set[str]:
        return {row[0] for row in mixed.sql(f"SELECT s, count(*) FROM ({text}) GROUP BY 1")}

    # pi3 gets an executor when the session asks for a second one.
    wait_for("tasks on both", lambda: groups() == {"2.0E23", "1.9999999999999998E23"}, timeout_s=150)


def test_a_shuffle_and_a_function_cross_between_java_17_and_21(mixed: ClusterUnderTest) -> None:
    mixed.on("pi1", "sudo systemctl stop rpicluster-session-pi")  # its executors give way
    said = submitted(mixed, "spark-shell", "mixed.scala", "< /tmp/mixed.scala")
    assert f"total {TOTAL}" in said
    # Rows of both versions reached tasks of both.
    assert "crossed 17<-17,21 21<-17,21" in said
    assert "objects 17,21" in said
    said = submitted(mixed, "spark-submit", "mixed.py", "/tmp/mixed.py")
    assert f"total {TOTAL}" in said
    assert "crossed 17<-17,21 21<-17,21" in said


def test_nodes_that_cannot_agree_on_a_java_are_refused(mixed: ClusterUnderTest) -> None:
    mixed.on("pi3", OLD_SYSTEM)
    document = json.loads(mixed.rpicluster("check", "--json", code=2))
    states = {node["name"]: (node["state"], node["detail"]) for node in document["nodes"]}
    assert states["pi3"][0] == "refused"
    assert "its system has Java 17 and the other nodes have 21" in states["pi3"][1]
    assert {states["pi1"][0], states["pi2"][0]} == {"member"}
    mixed.rpicluster("up", "--yes", code=2)


def submitted(cluster: ClusterUnderTest, program: str, job: str, argument: str) -> str:
    cluster.on("pi1", f"cat > /tmp/{job}", stdin=(JOBS / job).read_text())
    command = f"bash -lc 'timeout 150 {program} {TWO} {argument} 2>/tmp/said || tail -n 30 /tmp/said'"
    return cluster.on("pi1", command, timeout=200)
