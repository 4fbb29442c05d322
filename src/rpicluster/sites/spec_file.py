"""Which cluster.yml is meant, and what is in it."""

import contextlib
import os
from pathlib import Path

from rpicluster.errors import SpecError, UsageError
from rpicluster.model.spec import ClusterSpec
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.local.state import cluster_names, state_root

SPEC_FILE = "cluster.yml"
SOURCE_FILE = "cluster.yml.path"
CLUSTER_VARIABLE = "RPICLUSTER_CLUSTER"


def read_spec(path: Path) -> ClusterSpec:
    """Read a cluster.yml; raises SpecError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise SpecError(f"{path} is no file", hint="rpicluster init")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path} does not exist", hint="rpicluster init") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} cannot be read: {error}") from error
    return parse_spec(text, str(path))


def spec_file(which: str | None) -> Path:
    """Return the file of the cluster called `which`, see `Cluster.find`. Raises UsageError."""
    which = which or (None if Path(SPEC_FILE).exists() else os.environ.get(CLUSTER_VARIABLE))
    if which is None and Path(SPEC_FILE).exists():
        return Path(SPEC_FILE)
    known = cluster_names(state_root())
    if which is None:
        if len(known) == 1:
            return _file_of(known[0])
        raise UsageError(
            f"there is no {SPEC_FILE} here, and "
            + (f"several clusters: {', '.join(known)}" if known else "no cluster"),
            hint=f"rpicluster status --cluster {known[0]}" if known else "rpicluster init",
        )
    if "/" in which or which.endswith((".yml", ".yaml")):
        return Path(which)
    if which in known:
        return _file_of(which)
    raise UsageError(
        f"no cluster is called {which!r}" + (f", known: {', '.join(known)}" if known else ""),
        hint="name a cluster.yml, or make one with `rpicluster init`",
    )


def _file_of(name: str) -> Path:
    """Return where the cluster.yml of a known cluster stands, the kept copy if that file is gone."""
    folder = state_root() / "clusters" / name
    with contextlib.suppress(OSError):
        source = Path((folder / SOURCE_FILE).read_text(encoding="utf-8"))
        if source.exists():
            return source
    return folder / SPEC_FILE
