"""Load and regenerate the golden trees of tests/cases."""

import difflib
import json
import os
from dataclasses import asdict
from pathlib import Path

from rpicluster.design.inputs import Inputs
from rpicluster.design.rendering import render
from rpicluster.design.sizing import size
from rpicluster.design.units import Rendered
from rpicluster.model.facts import ClusterFacts, Placement
from rpicluster.model.specfile import parse_spec

CASES = Path(__file__).parents[1] / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/cluster.yml"))
REGENERATE = os.environ.get("RPICLUSTER_REGENERATE") == "1"
KEEPER = {
    name: f"# The keeper's {name}: the caller passes it in.\n".encode() for name in ("__main__.py", "loop.py")
}

JAR = b"sparklyr's jar: the caller passes it in\n"


def load(case: str) -> Inputs:
    """Return the inputs of a case, checked."""
    directory = CASES / case
    spec = parse_spec((directory / "cluster.yml").read_text())
    facts = ClusterFacts.model_validate_json((directory / "facts.json").read_text())
    placement = Placement.model_validate_json((directory / "placement.json").read_text())
    return Inputs.checked(spec, size(spec, facts), placement)


def rendered(case: str) -> Rendered:
    """Return what a case renders to now."""
    inputs = load(case)
    return render(
        inputs.spec,
        inputs.sizes,
        inputs.placement,
        f"runtime-of-{case}",
        keeper_sources=KEEPER,
        sparklyr_jar=JAR,
    )


def tree(result: Rendered) -> dict[str, bytes]:
    """Return every file by `NODE/PATH`, with modes and units as files of their own.

    Absolute paths stand below `NODE/_root`.
    """
    files = {
        f"{node}/_root{path}" if path.startswith("/") else f"{node}/{path}": file.content
        for node, of_node in result.files.items()
        for path, file in of_node.items()
    }
    modes = {
        node: {path: oct(file.mode) for path, file in of_node.items()}
        for node, of_node in result.files.items()
    }
    files["modes.json"] = (json.dumps(modes, indent=1, sort_keys=True) + "\n").encode()
    units = [
        {key: value for key, value in asdict(unit).items() if (key, value) != ("user", "")}
        for unit in result.units
    ]
    files["units.json"] = (json.dumps(units, indent=1, sort_keys=True) + "\n").encode()
    return files


def expected(case: str) -> dict[str, bytes]:
    """Return the golden tree of a case."""
    root = CASES / case / "expected"
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def regenerate(case: str) -> None:
    """Write the golden tree of a case anew."""
    root = CASES / case / "expected"
    wanted = tree(rendered(case))
    for path in set(expected(case)) - set(wanted):
        (root / path).unlink()
    for path, content in wanted.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)


def diff(before: str, after: str, name: str) -> str:
    """Return a unified diff of two texts."""
    return "".join(
        difflib.unified_diff(
            before.splitlines(keepends=True),
            after.splitlines(keepends=True),
            f"expected/{name}",
            f"now/{name}",
        )
    )
