"""`make test-long`: what takes too long for the gate. A case that passed on this commit is not run again.

Results are kept below results/long, and docs/reference/long-tests.md is written from them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import clean_clone
import every_step
from clean_clone import Step

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "long"
PAGE = ROOT / "docs" / "reference" / "long-tests.md"
CACHE_VARIABLE = "RPICLUSTER_LONG_CACHE"
ORDERS = (("make demo", "make test"), ("make test", "make demo"))


def commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def marked_long() -> list[Step]:
    """Run the tests that are marked `long` here, on this machine."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "long and not arm64"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout)
    lines = done.stdout.strip().splitlines()
    return [Step("pytest -m long", done.returncode == 0, time.monotonic() - started, lines[-1])]


def clean_clones(order: tuple[str, ...], logs: Path) -> list[Step]:
    """Run commands one after the other in one clean root."""
    return clean_clone.run(order, Path(os.environ.get(CACHE_VARIABLE, RESULTS)), logs)


def broken_off(at: str) -> list[Step]:
    """Kill `up` at every step of its journal; each case that passed is on record by itself."""
    started = time.monotonic()
    cases = every_step.run(RESULTS / at / "every-step", at)
    passed = sum(case.passed for case in cases)
    last = f"{passed} of {len(cases)} continued, see interruptions.md"
    return [Step("up, killed, up", passed == len(cases), time.monotonic() - started, last)]


def run_case(name: str, run: Callable[[], list[Step]], at: str) -> list[Step]:
    """Return the steps of one case, from its record if it passed before on this commit."""
    record = RESULTS / at / f"{name.replace(' ', '-')}.json"
    if record.exists():
        steps = [Step(**fields) for fields in json.loads(record.read_text())]
        if all(step.passed for step in steps):
            print(f"{name}: passed before")
            return steps
    steps = run()
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps([asdict(step) for step in steps], indent=1))
    return steps


def main() -> int:
    if os.geteuid() != 0 or not Path("/usr/sbin/debootstrap").exists():
        print("error: needs root and debootstrap\n\nhint: sudo apt-get install debootstrap", file=sys.stderr)
        return 2
    at = commit()
    runs: dict[str, Callable[[], list[Step]]] = {
        " then ".join(order): partial(clean_clones, order, RESULTS / at / "logs") for order in ORDERS
    }
    runs["up broken off at every step"] = partial(broken_off, at)
    runs["the tests marked long"] = marked_long
    done: dict[str, list[Step]] = {}
    for name, run in runs.items():
        done[name] = run_case(name, run, at)
        write_page(done, at)  # what has passed is on record, whatever comes next
    return 0 if all(step.passed for steps in done.values() for step in steps) else 1


def write_page(done: dict[str, list[Step]], at: str) -> None:
    """Write the result table of the cases that were run."""
    rows = [
        f"| {name} | `{step.command}` | {'passed' if step.passed else 'FAILED'} "
        f"| {step.seconds:.0f} s | `{step.last_line}` |"
        for name, steps in done.items()
        for step in steps
    ]
    lines = [
        "# Long tests",
        "",
        f"Made by `make test-long` on {time.strftime('%Y-%m-%d')} at commit {at}. The orders ran in a clean "
        f"clone inside a debootstrapped {clean_clone.RELEASE} minbase with "
        f"{clean_clone.INCLUDED.replace(',', ', ')}.",
        "",
        "| case | step | outcome | took | last line |",
        "|---|---|---|---|---|",
        *rows,
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
