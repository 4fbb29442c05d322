"""Scripts with a driver and an application of their own, started by the command line on a cluster."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rpicluster.cli.main import run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

PYSPARK = """\
import sys, time
from pyspark.sql import SparkSession
from pyspark.sql.functions import udf
from helpers import times
spark = SparkSession.builder.getOrCreate()
print("application", spark.sparkContext.applicationId)
print("sum", spark.range(1000).selectExpr("sum(id)").first()[0])
print("udf", [row[0] for row in spark.range(3).select(udf(lambda x: f"n{x}")("id")).collect()])
spark.range(times * 10).write.mode("overwrite").parquet("of_a_run")
print("rows", spark.read.parquet("of_a_run").count())
for number in range(int(sys.argv[1])):
    print("line", number, flush=True)
    time.sleep(0.5)
open("results/answer.txt", "w").write("499500")
spark.stop()
sys.exit(int(sys.argv[2]))
"""
BY_R = """\
library(DBI)
con <- dbConnect(rpicluster::rpi())
found <- dbGetQuery(con, "SELECT count(*) AS n, sum(id) AS s FROM range(1000)")
cat("found", as.numeric(found$n), as.numeric(found$s), commandArgs(TRUE), "\\n")
dbWriteTable(con, "of_a_run", data.frame(x = 1:3), temporary = TRUE)
cat("view", nrow(dbReadTable(con, "of_a_run")), "\\n")
write.csv(dbGetQuery(con, "SELECT id FROM range(5)"), "results/ids.csv", row.names = FALSE)
dbDisconnect(con)
stop("on purpose")
"""
BY_FACADE = """\
from rpicluster.cluster import Cluster
with Cluster.find("shared").session() as session:
    print("application", session.app_id())
    print("rows", session.sql("SELECT count(*) FROM range(7)").rows())
