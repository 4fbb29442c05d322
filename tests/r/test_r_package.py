"""The R package: its own tests, R's own check, DBItest, and what only a real cluster shows."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "r" / "rpicluster"
HERE = Path(__file__).parent
NEEDED = (
    "DBI",
    "bit64",
    "blob",
    "dbplyr",
    "dplyr",
    "hms",
    "jsonlite",
    "lubridate",
    "reticulate",
    "stringr",
    "testthat",
    "withr",
)
# CRAN has it, Debian does not: what needs it is skipped and says so where it is missing.
ONLY_ON_CRAN = ("rbenchmark", "sparklyr")
DBITEST_SHARE = 0.80
# The other groups write some hundred tables, which takes minutes: `make test-long` runs them all.
DBITEST_QUICK = ("getting_started", "driver", "connection", "meta", "transaction")
DBITEST_QUICK_TESTS = 60

pytestmark = [pytest.mark.r, pytest.mark.timeout(1800)]


def r(*arguments: str, timeout_s: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an R program and return what it said."""
    return subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, "TZ": "UTC", "R_TESTS": "", **environment},
    )


def missing_packages(names: tuple[str, ...]) -> list[str]:
    wanted = ", ".join(f'"{name}"' for name in names)
    return r(
        "Rscript", "--vanilla", "-e", f"cat(setdiff(c({wanted}), rownames(installed.packages())))"
    ).stdout.split()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An R library with the package in it and nothing else."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed: sudo apt-get install r-base-core")
    if missing := missing_packages(NEEDED):
        pytest.skip(
            "R lacks packages: sudo apt-get install " + " ".join(f"r-cran-{name.lower()}" for name in missing)
        )
    folder = tmp_path_factory.mktemp("r")
    copy = shutil.copytree(SOURCE, folder / "source" / "rpicluster")
    target = folder / "library"
    target.mkdir()
    done = r("R", "CMD", "INSTALL", "--no-docs", f"--library={target}", str(copy))
    assert done.returncode == 0, done.stderr
    return target


def skip_list() -> list[dict[str, str]]:
    """Return the tests of DBItest that are not run: `test`, `limit`, `reproduced_by`."""
    with (HERE / "dbitest-skips.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def run_testthat(
    library: Path, out: Path, pattern: str, invert: bool, **environment: str
) -> list[dict[str, object]]:
    """Run the package's tests whose file names match `pattern`; return one row a test."""
    script = f"""
        library(testthat)
        tests <- {json.dumps(str(SOURCE / "tests" / "testthat"))}
        rows <- as.data.frame(test_dir(tests, package = "rpicluster",
          load_package = "installed", reporter = "summary", stop_on_failure = FALSE,
          filter = {json.dumps(pattern)}, invert = {str(invert).upper()}))
        rows$result <- NULL
        kept <- rows[c("file", "test", "nb", "failed", "skipped", "error")]
        jsonlite::write_json(kept, {json.dumps(str(out))})
    """
    done = r("Rscript", "-e", script, timeout_s=1500, R_LIBS=str(library), **environment)
    assert out.exists(), done.stdout + done.stderr
    rows = json.loads(out.read_text())
    broken = [f"{row['file']}: {row['test']}" for row in rows if row["failed"] or row["error"]]
    assert not broken, "\n".join([*broken, done.stdout])
    return rows


def test_the_package_passes_its_own_tests_without_a_cluster(library, tmp_path):
    rows = run_testthat(
        library,
        tmp_path / "rows.json",
        "^(cluster|sparklyr)",
        invert=True,
        RPICLUSTER_CONNECTION="",
        RPICLUSTER_PYTHON=sys.executable,
    )
    skipped = [str(row["test"]) for row in rows if row["skipped"]]
    assert len(rows) > 40
    absent = missing_packages(ONLY_ON_CRAN)
    assert [test for test in skipped if not test.startswith(tuple(absent))] == []


