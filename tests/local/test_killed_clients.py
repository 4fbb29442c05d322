"""What R leaves behind on the cluster when it is killed: its query, its views and their cached rows."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rpicluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

GONE_S = 60
PATIENCE_S = 180
VIEW = """
suppressMessages({library(rpicluster); library(dplyr)})
sc <- rpi_connect()
kept <- tbl(sc, sql("select id, id * %d as more from range(20000)")) |> compute("kept")
invisible(sparklyr::sdf_persist(tbl(sc, sql("select id from range(%d)"))) |> count() |> collect())
stopifnot(collect(count(kept))$n == 20000)
cat("ready\\n")
"""
LONG_QUERY = (
    'DBI::dbGetQuery(sc, "select count(*) from range(1000000000) a cross join range(1000000000) b")\n'
)
ON_DEMAND = """
invisible(readLines(file("stdin"), 1))
cat("sum:", DBI::dbGetQuery(sc, "select sum(more) as s from kept")$s, "\\n")
"""


@pytest.fixture
def start(
    cluster_with_gateway: Cluster, r_libraries: str, tmp_path: Path
) -> Iterator[Callable[[str], "subprocess.Popen[str]"]]:
    """Start an R process and wait until it says that it is ready."""
    started = []

    def start_one(code: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            ["Rscript", "-e", code],
            env={**os.environ, "R_LIBS": r_libraries, "RPICLUSTER_CLUSTER": cluster_with_gateway.name},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()


def until(is_so: Callable[[], bool], what: str, limit_s: float = PATIENCE_S) -> float:
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() < started + limit_s, f"waited {limit_s} s for {what}"
        time.sleep(0.5)
    return time.monotonic() - started


def test_the_query_the_views_and_the_rows_of_a_killed_r_are_gone_and_another_ones_stay(
    cluster_with_gateway: Cluster, start: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    spark = cluster_with_gateway.spark
    app_id = spark.application().id

    def stored() -> set[int]:
        return {rdd.id for rdd in spark.storage(app_id)}

    def running() -> int:
        return sum(job.status == "RUNNING" for job in spark.jobs(app_id))

    before = stored()
    living = start(VIEW % (3, 7) + ON_DEMAND)
    base = stored()
    assert len(base - before) >= 2, "a view's rows, and those that were persisted"
    victim = start(VIEW % (5, 11) + LONG_QUERY)
    until(lambda: running() > 0, "the long query")
    assert len(stored() - base) >= 2
    victim.send_signal(signal.SIGKILL)
    gone_s = until(lambda: stored() == base and running() == 0, "what it left to be gone", GONE_S)
    print(f"gone after {gone_s:.1f} s")
    assert living.communicate("now\n", timeout=PATIENCE_S)[0] == f"sum: {3 * 19999 * 10000} \n"
    until(lambda: stored() == before, "the rows of one that ended by itself to be gone", GONE_S)
    assert spark.application().id == app_id
