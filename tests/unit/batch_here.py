"""Runs on this machine, without a cluster: scripts that need no Spark. As a program: a client to kill."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rendering_cases import load

from rpicluster.design.inputs import Inputs
from rpicluster.nodes.runs.local import LocalMachine
from rpicluster.sites.batch import Runs
from rpicluster.sites.batch_checks import read_script

DRIVERS = 3  # one for the warm session


def inputs() -> Inputs:
    case = load("local-demo")
    nodes = {
        name: node.model_copy(update={"python": sys.executable})
        for name, node in case.placement.nodes.items()
    }
    placement = case.placement.model_copy(update={"nodes": nodes})
    return Inputs.checked(case.spec, replace(case.sizes, sessions_max=DRIVERS), placement)


def runs_in(folder: Path) -> Runs:
    return Runs(
        LocalMachine("manager", sys.executable),
        user="ana",
        root=str(folder / "runs-ana"),
        state=folder / "state",
        inputs=inputs,
        is_local=True,
    )


def silent(*_: object) -> None:
    """Say nothing."""


def start(runs: Runs, folder: Path, source: str, *arguments: str, say: Callable[[str], None] = silent) -> str:
    script = folder / "script.py"
    script.write_text(source, encoding="utf-8")
    return runs.start(read_script(script), arguments, say=say)


def shown(block: bytes) -> None:
    sys.stdout.buffer.write(block)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    here = Path(sys.argv[1])
    mine = runs_in(here)
    mine.follow(start(mine, here, sys.argv[2]), show=shown, say=silent)
