"""The page on facts names every fact, and every section of the script is read."""

import re
from pathlib import Path

from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.ssh.failures import Cause

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reference" / "facts.md").read_text()
SOURCE = ROOT / "src" / "rpicluster" / "nodes" / "ssh"


def test_every_fact_stands_in_the_table_and_nothing_else_does() -> None:
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == set(MachineFacts.model_fields)


def test_every_cause_that_can_be_met_is_named() -> None:
    spelled = {
        Cause.TIMEOUT: "no answer,",
        Cause.UNKNOWN: "What goes wrong",
        Cause.WRONG_USER: "another user wanted",
    }
    spelled[Cause.CONFIGURATION] = "broken configuration"
    flat = " ".join(PAGE.split())
    assert [cause for cause in Cause if spelled.get(cause, cause.value) not in flat] == []


def test_every_section_that_a_node_sends_is_read() -> None:
    sent = set(
        re.findall(
            r"^\s*section ([\w-]+)",
            (SOURCE / "facts.sh").read_text() + (SOURCE / "root.sh").read_text(),
            re.M,
        )
    )
    reader = (SOURCE / "machine.py").read_text()
    assert {name for name in sent if f'"{name}"' not in reader} == set()
    assert len(sent) > 35
