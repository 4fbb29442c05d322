"""What a plan says of R on nodes: only what differs, and nothing where nothing does."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import rendering_cases

from rpicluster.design import layout
from rpicluster.design.accounts import directories, system_users
from rpicluster.design.cran import Need, Offer, SourcePackage, read_index
from rpicluster.design.environment_files import PROFILE, environment_files
from rpicluster.design.inputs import Inputs
from rpicluster.design.plan import Action, Step
from rpicluster.design.spark_files import spark_defaults
from rpicluster.errors import SpecError
from rpicluster.model.machine import MachineFacts, RInstallation, RPackage
from rpicluster.model.spec import RSpec
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.remote.bundle import NodeWork
from rpicluster.nodes.remote.r_work import (
    RRequest,
    is_r,
    offers_of,
    pins_of,
    r_of,
    r_steps,
    variables,
    with_pins,
)
from rpicluster.nodes.ssh.read_system import read_r
from rpicluster.sites.r_packages import r_request

TEXT = """
name: lab
nodes:
  - {{name: pi1, ssh: {{host: pi1.lan}}}}
  - {{name: pi2, ssh: {{host: pi2.lan}}}}
r: {r}
"""
URL = "https://cran.example.org"
OWN = SourcePackage("rpicluster", "0.1.0", (), False, sha256="f" * 64)


def wanted(*packages: str, repository: str = URL) -> RRequest:
    return RRequest(packages, repository, OWN)


def node(
    request: RRequest | None, *, r: str = "4.2.2", built: str = "4.2.2", without: str = "", **sources: Any
) -> RInstallation:
    """R on a node where a request was fulfilled."""
    names = (*(request.packages if request else ()), "rpicluster")
    packages = {
        name: RPackage(version="1.0", built=built, library=layout.R_LIBRARY)
        for name in names
        if name != without
    }
    done = {"schema": 1, "request": request.document, "sources": sources} if request else {}
    return RInstallation(version=r, packages=packages, done=done)


def reason(request: RRequest | None, there: RInstallation | None) -> str:
    steps = r_steps(request, {"pi1": machine(there), "pi2": machine(there)}, {"pi2": "off"})
    assert [step.node for step in steps] in ([], ["pi1"]), "who does not answer gets no step"
    assert all(is_r(step) for step in steps)
    return steps[0].reason if steps else ""


def machine(r: RInstallation | None) -> MachineFacts:
    return MachineFacts(r=r)


def test_nothing_differs_where_the_same_was_done_and_is_all_there() -> None:
    assert reason(wanted("digest", "dplyr"), node(wanted("dplyr", "digest"))) == "", "the order says nothing"
    assert reason(wanted(), node(wanted())) == ""
    assert reason(None, None) == ""
    assert reason(None, node(None)) == "", "somebody's own R is left alone"


@pytest.mark.parametrize(
    ("request_", "there", "said"),
    [
        (wanted("digest"), None, "install R and digest"),
        (wanted(), None, "install R"),
        (wanted("digest"), node(None), "install rpicluster's R package and digest"),
        (wanted("a1", "b2"), node(wanted("a1")), "install b2"),
        (wanted("a1"), node(wanted("a1", "b2")), "no longer wanted: b2"),
        (wanted("a1"), node(wanted("a1"), without="a1"), "no longer there: a1"),
        (wanted("a1"), node(wanted("a1"), without="rpicluster"), "no longer there: rpicluster"),
        (wanted("a1"), node(wanted("a1", repository="https://other.example.org")), "another repository"),
        (wanted("a1"), node(wanted("a1"), r="4.5.0"), "built for R 4.2.2, which is 4.5.0 now"),
        (None, node(wanted("a1")), "remove rpicluster's R packages; Debian's stay"),
    ],
)
def test_a_step_says_what_differs(request_: RRequest | None, there: RInstallation | None, said: str) -> None:
    assert reason(request_, there) == said


def test_an_installation_that_broke_off_is_gone_on_with() -> None:
    there = node(wanted("a1"))
    broken = there.model_copy(update={"done": {**there.done, "broken_off": True}})
    assert reason(wanted("a1"), broken) == "go on where an installation broke off"


def test_another_version_of_our_own_package_is_a_step() -> None:
    newer = RRequest(("a1",), URL, SourcePackage("rpicluster", "0.1.0", sha256="e" * 64))
    assert reason(newer, node(wanted("a1"))) == "another version of rpicluster's own R package"


def test_a_new_last_part_of_rs_version_builds_nothing_again() -> None:
    assert reason(wanted("a1"), node(wanted("a1"), r="4.2.9")) == ""


def test_a_step_about_r_alone_does_not_prepare_the_node_again() -> None:
    work = NodeWork.of([Step(Action.PREPARE, "pi1", "R", "install b2")])
    assert not work.prepare
    assert NodeWork.of([Step(Action.PREPARE, "pi1", "node", "x")]).prepare


def test_a_node_that_gets_nothing_of_r_tells_the_role_nothing() -> None:
    assert all(not value for value in variables(None, "/x").values())


def test_apts_answer_is_read_by_rs_names() -> None:
    candidates = {
        "r-base-core": "4.2.2.20221110-2",
        "r-cran-data.table": "1.14.8+dfsg-1",
        "r-cran-odd": "git",
    }
    assert offers_of(candidates) == {"data.table": Offer("r-cran-data.table", "1.14.8")}
    assert r_of(machine(None), candidates) == "4.2.2.20221110"
    assert r_of(machine(node(None)), candidates) == "4.2.2", "what is there counts"
    assert r_of(machine(None), {}) is None


def test_a_node_that_joins_later_gets_the_version_that_the_others_have() -> None:
    about = {
        "version": "1.0",
        "sha256": "a" * 64,
        "needs": ["rpitwice (>= 1.0)"],
        "compiles": True,
        "path": "x_1.0.tar.gz",
    }
    there = node(wanted("x1"), x1=about)
    pins = pins_of({"pi1": machine(there), "pi2": None}, URL)
    assert pins["x1"].sha256 == "a" * 64
    assert pins["x1"].package.needs == (Need("rpitwice", ">=", "1.0"),)
    index = with_pins(read_index("Package: x1\nVersion: 2.0\n"), pins)
    assert [package.version for package in index["x1"]] == ["1.0", "2.0"]
    assert pins_of({"pi1": machine(there)}, "https://other.example.org") == {}, (
        "another repository: new versions"
    )


def test_facts_tell_which_of_several_libraries_counts_and_what_was_noted() -> None:
    found = read_r(
        "/opt/rpicluster/r/library/rlang:V:1.1.6\n/opt/rpicluster/r/library/rlang:B:4.2.2\n"
        "/usr/lib/R/site-library/rlang:V:1.0.6\n/usr/lib/R/site-library/rlang:B:4.2.1\n"
        "/usr/lib/R/library/base:V:4.2.2\n/usr/lib/R/library/base:B:4.2.2\n"
        '/opt/rpicluster/r/done.json:{"request": {"packages": ["a:b"]}}\n'
    )
    assert found is not None and found.series == "4.2"
    assert found.packages["rlang"] == RPackage(
        version="1.1.6", built="4.2.2", library="/opt/rpicluster/r/library"
    )
    assert found.done == {"request": {"packages": ["a:b"]}}
    assert read_r("") is None


# -- cluster.yml ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("r", "said"),
    [
        (
            "{packages: [data.table, 9lives]}",
            r"6:28: r\.packages\[1\]: '9lives' is not the name of an R package",
        ),
        ("{packages: [x.]}", "is not the name of an R package"),
        ("{packages: ['a; rm -rf /']}", "is not the name of an R package"),
        ("{packages: [stats]}", "'stats' is a part of R and always there"),
        ("{packages: [dplyr, dplyr]}", "'dplyr' is named twice"),
        ("{packages: dplyr}", "a list is needed here"),
        ("{package: [dplyr]}", "unknown key"),
        ("{repository: http://cran.example.org}", "is not a CRAN-like repository: https://"),
        ("{repository: 'https://me:secret@cran.example.org'}", "without a password in it"),
        ("{repository: 'https://cran.example.org/$(id)'}", "is not a CRAN-like repository"),
    ],
)
def test_what_is_wrong_below_r_is_said_in_the_words_of_the_file(r: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse_spec(TEXT.format(r=r))


@pytest.mark.parametrize(
    "repository",
    [
        "https://cran.example.org",
        "https://example.org:8443/cran/2025-01-01",
        "file:///srv/cran",
        "http://127.0.0.1:8000",
        "http://localhost/cran/",
    ],
)
def test_a_repository_is_reached_safely_or_lies_on_this_machine(repository: str) -> None:
    assert parse_spec(TEXT.format(r=f"{{repository: '{repository}'}}")).r is not None


def test_r_on_a_local_cluster_is_refused() -> None:
    with pytest.raises(SpecError, match="`r` is for nodes behind SSH"):
        parse_spec("name: lab\nnodes:\n  - {name: a, local: {memory: 1G}}\nr: {}\n")


def test_a_request_holds_our_own_package_as_the_same_bytes_each_time() -> None:
    spec = parse_spec(TEXT.format(r="{packages: [digest]}"))
    first, again = r_request(spec), r_request(spec)
    assert first is not None and again is not None
    assert first.own.sha256 == again.own.sha256 and len(first.own.sha256) == 64
    assert {"DBI", "reticulate"} <= {need.name for need in first.own.needs}
    assert r_request(parse_spec(TEXT.format(r="{}").replace("r: {}\n", ""))) is None


def test_executors_and_logins_look_in_our_library_and_then_in_debians_and_only_where_r_is_asked_for() -> None:
    inputs = rendering_cases.load("pi4-3x4g")
    with_r = replace(inputs, spec=inputs.spec.model_copy(update={"r": RSpec()}))
    libraries = "/opt/rpicluster/r/library:/usr/local/lib/R/site-library:/usr/lib/R/site-library"
    files = environment_files(with_r, "pi1")
    assert f"export R_LIBS_SITE={libraries}\n" in files[PROFILE].content.decode()
    assert {entry.key: entry.value for entry in spark_defaults(with_r)}[
        "spark.executorEnv.R_LIBS_SITE"
    ] == libraries
    assert [user.name for user in system_users(with_r, "pi2")][-1] == "rpi-build"
    assert "/opt/rpicluster/r" in [directory.path for directory in directories(with_r, "pi2")]
    assert b"R_LIBS" not in environment_files(inputs, "pi1")[PROFILE].content
    assert "rpi-build" not in [user.name for user in system_users(inputs, "pi2")]


def test_the_login_that_builds_is_no_persons() -> None:
    inputs = rendering_cases.load("pi4-3x4g")
    spec = inputs.spec.model_copy(update={"users": ("rpi-build",)})
    with pytest.raises(ValueError, match="'rpi-build' cannot have a session"):
        Inputs.checked(spec, inputs.sizes, inputs.placement)
