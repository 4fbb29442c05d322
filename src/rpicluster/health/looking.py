"""One look at a cluster for the doctor: nodes over SSH, this machine, daemons by their own accounts."""

import secrets
import shlex
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from rpicluster.errors import FactsIncomplete, RpiclusterError
from rpicluster.health.findings.observation import (
    ClusterObservation,
    DataNodeSeen,
    HdfsSeen,
    NodeManagerSeen,
    PartSeen,
    PrivateFile,
)
from rpicluster.health.status import Part
from rpicluster.model.facts import Placement
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec, SshTarget
from rpicluster.nodes.ssh.failures import login_command
from rpicluster.nodes.ssh.machine import read_machine
from rpicluster.nodes.ssh.observe import script
from rpicluster.services.namenode import NameNode, NameNodeReport
from rpicluster.services.yarn import NodeReport, Yarn

_T = TypeVar("_T")
_LOCAL_TIMEOUT_S = 15.0


def look_here(*, only_mounts_of: Iterable[Path]) -> MachineFacts:
    """Return the facts of this machine, by the script that nodes run; nobody is asked to become root.

    Of its file systems only those that hold the given paths are kept: the others are not the cluster's.
    Raises FactsIncomplete.
    """
    mark = f"rpicluster-{secrets.token_hex(8)}"
    try:
        done = subprocess.run(
            ["sh", "-s", mark],
            input=script(sudo=False) + b"\n",
            capture_output=True,
            timeout=_LOCAL_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FactsIncomplete(f"this machine could not be looked at: {error}", hint="sh -c true") from error
    facts = read_machine(done.stdout.decode(errors="replace"), mark)
    wanted = {mount.path for path in only_mounts_of if (mount := facts.mount_of(str(path))) is not None}
    return facts.model_copy(update={"mounts": tuple(m for m in facts.mounts if m.path in wanted)})


def look_at_daemons(
    spec: ClusterSpec,
    placement: Placement,
    *,
    namenode: NameNode,
    yarn: Yarn,
    parts: Iterable[Part] = (),
    private: Iterable[Path] = (),
) -> ClusterObservation:
    """Ask NameNode and ResourceManager; a daemon that does not answer costs its own part only.

    `parts` is what `status` saw; `private` are files with secrets, of which only modes are looked at.
    """
    names = node_names(spec, placement)
    hdfs, hdfs_error = _asked(lambda: hdfs_seen(namenode.report(), names))
    managers, yarn_error = _asked(lambda: nodemanagers_seen(yarn.nodes(), names))
    return ClusterObservation(
        hdfs=hdfs,
        hdfs_error=hdfs_error,
        nodemanagers=managers,
        yarn_error=yarn_error,
        parts=tuple(PartSeen(part.where, part.name, part.state, part.detail) for part in parts),
        private_files=tuple(PrivateFile(str(path), _mode(path)) for path in private if path.exists()),
    )


def _asked(ask: Callable[[], _T]) -> tuple[_T | None, str]:
    try:
        return ask(), ""
    except RpiclusterError as error:
        return None, error.message


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def node_names(spec: ClusterSpec, placement: Placement) -> dict[str, str]:
    """Return node names by every form in which daemons name a node: address, and address with data port."""
    names: dict[str, str] = {}
    workers = {node.name for node in spec.workers}
    for name, placed in placement.nodes.items():
        if name in workers:
            names[placed.address] = name
            names[f"{placed.address}:{placed.ports['datanode_data']}"] = name
    return names


def hdfs_seen(report: NameNodeReport, names: Mapping[str, str]) -> HdfsSeen:
    """Return a NameNode's report with nodes by their names in cluster.yml."""
    return HdfsSeen(
        safe_mode=report.safe_mode,
        capacity_bytes=report.capacity_bytes,
        remaining_bytes=report.remaining_bytes,
        blocks=report.blocks,
        missing_blocks=report.missing_blocks,
        corrupt_blocks=report.corrupt_blocks,
        under_replicated_blocks=report.under_replicated_blocks,
        datanodes=tuple(
            DataNodeSeen(
                node=names.get(node.name, node.name),
                state=node.state,
                last_contact_s=node.last_contact_s,
                failed_volumes=node.failed_volumes,
            )
            for node in report.datanodes
        ),
    )


def nodemanagers_seen(reports: Iterable[NodeReport], names: Mapping[str, str]) -> tuple[NodeManagerSeen, ...]:
    """Return the ResourceManager's list with nodes by their names in cluster.yml."""
    return tuple(
        NodeManagerSeen(names.get(node.host, node.host), node.state, node.health_report) for node in reports
    )


def line_to_paste(spec: ClusterSpec, config: Path | None = None) -> Callable[[str, str], str]:
    """Return what makes a line that runs a command on a node; on a local cluster that is the command.

    `config` is the OpenSSH configuration for nodes that name none, as in `OpenSsh`.
    """
    default = {"config": str(config) if config else None}
    targets: dict[str, SshTarget] = {
        node.name: node.ssh if node.ssh.config else node.ssh.model_copy(update=default)
        for node in spec.nodes
        if node.ssh
    }

    def on(node: str, command: str) -> str:
        target = targets.get(node)
        if target is None:
            return command
        tty = ("-t",) if "sudo " in command else ()
        line = f"{login_command(target, *tty)} {shlex.quote(command)}"
        # A shell on the node takes the name for a comment, whatever the user's own shell does with it.
        return line if target.host.split(".")[0] == node else f"{line}  # {node}"

    return on
