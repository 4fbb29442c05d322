"""What a script needs, found without running it."""

import shutil
import subprocess

import pytest

from rpicluster.errors import UsageError
from rpicluster.model.scripts import (
    R_PARSER,
    Door,
    Language,
    Needs,
    door_of,
    language_of,
    python_needs,
    r_needs_from_parser,
    r_needs_from_text,
)

R_SCRIPT = """\
library(dplyr); library("DBI", quietly = TRUE)
# library(nope)
require(jsonlite)
x <- stats::lm
y <- data.table::fread("a # library(b) ggplot2::qplot")
p <- "zoo"; library(p, character.only = TRUE)
if (requireNamespace("xgboost", quietly = TRUE)) xgb <- 1
base::library(rpicluster); con <- DBI::dbConnect(rpicluster::rpi())
f <- function(x, ...) x[, 1]
library(help = "foo")
suppressPackageStartupMessages({
  library(tidyr)
})
"""
WANTED = ("DBI", "data.table", "dplyr", "jsonlite", "rpicluster", "tidyr")


def by_r(source: str, folder) -> str:
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    path = folder / "a script.R"
    path.write_text(source, encoding="utf-8")
    done = subprocess.run(
        ["Rscript", "--vanilla", "-e", R_PARSER, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


def test_rs_own_parser_finds_what_a_script_loads(tmp_path):
    assert r_needs_from_parser(by_r(R_SCRIPT, tmp_path), "a.R") == Needs(WANTED, ("xgboost",))


def test_without_r_patterns_find_the_same_and_say_that_they_are_patterns():
    assert r_needs_from_text(R_SCRIPT) == Needs(WANTED, ("xgboost",), exact=False)


def test_a_package_that_is_asked_for_and_used_is_needed_only_where_it_is_loaded_as_well(tmp_path):
    asked = 'if (requireNamespace("xgboost")) xgboost::xgb.train()\n'
    assert r_needs_from_parser(by_r(asked, tmp_path), "a.R") == Needs((), ("xgboost",))
    assert r_needs_from_parser(by_r(asked + "library(xgboost)\n", tmp_path), "a.R") == Needs(("xgboost",))


def test_what_is_no_r_is_told_with_its_line(tmp_path):
    with pytest.raises(UsageError, match=r"^a\.R:[23]:.*it is no R, and nothing was started"):
        r_needs_from_parser(by_r("x <- 1\ny <- (\n", tmp_path), "a.R")


def test_names_that_are_none_never_reach_a_command(tmp_path):
    source = 'library("--help"); library("a;b"); library("x"); `$(id)`::f'
    assert r_needs_from_parser(by_r(source, tmp_path), "a.R") == Needs(())


def test_pythons_own_modules_and_those_beside_the_script_are_not_looked_for():
    source = (
        "import os, numpy.linalg\nfrom helpers import x\nfrom . import y\nfrom pyspark.sql import functions\n"
    )
    assert python_needs(source, "a.py", frozenset({"helpers"})) == Needs(("numpy", "pyspark"))


def test_an_import_that_may_fail_is_optional():
    source = "try:\n    import polars\nexcept ImportError: 1\ntry:\n    import xz\nexcept KeyError: 1\n"
    assert python_needs(source, "a.py") == Needs(("xz",), ("polars",))


def test_what_is_no_python_is_told_with_its_line():
    with pytest.raises(UsageError, match=r"a\.py:2 is no Python: .*nothing was started"):
        python_needs("x = 1\ny = (\n", "a.py")


@pytest.mark.parametrize("name", ["a.sh", "a", "R", "a.Rmd", "a.py.txt"])
def test_other_languages_are_refused(name):
    with pytest.raises(UsageError, match="neither an R script nor a Python script"):
        language_of(name)


@pytest.mark.parametrize(
    ("language", "packages", "door"),
    [
        (Language.R, ("rpicluster", "dplyr"), Door.CONNECT),
        (Language.R, ("dplyr",), Door.NONE),
        (Language.PYTHON, ("pyspark", "rpicluster"), Door.SUBMIT),
        (Language.PYTHON, ("rpicluster",), Door.CONNECT),
        (Language.PYTHON, ("numpy",), Door.NONE),
    ],
)
def test_the_door_follows_from_what_is_loaded(language, packages, door):
    assert door_of(language, Needs(packages)) is door
