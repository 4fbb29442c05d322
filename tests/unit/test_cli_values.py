"""What `sql` prints, and what the command line makes of trouble that is not its own."""

import json
import os
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from rpicluster.cli.sql import csv_field, json_value, with_cause
from rpicluster.errors import SqlError

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (None, "NA"),
        ("NA", '"NA"'),
        ("", '""'),
        ('say "so"', '"say ""so"""'),
        (True, "true"),
        (7, "7"),
        (Decimal("1.50"), "1.50"),
        (date(2026, 11, 23), "2026-11-23"),
        (b"hi", '"aGk="'),
        ([1, None], '"[1, null]"'),
    ],
)
def test_a_csv_field_tells_null_from_text(value: object, field: str) -> None:
    assert csv_field(value) == field


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (NAN, '"nan"'),
        (-INFINITY, '"-inf"'),
        (b"hi", '"aGk="'),
        ({"a": [INFINITY]}, '{"a": ["inf"]}'),
        (1.5, "1.5"),
    ],
)
def test_every_value_is_valid_json(value: object, said: str) -> None:
    assert json.dumps(json_value(value), allow_nan=False) == said


def test_a_failure_of_the_cluster_is_explained_and_one_of_the_statement_is_left_alone() -> None:
    lost = (
        "Job aborted due to stage failure: Task 0 in stage 3.0 failed 4 times, most recent failure: "
        "ExecutorLostFailure (executor 4 exited caused by one of the running tasks) Reason: Container exited"
    )
    assert "An executor died" in str(with_cause(SqlError(lost)).hint)
    wrong = SqlError("[PATH_NOT_FOUND] Path does not exist: /x", condition="PATH_NOT_FOUND")
    assert with_cause(wrong) is wrong


def rpicluster(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [os.fsencode(part) for part in (sys.executable, "-m", "rpicluster", *arguments)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )


def test_a_statement_that_is_no_text_is_refused(tmp_path: Path) -> None:
    done = rpicluster("sql", "select '\udcff'", RPICLUSTER_STATE_DIR=str(tmp_path))
    assert (done.returncode, done.stderr.count(b"Traceback")) == (2, 0)
    assert b"not UTF-8" in done.stderr


def test_a_file_that_cannot_be_written_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples"
    spec = next(example.glob("*.yml"))
    done = rpicluster(
        "plan", "--cluster", str(spec), "--output", f"{tmp_path}/no/where", RPICLUSTER_STATE_DIR=str(tmp_path)
    )
    assert (done.returncode, done.stderr.count(b"Traceback")) == (1, 0)
    assert b"No such file or directory" in done.stderr


def test_a_pipe_as_cluster_yml_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cluster.yml")
    done = rpicluster("plan", "--cluster", f"{tmp_path}/cluster.yml", RPICLUSTER_STATE_DIR=str(tmp_path))
    assert done.returncode == 2
    assert b"is no file" in done.stderr


def test_a_reader_that_has_enough_is_no_failure(tmp_path: Path) -> None:
    command = f"set -o pipefail; '{sys.executable}' -m rpicluster plan --diff --cluster '{{}}' | head -c 1"
    example = Path(__file__).parents[2] / "examples"
    spec = next(path for path in sorted(example.glob("*.yml")) if "ssh" in path.read_text())
    environment = {**os.environ, "RPICLUSTER_STATE_DIR": str(tmp_path)}
    argv = ["bash", "-c", command.format(spec)]
    done = subprocess.run(argv, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    from rpicluster.cli.console import styled

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in styled("x", fg="red")
    monkeypatch.setenv("NO_COLOR", "1")
    assert styled("x", fg="red", bold=True) == "x"
