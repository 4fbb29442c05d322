"""A session that nobody uses ends on a real cluster, and SQL and R wake it."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from rpicluster.cluster import Cluster
from rpicluster.errors import RpiclusterError
from rpicluster.runtime import sparklyr_jar

pytestmark = [pytest.mark.long, pytest.mark.lifecycle, pytest.mark.timeout(600)]

SPEC = """\
name: drowsy
nodes:
  - {name: solo, local: {memory: 4G, cores: 2}}
sessions: {sleep_after_s: 60, sparklyr: %s}
"""
QUERY = "select count(*) as n from t"
R_DOORS = {
    "off": 'con <- DBI::dbConnect(rpicluster::rpi(), cluster = "drowsy")',
    "on": 'con <- rpicluster::rpi_connect("drowsy")',
}


def silent(*_: object) -> None:
    """Report to nobody."""


def answer_of(command: list[str], **environment: str) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done


def session_of(cluster: Cluster) -> str:
    return next(part.detail for part in cluster.status().parts if part.name.startswith("session"))


def wait_until_asleep(cluster: Cluster) -> None:
    deadline = time.monotonic() + 180
    while "asleep" not in session_of(cluster):
        assert time.monotonic() < deadline, session_of(cluster)
        time.sleep(1)


@pytest.mark.parametrize("sparklyr", R_DOORS)
def test_a_session_sleeps_and_is_woken_by_sql_and_by_r(
    sparklyr, tmp_path, monkeypatch, runtime, java_home, bring_up, r_libraries
):
    if sparklyr == "on":
        try:
            sparklyr_jar.find()
        except RpiclusterError as error:
            pytest.skip(f"no sparklyr to test with: {error.message}")
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    spec = tmp_path / "cluster.yml"
    spec.write_text(SPEC % sparklyr)
    cluster = Cluster.from_file(spec)
    try:
        bring_up(cluster)
        with cluster.session() as session:
            session.sql("create table t using iceberg as select id from range(1000)").rows()
            first = session.app_id()
            time.sleep(75)  # a client that is connected keeps it awake
            assert session.app_id() == first
        wait_until_asleep(cluster)
        time.sleep(25)  # longer than a keeper may be silent
        assert cluster.status().healthy
        assert cluster.yarn.applications(states=["RUNNING"]) == []

        woken = answer_of(
            [sys.executable, "-m", "rpicluster", "sql", QUERY, "--format", "csv", "--cluster", str(spec)]
        )
        assert woken.stdout.split() == ["n", "1000"]
        assert "the session was asleep" in woken.stderr
        with cluster.session() as session:
            assert session.app_id() != first

        if shutil.which("Rscript") is None:
            return
        wait_until_asleep(cluster)
        script = f'{R_DOORS[sparklyr]}; cat("rows:", format(DBI::dbGetQuery(con, "{QUERY}")$n))'
        woken = answer_of(["Rscript", "-e", script], R_LIBS=r_libraries)
        assert woken.stdout.endswith("rows: 1000")
        assert "asleep" in woken.stderr
    finally:
        left = cluster.destroy(report=silent)
    assert left == []
