"""`up` broken off at every step of its journal, on fresh virtual Pis each time: the next `up` continues.

One case a journalled step: a new rack, `up`, a break when the step stands in the journal (SIGKILL mostly,
also Ctrl-C, a node that reboots, a cable that is pulled), `up` again. It passes when the second `up` ends
well, no completed step stands in the event log twice, and files, units, rules and logins are those of a run
that nobody disturbed. What passed on this commit is not run again.

    python tests/long/every_step.py             all cases
    python tests/long/every_step.py 1 17 30     these steps only
"""

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "rack"))

from breaking import Breaking, differences  # noqa: E402  beside the rack's tests
from rack_tools import RackUnderTest  # noqa: E402

# A shell ignores SIGINT in what it runs in the background, and `up` would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

PAGE = ROOT / "docs" / "reference" / "interruptions.md"
NAME = "every"
NODES = ("pi1", "pi2", "pi3")
MEMORY = "4G,2G,2G"
IDENTITY = "eeee0000"
WAYS = ("kill", "kill all", "Ctrl-C", "kill", "reboot pi2", "kill all", "unplug pi3")


@dataclass(frozen=True)
class Case:
    """One step at which `up` was broken off: what it was, how, and what became of it."""

    number: int
    step: str
    how: str
    passed: bool
    outcome: str
    seconds: float


class Matrix:
    """The cases of one commit; results are kept in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._scratch = tempfile.TemporaryDirectory(prefix="every-step-", dir="/tmp")
        environment = {
            **os.environ,
            "RPICLUSTER_STATE_DIR": self._scratch.name,
            "RPICLUSTER_NO_PROGRESS": "1",
        }
        self.rack = RackUnderTest(NAME, environment)
        self.cluster = Breaking(self.rack, NAME)

    def close(self) -> None:
        """Take the rack down."""
        if self.rack.directory.exists():
            self.rack.run("down")
        self._scratch.cleanup()

    def fresh(self) -> None:
        """Boot new nodes: three seconds, cheaper than `destroy`, and Java is not there again."""
        if self.rack.directory.exists():
            self.rack.run("down")
        self.rack.run("up", "--nodes", MEMORY, "--subnet", "10.77.240.0/24")
        self.cluster.begin(IDENTITY)

    def clean(self) -> tuple[dict[str, dict[str, str]], list[str]]:
        """Return the end state of an undisturbed run and its steps, from the record if there is one."""
        record = self.folder / "clean.json"
        if not record.exists():
            self.fresh()
            self.cluster.run("up", "--yes")
            steps = [" / ".join(step) for step in self.cluster.done()]
            record.write_text(json.dumps({"state": self.cluster.end_state(NODES), "steps": steps}))
        known = json.loads(record.read_text())
        return known["state"], known["steps"]

    def case(self, number: int, wanted: dict[str, dict[str, str]]) -> Case:
        """Run one case, or return its record if it passed before."""
        record = self.folder / f"step-{number:02}.json"
        if record.exists() and (known := Case(**json.loads(record.read_text()))).passed:
            return known
        chance = random.Random(number)
        how, delay = WAYS[number % len(WAYS)], chance.choice((0.0, chance.random()))
        begun, step = time.monotonic(), ""
        self.fresh()
        try:
            step = self.cluster.break_off(number, how, delay_s=delay)
            self.cluster.run("up", "--yes")
            wrong = [f"repeated: {what}" for what in self.cluster.repeated()]
            wrong += differences(wanted, self.cluster.end_state(NODES))
        except AssertionError as error:
            wrong = [str(error)]
        took = time.monotonic() - begun
        done = Case(number, step, f"{how}, {delay:.2f} s later", not wrong, "; ".join(wrong)[:2000], took)
        record.write_text(json.dumps(asdict(done), indent=1))
        return done


def run(folder: Path, at: str, numbers: Sequence[int] = ()) -> list[Case]:
    """Run the cases, all or those of `numbers`; write the page when every one has run on this commit."""
    matrix = Matrix(folder)
    try:
        wanted, steps = matrix.clean()
        # The last step is the end: nothing can be broken off behind it.
        chosen = list(numbers) or list(range(1, len(steps)))
        cases = []
        for number in chosen:
            cases.append(matrix.case(number, wanted))
            print(
                f"{number} of {len(steps) - 1}: {cases[-1].step}: {cases[-1].outcome or 'passed'}", flush=True
            )
    finally:
        matrix.close()
    if not numbers:
        write_page(cases, at)
    return cases


def write_page(cases: Sequence[Case], at: str) -> None:
    """Write the result table."""
    rows = [
        f"| {case.number} | {case.step} | {case.how} | {case.outcome or 'continued'} | {case.seconds:.0f} s |"
        for case in cases
    ]
    lines = [
        "# Where `up` was broken off",
        "",
        f"Made by `make test-long` on {time.strftime('%Y-%m-%d')} at commit {at}: {len(cases)} runs of `up` "
        f"on three fresh virtual Pis ({MEMORY}), each broken off when this step stood in the journal.",
        "*Continued* means: the next `up` ended well, no completed step stands in the event log twice, "
        "and files, units, rules and logins are those of a run that nobody disturbed.",
        "A virtual Pi loses no page cache when it is cut, so this says nothing of power cuts.",
        "",
        "| step | what was done last | how | outcome | took |",
        "|---|---|---|---|---|",
        *rows,
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    from run import RESULTS, commit

    found = run(RESULTS / commit() / "every-step", commit(), [int(word) for word in sys.argv[1:]])
    sys.exit(0 if all(case.passed for case in found) else 1)
