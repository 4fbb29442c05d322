"""The NameNode's directory: whose it is, and how it is formatted exactly once."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from rpicluster.design import layout
from rpicluster.design.units import Unit
from rpicluster.errors import LocalEngineError
from rpicluster.model.facts import NodePaths, Placement
from rpicluster.nodes.local.processes import UNIT_VARIABLE
from rpicluster.nodes.local.state import private_directory, sync_directory

_MAIN_CLASS = "org.apache.hadoop.hdfs.server.namenode.NameNode"
_FORMAT_TIMEOUT_S = 120
_UNFINISHED = ".formatting"


def hdfs_cluster_id(placement: Placement) -> str:
    """Return the `clusterID` that our file systems carry in `current/VERSION`."""
    return f"rpicluster-{placement.cluster_id}"


def namenode_state(paths: NodePaths, cluster_id: str) -> Literal["empty", "formatted", "foreign"]:
    """Return what the name directory holds: nothing, the image of `cluster_id`, or anything else."""
    directory = Path(layout.namenode_directory(paths))
    if not directory.is_dir() or not any(directory.iterdir()):
        return "empty"
    return "formatted" if _cluster_id(directory) == cluster_id else "foreign"


def format_namenode(unit: Unit, paths: NodePaths, cluster_id: str) -> None:
    """Make an empty file system, never over anything.

    Hadoop formats a directory beside the final one, which is then renamed: the final name holds a whole
    image or nothing, and rename(2) itself refuses a target that is not empty. What a killed format left
    beside it never was a file system and is removed. Raises LocalEngineError.
    """
    final = Path(layout.namenode_directory(paths))
    what = namenode_state(paths, cluster_id)
    if what == "formatted":
        return
    if what == "foreign":
        raise LocalEngineError(
            f"{final} holds another cluster's file system ({_cluster_id(final) or 'no readable VERSION'}); "
            "it is never formatted over",
            hint=f"move it away: mv {final} {final}.old",
        )
    private_directory_tree(final.parent)
    unfinished = final.with_name(final.name + _UNFINISHED)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    _run_format(unit, unfinished, cluster_id)
    if _cluster_id(unfinished) != cluster_id:
        raise LocalEngineError(
            f"the NameNode reports a finished format, but {unfinished} holds no image of this cluster"
        )
    _sync_tree(unfinished)
    unfinished.rename(final)
    sync_directory(final.parent)


def private_directory_tree(path: Path) -> None:
    """Create `path` and missing parents, each 0700."""
    if not path.parent.is_dir():
        private_directory_tree(path.parent)
    private_directory(path)


def _run_format(unit: Unit, directory: Path, cluster_id: str) -> None:
    if _MAIN_CLASS not in unit.argv:
        raise LocalEngineError(f"unit {unit.name} does not run {_MAIN_CLASS}, so it cannot format")
    main = unit.argv.index(_MAIN_CLASS)
    command = [
        *unit.argv[: main + 1],
        f"-Ddfs.namenode.name.dir=file://{directory}",
        f"-Ddfs.namenode.edits.dir=file://{directory}",
        "-format",
        "-nonInteractive",
        "-clusterid",
        cluster_id,
    ]
    environment = {**dict(unit.environment), "LANG": "C.UTF-8"}
    environment.setdefault(UNIT_VARIABLE, f"{cluster_id.removeprefix('rpicluster-')}/{unit.node}/{unit.name}")
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=unit.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_FORMAT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LocalEngineError(f"formatting the NameNode took longer than {_FORMAT_TIMEOUT_S} s") from error
    except OSError as error:
        raise LocalEngineError(f"cannot run {command[0]}: {error.strerror}", hint="rpicluster up") from error
    if done.returncode != 0:
        lines = [line for line in done.stdout.splitlines() if "rror" in line or "xception" in line]
        cause = (lines or done.stdout.splitlines() or ["no output"])[0]
        raise LocalEngineError(
            f"formatting the NameNode failed (exit code {done.returncode}): {cause.strip()}"
        )


def _cluster_id(directory: Path) -> str | None:
    try:
        text = (directory / "current" / "VERSION").read_text()
    except OSError:  # none, or unreadable: in both cases not an image that we know
        return None
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name == "clusterID":
            return value
    return None


def _sync_tree(directory: Path) -> None:
    """Make a small tree durable before the rename that publishes it."""
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            sync_directory(path)
    sync_directory(directory)
