"""The analysis of analysis.R, by sparklyr or in plain R: what it found, and where two of them differ."""

import json
import math
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("analysis.R")
TIMEOUT_S = 900
# R is a shell script: these are on its PATH, and no Java.
TOOLS = ("R", "Rscript", "sh", "bash", "uname", "sed", "rm", "dirname", "basename", "cat", "which", "env")


def path_without_java(folder: Path, *more: str) -> str:
    """Fill a folder with what R needs on its PATH, and with `more`; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*TOOLS, *more):
        program = shutil.which(name)
        if program is not None:
            (folder / name).symlink_to(program)
    return str(folder)


def analysis(where: str, environment: Mapping[str, str], cwd: Path) -> dict[str, Any]:
    """Run the analysis `plain` or on a cluster; what it found by name."""
    done = subprocess.run(
        ["Rscript", str(SCRIPT), where],
        env={k: v for k, v in environment.items() if k not in ("JAVA_HOME", "SPARK_HOME")},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def in_plain_r(cwd: Path) -> dict[str, Any]:
    """Run the analysis with this machine's R alone."""
    return analysis("plain", os.environ, cwd)


def same(one: Any, other: Any) -> bool:
    """Return whether two results are equal, numbers to six digits."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
    return bool(one == other)


def different(on_cluster: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """Return the figures of plain R that the cluster has otherwise, each with both values."""
    return [
        f"{name}: {on_cluster.get(name)} on the cluster, {value} in plain R"
        for name, value in plain.items()
        if not same(on_cluster.get(name), value)
    ]
