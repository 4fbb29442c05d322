"""The manifest: what rpicluster put on a node, kept there, and read again at every look. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rpicluster import __version__
from rpicluster.design.preview import PATHS
from rpicluster.design.units import RenderedFile
from rpicluster.model.machine import MachineFacts, Manifest

PATH = f"{PATHS.data}/manifest.json"
MODE = 0o644


@dataclass(frozen=True)
class Base:
    """What a node needs before files can be placed: logins, directories, names, packages."""

    group: str
    users: tuple[dict[str, str], ...]
    directories: tuple[dict[str, str], ...]  # path, mode (octal text), owner, group
    hosts_block: str
    boot_file: str = ""
    storage: dict[str, Any] = field(default_factory=dict)  # what `storage.py` reads, but for what it formats
    packages: tuple[str, ...] = field(
        default=(), compare=False
    )  # missing ones: none after they were installed

    @property
    def hash(self) -> str:
        """What the manifest keeps, to see that something of it changed."""
        document = asdict(self)
        del document["packages"], document["boot_file"]
        if not self.storage:  # a node that was set up before it could have any is as it should be
            del document["storage"]
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def absolute(path: str) -> str:
    """Return where a rendered file stands on a node."""
    return path if path.startswith("/") else f"{PATHS.conf}/{path}"


def relative(path: str) -> str:
    """Return the rendered name of a file that stands on a node."""
    return path.removeprefix(f"{PATHS.conf}/")


def manifest_of(
    *,
    cluster: str,
    cluster_id: str,
    node: str,
    runtime: str,
    base_hash: str,
    files: Mapping[str, RenderedFile],
    units: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the manifest's bytes.

    `units` are hashes by name, `base_hash` of what is whole on the node, `more` is what else this node keeps.
    """
    document = {
        "schema": 1,
        "version": __version__,
        "cluster": cluster,
        "cluster_id": cluster_id,
        "node": node,
        "runtime": runtime,
        "base": base_hash,
        "units": dict(sorted(units.items())),
        "files": {
            absolute(path): {
                "sha256": hashlib.sha256(file.content).hexdigest(),
                "mode": f"{file.mode:04o}",
                "owner": file.owner,
            }
            for path, file in sorted(files.items())
        },
        **(more or {}),
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def units_of(manifest: Manifest | None) -> dict[str, str]:
    """Return the units that a manifest lists, with the hash of what each was started with."""
    units = manifest.extra.get("units", {}) if manifest else {}
    return {str(name): str(value) for name, value in units.items()} if isinstance(units, dict) else {}


def owner_of(machine: MachineFacts) -> tuple[str, str] | None:
    """Return (name, id) of the cluster that a node belongs to, None for a free one."""
    if machine.manifest is None:
        return None
    extra = machine.manifest.extra
    return str(extra.get("cluster", "")), str(extra.get("cluster_id", ""))
