"""The page on the doctor says what the registry has, and how each kind was tried."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import doctor_cases as cases
import facts_cases

from rpicluster.health.findings.finding import PAGE
from rpicluster.health.findings.registry import KINDS, diagnose

ROOT = Path(__file__).parents[2]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_kind_has_an_anchor_a_title_and_a_sentence() -> None:
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    for kind in KINDS:
        assert f"\n### {kind.id}\n" in page
        assert kind.title[0].isupper() and not kind.title.endswith("."), kind.id
        assert kind.doc.endswith("."), kind.id


def test_how_a_kind_was_tried_names_kinds_that_there_are() -> None:
    ids = {kind.id for kind in KINDS}
    assert ids >= generator().ON_RACK
    assert ids >= generator().IN_FIXTURES


def test_what_is_called_tried_on_fixtures_is_found_in_them() -> None:
    found = set()
    for name in facts_cases.NAMES:
        found |= {
            f.id
            for f in diagnose(
                cases.SPEC, {"pi2": facts_cases.facts(name)}, on=cases.paste, year_month=cases.TODAY
            )
        }
    machines = dict(
        zip(
            cases.NODES,
            map(facts_cases.facts, ("pi4-rpios-bookworm", "pi4-rpios-trixie", "x86-debian-12")),
            strict=True,
        )
    )
    found |= {finding.id for finding in diagnose(cases.SPEC, machines, on=cases.paste)}
    assert found >= generator().IN_FIXTURES
