"""A cluster's whole life on a rack: queries from Python and R, a node more, a node less, reboots, the end.

pi3 keeps its data on a disk of their own. Three changes are broken off on the way: the seed is printed, and
RPICLUSTER_TEST_SEED=N repeats a run.
"""

import json
import os
import random
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from breaking import Breaking, command_lines
from cluster_tools import CONNECT, ClusterUnderTest, inventories, not_of_packages
from data_disk import BLOCKS, MOUNT, give_disk, mount_again, take_disk
from rack_tools import RackUnderTest, wait_for

from rpicluster.nodes.remote.removal import difference

pytestmark = pytest.mark.timeout(1500)

NAME = "nodes"
MANAGER = ("namenode", "resourcemanager", "session-pi")
WORKER = ("datanode", "nodemanager")
R_PACKAGE = Path(__file__).parents[2] / "r" / "rpicluster"
# Journalled steps in which a fresh `up` and one with a node more are broken off: nearly all they have.
STEPS_OF_UP, STEPS_OF_ADDING = 33, 8
ROWS, SUM = 10_000_000, 49_999_995_000_000
TOTALS = "SELECT count(*) AS n, sum(id) AS s, count(DISTINCT g) AS g FROM numbers"
SCALA = 'println("scala says " + spark.range(1000).selectExpr("sum(id)").collect()(0).getLong(0))'
BY_R = """
con <- DBI::dbConnect(rpicluster::rpi())
found <- DBI::dbGetQuery(con, "SELECT count(*) AS n, sum(id) AS s, count(DISTINCT g) AS g FROM numbers")
cat(format(vapply(found, as.numeric, 0), scientific = FALSE, trim = TRUE))
DBI::dbDisconnect(con)
"""


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> Iterator[ClusterUnderTest]:
    rack = make_rack(NAME)
    rack.run("up", "--nodes", "4G,2G,2G")
    give_disk(rack, "pi3")
    # As a router's reverse DNS does: the address has a name.
    line = f"{rack.status()['pi2']['address']} pi2.home pi2"
    rack.ssh("pi2", f"echo '{line}' | sudo tee -a /etc/hosts")
    units = {"pi1": MANAGER, "pi2": WORKER, "pi3": WORKER}
    found = ClusterUnderTest(rack, inventories(rack, units), units)
    yield found
    found.spec_path.unlink(missing_ok=True)  # `rack down` keeps one that was edited


