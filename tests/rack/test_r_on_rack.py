"""R on nodes of a rack: a package of Debian's and some that the test builds, changed, lost, taken away."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_tools import ClusterUnderTest, inventories, not_of_packages
from rack_tools import RackUnderTest

from rpicluster import rpackage
from rpicluster.nodes.remote.removal import difference

sys.path.insert(0, str(Path(__file__).parents[1] / "r"))
import cran_repository as cran

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

NAME = "r-nodes"
UNITS = {"pi1": ("namenode", "resourcemanager", "session-pi"), "pi2": ("datanode", "nodemanager")}
# What R and its compilers bring as Debian packages, which `destroy` keeps.
OF_R = ("/var/log/fontconfig.log", "/usr/local/lib/R", "/etc/R", "/etc/", "/usr/local/")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("R") is None:
        pytest.skip("R is not installed: sudo apt-get install r-base-core")
    folder = tmp_path_factory.mktemp("cran")
    plain = cran.write_package(
        folder / "sources",
        "rpionly",
        "0.1",
        fields="Imports: digest\nNeedsCompilation: no\n",
        code="one <- function() nchar(digest::digest(1))\n",
        exports="export(one)\nimportFrom(digest, digest)\n",
    )
    packages = [*cran.tiny_packages(folder / "sources"), plain]
    with cran.served(cran.build_repository(folder / "repository", packages)) as url:
        yield url


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> Iterator[ClusterUnderTest]:
    rack = make_rack(NAME)
    rack.run("up", "--nodes", "4G,2G")
    found = ClusterUnderTest(rack, inventories(rack, UNITS), UNITS)
    yield found
    found.spec_path.unlink(missing_ok=True)  # `rack down` keeps one that was edited


def ask_for(cluster: ClusterUnderTest, repository: str, *packages: str) -> None:
    """Write `r:` into cluster.yml, or take it out where no package is named."""
    kept = cluster.spec_path.read_text().partition("\nr:")[0].rstrip("\n") + "\n"
    r = f"r: {{packages: [{', '.join(packages)}], repository: '{repository}'}}\n" if packages else ""
    cluster.spec_path.write_text(kept + r)


def rscript(cluster: ClusterUnderTest, node: str, expression: str) -> str:
    """What R says in a login shell of a node."""
    return cluster.on(node, "bash", "-lc", f"Rscript -e '{expression}' 2>/dev/null", timeout=120)


def steps(cluster: ClusterUnderTest) -> list[tuple[str, str, str]]:
    plan = cluster.rpicluster("plan", "--json")
    return [(step["action"], step["node"], step["target"]) for step in json.loads(plan)["steps"]]


def test_up_brings_r_with_debians_package_and_one_from_source(
    cluster: ClusterUnderTest, repository: str
) -> None:
    ask_for(cluster, repository, "digest", "rpionly")
    cluster.rpicluster("up", "--yes")
    for node in UNITS:
        assert rscript(cluster, node, 'cat(rpionly::one(), requireNamespace("rpicluster"))') == "32 TRUE"
        library = cluster.on(node, "ls", "/opt/rpicluster/r/library").split()
        assert library == ["rpicluster", "rpionly"], "digest is Debian's"
    assert steps(cluster) == []


def test_what_is_added_is_compiled_on_each_node_and_nothing_else_changes(
    cluster: ClusterUnderTest, repository: str
) -> None:
    before = cluster.pids()
    ask_for(cluster, repository, "digest", "rpiThrice")
    assert steps(cluster) == [("prepare", "pi1", "R"), ("prepare", "pi2", "R")]
    cluster.rpicluster("up", "--yes")
    assert rscript(cluster, "pi2", "cat(rpiThrice::thrice(14))") == "42"
    there = set(cluster.on("pi2", "ls", "/opt/rpicluster/r/library").split())
    assert there == {"rpicluster", "rpiThrice", "rpitwice"}
    owners = cluster.on("pi2", "sudo", "find", "/opt/rpicluster/r", "!", "-user", "root")
    assert owners == "", "built by another login, and root's"
    assert cluster.pids() == before, "no daemon and no session was restarted for it"
    assert steps(cluster) == []


def test_a_package_that_is_lost_on_a_node_is_found_and_brought_back(cluster: ClusterUnderTest) -> None:
    cluster.on("pi2", "sudo", "rm", "-rf", "/opt/rpicluster/r/library/rpiThrice")
    assert steps(cluster) == [("prepare", "pi2", "R")]
    found = json.loads(cluster.rpicluster("doctor", "--json", code=6))["findings"]
    lost = [finding for finding in found if finding["id"] == "r-missing"]
    assert [(finding["node"], finding["what"]) for finding in lost] == [
        ("pi2", "pi2 lacks R packages: rpiThrice")
    ]
    cluster.rpicluster("up", "--yes")
    assert rscript(cluster, "pi2", "cat(rpiThrice::thrice(1))") == "3"


def test_a_name_that_nobody_has_changes_nothing(cluster: ClusterUnderTest, repository: str) -> None:
    before = cluster.manifests()
    ask_for(cluster, repository, "digest", "rpithrice")
    cluster.rpicluster("up", "--yes", code=1)
    assert cluster.manifests() == before
    assert rscript(cluster, "pi2", "cat(rpiThrice::thrice(2))") == "6"


def test_a_project_on_the_laptop_gets_its_answer_from_the_nodes(
    cluster: ClusterUnderTest, tmp_path: Path
) -> None:
    if missing := rpackage.missing_packages():
        pytest.skip(f"R lacks {', '.join(missing)}")
    rpackage.install(tmp_path / "library")
    cluster.rpicluster("project", "flights")
    cluster.rpicluster("project", "new", str(tmp_path / "my-analysis"))
    done = subprocess.run(
        ["Rscript", "analysis.R"],
        cwd=tmp_path / "my-analysis",
        env={**cluster.rack.environment, "R_LIBS": str(tmp_path / "library")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ["1", "Frontier", "Airlines", "Inc.", "681", "21.9"] in [
        row.split() for row in done.stdout.splitlines()
    ]
    assert (tmp_path / "my-analysis" / "results" / "delay-by-hour.png").stat().st_size > 0


def test_r_taken_out_of_the_file_takes_its_library_along(cluster: ClusterUnderTest, repository: str) -> None:
    ask_for(cluster, repository)
    cluster.rpicluster("up", "--yes")
    assert cluster.on("pi2", "test ! -e /opt/rpicluster/r; echo $?") == "0"
    assert steps(cluster) == []
    ask_for(cluster, repository, "digest")


def test_destroy_leaves_nothing_but_debians_packages(cluster: ClusterUnderTest) -> None:
    cluster.rpicluster("destroy", "--confirm", NAME)
    after = inventories(cluster.rack, UNITS)
    for node, before in cluster.before.items():
        found = not_of_packages(difference(before, after[node]))
        assert [line for line in found if "rpi" in line or not line.partition(": ")[2].startswith(OF_R)] == []
