"""Where nodes keep their data, by their manifests and our record; what the roles are told of it. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rpicluster.design import layout
from rpicluster.design.mount_unit import unit_name
from rpicluster.design.plan import Action, Step
from rpicluster.design.storage import Choice, choose
from rpicluster.errors import UsageError
from rpicluster.model.facts import DataDisk, NodePaths, kept_disk
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec

LABEL = "rpicluster"  # of file systems that we make; ext4 takes 16 letters


@dataclass(frozen=True)
class Kept:
    """Whether a node has data of this cluster, and on which disk; None: below /var/lib."""

    has_data: bool = False
    disk: DataDisk | None = None


def kept_of(name: str, machine: MachineFacts | None, *, answers: bool, recorded: Any) -> Kept:
    """Return where node `name` has data already: by its manifest, or if it does not answer by our record.

    `recorded` is the placement as this machine remembers it. A node that answers and has no manifest is a
    fresh one, whatever is remembered: its card was written anew.
    """
    if machine is not None and machine.manifest is not None:
        return Kept(True, kept_disk(machine))
    if answers:
        return Kept()
    return recorded_disk(name, recorded)


def recorded_disk(name: str, recorded: Any) -> Kept:
    """Return what this machine's record of the placement says of a node."""
    nodes = recorded.get("nodes", {}) if isinstance(recorded, dict) else {}
    if name not in nodes:
        return Kept()
    try:
        about = nodes[name].get("paths", {}).get("disk")
        return Kept(True, DataDisk.model_validate(about) if about else None)
    except (AttributeError, ValidationError):  # by another version: the node knows better
        return Kept()


def choices(
    spec: ClusterSpec,
    machines: Mapping[str, MachineFacts | None],
    unreachable: Collection[str],
    *,
    recorded: Any,
    cluster_id: str,
    formats: frozenset[str] = frozenset(),
) -> dict[str, Choice]:
    """Return where the data of every node of `spec` go."""
    found = {}
    for node in spec.nodes:
        machine, answers = machines.get(node.name), node.name not in unreachable
        kept = kept_of(node.name, machine, answers=answers, recorded=recorded)
        found[node.name] = choose(
            node, machine, kept.disk, has_data=kept.has_data, cluster_id=cluster_id, formats=formats
        )
    return found


def require_named(spec: ClusterSpec, formats: Collection[str]) -> None:
    """Raise UsageError for a disk that shall be formatted and that cluster.yml does not name."""
    named = sorted(node.storage.disk for node in spec.nodes if node.storage and node.storage.disk)
    for name in formats:
        if name not in named:
            raise UsageError(
                f"--format {name}: cluster.yml names no such disk, and no other is formatted"
                + (f"; it names {', '.join(named)}" if named else ""),
                hint=f"say in cluster.yml, of the node that has it:  storage: {{disk: {name}}}",
            )


def format_steps(found: Mapping[str, Choice], unreachable: Collection[str]) -> list[Step]:
    """Return the steps that make file systems; whoever confirms them loses what is on these disks."""
    return [
        Step(
            Action.FORMAT_DISK,
            node,
            choice.disk.disk,
            f"everything on it is lost: {choice.formats}",
        )
        for node, choice in found.items()
        if choice.formats and choice.disk is not None and node not in unreachable
    ]


def is_away(wanted: Mapping[str, Any], machine: MachineFacts) -> bool:
    """Return whether the disk that an order of ours names is not mounted."""
    return bool(wanted.get("mount")) and all(mount.path != wanted["mount"] for mount in machine.mounts)


def manifest_entry(paths: NodePaths) -> dict[str, Any]:
    """Return what a node's manifest says of its disk for data; nothing where it has none."""
    return {"storage": paths.disk.model_dump()} if paths.disk is not None else {}


def order(paths: NodePaths, *, format_name: str = "", file_system: str = "") -> dict[str, Any]:
    """Return what the program `storage.py` of the role `base` reads; empty where there is no disk.

    `file_system` is the clusterID of this cluster's HDFS.
    """
    disk = paths.disk
    if disk is None:
        return {}
    return {
        "path": disk.path,
        "mount": disk.mount,
        "mounts": disk.is_ours,
        "uuid": disk.uuid,
        "filesystem": disk.filesystem,
        "format": f"/dev/disk/by-id/{format_name}" if format_name else "",
        "label": LABEL,
        "cluster_id": file_system,
        "owners": {unit: layout.USERS[unit] for unit in sorted(layout.ON_DISK)},
    }


def removal_order(disk: DataDisk | None) -> dict[str, Any]:
    """Return what `take_away.py` reads of the disk for data; the file system itself stays."""
    if disk is None:
        return {}
    unit = unit_name(disk.mount) if disk.is_ours else ""
    return {"path": disk.path, "mount": disk.mount, "unit": unit}
