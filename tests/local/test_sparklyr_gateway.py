"""sparklyr's gateway in the session of a real cluster, with the sparklyr of this machine."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rpicluster.cluster import Cluster
from rpicluster.runtime import sparklyr_jar

sys.path.insert(0, str(Path(__file__).parent))
from test_session_keeper import FAULTS, HEALTHY_S, Session

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

R_TIMEOUT_S = 600
# What R is given on its PATH: no Java. (R is a shell script.)
TOOLS = [
    "sh",
    "bash",
    "uname",
    "sed",
    "rm",
    "expr",
    "test",
    "cat",
    "basename",
    "dirname",
    "mkdir",
    "which",
    "ls",
    "env",
    "wc",
    "grep",
    "tr",
]

PRELUDE = """
suppressMessages({library(sparklyr); library(dplyr)})
stopifnot(Sys.which("java") == "")
sc <- spark_connect(master = commandArgs(TRUE)[[1]])
say <- function(...) cat("\\nsaid:", ..., "\\n", sep = "")
"""


@pytest.fixture(scope="module")
def gateway(cluster_with_gateway: Cluster) -> Session:
    return Session(cluster_with_gateway)


@pytest.fixture(scope="module")
def r(gateway: Session, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """Run R code after connecting; returns what it said."""
    tools = tmp_path_factory.mktemp("tools")
    for name in (*TOOLS, "R", "Rscript"):
        program = shutil.which(name)
        if program is not None:
            (tools / name).symlink_to(program)
    door = gateway.cluster.connection.sparklyr
    environment = {k: v for k, v in os.environ.items() if k not in ("JAVA_HOME", "SPARK_HOME")}

    def run(code: str) -> list[str]:
        done = subprocess.run(
            ["Rscript", "-e", PRELUDE + code, f"sparklyr://{door.host}:{door.port}/{door.session}"],
            env={**environment, "PATH": str(tools)},
            capture_output=True,
            text=True,
            timeout=R_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return re.findall(r"^said:(.*)$", done.stdout, re.MULTILINE)

    return run


def listening(pid: int) -> set[str]:
    """Return the addresses on which a process listens, as /proc writes them."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str(link.readlink()))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}


def test_the_plan_warns_of_other_users_of_this_machine(gateway: Session) -> None:
    plan = gateway.cluster.plan()
    assert plan.is_empty
    assert any("any user of this machine can run code as" in warning for warning in plan.warnings)


def test_the_connection_file_names_the_gateway_and_its_version(gateway: Session) -> None:
    document = json.loads(gateway.cluster.connection_path.read_text())["sparklyr"]
    assert document["version"] == sparklyr_jar.find().version
    assert document["last_port"] == document["port"] + 19
    kinds = [door["kind"] for door in gateway.healthy()["doors"]]
    assert kinds == ["sparklyr", "connect"]


def test_r_without_java_runs_dplyr_and_a_model_in_the_application_of_the_other_door(
    gateway: Session, r: Callable[[str], list[str]]
) -> None:
    with gateway.cluster.session() as session:
        session.sql("CREATE OR REPLACE TABLE seen_by_both AS SELECT id, id % 3 AS k FROM range(900)").close()
        app_id = session.app_id()
    said = r("""
    say(invoke(spark_context(sc), "applicationId"))
    say(paste(unlist(DBI::dbGetQuery(sc, "select current_catalog(), current_database()")), collapse = "."))
    say(tbl(sc, "seen_by_both") |> group_by(k) |> summarise(n = n()) |> collect() |> pull(n) |> unique())
    cars <- copy_to(sc, mtcars, "cars", overwrite = TRUE)
    there <- cars |> group_by(cyl) |> summarise(m = mean(mpg, na.rm = TRUE)) |> collect() |> arrange(cyl)
    say(isTRUE(all.equal(there$m, as.vector(tapply(mtcars$mpg, mtcars$cyl, mean)))))
    model <- ml_linear_regression(cars, mpg ~ wt + cyl)
    here <- lm(mpg ~ wt + cyl, mtcars)
    say(isTRUE(all.equal(unname(model$coefficients), unname(coef(here)), tolerance = 1e-6)))
    DBI::dbExecute(sc, "drop table seen_by_both")
    spark_disconnect(sc)
    """)
    assert said == [app_id, "rpi.default", "300", "TRUE", "TRUE"]
    assert gateway.status()["app_id"] == app_id


def test_clients_that_leave_leave_no_port_behind(gateway: Session, r: Callable[[str], list[str]]) -> None:
    pid = gateway.healthy()["driver"]["pid"]
    before = listening(pid)
    r("for (i in 1:5) { spark_disconnect(sc); sc <- spark_connect(master = commandArgs(TRUE)[[1]]) }")
    deadline = time.monotonic() + 60
    while listening(pid) != before and time.monotonic() < deadline:
        time.sleep(0.5)
    assert listening(pid) == before


def test_the_gateway_listens_on_loopback_only(gateway: Session) -> None:
    door = gateway.cluster.connection.sparklyr
    pid = gateway.healthy()["driver"]["pid"]
    wanted = {f"{port:04X}" for port in range(door.port, door.last_port + 81)}
    found = {address for address in listening(pid) if address.partition(":")[2] in wanted}
    assert len(found) >= 2, "the gateway's own, and the keeper's"
    assert {address.partition(":")[0] for address in found} == {"0100007F"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lost_gateway_is_back_by_itself_and_lets_r_in(
    gateway: Session, r: Callable[[str], list[str]], fault: str
) -> None:
    act, _ = FAULTS[fault]
    before: dict[str, Any] = gateway.healthy()
    started = time.monotonic()
    act(gateway, before)
    after = gateway.until(
        lambda s: s["state"] == "healthy" and s["app_id"] != before["app_id"], "healthy", HEALTHY_S
    )
    print(f"{fault}: back after {time.monotonic() - started:.1f} s, load {os.getloadavg()[0]:.1f}")
    assert after["replaced"]["reason"]
    assert r('say(invoke(spark_context(sc), "applicationId")); spark_disconnect(sc)') == [after["app_id"]]


def test_executors_that_are_killed_come_back_in_the_same_application(
    gateway: Session, r: Callable[[str], list[str]]
) -> None:
    before = gateway.healthy()
    gateway.known_answer()
    killed = 0
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (directory / "cmdline").read_bytes().split(b"\0")
            if b"org.apache.spark.executor.YarnCoarseGrainedExecutorBackend" in words and (
                before["app_id"].encode() in words
            ):
                os.kill(int(directory.name), signal.SIGKILL)
                killed += words[0].endswith(b"java")
    assert killed >= 1
    assert r('say(DBI::dbGetQuery(sc, "select sum(id) s from range(0, 1000, 1, 4)")$s)') == ["499500"]
    assert gateway.healthy()["app_id"] == before["app_id"]
