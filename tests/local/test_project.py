"""An R project, made in a clean folder, works on a real cluster: each of its tasks and both scripts."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rpicluster import rpackage
from rpicluster.cli.main import run
from rpicluster.errors import RpiclusterError

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.r,
    pytest.mark.skipif(not shutil.which("Rscript"), reason="R is not installed"),
]
TASK_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def flights(cluster) -> None:
    assert run(["project", "flights", "--cluster", cluster.name]) == 0


@pytest.fixture(scope="module")
def project(cluster, flights, tmp_path_factory) -> Path:
    """A project below a folder whose name has a space and an umlaut."""
    folder = tmp_path_factory.mktemp("Übung 1") / "my-analysis"
    assert run(["project", "new", str(folder), "--cluster", cluster.name]) == 0
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """What VS Code gives its tasks on a laptop: `rpicluster` on PATH, and an R library with its package.

    No cluster is named: the project does.
    """
    folder = tmp_path_factory.mktemp("laptop")
    try:
        rpackage.install(folder / "library")
    except RpiclusterError as error:
        pytest.skip(error.message)
    program = folder / "bin" / "rpicluster"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom rpicluster.__main__ import main\nmain()\n")
    program.chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if key not in ("R_LIBS", "RPICLUSTER_CLUSTER")}
    return {
        **kept,
        "PATH": f"{program.parent}{os.pathsep}{kept['PATH']}",
        "R_LIBS": str(folder / "library"),
        "HOME": str(folder),  # no .Rprofile of the machine's
        "R_LIBS_USER": str(folder / "none"),
        "XDG_CACHE_HOME": kept.get("XDG_CACHE_HOME", str(Path("~/.cache").expanduser())),
    }


def started(argv: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TASK_TIMEOUT_S,
        check=False,
    )


def done(argv: list[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    finished = started(argv, cwd, environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def task(project: Path, label: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a task as VS Code does: its command and arguments, in the folder, with the file's environment."""
    document = json.loads((project / ".vscode" / "tasks.json").read_text("utf-8"))
    (found,) = [task for task in document["tasks"] if task["label"] == label]
    wanted = {**environment, **document["options"]["env"]}
    return done([found["command"], *found["args"]], project, wanted)


def test_the_task_connect_gets_an_answer(project, environment):
    assert "dbConnect" in task(project, "connect", environment).stdout


def test_the_task_status_finds_every_part_well(project, environment):
    shown = task(project, "status", environment).stdout
    assert "namenode" in shown and " ok " in shown


def test_the_task_run_gives_the_answers_that_local_r_gives(project, environment):
    shown = task(project, "run", environment)
    assert "Hawaiian Airlines Inc." in shown.stdout
    with (project / "results" / "airlines.csv").open() as file:
        rows = list(csv.DictReader(file))
    # what dplyr says of R's own nycflights13
    assert len(rows) == 16
    assert rows[0]["name"] == "Frontier Airlines Inc." and rows[-1]["name"] == "Alaska Airlines Inc."
    assert sum(int(row["flights"]) for row in rows) == 327_346
    assert float(rows[0]["minutes"]) == pytest.approx(21.920704845815)
    assert (project / "results" / "delay-by-hour.png").read_bytes().startswith(b"\x89PNG")


def test_the_task_bench_finds_the_same_answers_on_both_sides(project, environment):
    task(project, "bench", environment)
    with (project / "results" / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["test"], row["where"]) for row in rows] == [
        (test, where) for test in ("airlines", "routes", "worst") for where in ("cluster", "local")
    ]
    assert [row["difference"] for row in rows] == [""] * 6
    assert list(rows[0])[:6] == ["test", "replications", "elapsed", "relative", "user.self", "sys.self"]
    assert (project / "results" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_r_in_the_project_means_its_cluster_and_keeps_the_users_own_profile(project, environment, cluster):
    own = Path(environment["HOME"]) / ".Rprofile"
    own.write_text("options(mine = 'kept')\n")
    try:
        code = 'cat(getOption("mine"), getOption("rpicluster.cluster"), Sys.getenv("RPICLUSTER_CLUSTER"))'
        assert (
            done(["Rscript", "-e", code], project, environment).stdout
            == f"kept {cluster.name} {cluster.name}"
        )
    finally:
        own.unlink()


def test_flights_that_are_there_are_not_loaded_again_and_a_table_of_somebody_elses_stays(
    cluster, flights, capsys
):
    before = cluster.webhdfs.content_summary("/warehouse")
    assert run(["project", "flights", "--cluster", cluster.name]) == 0
    assert cluster.webhdfs.content_summary("/warehouse") == before
    with cluster.session() as session:
        session.sql("DROP TABLE rpi.default.airlines")
        session.sql("CREATE TABLE rpi.default.airlines AS SELECT 'mine' AS name")
        try:
            assert run(["project", "flights", "--cluster", cluster.name]) == 2
            assert "there is a table airlines with 1 rows" in capsys.readouterr().err
            assert session.sql("SELECT name FROM rpi.default.airlines").rows() == [("mine",)]
        finally:
            session.sql("DROP TABLE rpi.default.airlines")
            assert run(["project", "flights", "--cluster", cluster.name]) == 0


def test_a_script_without_its_table_says_what_to_type(project, environment, cluster, tmp_path):
    with cluster.session() as session:
        session.sql("CREATE NAMESPACE IF NOT EXISTS rpi.empty")
    connection = tmp_path / "connection.json"
    dataclasses.replace(cluster.connection, namespace="rpi.empty").save(connection)
    code = f'options(rpicluster.cluster = "{connection}"); source("analysis.R")'
    stopped = started(["Rscript", "-e", code], project, environment)
    assert stopped.returncode != 0
    assert "rpicluster project flights" in stopped.stderr
