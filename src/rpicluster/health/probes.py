"""What `status` asks of each part of a cluster: is there a process, is it stopped, does it answer."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

from rpicluster.design import layout
from rpicluster.health.status import Probe, State
from rpicluster.model.facts import Placement
from rpicluster.model.spec import ClusterSpec
from rpicluster.services.namenode import NameNode, NameNodeReport
from rpicluster.services.yarn import NodeReport, Yarn

# The keeper writes its status at every probe, 5 s apart; three of them late means that it hangs
_KEEPER_LATE_S = 20


class UnitState(Protocol):
    """What a supervisor says of a unit."""

    @property
    def node(self) -> str:
        """Name of its node."""
        ...

    @property
    def unit(self) -> str:
        """Its name."""
        ...

    @property
    def state(self) -> str:
        """`running`, `stopped`, `failed`, or `unknown` where its node does not say."""
        ...

    @property
    def pid(self) -> int | None:
        """Its process, None if it has none."""
        ...

    @property
    def detail(self) -> str:
        """What the supervisor says of it."""
        ...


@dataclass
class ClusterProbes:
    """Everything that the probes of one cluster look at."""

    spec: ClusterSpec
    placement: Placement
    units: Sequence[UnitState]
    namenode: NameNode
    yarn: Yarn
    session_report: Callable[[], dict[str, Any] | None]
    is_frozen: Callable[[int], bool]

    def all(self) -> list[Probe]:
        """Return the probes in the order in which parts depend on each other."""
        manager = self.spec.manager.name
        workers = [node.name for node in self.spec.workers]
        found = [self._probe(manager, "namenode", self._ask_namenode)]
        found += [self._probe(w, "datanode", partial(self._ask_datanode, w)) for w in workers]
        found += [self._probe(manager, "resourcemanager", self._ask_resourcemanager)]
        found += [self._probe(w, "nodemanager", partial(self._ask_nodemanager, w)) for w in workers]
        session = layout.session_unit(self.placement.login)
        return [*found, self._probe(manager, session, self._ask_session)]

    def _probe(self, node: str, unit: str, ask: Callable[[], tuple[State, str]]) -> Probe:
        return Probe(unit, node, lambda: self._process(node, unit) or ask())

    def _process(self, node: str, unit: str) -> tuple[State, str] | None:
        """Return what is wrong with the process itself, None if it runs."""
        status = next((s for s in self.units if (s.node, s.unit) == (node, unit)), None)
        if status is None:
            return "down", "it was never started"
        if status.state == "unknown":
            return None  # its node was not asked in time: what the daemon answers counts
        if status.state == "stopped":
            return "down", "it is stopped"
        if status.state == "failed" or status.pid is None:
            return "down", status.detail or "it has no process"
        if self.is_frozen(status.pid):
            return "frozen", f"process {status.pid} was stopped by a signal: kill -CONT {status.pid}"
        return None

    @cached_property
    def _hdfs(self) -> NameNodeReport:
        return self.namenode.report()

    @cached_property
    def _nodes(self) -> dict[str, NodeReport]:
        return {node.host: node for node in self.yarn.nodes()}

    def _ask_namenode(self) -> tuple[State, str]:
        found = self._hdfs
        if found.safe_mode:
            return "starting", f"HDFS is in safe mode: {found.safe_mode}"
        if found.missing_blocks:
            return "degraded", f"{found.missing_blocks} blocks are missing"
        blocks = f"{found.under_replicated_blocks} of {found.blocks} blocks under-replicated"
        return "ok", f"{len(found.live)} DataNodes, {blocks}"

    def _ask_datanode(self, worker: str) -> tuple[State, str]:
        name = self.placement.nodes[worker].address
        port = self.placement.nodes[worker].ports["datanode_data"]
        found = next((n for n in self._hdfs.datanodes if n.name in (name, f"{name}:{port}")), None)
        if found is None:
            return "starting", "the NameNode does not know it yet"
        if found.state != "live":
            return "degraded", f"the NameNode calls it {found.state}, last heard {found.last_contact_s} s ago"
        return "ok", f"{found.blocks} blocks, last heard {found.last_contact_s} s ago"

    def _ask_resourcemanager(self) -> tuple[State, str]:
        running = sum(node.is_running for node in self._nodes.values())
        return "ok", f"{running} of {len(self.spec.workers)} NodeManagers running"

    def _ask_nodemanager(self, worker: str) -> tuple[State, str]:
        node = self._nodes.get(self.placement.nodes[worker].address)
        if node is None:
            return "starting", "the ResourceManager does not know it yet"
        if not node.is_running:
            return "degraded", f"{node.state}: {node.health_report}" if node.health_report else node.state
        memory = f"{node.memory_used_mib} of {node.memory_total_mib} MiB"
        return "ok", f"{memory} given to {node.containers} containers (advisory)"

    def _ask_session(self) -> tuple[State, str]:
        found = self.session_report()
        if found is None:
            return "starting", "the keeper has not reported yet"
        if time.time() - float(found.get("updated_at", 0)) > _KEEPER_LATE_S:
            return "silent", "the keeper has not reported for a while"
        return session_in_words(found, now=time.time())


_DOORS = {"connect": "Spark Connect", "sparklyr": "sparklyr"}


def session_in_words(report: dict[str, Any], *, now: float) -> tuple[State, str]:
    """Return how a session is, and what happened to it, from what its keeper wrote; `now` in Unix seconds."""
    given_up = report.get("replaced") or {}
    reason = str(given_up.get("reason") or "")
    if report["state"] == "asleep":
        return "ok", f"asleep for {_ago(now - float(report['since']))}; the next connection wakes it"
    if report["state"] != "healthy":
        waits = str(report.get("waiting_for") or report.get("last_reason") or report["state"])
        before = f"; the driver before was given up: {reason}" if reason and reason != waits else ""
        return "starting", waits + before
    doors = " and ".join(_DOORS.get(door["kind"], door["kind"]) for door in report.get("doors") or [])
    words = f"{report.get('app_id')}, driver process {(report.get('driver') or {}).get('pid')}"
    words += f", open to {doors}" if doors else ""
    if reason:
        times = "once" if report["restarts"] == 1 else f"{report['restarts']} times"
        words += f"; replaced {times}, last {_ago(now - float(given_up['at']))} ago: {reason}"
    return "ok", words


def _ago(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def read_session(placement: Placement, spec: ClusterSpec) -> dict[str, Any] | None:
    """Return what the keeper of the local user's session last wrote; None before it wrote anything."""
    path = Path(layout.status_file(placement.nodes[spec.manager.name].paths, placement.login))
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
