"""docs/reference/settings.md is generated; RPICLUSTER_REGENERATE=1 writes it."""

import sys
from pathlib import Path

import pytest

from rpicluster.design.settings_page import settings_page

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import REGENERATE, diff, load

PAGE = Path(__file__).parents[2] / "docs/reference/settings.md"


def test_the_page_of_settings_is_what_is_rendered() -> None:
    now = settings_page(load("pi4-3x4g"), "pi1", "pi4-3x4g")
    if REGENERATE:
        PAGE.write_text(now)
        pytest.skip("regenerated: read the git diff")
    assert PAGE.read_text() == now, "\n" + diff(PAGE.read_text(), now, "settings.md")
