"""Scripts on a real manager: their unit, PySpark and R on a worker, a client that dies, a cable, a reboot."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_tools import ClusterUnderTest, inventories, not_of_packages
from rack_tools import RackUnderTest, wait_for

from rpicluster.nodes.remote.removal import difference

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

NAME = "runs"
UNITS = {"pi1": ("namenode", "resourcemanager", "session-pi"), "pi2": ("datanode", "nodemanager")}
COUNT = """\
import os, sys, time
print("home", os.environ["HOME"], os.access(os.environ["HOME"], os.W_OK))
for number in range(int(sys.argv[1])):
    print("line", number)
    time.sleep(0.5)
open("results/x.txt", "w").write("hi")
sys.exit(7)
"""
PYSPARK = """\
from pyspark.sql import SparkSession
from pyspark.sql.functions import udf
spark = SparkSession.builder.getOrCreate()
print("sum", spark.range(1000).selectExpr("sum(id)").first()[0])
print("udf", [row[0] for row in spark.range(3).select(udf(lambda x: f"n{x}")("id")).collect()])
"""
BY_R = """\
con <- DBI::dbConnect(rpicluster::rpi())
found <- DBI::dbGetQuery(con, "SELECT count(*) AS n, sum(id) AS s FROM range(1000)")
cat("found", as.numeric(found$n), as.numeric(found$s), commandArgs(TRUE), "\\n")
write.csv(DBI::dbGetQuery(con, "SELECT id FROM range(5)"), "results/ids.csv", row.names = FALSE)
quit(status = 4)
"""
# What R brings as Debian packages, which `destroy` keeps.
OF_R = ("/var/log/fontconfig.log", "/usr/local/lib/R", "/etc/R", "/etc/", "/usr/local/")


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> Iterator[ClusterUnderTest]:
    rack = make_rack(NAME)
    rack.run("up", "--nodes", "4G,4G")
    found = ClusterUnderTest(rack, inventories(rack, UNITS), UNITS)
    with found.spec_path.open("a") as spec:
        spec.write("sessions: {max: 2}\nr: {packages: [digest]}\n")
    found.rpicluster("up", "--yes")
    yield found
    found.spec_path.unlink(missing_ok=True)  # `rack down` keeps one that was edited


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("count.py", COUNT), ("spark.py", PYSPARK), ("by.R", BY_R)):
        (tmp_path / name).write_text(text)
    return tmp_path


def call(cluster: ClusterUnderTest, folder: Path, *arguments: str, code: int = 0) -> tuple[str, str]:
    """Run a command in `folder`; return its stdout and stderr."""
    done = subprocess.run(
        command(cluster, *arguments),
        env=cluster.rack.environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def command(cluster: ClusterUnderTest, first: str, *rest: str) -> list[str]:
    where = ["--cluster", str(cluster.spec_path)]
    if first == "jobs":
        return [sys.executable, "-m", "rpicluster", first, rest[0], *where, *rest[1:]]
    return [sys.executable, "-m", "rpicluster", first, *where, *rest]


def client(cluster: ClusterUnderTest, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(cluster, *arguments),
        env=cluster.rack.environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=(folder / "said").open("w"),
        text=True,
        start_new_session=True,
    )


def runs(cluster: ClusterUnderTest) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(cluster.rpicluster("jobs", "list", "--json"))["runs"]
    return found


def is_healthy(cluster: ClusterUnderTest) -> bool:
    try:
        cluster.rpicluster("status")
    except AssertionError:
        return False
    return True


def test_a_script_runs_as_its_user_in_a_sandbox_and_its_exit_code_is_ours(
    cluster: ClusterUnderTest, folder: Path
) -> None:
    out, err = call(cluster, folder, "run", "count.py", "--", "2", code=7)
    assert out.splitlines() == ["home /home/pi False", "line 0", "line 1"]
    assert next(folder.glob("results/*/x.txt")).read_text() == "hi"
    assert "exit code 7" in err


def test_pyspark_runs_on_the_worker_and_a_second_run_finds_no_place(
    cluster: ClusterUnderTest, folder: Path
) -> None:
    first = client(cluster, folder, "run", "spark.py")
    assert first.stdout is not None
    wait_for("the first run", lambda: "runs on pi1" in (folder / "said").read_text(), 120)
    _, err = call(cluster, folder, "run", "count.py", "--", "1", code=2)
    assert "pi1 holds 2 drivers of" in err
    assert "this run would be number 3; nothing was started" in err
    unit = cluster.on("pi1", "systemctl", "list-units", "--plain", "--no-legend", "rpicluster-run-*")
    shown = cluster.on(
        "pi1", "systemctl", "show", "-p", "User,NoNewPrivileges,OOMScoreAdjust", unit.split()[0]
    )
    assert set(shown.split()) == {"User=pi", "NoNewPrivileges=yes", "OOMScoreAdjust=600"}
    out = first.communicate(timeout=400)[0]
    assert first.returncode == 0, (out, (folder / "said").read_text())
    assert {"sum 499500", "udf ['n0', 'n1', 'n2']"} <= set(out.splitlines())


def test_r_reaches_spark_when_its_python_can_be_loaded(cluster: ClusterUnderTest, folder: Path) -> None:
    (folder / "miss.R").write_text("library(noSuchThing)\n")
    _, err = call(cluster, folder, "run", "miss.R", code=2)
    assert "needs the R package noSuchThing, and pi1 does not have it" in err
    assert "`r: {packages: [noSuchThing]}`" in err
    if not cluster.on("pi1", "sh", "-c", "ls /usr/lib/*/libpython3.*.so.1.0 2>/dev/null || true"):
        _, err = call(cluster, folder, "run", "by.R", code=2)
        assert "cannot load Python" in err
        line = re.search(r"rpicluster ssh pi1 (.*)", err)
        assert line, err
        cluster.on("pi1", line[1], timeout=300)
    out, err = call(cluster, folder, "run", "by.R", "--", "a b", code=4)
    assert "found 1000 499500 a b" in out, err
    assert next(folder.glob("results/*/ids.csv")).read_text().split() == ['"id"', *"01234"]


def test_a_killed_client_comes_back_to_log_results_and_exit_code(
    cluster: ClusterUnderTest, folder: Path
) -> None:
    first = client(cluster, folder, "run", "count.py", "--", "30")
    assert first.stdout is not None
    seen = [first.stdout.readline().rstrip() for _ in range(4)]
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    out, _ = call(cluster, folder, "jobs", "attach", code=7)
    lines = [*seen, *out.splitlines()]
    assert [line for line in dict.fromkeys(lines) if "line" in line] == [f"line {n}" for n in range(30)]
    assert len(lines) <= 33, "at most the last piece comes twice"
    assert next(folder.glob("results/*/x.txt")).read_text() == "hi"


def test_a_client_goes_on_by_itself_when_the_cable_is_back(cluster: ClusterUnderTest, folder: Path) -> None:
    first = client(cluster, folder, "run", "count.py", "--", "120")
    assert first.stdout is not None
    seen = [first.stdout.readline().rstrip() for _ in range(4)]
    cluster.rack.run("link", "pi1", "down")
    time.sleep(25)
    cluster.rack.run("link", "pi1", "up")
    out = first.communicate(timeout=300)[0]
    said = (folder / "said").read_text()
    assert first.returncode == 7, said
    assert "goes on there, trying again" in said
    assert [line for line in [*seen, *out.splitlines()] if "line" in line] == [
        f"line {n}" for n in range(120)
    ]


def test_a_reboot_of_the_manager_is_said_plainly(cluster: ClusterUnderTest, folder: Path) -> None:
    call(cluster, folder, "run", "--detach", "count.py", "--", "600")
    wait_for("the script", lambda: runs(cluster)[0]["state"] == "running", 60)
    cluster.rack.run("reboot", "pi1")
    _, err = call(cluster, folder, "jobs", "attach", code=1)
    assert "the manager was started again while the script ran" in err
    wait_for("the cluster", lambda: is_healthy(cluster), 120)  # `jobs list` also asks YARN
    assert runs(cluster)[0]["state"] == "lost"


def test_destroy_ends_a_run_and_leaves_nothing_of_it(cluster: ClusterUnderTest, folder: Path) -> None:
    call(cluster, folder, "run", "--detach", "count.py", "--", "600")
    cluster.rpicluster("destroy", "--confirm", NAME)
    assert cluster.on("pi1", "sh", "-c", "pgrep -fc count.p[y] || true") == "0"
    after = inventories(cluster.rack, UNITS)
    for node in UNITS:
        left = [
            line for line in difference(cluster.before[node], after[node]) if not any(p in line for p in OF_R)
        ]
        assert not_of_packages(left) == []
