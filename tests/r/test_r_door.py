"""sparklyr through a real gateway: skipped where R has no sparklyr. Cutting the way needs root besides."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import cuts
from gateway import Gateway, free_ports
from test_r_package import library, missing_packages, r, run_testthat  # noqa: F401  a fixture

pytestmark = [pytest.mark.r, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def sparklyr() -> str:
    """The R library that sparklyr is in."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed: sudo apt-get install r-base-core")
    if missing_packages(("sparklyr",)):
        pytest.skip('R lacks sparklyr, which only CRAN has: install.packages("sparklyr")')
    return r("Rscript", "--vanilla", "-e", 'cat(dirname(system.file(package = "sparklyr")))').stdout


def with_libraries(*libraries: str | Path) -> str:
    return os.pathsep.join([*map(str, libraries), os.environ.get("R_LIBS", "")])


@pytest.fixture(scope="module")
def gateway(
    runtime, java_home, sparklyr, in_r, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    """A gateway that a first client has warmed."""
    found = Gateway(runtime, java_home, sparklyr, tmp_path_factory.mktemp("door"), free_ports())
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="module")
def in_r(sparklyr, library) -> Iterator[None]:  # noqa: F811
    """R finds the package under test, sparklyr, and this Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R_LIBS", with_libraries(library, sparklyr))
        patch.setenv("RPICLUSTER_PYTHON", sys.executable)
        yield


def test_sparklyr_works_through_rpi_connect(gateway, library, tmp_path):  # noqa: F811
    rows = run_testthat(
        Path(with_libraries(library)),
        tmp_path / "rows.json",
        "^sparklyr",
        invert=False,
        RPICLUSTER_CONNECTION=str(gateway.document),
    )
    assert len(rows) >= 9
    assert [row["test"] for row in rows if row["skipped"]] == []


@pytest.mark.long
def test_no_cut_hangs_and_each_is_a_condition_in_time(runtime, sparklyr, in_r):
    if os.geteuid() != 0 or not shutil.which("nft"):
        pytest.skip("a network namespace needs root and nft")
    rows = cuts.measure(sparklyr, cuts.OPERATIONS)
    assert len(rows) == len(cuts.OPERATIONS) * len(cuts.LIMITS_S)
    assert cuts.beyond(rows) == []
