"""Racks for the tests: real ones, in a state folder of their own; base images come from the user's cache."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rpicluster.errors import RpiclusterError

sys.path.insert(0, str(Path(__file__).parent))  # --import-mode=importlib adds no folder by itself

from rack_tools import RackUnderTest, inventory, require_same


def why_no_rack() -> str | None:
    """Return why this machine holds no rack, None if it does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a rack needs Linux and root"
    from rpicluster.nodes.rack import cgroups, host

    try:
        host.require_tools()
        host.require_kernel()
        cgroups.host_layout()
    except RpiclusterError as error:
        return f"no rack on this machine: {error.message} ({error.hint})"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    mine = [item for item in items if item.path.is_relative_to(here)]
    reason = why_no_rack() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.rack)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def rack_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which all racks of the tests are made."""
    state = tmp_path_factory.mktemp("racks")
    return {**os.environ, "RPICLUSTER_STATE_DIR": str(state), "RPICLUSTER_NO_PROGRESS": ""}


@pytest.fixture(scope="module")
def make_rack(rack_environment: dict[str, str]) -> Iterator[Callable[[str], RackUnderTest]]:
    """Return racks by name; after the module they are taken down, and the machine is as it was before."""
    before = inventory()
    made: list[RackUnderTest] = []

    def make(name: str) -> RackUnderTest:
        made.append(RackUnderTest(name, rack_environment))
        return made[-1]

    yield make
    for rack in made:
        if rack.directory.exists():
            rack.run("down")
        assert not rack.directory.exists()
    shutil.rmtree(Path(rack_environment["RPICLUSTER_STATE_DIR"]) / "racks", ignore_errors=True)
    require_same(before, 15)
