"""sparklyr on virtual Pis through the tunnel: one script, data on both workers, the numbers of plain R."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_tools import ClusterUnderTest, inventories
from rack_tools import RackUnderTest

from rpicluster.errors import RpiclusterError
from rpicluster.runtime import sparklyr_jar

sys.path.insert(0, str(Path(__file__).parents[1] / "r"))
from analysis import analysis, different, in_plain_r, path_without_java

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

UNITS = {
    "pi1": ("namenode", "resourcemanager", "session-pi"),
    "pi2": ("datanode", "nodemanager"),
    "pi3": ("datanode", "nodemanager"),
}


@pytest.fixture(scope="module")
def cluster(make_rack: Callable[[str], RackUnderTest]) -> Iterator[ClusterUnderTest]:
    try:
        sparklyr_jar.find()
    except RpiclusterError as error:
        pytest.skip(f"no sparklyr to test with: {error.message}")
    rack = make_rack("analysis")
    rack.run("up", "--nodes", "4G,2G,2G")
    found = ClusterUnderTest(rack, inventories(rack, UNITS), UNITS)
    spec = found.spec_path
    spec.write_text(spec.read_text().rstrip("\n") + "\nr: {packages: [digest]}\n")
    found.rpicluster("up", "--yes")
    yield found
    spec.unlink(missing_ok=True)  # `rack down` keeps one that was edited


@pytest.fixture(scope="module")
def on_the_rack(
    cluster: ClusterUnderTest, r_libraries: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("laptop")
    tools = path_without_java(folder / "tools", "ssh")
    own = {"R_LIBS": r_libraries, "PATH": tools, "RPICLUSTER_PYTHON": sys.executable}
    environment = {**cluster.rack.environment, **own}
    return analysis(str(cluster.spec_path), environment, folder)


def test_the_same_script_finds_the_same_numbers_as_plain_r(
    on_the_rack: dict[str, Any], tmp_path: Path
) -> None:
    assert different(on_the_rack, in_plain_r(tmp_path)) == []


def test_the_named_package_of_spark_apply_ran_on_both_workers(on_the_rack: dict[str, Any]) -> None:
    assert sorted(on_the_rack["nodes"]) == ["pi2", "pi3"]