def test_a_python_that_r_cannot_load_is_a_classed_error_with_a_hint(library, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    script = """
        tryCatch(rpicluster:::start_python(), rpicluster_error_python = function(e) cat(conditionMessage(e)))
    """
    done = r("Rscript", "-e", script, R_LIBS=str(library), RPICLUSTER_PYTHON=str(broken))
    assert f"R cannot load the Python {broken}" in done.stdout, done.stdout + done.stderr
    assert "rpicluster r-install" in done.stdout


@pytest.mark.cluster
def test_types_verbs_and_interrupts_hold_on_a_real_cluster(library, cluster, tmp_path):
    rows = run_testthat(
        library,
        tmp_path / "rows.json",
        "^cluster",
        invert=False,
        RPICLUSTER_CONNECTION=str(cluster.connection_path),
        RPICLUSTER_PYTHON=sys.executable,
    )
    skipped = [row["test"] for row in rows if row["skipped"]]
    assert len(rows) > 15
    assert skipped == [], "with a cluster nothing may be skipped"


def test_r_cmd_check_has_nothing_to_say_that_is_ours(library, tmp_path):
    built = subprocess.run(
        ["R", "CMD", "build", str(SOURCE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (archive,) = tmp_path.glob("rpicluster_*.tar.gz")
    checked = subprocess.run(
        ["R", "CMD", "check", "--no-manual", archive.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        # Suggested packages that are not there cannot be checked; there is no CRAN to ask about versions.
        env={
            **os.environ,
            "TZ": "UTC",
            "_R_CHECK_FORCE_SUGGESTS_": "false",
            "_R_CHECK_CRAN_INCOMING_": "false",
            "RPICLUSTER_CONNECTION": "",
        },
    )
    log = (tmp_path / "rpicluster.Rcheck" / "00check.log").read_text(encoding="utf-8")
    assert checked.returncode == 0, log
    names = ", ".join(f"‘{name}’" for name in missing_packages(ONLY_ON_CRAN))
    noted = f"suggested but not available for checking: {names} "
    # R breaks the line where several are missing, and quotes them otherwise.
    said = re.sub(r"'([^' ]+)'", r"‘\1’", " ".join(log.split()))
    assert "Status: OK" in log or (noted in said and "Status: 1 NOTE" in log), log


def test_the_documentation_and_the_namespace_are_what_roxygen_writes(library, tmp_path):
    if missing := missing_packages(("roxygen2",)):
        pytest.skip(f"R lacks {missing[0]}: sudo apt-get install r-cran-roxygen2")
    copy = shutil.copytree(SOURCE, tmp_path / "rpicluster")
    done = r("Rscript", "-e", f"roxygen2::roxygenise({json.dumps(str(copy))})")
    assert done.returncode == 0, done.stderr
    for path in [SOURCE / "NAMESPACE", *sorted((SOURCE / "man").glob("*.Rd"))]:
        assert (copy / path.relative_to(SOURCE)).read_text() == path.read_text(), f"{path.name} is stale"
    assert {p.name for p in (copy / "man").iterdir()} == {p.name for p in (SOURCE / "man").iterdir()}


def run_dbitest(library, cluster, out: Path, *groups: str) -> list[dict[str, str]]:
    """Run DBItest, or some of its groups; return one row a test, none of them failed."""
    if missing := missing_packages(("DBItest",)):
        pytest.skip(f"R lacks {missing[0]}: sudo apt-get install r-cran-dbitest")
    done = r(
        "Rscript",
        str(HERE / "dbitest.R"),
        str(HERE / "dbitest-skips.tsv"),
        str(out),
        timeout_s=1700,
        R_LIBS=str(library),
        RPICLUSTER_CONNECTION=str(cluster.connection_path),
        RPICLUSTER_PYTHON=sys.executable,
        RPICLUSTER_DBITEST_GROUPS=",".join(groups),
    )
    assert out.exists(), done.stdout + done.stderr
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    print(done.stdout.splitlines()[-1])
    failed = [f"{row['group']}: {row['test']}: {row['message']}" for row in rows if row["state"] == "failed"]
    assert not failed, "\n".join(failed)
    listed = {row["test"] for row in skip_list()}
    assert {row["test"].split("...")[0] for row in rows if row["state"] == "skipped"} <= listed
    return rows


@pytest.mark.cluster
def test_dbitest_passes_its_quick_groups(library, cluster, tmp_path):
    assert len(run_dbitest(library, cluster, tmp_path / "rows.tsv", *DBITEST_QUICK)) > DBITEST_QUICK_TESTS


@pytest.mark.cluster
@pytest.mark.long
def test_dbitest_passes_four_fifths_of_all_its_tests(library, cluster, tmp_path):
    counts = Counter(row["state"] for row in run_dbitest(library, cluster, tmp_path / "rows.tsv"))
    assert counts["passed"] / counts.total() >= DBITEST_SHARE


def test_each_dbitest_that_is_not_run_names_its_limit_and_the_test_that_shows_it():
    tests = "\n".join(path.read_text() for path in (SOURCE / "tests" / "testthat").glob("test-*.R"))
    rows = skip_list()
    assert rows
    assert len({row["test"] for row in rows}) == len(rows)
    for row in rows:
        assert row["limit"], row
        assert f'"{row["reproduced_by"]}"' in tests, row


@pytest.mark.cluster
def test_a_million_rows_come_and_go_unchanged(library, cluster, tmp_path):
    out = tmp_path / "transfer.json"
    done = r(
        "Rscript",
        str(HERE / "transfer.R"),
        str(out),
        R_LIBS=str(library),
        RPICLUSTER_CONNECTION=str(cluster.connection_path),
        RPICLUSTER_PYTHON=sys.executable,
    )
    assert out.exists(), done.stdout + done.stderr
    figures = json.loads(out.read_text())
    print(figures)
    assert figures["same"] is True
    # R's own share does not depend on how busy the cluster is; the whole is measured by the benchmarks.
    assert figures["down_r_cpu_s"] <= 2
    assert figures["up_r_cpu_s"] <= 4
