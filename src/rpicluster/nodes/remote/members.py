"""Who belongs to a cluster: kept on the control machine and, for other ones, in the manager's manifest.

So nodes are known that stand no longer in cluster.yml, and still hold blocks and files of ours.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rpicluster.design.leaving import Member
from rpicluster.design.units import RenderedFile
from rpicluster.model.facts import Placement
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.remote import manifest
from rpicluster.nodes.remote.bundle import placing
from rpicluster.nodes.remote.commands import DEADLINE_S, Nodes, role_script
from rpicluster.nodes.remote.placement import target_of
from rpicluster.nodes.remote.state import RemoteState

KEY = "members"


def members_of(spec: ClusterSpec, placement: Placement) -> dict[str, Member]:
    """Return the members that a spec names, by name. Pure."""
    found, roles = {}, spec.roles
    for node in spec.nodes:
        placed = placement.nodes[node.name]
        port = placed.ports.get("datanode_data")
        found[node.name] = Member(
            node.name,
            target_of(node),
            roles[node.name],
            placed.address,
            f"{placed.address}:{port}" if port else "",
        )
    return found


def known_members(state: RemoteState, manager: MachineFacts | None) -> dict[str, Member]:
    """Return the members that this machine remembers, and those that the manager's manifest names."""
    there = manager.manifest.extra.get(KEY) if manager is not None and manager.manifest is not None else None
    return {**_read(there), **_read(state.recall(KEY))}


def known_addresses(state: RemoteState, seen: Iterable[MachineFacts]) -> dict[str, str]:
    """Return the address of every member as the last change left it.

    The manager's manifest counts before this machine's record: another one may have changed it since.
    """
    there: dict[str, Member] = {}
    for machine in seen:
        there |= _read(machine.manifest.extra.get(KEY) if machine.manifest is not None else None)
    return {name: member.address for name, member in {**_read(state.recall(KEY)), **there}.items()}


def _read(document: Any) -> dict[str, Member]:
    found = {}
    for name, about in document.items() if isinstance(document, dict) else ():
        try:
            found[name] = Member.read(name, about)
        except (ValueError, KeyError, TypeError):  # by another version: the other record may know it
            continue
    return found


def remember(state: RemoteState, members: Mapping[str, Member]) -> None:
    """Keep on this machine who belongs to the cluster."""
    state.remember(**{KEY: {name: member.document(private=True) for name, member in members.items()}})


def manifest_entry(members: Mapping[str, Member]) -> dict[str, Any]:
    """Return what the manager's manifest says of the members. Pure."""
    return {KEY: {name: member.document() for name, member in sorted(members.items())}}


def settle(nodes: Nodes, state: RemoteState, manager: str, members: Mapping[str, Member]) -> None:
    """Keep in both records that these are all; the manager's first: what only it lists would come back."""
    edit_manifest(nodes, manager, lambda document: document.update(manifest_entry(members)))
    remember(state, members)


def edit_manifest(nodes: Nodes, node: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a node's manifest in place: read it, have `change` edit it, write it whole."""
    document = json.loads(nodes.root(node, ["cat", manifest.PATH]))
    change(document)
    text = (json.dumps(document, indent=1) + "\n").encode()
    place(nodes, node, {manifest.PATH: RenderedFile(text, manifest.MODE)})


def place(
    nodes: Nodes, node: str, files: Mapping[str, RenderedFile], *, deadline_s: float = DEADLINE_S
) -> None:
    """Write files on one node, by their rendered names or absolute paths, whole or not at all."""
    nodes.python(node, role_script("base", "place.py"), placing(files), deadline_s=deadline_s)
