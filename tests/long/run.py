"""`make test-long`: what takes too long for the gate. A case that passed on this commit is not run again.

Results are kept below results/long, and docs/reference/long-tests.md is written from them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import clean_clone

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


def run_case(order: tuple[str, ...], at: str) -> list[dict[str, object]]:
    """Return the steps of one case, from its record if it passed before on this commit."""
    record = RESULTS / at / f"{'-then-'.join(order).replace(' ', '-')}.json"
    if record.exists():
        steps: list[dict[str, object]] = json.loads(record.read_text())
        if all(step["passed"] for step in steps):
            print(f"{' then '.join(order)}: passed before")
            return steps
    cache = Path(os.environ.get(CACHE_VARIABLE, RESULTS))
    steps = [step.__dict__ for step in clean_clone.run(order, cache, record.parent / "logs")]
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(steps, indent=1))
    return steps


def main() -> int:
    if os.geteuid() != 0 or not Path("/usr/sbin/debootstrap").exists():
        print("error: needs root and debootstrap\n\nhint: sudo apt-get install debootstrap", file=sys.stderr)
        return 2
    at = commit()
    cases = [(order, run_case(order, at)) for order in ORDERS]
    rows = [
        f"| {' then '.join(order)} | {step['command']} | {'passed' if step['passed'] else 'FAILED'} "
        f"| {step['seconds']:.0f} s | `{step['last_line']}` |"
        for order, steps in cases
        for step in steps
    ]
    lines = [
        "# Long tests",
        "",
        f"Made by `make test-long` on {time.strftime('%Y-%m-%d')} at commit {at}: a clean clone inside a "
        f"debootstrapped {clean_clone.RELEASE} minbase with {clean_clone.INCLUDED.replace(',', ', ')}.",
        "",
        "| case | step | outcome | took | last line |",
        "|---|---|---|---|---|",
        *rows,
    ]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if all(step["passed"] for _, steps in cases for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
