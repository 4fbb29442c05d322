"""Units: the long-running processes of a node, as data, and all files that stand on it."""

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """One process that is started, watched and restarted.

    `argv[0]` is an absolute path; `reads` are the rendered files (paths as in `Rendered`) whose change
    demands a restart; `stop_timeout_s` is how long SIGTERM may take before SIGKILL.
    """

    name: str  # namenode | datanode | resourcemanager | nodemanager | session-USER
    node: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    reads: tuple[str, ...]
    directory: str
    after: tuple[str, ...] = ()
    stop_timeout_s: int = 20
    user: str = ""  # the login it runs as; "" on a local cluster: the one who runs it
    # Files that it reads again when it is reloaded, and the command that tells it to.
    rereads: tuple[str, ...] = ()
    reload: tuple[str, ...] = ()


@dataclass(frozen=True)
class RenderedFile:
    """A file as it will stand on a node."""

    content: bytes
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"


@dataclass(frozen=True)
class Rendered:
    """Everything that will stand on every node.

    `files[node][path]` has paths relative to the node's conf directory, or absolute ones: what real nodes
    need elsewhere.
    """

    files: dict[str, dict[str, RenderedFile]]
    units: tuple[Unit, ...]
    runtime_hash: str  # content hash of the runtime these files were rendered for


def unit_hash(unit: Unit, files: dict[str, RenderedFile]) -> str:
    """Return the SHA-256 of a unit's own fields and of all it reads: it must restart when that changes.

    After a dot follows, for a unit that can be reloaded, the SHA-256 of what it reads again then.
    """
    parts = [
        json.dumps(
            [unit.name, unit.node, unit.argv, unit.environment, unit.directory, unit.stop_timeout_s],
            sort_keys=True,
        ).encode()
    ]
    parts += [path.encode() + b"\0" + files[path].content for path in sorted(unit.reads)]
    itself = hashlib.sha256(b"\0\0".join(parts)).hexdigest()
    if not unit.rereads:
        return itself
    again = b"\0\0".join(path.encode() + b"\0" + files[path].content for path in sorted(unit.rereads))
    return f"{itself}.{hashlib.sha256(again).hexdigest()}"


def needs_reload_only(started_with: str, wanted: str) -> bool:
    """Return whether two hashes of a unit differ in nothing but what it reads again when it is reloaded."""
    return started_with != wanted and started_with.partition(".")[0] == wanted.partition(".")[0]