@pytest.fixture(scope="module")
def chance() -> random.Random:
    """What is broken off when; by a seed, so that a run can be repeated."""
    seed = int(os.environ.get("RPICLUSTER_TEST_SEED") or secrets.randbelow(10**6))
    print(f"RPICLUSTER_TEST_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def breaking(cluster: ClusterUnderTest) -> Breaking:
    return Breaking(cluster.rack, NAME)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An R library with our package in it."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed: sudo apt-get install r-base-core r-cran-dbi r-cran-reticulate")
    folder = tmp_path_factory.mktemp("r")
    copy = shutil.copytree(R_PACKAGE, folder / "rpicluster")
    (folder / "library").mkdir()
    command = ["R", "CMD", "INSTALL", "--no-docs", f"--library={folder / 'library'}", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    yield folder / "library"


def tasks(cluster: ClusterUnderTest) -> dict[str, int]:
    """Return how many tasks of the session each worker has done."""
    executors = (
        "[[e.node, e.completed_tasks] for e in c.spark.executors(c.spark.application().id, dead=True) "
        "if not e.is_driver]"
    )
    addresses = {address: name for name, address in placed(cluster).items()}
    found: dict[str, int] = {}
    for address, done in cluster.asked(executors):
        found[addresses[address]] = found.get(addresses[address], 0) + done
    return found


def placed(cluster: ClusterUnderTest) -> dict[str, str]:
    found: dict[str, str] = cluster.asked("{n: p.address for n, p in c.placement.nodes.items()}")
    return found


def missing_blocks(cluster: ClusterUnderTest) -> int:
    return int(cluster.asked("c.namenode.report().missing_blocks"))


def put_in(cluster: ClusterUnderTest, name: str, like: str) -> None:
    """Add a node to cluster.yml by another's lines; `rack add` leaves a file alone that was edited."""
    text = cluster.spec_path.read_text()
    found = re.search(rf"  - name: {like}\n(    .*\n)*", text)
    assert found
    address = cluster.rack.status()[name]["address"]
    lines = re.sub(r"host: [^,]+", f"host: {address}", found[0].replace(like, name, 1))
    cluster.spec_path.write_text(text + lines)


def take_out(cluster: ClusterUnderTest, name: str) -> None:
    """Remove a node from cluster.yml, as a person would with an editor."""
    text = cluster.spec_path.read_text()
    cluster.spec_path.write_text(re.sub(rf"  - name: {name}\n(    .*\n)*", "", text))
    assert f"name: {name}" not in cluster.spec_path.read_text()


def break_off(breaking: Breaking, chance: random.Random, *, within_steps: int) -> None:
    """Break the next change off somewhere in its first steps; the one after that has to continue it."""
    breaking.begin_change()
    step, how = chance.randint(1, within_steps), chance.choice(("kill", "kill all", "Ctrl-C"))
    last = breaking.break_off(step, how, delay_s=chance.choice((0.0, chance.random())))
    print(f"{how} after step {step}: {last}")


def another_laptop(folder: Path, environment: dict[str, str], *arguments: str, code: int = 0) -> str:
    """Run `rpicluster …` in a folder with a state of its own; it must end with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "rpicluster", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_init_writes_a_cluster_yml_for_the_nodes(cluster: ClusterUnderTest, tmp_path: Path) -> None:
    shutil.copy(cluster.rack.directory / "ssh_config", tmp_path)  # counts for a cluster.yml beside it
    environment = {**cluster.rack.environment, "RPICLUSTER_STATE_DIR": str(tmp_path / "state")}

    there = partial(another_laptop, tmp_path, environment)
    addresses = [node["address"] for node in cluster.rack.status().values()]
    there("init", "--ssh", ",".join(f"pi@{address}" for address in addresses))
    plan = json.loads(there("plan", "--json").partition("\n")[0])
    assert {step["node"] for step in plan["steps"]} == set(cluster.units)
    assert plan["refusals"] == []


def test_plan_shows_everything_and_writes_nothing(cluster: ClusterUnderTest) -> None:
    plan = json.loads(cluster.rpicluster("plan", "--json", "--exit-code", code=3))
    assert {step["node"] for step in plan["steps"]} == set(cluster.units)
    assert {"prepare", "install-runtime", "write", "format", "start"} == {
        step["action"] for step in plan["steps"]
    }
    after = inventories(cluster.rack, cluster.units)
    assert [line for node in after for line in difference(cluster.before[node], after[node])] == []


def test_an_up_that_is_broken_off_and_continued_gives_a_cluster(
    cluster: ClusterUnderTest, breaking: Breaking, chance: random.Random
) -> None:
    break_off(breaking, chance, within_steps=STEPS_OF_UP)
    document = json.loads(cluster.rpicluster("up", "--yes", "--json"))
    assert "a job ran on 2 workers" in document["timings_s"]
    assert breaking.repeated() == []


def test_python_queries_ten_million_rows_spread_over_both_workers(cluster: ClusterUnderTest) -> None:
    before = tasks(cluster)
    cluster.rpicluster("sql", f"CREATE TABLE numbers AS SELECT id, id % 97 AS g FROM range(0, {ROWS}, 1, 40)")
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]]
    done = {name: count - before.get(name, 0) for name, count in tasks(cluster).items()}
    assert {name for name, count in done.items() if count > 0} == {"pi2", "pi3"}


def test_blocks_lie_on_the_disk_that_cluster_yml_names_and_nowhere_else(cluster: ClusterUnderTest) -> None:
    assert int(cluster.on("pi3", BLOCKS)) > 0
    assert cluster.on("pi3", f"ls {MOUNT}").split() == ["photo", "rpicluster"]
    assert cluster.on("pi3", f"ls {MOUNT}/rpicluster").split() == ["datanode", "nodemanager"]
    assert cluster.on("pi3", "sudo find /var/lib/rpicluster -name 'blk_*' -o -name datanode") == ""


def test_another_storage_for_a_node_with_data_is_refused(cluster: ClusterUnderTest) -> None:
    text = cluster.spec_path.read_text()
    try:
        cluster.spec_path.write_text(text.replace(f"storage: {MOUNT}", "storage: /mnt/other"))
        refused = json.loads(cluster.rpicluster("plan", "--json"))["refusals"]
    finally:
        cluster.spec_path.write_text(text)
    assert len(refused) == 1 and "pi3: its data lie in /mnt/ssd/rpicluster" in refused[0]


def test_r_gets_the_same_answer_by_dbi(cluster: ClusterUnderTest, library: Path) -> None:
    state = Path(cluster.rack.environment["RPICLUSTER_STATE_DIR"])
    done = subprocess.run(
        ["Rscript", "-e", BY_R],
        env={
            **cluster.rack.environment,
            "R_LIBS": str(library),
            "RPICLUSTER_CONNECTION": str(state / "clusters" / NAME / "connection.json"),
            "RPICLUSTER_PYTHON": sys.executable,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.stdout.split() == [str(ROWS), str(SUM), "97"], done.stderr


@pytest.mark.long
def test_doors_that_are_kept_outlive_a_pulled_cable_and_a_killed_ssh(cluster: ClusterUnderTest) -> None:
    def state() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cluster.rpicluster("connect", "--status", "--json"))
        return found

    cluster.rpicluster("connect", "--json")
    before = state()
    assert before["open"] and {way["state"] for way in before["ways"]} == {"open"}
    cluster.rack.run("link", "pi1", "down")
    time.sleep(5)
    cluster.rack.run("link", "pi1", "up")
    took = wait_for("YARN's page answers after the cable", _page_answers)
    print(f"cable out for 5 s: answered {took:.1f} s after it was back")
    assert state()["ssh_pid"] == before["ssh_pid"], "the connection has lived through it"
    os.kill(before["ssh_pid"], signal.SIGKILL)
    took = wait_for("YARN's page answers after the kill", _page_answers)
    print(f"ssh killed: answered after {took:.1f} s")
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]]
    assert state()["reopened"] == 1
    line = cluster.rpicluster("connect", "--print-command").strip()
    cluster.rpicluster("disconnect")
    assert not state()["open"]
    assert not _page_answers()
    by_hand = subprocess.Popen(line, shell=True, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for("YARN's page answers by the raw line", _page_answers)
    finally:
        os.killpg(by_hand.pid, signal.SIGTERM)
        by_hand.wait(20)


def _page_answers() -> bool:
    try:
        with urllib.request.urlopen("http://127.0.0.1:8088/ws/v1/cluster/info", timeout=1) as page:
            return b"clusterInfo" in page.read()
    except OSError:
        return False


def test_login_shells_and_units_have_the_variables_on_every_node(cluster: ClusterUnderTest) -> None:
    asked = "bash -lc 'echo $JAVA_HOME $SPARK_HOME $HADOOP_CONF_DIR; command -v spark-shell'"
    for node, units in cluster.units.items():
        assert cluster.on(node, asked).split() == [
            cluster.on(node, "ls -d /usr/lib/jvm/java-17-openjdk-*"),
            "/opt/rpicluster/runtime",
            "/etc/rpicluster/hadoop",
            "/opt/rpicluster/runtime/bin/spark-shell",
        ]
        environment = cluster.on(node, "systemctl", "show", "-p", "Environment", f"rpicluster-{units[0]}")
        assert "JAVA_HOME=/usr/lib/jvm/" in environment and "HADOOP_CONF_DIR=/etc/rpicluster" in environment


@pytest.mark.long
def test_spark_shell_answers_on_every_node(cluster: ClusterUnderTest) -> None:
    for node in cluster.units:
        # On workers nobody but the services reaches the cluster: there Spark runs by itself.
        master = "yarn" if node == "pi1" else "local[1]"
        said = cluster.on(
            node,
            f"bash -lc 'spark-shell --master {master} 2>/tmp/said || cat /tmp/said'",
            stdin=SCALA + "\n",
            timeout=300,
        )
        assert "scala says 499500" in said, said


def test_a_second_up_changes_nothing_and_restarts_nothing(cluster: ClusterUnderTest) -> None:
    pids, manifests = cluster.pids(), cluster.manifests()
    assert all(pid not in ("", "0") for pid in pids.values())
    assert json.loads(cluster.rpicluster("up", "--yes", "--json"))["changed"] == 0
    assert (cluster.pids(), cluster.manifests()) == (pids, manifests)


def test_a_file_that_somebody_changed_is_put_back_and_its_reader_restarted(cluster: ClusterUnderTest) -> None:
    pids = cluster.pids()
    path = "/etc/rpicluster/hadoop/yarn-site.xml"
    cluster.on("pi3", "sudo", "sed", "-i", "1a<!-- by hand -->", path)
    assert "by hand" in cluster.rpicluster("plan", "--diff")
    cluster.rpicluster("up", "--yes")
    assert "by hand" not in cluster.on("pi3", "cat", path)
    assert {unit for unit, pid in cluster.pids().items() if pids[unit] != pid} <= {"nodemanager on pi3"}


def test_another_login_of_a_node_does_not_reach_the_daemons(cluster: ClusterUnderTest) -> None:
    probe = CONNECT.format(address=placed(cluster)["pi1"], port=9870)
    assert cluster.on("pi1", "sudo", "-u", "rpi-hdfs", "python3", "-", stdin=probe) == "in"
    cluster.on("pi1", "sudo", "-u", "nobody", "python3", "-", stdin=probe, code=1)


@pytest.mark.long
def test_while_the_disk_with_the_data_is_away_nothing_is_written_in_its_place(
    cluster: ClusterUnderTest,
) -> None:
    take_disk(cluster.rack, "pi3")
    cluster.on("pi3", "sudo systemctl start rpicluster-datanode", code=1)
    assert cluster.on("pi3", "systemctl is-active rpicluster-datanode rpicluster-nodemanager", code=3)
    assert cluster.on("pi3", f"ls -A {MOUNT}") == ""
    parts = json.loads(cluster.rpicluster("status", "--json", code=6))["parts"]
    (detail,) = [part["detail"] for part in parts if (part["name"], part["where"]) == ("datanode", "pi3")]
    assert "the disk with its data is not mounted on /mnt/ssd" in detail
    assert "data-disk-away" in cluster.rpicluster("doctor", "--json", code=6)
    assert "nothing is mounted on /mnt/ssd now" in cluster.rpicluster("plan", "--json")
    mount_again(cluster.rack, "pi3")
    cluster.rpicluster("start")
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]]


@pytest.mark.long
def test_stop_and_start_keep_the_tables(cluster: ClusterUnderTest) -> None:
    cluster.rpicluster("connect")
    cluster.rpicluster("stop")
    assert not json.loads(cluster.rpicluster("connect", "--status", "--json"))["kept"]
    cluster.rpicluster("status", code=6)
    cluster.rpicluster("start")
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]]


@pytest.mark.long
def test_a_second_laptop_adopts_the_cluster(cluster: ClusterUnderTest, tmp_path: Path) -> None:
    environment = {
        **cluster.rack.environment,
        "RPICLUSTER_STATE_DIR": str(tmp_path / "state"),
        "RPICLUSTER_SSH_CONFIG": str(cluster.rack.directory / "ssh_config"),
    }

    there = partial(another_laptop, tmp_path, environment)
    said = there("adopt", f"pi@{placed(cluster)['pi1']}")
    assert "pi2: `ssh.config` was a file of the other machine" in said
    assert "is there already" in there("adopt", "pi@pi1", code=2)
    cluster.asked("c.site.tunnel.close()")  # both are on this machine, and a tunnel wants its numbers here
    assert str(SUM) in there("sql", "--json", TOTALS)
    assert json.loads(there("plan", "--json").partition("\n")[0])["steps"] == []
    close = "from rpicluster.cluster import Cluster; Cluster.find('cluster.yml').site.tunnel.close()"
    subprocess.run([sys.executable, "-c", close], cwd=tmp_path, env=environment, check=True, timeout=60)
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]], "the first laptop is let in as before"
    keys = cluster.on("pi1", "sudo", "cat", "/etc/rpicluster/tunnel-keys").splitlines()
    assert len(set(keys)) == 2
    there("adopt", f"pi@{placed(cluster)['pi2']}", "other.yml", code=2)


def test_a_node_is_added_without_restarting_the_manager_s_or_the_other_workers_hdfs(
    cluster: ClusterUnderTest, breaking: Breaking, chance: random.Random
) -> None:
    pids = cluster.pids()
    cluster.rack.run("add", "2G")
    put_in(cluster, "pi4", like="pi2")
    cluster.before |= inventories(cluster.rack, ["pi4"])
    plan = json.loads(cluster.rpicluster("plan", "--json"))
    assert {"reload"} == {s["action"] for s in plan["steps"] if s["target"] == "namenode"}
    break_off(breaking, chance, within_steps=STEPS_OF_ADDING)
    cluster.rpicluster("up", "--yes")
    assert breaking.repeated() == []
    kept = {unit: pid for unit, pid in cluster.pids().items() if unit.startswith(("namenode", "datanode"))}
    assert kept == {unit: pid for unit, pid in pids.items() if unit in kept}
    cluster.units["pi4"] = WORKER
    assert not {"", "0"} & set(cluster.pids().values())
    assert cluster.asked("len(c.namenode.report().live)") == 3
    assert cluster.asked("sum(n.is_running for n in c.yarn.nodes())") == 3


@pytest.mark.long
def test_too_few_nodes_for_the_copies_are_refused_before_anything_happens(cluster: ClusterUnderTest) -> None:
    text, pids = cluster.spec_path.read_text(), cluster.pids()
    take_out(cluster, "pi2")
    take_out(cluster, "pi3")
    plan = json.loads(cluster.rpicluster("plan", "--json"))
    assert any("pi2 and pi3 cannot leave: files are kept in 2 copies" in said for said in plan["refusals"])
    cluster.rpicluster("up", "--yes", code=2)
    cluster.spec_path.write_text(text)
    assert json.loads(cluster.rpicluster("up", "--yes", "--json"))["changed"] == 0
    assert cluster.pids() == pids


def test_an_up_that_is_broken_off_while_a_node_leaves_is_continued_by_the_next(
    cluster: ClusterUnderTest,
) -> None:
    take_out(cluster, "pi2")
    plan = json.loads(cluster.rpicluster("plan", "--json"))
    of_pi2 = [(step["action"], step["target"]) for step in plan["steps"] if step["node"] == "pi2"]
    assert of_pi2 == [("leave", "datanode"), ("leave", "nodemanager"), ("clear", "node")]
    process = subprocess.Popen(
        [sys.executable, "-m", "rpicluster", "up", "--yes", "--cluster", str(cluster.spec_path)],
        env=cluster.rack.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for("the lists name it", lambda: _excluded(cluster), timeout_s=120)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert _excluded(cluster)
    assert missing_blocks(cluster) == 0
    assert cluster.on("pi2", "systemctl", "is-active", "rpicluster-datanode") == "active"


def _excluded(cluster: ClusterUnderTest) -> bool:
    return cluster.on("pi1", "cat", "/etc/rpicluster/hadoop/dfs-hosts-exclude") != ""


def test_a_node_leaves_without_a_missing_block_and_clean(cluster: ClusterUnderTest) -> None:
    cluster.rpicluster("up", "--yes")
    assert cluster.units.pop("pi2") == WORKER
    assert missing_blocks(cluster) == 0
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]]
    live = cluster.asked("[n.name for n in c.namenode.report().datanodes if n.state == 'live']")
    assert live == [f"{placed(cluster)[name]}:9866" for name in ("pi3", "pi4")]
    after = inventories(cluster.rack, ["pi2"])
    assert not_of_packages(difference(cluster.before["pi2"], after["pi2"])) == []
    manifest = cluster.on("pi1", "cat", "/var/lib/rpicluster/manifest.json")
    assert set(json.loads(manifest)["members"]) == {"pi1", "pi3", "pi4"}
    assert json.loads(cluster.rpicluster("up", "--yes", "--json"))["changed"] == 0
    for path in ("dfs-hosts", "dfs-hosts-exclude", "yarn-hosts", "yarn-hosts-exclude"):
        lines = cluster.on("pi1", "cat", f"/etc/rpicluster/hadoop/{path}").splitlines()
        assert len(lines) == (0 if path.endswith("exclude") else 2)


def test_all_nodes_that_reboot_at_once_come_back_by_themselves(cluster: ClusterUnderTest) -> None:
    boots = {node: _boot(cluster, node) for node in cluster.units}
    for node in cluster.units:
        cluster.rack.ssh_raw(node, "sudo", "systemctl", "--no-block", "reboot")
    wait_for(
        "all have booted again",
        lambda: all(_boot(cluster, node) not in ("", boots[node]) for node in cluster.units),
        timeout_s=180,
    )
    wait_for("every part answers", lambda: _is_healthy(cluster), timeout_s=300)
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]]
    assert json.loads(cluster.rpicluster("up", "--yes", "--json"))["changed"] == 0


def _boot(cluster: ClusterUnderTest, node: str) -> str:
    """Return when a node's first process was started; its boot id is the machine's."""
    done = cluster.rack.ssh_raw(node, "cat", "/proc/1/stat", options=("-o", "ConnectTimeout=5"))
    return done.stdout.split()[21] if done.returncode == 0 else ""


def _is_healthy(cluster: ClusterUnderTest) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "rpicluster", "status", "--cluster", str(cluster.spec_path)],
        env=cluster.rack.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode == 0


@pytest.mark.long
def test_more_reserve_on_a_node_restarts_only_what_reads_it(cluster: ClusterUnderTest) -> None:
    pids = cluster.pids()
    text = cluster.spec_path.read_text()
    cluster.spec_path.write_text(text.replace("  - name: pi4\n", "  - name: pi4\n    reserve: 700M\n"))
    before = cluster.asked("{n.host: n.memory_total_mib for n in c.yarn.nodes() if n.is_running}")
    cluster.rpicluster("up", "--yes")
    after = cluster.asked("{n.host: n.memory_total_mib for n in c.yarn.nodes() if n.is_running}")
    pi4 = placed(cluster)["pi4"]
    assert after[pi4] < before[pi4]
    changed = {unit for unit, pid in cluster.pids().items() if pids[unit] != pid}
    assert "nodemanager on pi4" in changed
    assert not {"namenode on pi1", "datanode on pi3", "datanode on pi4"} & changed


@pytest.mark.long
def test_a_node_that_is_dead_for_good_goes_if_no_block_is_lost(cluster: ClusterUnderTest) -> None:
    cluster.rack.run("cut", "pi4")
    take_out(cluster, "pi4")
    wait_for("the NameNode gives it up", lambda: cluster.asked("len(c.namenode.report().dead)") == 1, 240)
    said = cluster.rpicluster("plan")
    assert "goes if the other copies of its blocks on pi3 are enough" in said
    cluster.rpicluster("up", "--yes")
    del cluster.units["pi4"]
    assert missing_blocks(cluster) == 0
    assert cluster.sql(TOTALS) == [[ROWS, SUM, 97]]
    assert json.loads(cluster.rpicluster("up", "--yes", "--json"))["changed"] == 0


def test_destroy_leaves_nothing_on_the_nodes_that_are_left(cluster: ClusterUnderTest) -> None:
    cluster.rpicluster("connect")  # a tunnel that is kept must not outlive its cluster
    cluster.rpicluster("destroy", "--confirm", NAME)
    after = inventories(cluster.rack, cluster.units)
    different = [line for node in cluster.units for line in difference(cluster.before[node], after[node])]
    assert not_of_packages(different) == []
    assert cluster.on("pi3", f"ls -A {MOUNT}") == "photo"


def test_nothing_of_it_is_left_on_the_control_machine(cluster: ClusterUnderTest) -> None:
    state = cluster.rack.environment["RPICLUSTER_STATE_DIR"]
    assert not (Path(state) / "clusters" / NAME).exists()
    ours = [words for words in command_lines() if os.fsencode(state) in words]
    assert [words for words in ours if b"clusters/" + NAME.encode() in words] == []
