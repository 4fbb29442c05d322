"""Load the recorded and written answers of tests/cases/facts."""

import json
import os
from pathlib import Path

from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.ssh.exchange import ClockProbe
from rpicluster.nodes.ssh.machine import read_machine

MARK = "MARK"
FOLDER = Path(__file__).parents[1] / "cases" / "facts"
NAMES = sorted(path.parent.name for path in FOLDER.glob("*/answer.txt"))
REGENERATE = os.environ.get("RPICLUSTER_REGENERATE") == "1"
ORIGINS = ("recorded", "written from documentation")


def origin(name: str) -> dict[str, object]:
    """Return where a case's answer comes from."""
    document: dict[str, object] = json.loads((FOLDER / name / "origin.json").read_text())
    return document


def answer(name: str) -> str:
    """Return what a node sent."""
    return (FOLDER / name / "answer.txt").read_text()


def facts(name: str) -> MachineFacts:
    """Return a case's facts as they are read now."""
    probe = json.loads((FOLDER / name / "origin.json").read_text())["probe"]
    return read_machine(answer(name), MARK, ClockProbe(**probe))


def expected_file(name: str) -> Path:
    """Return the file that holds a case's wanted facts."""
    return FOLDER / name / "expected.json"
