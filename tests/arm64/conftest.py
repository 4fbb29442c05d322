"""The programs of this folder take minutes each; they run with `make test-arm64` alone."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # --import-mode=importlib adds no folder by itself

from foreign import ensure_root, why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    mine = [item for item in items if item.path.is_relative_to(here)]
    reason = why_not() if mine else None
    for item in mine:
        item.add_marker(pytest.mark.arm64)
        item.add_marker(pytest.mark.long)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"no arm64 here: {reason}"))


@pytest.fixture(scope="session")
def debian() -> Path:
    """A Debian for arm64."""
    return ensure_root()