"""


@pytest.fixture
def folder(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RPICLUSTER_CLUSTER", "shared")
    yield tmp_path
    for record in cluster.runs.all():
        if not record.is_final:
            cluster.runs.kill(record.id)


@pytest.fixture
def cli(folder, capsys):
    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    return call


def pyspark_script(folder: Path) -> None:
    (folder / "spark.py").write_text(PYSPARK)
    (folder / "helpers.py").write_text("times = 2\n")


def run_of(said: str) -> str:
    found = re.search(r"run-\d{8}-\d{6}(-\d+)?", said)
    assert found, said
    return found[0]


def test_a_killed_client_costs_a_pyspark_run_nothing(cli, folder, cluster):
    pyspark_script(folder)
    client = subprocess.Popen(
        [sys.executable, "-m", "rpicluster", "run", "spark.py", "--file", "helpers.py", "--", "20", "7"],
        stdout=subprocess.PIPE,
        stderr=(folder / "said").open("w"),
        env=dict(os.environ),
        start_new_session=True,
    )
    seen = []
    for line in client.stdout:
        seen.append(line.decode().rstrip())
        if seen[-1] == "line 1":
            break
    else:
        raise AssertionError((seen, (folder / "said").read_text()))
    os.killpg(client.pid, signal.SIGKILL)
    client.wait()
    name = run_of((folder / "said").read_text())
    code, out, err = cli("jobs", "attach", name)
    assert (code, "exit code 7" in err) == (7, True), err
    lines = [*seen, *out.splitlines()]
    assert [line for line in dict.fromkeys(lines) if line.startswith("line ")] == [
        f"line {n}" for n in range(20)
    ]
    assert {"sum 499500", "udf ['n0', 'n1', 'n2']", "rows 20"} <= set(seen)
    assert Path("results", name, "answer.txt").read_text() == "499500"
    application = next(line.split()[1] for line in seen if line.startswith("application "))
    assert cluster.yarn.application(application).final_status == "SUCCEEDED"
    assert cli("jobs", "attach", name)[:2] == (7, ""), "all of it was shown"
    listed = json.loads(cli("jobs", "list", "--json")[1])["runs"]
    assert next(r for r in listed if r["id"] == name)["exit_code"] == 7


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    if shutil.which("R") is None:
        pytest.skip("R is not installed")
    from rpicluster.errors import UsageError
    from rpicluster.rpackage import install

    try:
        return install(tmp_path_factory.mktemp("library"))[0]
    except UsageError as error:
        pytest.skip(f"the R package cannot be installed: {error.message}")


def test_an_r_script_reaches_a_driver_of_its_own_by_plain_dbconnect(
    cli, folder, cluster, library, monkeypatch
):
    monkeypatch.setenv("R_LIBS", str(library))
    (folder / "by.R").write_text(BY_R)
    warm = cluster.spark.application().id
    code, out, err = cli("run", "by.R", "--results", "home", "--", "a b")
    assert code == 1, "what R gives for stop()"
    assert "found 1000 499500 a b" in out, err
    assert "view 3" in out
    assert "on purpose" in out
    assert (folder / "home" / "ids.csv").read_text().split() == ['"id"', *"01234"]
    (record,) = [r for r in cluster.runs.all() if r.id == run_of(err)]
    assert record.application not in (None, warm)
    assert cluster.yarn.application(record.application).is_final, "its application ends with it"
    _no_token_left(cluster, record.id)


def _no_token_left(cluster, name: str) -> None:
    root = Path(cluster.runs._root) / name
    token = (root / "token").read_text().strip()
    assert (root / "token").stat().st_mode & 0o777 == 0o600
    for file in root.rglob("*"):
        if file.is_file() and file.name != "token":
            assert token.encode() not in file.read_bytes(), file


def test_the_facade_in_a_script_finds_the_runs_own_driver(cli, folder, cluster):
    (folder / "facade.py").write_text(BY_FACADE)
    code, out, err = cli("run", "facade.py")
    assert code == 0, out + err
    assert "rows [(7,)]" in out
    assert cluster.spark.application().id not in out


def test_one_run_more_than_there_are_drivers_is_refused_with_the_arithmetic(cli, folder, cluster):
    (folder / "wait.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(300)\n")
    assert cli("run", "--detach", "wait.py")[0] == 0
    code, _, err = cli("run", "wait.py")
    assert code == 2
    assert "manager holds 2 drivers of 1056 MiB (sessions.max): 1 for the warm session" in err
    assert "this run would be number 3" in err
    (record,) = [r for r in cluster.runs.all() if not r.is_final]
    assert cli("jobs", "kill", record.id)[0] == 2, "nobody to ask"
    assert cli("jobs", "kill", record.id, "--yes")[0] == 0
    code, _, err = cli("jobs", "attach", record.id)
    assert (code, "was killed" in err) == (1, True)
    assert "ended already" in cli("jobs", "kill", record.id, "--yes")[2]


def test_ctrl_c_leaves_the_run_there_and_says_how_to_come_back(cli, folder, cluster):
    (folder / "count.py").write_text(
        "import time\nfor n in range(16):\n    print('line', n, flush=True)\n    time.sleep(0.5)\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-m", "rpicluster", "run", "count.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert client.stdout.readline() == "line 0\n"
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=60)
    assert client.returncode == 130
    name = run_of(err)
    assert f"{name} goes on without you" in err
    assert f"rpicluster jobs attach {name}" in err
    code, out, _ = cli("jobs", "attach")
    assert (code, out.splitlines()[-1]) == (0, "line 15")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone.R", None, "there is no script gone.R"),
        ("a.sh", "true", "neither an R script nor a Python script"),
        ("a.py", "x = (", "a.py:1 is no Python"),
        ("a.py", "import no_such_thing", "needs the Python module no_such_thing"),
        ("a.py", b"x = '\xff'", "is not UTF-8 text"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_sent(cli, folder, cluster, name, text, said):
    if text is not None:
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    before = len(cluster.runs.all())
    code, _, err = cli("run", name)
    assert (code, said in err) == (2, True), err
    assert len(cluster.runs.all()) == before


def test_a_driver_that_dies_is_told_in_the_log(cli, folder, cluster, library, monkeypatch):
    monkeypatch.setenv("R_LIBS", str(library))
    (folder / "by.R").write_text(
        "con <- DBI::dbConnect(rpicluster::rpi())\ncat('ready\\n'); Sys.sleep(20)\n"
        "DBI::dbGetQuery(con, 'SELECT 1')\n"
    )
    cli("run", "--detach", "by.R")
    (record,) = [r for r in cluster.runs.all() if not r.is_final]
    deadline = time.monotonic() + 400
    while b"ready" not in cluster.runs.log(record.id):
        assert time.monotonic() < deadline, cluster.runs.log(record.id)
        time.sleep(0.5)
    mark = f"/{record.id}"
    drivers = [
        int(pid.name)
        for pid in Path("/proc").iterdir()
        if pid.name.isdigit() and f"unit={cluster.placement.cluster_id}/manager{mark}" in _command(pid)
    ]
    assert len(drivers) == 1
    os.kill(drivers[0], signal.SIGKILL)
    code, out, _ = cli("jobs", "attach", record.id)
    assert code == 1
    assert "the driver of this run is gone: ended by SIGKILL" in out


def _command(process: Path) -> str:
    try:
        return process.joinpath("cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
