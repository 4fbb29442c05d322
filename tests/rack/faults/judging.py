"""What a fault is, what a right answer to it is, and the page that keeps the results.

Written from outside: nothing here knows the names of doctor's findings, only what somebody who knows Pis and
Hadoop would want to read.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "reference" / "doctor-faults.md"
ANSWER_CHARACTERS = 150


@dataclass(frozen=True)
class Expected:
    """A fault as its finder wants it named.

    `nodes`: one of them must be the finding's node, or stand in its words if it is about the whole cluster.
    `says`: expressions, all of which must be found in what, cause and evidence of one finding. No expression:
    a near miss, about which doctor must stay silent. `also`: nodes on which consequences may be told, too.
    """

    name: str
    story: str
    nodes: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    note_is_enough: bool = False
    also: tuple[str, ...] = ()
    anywhere: bool = False  # a finding about the whole cluster need not name a node

    @property
    def is_near_miss(self) -> bool:
        return not self.says


@dataclass
class Report:
    """One `doctor --json`."""

    code: int
    document: dict[str, Any]

    @property
    def findings(self) -> list[dict[str, Any]]:
        return list(self.document["findings"])

    @property
    def everything(self) -> list[dict[str, Any]]:
        return [*self.document["findings"], *self.document["notes"]]

    def keys(self) -> set[tuple[str | None, str, str]]:
        return {key(found) for found in self.findings}

    def new(self, before: "Report", *, notes: bool = False) -> list[dict[str, Any]]:
        """Return what was not said before."""
        known = {key(found) for found in before.everything}
        return [found for found in (self.everything if notes else self.findings) if key(found) not in known]


def key(found: dict[str, Any]) -> tuple[str | None, str, str]:
    """Return what makes two findings the same; figures in their words change from run to run."""
    return found["node"], found["id"], re.sub(r"(?<![A-Za-z\d])[\d.]+", "0", found["what"])


def words(found: dict[str, Any]) -> str:
    evidence = found["evidence"] if isinstance(found["evidence"], list) else [str(found["evidence"])]
    return "\n".join([found["what"], found["cause"], *evidence])


@dataclass
class Verdict:
    """What became of one fault."""

    expected: Expected
    right: dict[str, Any] | None = None
    instead: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not self.instead if self.expected.is_near_miss else self.right is not None

    def line(self) -> str:
        """Return what doctor said, in one line."""
        if self.right is not None:
            return one_line(self.right)
        return "; ".join(one_line(found) for found in self.instead) or "nothing"


def one_line(found: dict[str, Any]) -> str:
    text = " ".join(f"{found['node'] or 'the cluster'}: {found['what']}".split())
    text = re.sub(r"/\S*pytest-of-\S*?/racks\d*/", "…/racks/", text)
    return text if len(text) <= ANSWER_CHARACTERS else text[: ANSWER_CHARACTERS - 1] + "…"


def judge(expected: Expected, report: Report, before: Report) -> Verdict:
    """Say whether a fault was named."""
    verdict = Verdict(expected)
    told = report.new(before, notes=expected.note_is_enough)
    if expected.is_near_miss:
        verdict.instead = [f for f in told if f["node"] is None or f["node"] in expected.nodes]
        return verdict
    for found in told:
        text = words(found)
        about = found["node"] in expected.nodes or (
            found["node"] is None
            and (expected.anywhere or any(re.search(rf"\b{node}\b", text) for node in expected.nodes))
        )
        if about and all(re.search(each, text, re.IGNORECASE) for each in expected.says):
            verdict.right = found
            return verdict
    verdict.instead = [f for f in told if f["node"] is None or f["node"] in expected.nodes]
    return verdict


def false_alarms(
    report: Report, before: Report, injected: Iterable[Expected], extra: Sequence[str] = ()
) -> list[str]:
    """Return what was newly said of nodes to which nothing was done."""
    touched = {node for fault in injected for node in (*fault.nodes, *fault.also)} | set(extra)
    return [one_line(f) for f in report.new(before) if f["node"] is not None and f["node"] not in touched]


# -- the page --------------------------------------------------------------------------------------------


def begin(section: str) -> str:
    return f"<!-- {section}: written by the tests with RPICLUSTER_REGENERATE=1 -->"


def keep(section: str, verdicts: dict[str, Verdict], order: Sequence[Expected], where: str) -> None:
    """With RPICLUSTER_REGENERATE=1 write the rows of the faults that ran into the page's section."""
    if not os.environ.get("RPICLUSTER_REGENERATE"):
        return
    head, mark, rest = PAGE.read_text(encoding="utf-8").partition(begin(section) + "\n")
    assert mark, f"{PAGE} has no section {section}"
    old, end, tail = rest.partition("<!-- end -->")
    rows = {line.split(" | ")[0]: line for line in old.splitlines() if line.startswith("| ")}
    rows.update({f"| {name}": row(verdict, where) for name, verdict in verdicts.items()})
    kept = [rows[f"| {each.name}"] for each in order if f"| {each.name}" in rows]
    table = ["| fault | where | what was done | named right | what doctor said |", "|---|---|---|---|---|"]
    PAGE.write_text(
        "\n".join([head + begin(section), *table, *kept, "", summary(kept), "", end + tail]), encoding="utf-8"
    )


def summary(rows: Sequence[str]) -> str:
    """Return the line that counts; near misses are told apart."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rows]
    named = [line[3] for line in cells if line[3] in ("yes", "**no**")]
    silent = [line[3] for line in cells if line[3] in ("silent", "**false alarm**")]
    return (
        f"{named.count('yes')} of {len(named)} faults named right; "
        f"{silent.count('silent')} of {len(silent)} near misses left alone. On {version()}."
    )


def row(verdict: Verdict, where: str) -> str:
    fault = verdict.expected
    if fault.is_near_miss:
        result = "silent" if verdict.is_right else "**false alarm**"
    else:
        result = "yes" if verdict.is_right else "**no**"
    said = "" if fault.is_near_miss and verdict.is_right else verdict.line()
    cells = (fault.name, where, fault.story, result, said)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def version() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "an unknown version"


def read_report(code: int, out: str, err: str) -> Report:
    assert code in (0, 4, 6), f"doctor: {code}\n{out}\n{err}"
    assert "Traceback" not in err, err
    return Report(code, json.loads(out))
