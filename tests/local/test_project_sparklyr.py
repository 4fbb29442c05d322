"""A project on a cluster with a door for sparklyr: scripts by rpi_connect(), and plain spark_connect()."""

import csv
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from rpicluster.cli.main import run
from rpicluster.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.r, pytest.mark.timeout(1800)]
R_TIMEOUT_S = 600


@pytest.fixture(scope="module")
def with_door(cluster_with_gateway: Cluster) -> Cluster:
    """A cluster with the gateway, and the flights in it."""
    assert run(["project", "flights", "--cluster", cluster_with_gateway.name]) == 0
    return cluster_with_gateway


@pytest.fixture(scope="module")
def project(with_door, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("Übung 1") / "mit sparklyr"
    assert run(["project", "new", str(folder), "--cluster", with_door.name]) == 0
    return folder


def r(libraries: str, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["Rscript", *arguments],
        cwd=cwd,
        env={**os.environ, "R_LIBS": libraries},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=R_TIMEOUT_S,
        check=False,
    )


def test_config_yml_names_the_door_of_the_connection_document(project, with_door):
    found = YAML(typ="safe").load((project / "config.yml").read_text("utf-8"))["default"]
    door = with_door.connection.sparklyr
    assert found["sparklyr.connect.master"] == f"sparklyr://{door.host}:{door.port}/{door.session}"


@pytest.mark.parametrize(("script", "result"), [("analysis.R", "airlines.csv"), ("bench.R", "bench.csv")])
def test_both_scripts_work_by_sparklyr(project, r_libraries, script, result):
    shutil.rmtree(project / "results", ignore_errors=True)
    code = f'source("{script}"); stopifnot(inherits(con, "spark_connection"))'
    done = r(r_libraries, project, "-e", code)
    assert done.returncode == 0, done.stdout + done.stderr
    with (project / "results" / result).open() as file:
        rows = list(csv.DictReader(file))
    if script == "bench.R":
        assert [row["difference"] for row in rows] == [""] * 6
    else:
        assert len(rows) == 16
        assert float(rows[0]["minutes"]) == pytest.approx(21.920704845815)


# What sparklyr says without config.yml differs, but it is never this cluster's application.
ASK = """
suppressMessages(library(sparklyr))
sc <- spark_connect(%s)
cat("application:", invoke(spark_context(sc), "applicationId"))
"""


@pytest.mark.parametrize("master", ["", 'master = "local"'])
def test_spark_connect_goes_to_the_cluster_inside_the_project_whatever_the_master(
    project, r_libraries, with_door, master
):
    done = r(r_libraries, project, "-e", ASK % master)
    assert f"application: {with_door.check_door()['application']}" in done.stdout, done.stderr


def test_outside_of_the_project_it_does_not(r_libraries, tmp_path):
    done = r(r_libraries, tmp_path, "-e", ASK % "")
    assert done.returncode != 0
    assert "application:" not in done.stdout
