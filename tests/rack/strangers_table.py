"""docs/reference/strangers.md: what every probe got, written by the test that asked."""

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from members import Owned

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "strangers.md"
GENERATED = "<!-- what follows is written by tests/rack/test_strangers.py -->\n"
Answers = dict[str, list[Any]]


def write_page(answers: dict[str, Answers], owned: Owned) -> None:
    """Write the table with RPICLUSTER_REGENERATE=1; else fail when the page says something else."""
    rows = table(answers)
    head, _, old = PAGE.read_text(encoding="utf-8").partition(GENERATED)
    if os.environ.get("RPICLUSTER_REGENERATE"):
        PAGE.write_text(head + GENERATED + "\n".join(["", *rows, "", ran_on(owned)]) + "\n", encoding="utf-8")
        return
    kept = [line for line in old.splitlines() if line.startswith("|")]
    assert kept == rows, (
        "the page is of another run: RPICLUSTER_REGENERATE=1 pytest tests/rack/test_strangers.py"
    )


def table(answers: dict[str, Answers]) -> list[str]:
    """Return the table's lines."""
    lines = [
        "| probe | stock daemons | a stranger | an ordinary login | stock, IPv6 | a stranger, IPv6 |",
        "|---|---|---|---|---|---|",
    ]
    of_login = merged(answers["a login of pi1"], answers["a login of pi2"])
    columns = [answers["stock"], answers["a stranger"], of_login]
    columns += [answers["stock, IPv6"], answers["a stranger, IPv6"]]
    for name in answers["stock"]:
        lines.append(f"| {name} | " + " | ".join(word(column.get(name)) for column in columns) + " |")
    for name, (_, answer) in answers["through the tunnel"].items():
        lines.append(f"| {name}, through the owner's tunnel | got it | {word([False, answer])} | – | – | – |")
    for name, stock in answers["stock daemons"].items():
        lines.append(f"| {name} | {word(stock)} | {answers['ours daemons'][name][1]} | – | – | – |")
    return lines


def merged(one: Answers, other: Answers) -> Answers:
    """Return what both were answered; where they differ, both words."""
    return {
        name: one[name] if one[name] == other[name] else [False, f"{one[name][1]}, {other[name][1]}"]
        for name in one
    }


def word(answer: list[Any] | None) -> str:
    """Return a cell: what was got is not told, only that it was."""
    if answer is None:
        return "–"
    return "got it" if answer[0] else str(answer[1]).removeprefix("NotGot: ")


def ran_on(owned: Owned) -> str:
    """Return where and on what this was run."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    system = owned.rack.ssh("pi1", ". /etc/os-release; echo $PRETTY_NAME")
    return (
        f"Run on {time.strftime('%Y-%m-%d')} at commit {done.stdout.strip() or 'unknown'}: a rack of "
        f"4G,2G,2G ({system}), stock daemons of the same runtime and a stranger in namespaces on its bridge, "
        f"one {platform.machine()} machine with Linux {platform.release()}."
    )
