"""The doctor: look, diagnose, and say it in one value that prints, becomes JSON, and goes into a bundle."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpicluster.design.sizing import THIS_MACHINE
from rpicluster.errors import RpiclusterError
from rpicluster.health.findings.finding import Finding, Severity
from rpicluster.health.findings.observation import ClusterObservation
from rpicluster.health.findings.registry import diagnose
from rpicluster.health.looking import line_to_paste, look_here
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.ssh.observe import Observation, observe_nodes
from rpicluster.nodes.ssh.openssh import OpenSsh


@dataclass(frozen=True)
class Examination:
    """What doctor saw and what it makes of it."""

    cluster: str
    nodes: Mapping[str, MachineFacts | RpiclusterError]
    daemons: ClusterObservation | None
    findings: tuple[Finding, ...]
    took_s: float

    @property
    def unreachable(self) -> tuple[str, ...]:
        """The nodes that could not be looked at."""
        return tuple(name for name, seen in self.nodes.items() if isinstance(seen, RpiclusterError))

    def count(self, severity: Severity) -> int:
        """Return how many findings are of `severity`."""
        return sum(finding.severity is severity for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows: notes stand apart, for they are no faults."""
        return {
            "cluster": self.cluster,
            "nodes": {
                name: "unreachable" if name in self.unreachable else "seen" for name in sorted(self.nodes)
            },
            "counts": {severity.value: self.count(severity) for severity in Severity},
            "findings": [f.document() for f in self.findings if f.severity is not Severity.NOTE],
            "notes": [f.document() for f in self.findings if f.severity is Severity.NOTE],
            "took_s": round(self.took_s, 3),
        }


def examine_nodes(
    spec: ClusterSpec,
    *,
    ssh: OpenSsh | None = None,
    daemons: Callable[[], ClusterObservation] | None = None,
    find: Callable[[Mapping[str, Observation]], Mapping[str, Observation]] = lambda seen: seen,
) -> Examination:
    """Look at all nodes behind SSH at once, then at the daemons if `daemons` knows how; changes nothing.

    Host keys that are not known are not learnt. `find` looks for nodes that do not answer where they were.
    """
    started = time.monotonic()
    targets = {node.name: node.ssh for node in spec.nodes if node.ssh}
    ssh = ssh or OpenSsh()
    seen = find(observe_nodes(targets, ssh))
    nodes: dict[str, MachineFacts | RpiclusterError] = {}
    for name, observation in seen.items():
        found = observation.facts or observation.error
        if found is not None:
            nodes[name] = found
    return _examined(spec, nodes, daemons() if daemons else None, None, started, ssh.config)


def examine_here(
    spec: ClusterSpec, folder: Path, daemons: Callable[[], ClusterObservation] | None
) -> Examination:
    """Look at this machine, and at the daemons of a local cluster that was brought up."""
    started = time.monotonic()
    nodes: dict[str, MachineFacts | RpiclusterError] = {THIS_MACHINE: look_here(only_mounts_of=[folder])}
    return _examined(spec, nodes, daemons() if daemons else None, THIS_MACHINE, started)


def _examined(
    spec: ClusterSpec,
    nodes: dict[str, MachineFacts | RpiclusterError],
    daemons: ClusterObservation | None,
    here: str | None,
    started: float,
    config: Path | None = None,
) -> Examination:
    now = time.gmtime()
    findings = diagnose(
        spec,
        nodes,
        daemons,
        on=line_to_paste(spec, config),
        here=here,
        year_month=(now.tm_year, now.tm_mon),
    )
    return Examination(spec.name, nodes, daemons, findings, time.monotonic() - started)
