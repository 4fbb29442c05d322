"""Taking a cluster away from its nodes, and proving by inventories that nothing is left."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rpicluster.design import environment_files, firewall, layout, sshd_files, systemd_units
from rpicluster.design.preview import PATHS
from rpicluster.errors import RpiclusterError
from rpicluster.model.facts import DataDisk
from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.ansible.playbook import run_playbook
from rpicluster.nodes.ansible.rundir import REMOTE_TMP, Host, write_run
from rpicluster.nodes.remote.change import BEFORE
from rpicluster.nodes.remote.commands import Nodes, node_script
from rpicluster.nodes.remote.state import Inventory, RemoteState
from rpicluster.nodes.remote.storage import kept_of, recorded_disk, removal_order

DIRECTORIES = (
    PATHS.conf,
    PATHS.data,
    PATHS.logs,
    PATHS.run,
    "/opt/rpicluster",
    "/run/rpicluster-lock.json",
)
USERS = (layout.HDFS_USER, layout.YARN_USER, layout.TUNNEL_USER, layout.BUILD_USER)
# What an `up` that broke off before it wrote its manifest may have left.
_DAEMONS = ("namenode", "datanode", "resourcemanager", "nodemanager", layout.CHECKPOINT, "firewall")
_UNITS = (*(layout.systemd_unit(name) for name in _DAEMONS), systemd_units.TIMER)
_FILES = (
    environment_files.PROFILE,
    environment_files.USER_SERVICES,
    environment_files.SYSCTL,
    sshd_files.SSHD,
)
_OURS = ("rpicluster", *USERS)


def take_away(
    nodes: Nodes,
    state: RemoteState,
    machines: Mapping[str, MachineFacts | None],
    *,
    report: Callable[[str, str, float], None],
) -> tuple[dict[str, list[str]], dict[str, RpiclusterError]]:
    """Remove the cluster from every node of `machines`; return what is left, and errors, by node."""
    names = [name for name, machine in machines.items() if machine is not None]
    before, failed = nodes.each(lambda node: kept_inventory(nodes, state, node), names)
    reachable = [name for name in names if name not in failed]
    disks = {name: _disk_of(name, machines[name], state) for name in reachable}
    folder = state.new_run()
    hosts = {
        name: Host(
            nodes.targets[name],
            {"rpicluster_remove": orders(_listed(machines[name]), before.get(name), disks[name])},
        )
        for name in reachable
    }
    state.journal("destroy", nodes=reachable)
    if hosts:
        write_run(folder, hosts, nodes.ssh)
        outcome = run_playbook(
            folder,
            "destroy.yml",
            report=lambda event: report(event.node, event.step, 0.5) if event.kind == "task" else None,
            sudo_password=next(iter(nodes.passwords.values()), None),
        )
        failed.update({node: outcome.error(node) for node in outcome.failed})
    rest = [name for name in reachable if name not in failed]
    _, late = nodes.each(lambda node: nodes.root(node, ["rm", "-rf", REMOTE_TMP]), rest)
    failed.update(late)
    after, unseen = nodes.each(lambda node: _inventory(nodes, node), rest)
    failed.update(unseen)
    for name in after:
        if stays := _what_stays(disks[name], machines[name]):
            report(name, stays, 1.0)
    return {node: left(before.get(node), after[node]) for node in after}, failed


def _listed(machine: MachineFacts | None) -> list[str]:
    return list(machine.manifest.files) if machine is not None and machine.manifest is not None else []


def _disk_of(name: str, machine: MachineFacts | None, state: RemoteState) -> DataDisk | None:
    """Return the disk with a node's data: of an `up` that broke off early only our own record knows."""
    kept = kept_of(name, machine, answers=True, recorded=None)
    return kept.disk if kept.has_data else recorded_disk(name, state.recall("placement")).disk


def _what_stays(disk: DataDisk | None, machine: MachineFacts | None) -> str:
    if disk is None:
        return ""
    if machine is not None and all(mount.path != disk.mount for mount in machine.mounts):
        return f"the disk with its data was not mounted on {disk.mount}: what is on it stays there"
    return f"the file system of {disk.disk or disk.mount} stays, without the cluster's data"


def orders(listed: Sequence[str], before: Inventory | None, disk: DataDisk | None = None) -> dict[str, Any]:
    """Return what the role `remove` is told of a node on which the files `listed` were placed. Pure.

    `disk` is the one with its data; its file system stays, and so does what else is on it.
    """
    units = [path.rpartition("/")[2] for path in listed if path.startswith(f"{layout.SYSTEMD}/rpicluster-")]
    files = {*listed, *(f"{layout.SYSTEMD}/{unit}" for unit in (*units, *_UNITS)), *_FILES}
    # Directories that came with a file, such as /etc/environment.d, go with it, if nobody else uses them.
    came = {path.rpartition("/")[0] for path in files} - set((before or {}).get("paths", []))
    return {
        "units": sorted({*units, *_UNITS}),
        "empty_directories": sorted(came) if before else [],
        "storage": removal_order(disk),
        "users": list(USERS),
        "group": layout.GROUP,
        "files": sorted(files),
        "directories": list(DIRECTORIES),
        "firewall_tables": [firewall.TABLE],
    }


def kept_inventory(nodes: Nodes, state: RemoteState, node: str) -> Inventory | None:
    """Return what was on a node before the cluster came.

    The node's copy goes early in a removal, so one that broke off and is run again knows it from here.
    """
    answer = nodes.ssh.run(
        nodes.targets[node],
        ["cat", BEFORE],
        node=node,
        deadline_s=20.0,
        sudo=True,
        sudo_password=nodes.passwords.get(node),
    )
    if answer.status != 0:
        return state.known_inventory(node)
    found: Inventory = json.loads(answer.stdout)
    state.keep_inventory(node, found)
    return found


def _inventory(nodes: Nodes, node: str) -> Inventory:
    found: Inventory = json.loads(nodes.python(node, node_script("inventory.py"), b""))
    return found


def left(before: Inventory | None, after: Inventory) -> list[str]:
    """Return what is there now, was not before the cluster came, and is the cluster's by its name. Pure.

    Without an inventory from before, everything that bears the cluster's names counts.
    """
    known = before or {}
    return [
        f"{kind}: {entry}"
        for kind, entries in after.items()
        for entry in entries
        if entry not in known.get(kind, []) and any(word in entry for word in _OURS)
    ]


def difference(before: Inventory, after: Inventory) -> list[str]:
    """Return every difference between two inventories, in words: what tests look at. Pure."""
    return [
        f"{sign} {kind}: {entry}"
        for kind in after
        for sign, entries, others in (("+", after[kind], before[kind]), ("-", before[kind], after[kind]))
        for entry in entries
        if entry not in others
    ]
