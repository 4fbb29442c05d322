"""Templates from the wheel, and a project's folder: there whole, or not at all."""

import errno
import shlex
import tempfile
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rpicluster.cluster import Cluster
from rpicluster.design.project import CONFIG_FILE, Project, project_files, render
from rpicluster.errors import UsageError
from rpicluster.services.connect.connection import Connection

_MARK = "# Written by rpicluster"
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def templates() -> dict[str, str]:
    """Return every template by its name, such as `vscode/tasks.json`."""
    return dict(_walk(files("rpicluster.project") / "template", ""))


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, str]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            found += _walk(entry, f"{prefix}{entry.name}/")
        else:
            found.append((prefix + entry.name, entry.read_text(encoding="utf-8")))
    return found


def project_for(name: str, cluster: Cluster | None) -> Project:
    """Return what is to be written: with the cluster's door for sparklyr, if its session has one."""
    if cluster is None:
        return Project(name, None)
    path = cluster.connection_path
    door = Connection.load(path).sparklyr if path.exists() else None  # it is not before the first `up`
    local_page = cluster.pages()[0]["Spark"] if door and cluster.spec.is_local else None
    return Project(name, cluster.name, door.master if door else None, local_page)


def write_project(folder: Path, project: Project) -> list[Path]:
    """Write the project to `folder`, which must not be there, and return its files.

    It is written beside its place and moved there whole. Raises UsageError where that cannot be.
    """
    if not folder.parent.is_dir():
        raise UsageError(
            f"there is no folder {folder.parent}", hint=f"mkdir -p {shlex.quote(str(folder.parent))}"
        )
    texts = project_files(project, templates())
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".rpicluster-") as temporary:
        fresh = Path(temporary) / "project"
        for name, text in texts.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        try:
            fresh.rename(folder)  # takes the place of an empty folder, of nothing else
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            raise UsageError(
                f"{folder} is there already; nothing was written", hint="choose another name"
            ) from error
    return [folder / name for name in texts]


def write_config(folder: Path, project: Project) -> Path:
    """Write config.yml of a project anew; raises UsageError for a door that is not, or a file not ours."""
    path = folder / CONFIG_FILE
    if project.master is None:
        raise UsageError(
            f"the session of {project.cluster} has no door for sparklyr",
            hint="`sessions: {sparklyr: on}` in cluster.yml, then: rpicluster up",
        )
    if path.exists() and not path.read_text(encoding="utf-8").startswith(_MARK):
        raise UsageError(f"{path} is not written by rpicluster, and stays", hint=f"add: {project.master}")
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(render(templates()[CONFIG_FILE], project), encoding="utf-8")
    fresh.replace(path)
    return path
