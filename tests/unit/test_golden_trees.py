"""Every rendered byte of four clusters.

After a wanted change: RPICLUSTER_REGENERATE=1, then read the git diff.
"""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import rendering_cases as cases


@pytest.mark.parametrize("case", cases.NAMES)
def test_a_cluster_renders_to_the_very_bytes_of_its_golden_tree(case: str) -> None:
    if cases.REGENERATE:
        cases.regenerate(case)
        pytest.skip("regenerated: read the git diff")
    wanted, now = cases.expected(case), cases.tree(cases.rendered(case))
    assert sorted(now) == sorted(wanted)
    differences = [
        cases.diff(wanted[path].decode(), now[path].decode(), path)
        for path in sorted(now)
        if now[path] != wanted[path]
    ]
    assert not differences, "\n" + "\n".join(differences)


@pytest.mark.parametrize("case", cases.NAMES)
def test_rendering_twice_gives_the_same_bytes(case: str) -> None:
    assert cases.tree(cases.rendered(case)) == cases.tree(cases.rendered(case))


def test_the_hardware_mixes_that_were_promised_have_golden_trees() -> None:
    assert {"local-4g", "local-demo", "pi4-3x4g", "mixed-2-4-8-16"} <= set(cases.NAMES)
