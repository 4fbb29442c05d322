"""A plan carried out on nodes behind SSH: one run of Ansible with the stream of the runtime beside it."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpicluster.design.plan import Action, Plan, Step
from rpicluster.design.units import Rendered, RenderedFile, unit_hash
from rpicluster.errors import RpiclusterError
from rpicluster.model.facts import Placement
from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.ansible.events import Event
from rpicluster.nodes.ansible.playbook import Outcome, run_playbook
from rpicluster.nodes.ansible.rundir import Host, write_private, write_run
from rpicluster.nodes.fanout.send import Destination, Package, fan_out
from rpicluster.nodes.remote import manifest
from rpicluster.nodes.remote.bundle import RUNTIMES, NodeWork, bundle, file_entry, variables
from rpicluster.nodes.remote.commands import Nodes, node_script, role_script
from rpicluster.nodes.remote.manifest import Base, manifest_of, units_of
from rpicluster.nodes.remote.state import RemoteState

BEFORE = "/var/lib/rpicluster/before.json"
Report = Callable[[str, str, float], None]  # (node, what it does, share done 0–1)
_MIB = 1 << 20


@dataclass(frozen=True)
class Wanted:
    """Everything that a change works from."""

    cluster: str
    rendered: Rendered
    placement: Placement
    bases: Mapping[str, Base]
    file_system: str  # the clusterID of this cluster's HDFS
    runtime: Path  # on the control machine
    may_reboot: bool = False
    manifest_more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by node


@dataclass
class Changed:
    """What became of a change: errors by node, and the units that still wait to be started."""

    failed: dict[str, RpiclusterError] = field(default_factory=dict)
    sessions: dict[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def prepare_steps(
    wanted: Mapping[str, Base], machines: Mapping[str, MachineFacts | None], unreachable: Mapping[str, str]
) -> list[Step]:
    """Return the steps for what is no file and no unit: logins, directories, names, packages."""
    steps = []
    for node, base in wanted.items():
        machine = machines.get(node)
        if machine is None or node in unreachable:
            continue
        extra = machine.manifest.extra if machine.manifest else {}
        reasons = []
        if extra.get("base") != base.hash:
            reasons.append("logins, directories, /etc/hosts")
        if base.packages:
            reasons.append("install " + ", ".join(base.packages))
        if base.boot_file:
            reasons.append(f"memory cgroup in {base.boot_file}, which counts after a reboot")
        if reasons:
            steps.append(Step(Action.PREPARE, node, "node", "; ".join(reasons)))
    return steps


def unit_hashes(wanted: Wanted, node: str) -> dict[str, str]:
    """Return the hashes of a node's units, by name."""
    files = wanted.rendered.files[node]
    return {unit.name: unit_hash(unit, files) for unit in wanted.rendered.units if unit.node == node}


def node_manifest(wanted: Wanted, node: str, units: Mapping[str, str]) -> bytes:
    """Return a node's manifest, with the hashes of the units that were started."""
    return manifest_of(
        cluster=wanted.cluster,
        cluster_id=wanted.placement.cluster_id,
        node=node,
        runtime=wanted.rendered.runtime_hash,
        base=wanted.bases[node],
        files=wanted.rendered.files[node],
        units=units,
        more=wanted.manifest_more.get(node),
    )


class Change:
    """One plan on its way to the nodes."""

    def __init__(
        self, nodes: Nodes, state: RemoteState, wanted: Wanted, machines: Mapping[str, MachineFacts | None]
    ) -> None:
        """Prepare to change `nodes`, which were seen as `machines`, into what is wanted."""
        self._nodes = nodes
        self._state = state
        self._wanted = wanted
        self._machines = machines
        self._cancel = threading.Event()

    def carry_out(self, plan: Plan, *, report: Report) -> Changed:
        """Carry the plan out on every node that it names; what failed on a node does not stop the others.

        Sessions are enabled and left for `settle`. Raises AnsibleFailed when nothing could be run at all.
        """
        work = {
            node: NodeWork.of([step for step in plan.steps if step.node == node])
            for node in dict.fromkeys(step.node for step in plan.steps)
        }
        self._state.journal("apply", plan=plan.hash, nodes=sorted(work))
        started = time.monotonic()
        self._keep_inventories(work)
        folder = self._state.new_run()
        write_run(
            folder, {node: self._host(node, each, folder) for node, each in work.items()}, self._nodes.ssh
        )
        self._write_bundles(folder, work)
        changed = Changed()
        try:
            outcome = self._run(folder, work, report, changed)
        except BaseException:
            self._state.journal("broken-off", plan=plan.hash)
            raise
        for node in outcome.failed:
            changed.failed.setdefault(node, outcome.error(node))
        changed.sessions = {
            node: sessions
            for node, each in work.items()
            if node not in changed.failed
            and (sessions := tuple(u for u in each.start + each.restart if u.startswith("session-")))
        }
        changed.seconds["placed"] = time.monotonic() - started
        self._write_manifests(work, changed)
        self._state.journal("applied", plan=plan.hash, failed=sorted(changed.failed))
        return changed

    def start_sessions(self, sessions: Mapping[str, tuple[str, ...]]) -> None:
        """Start sessions, and note in the manifest what they were started with."""
        for node, units in sessions.items():
            self._nodes.systemctl(node, "restart", units)
            self._write_manifest(node, self._files(node), self._hashes(node))
            self._state.journal("sessions-started", node=node, units=list(units))

    # -- the run ---------------------------------------------------------------------------------------

    def _run(self, folder: Path, work: Mapping[str, NodeWork], report: Report, changed: Changed) -> Outcome:
        receivers = {
            node: Destination(
                self._nodes.targets[node],
                self._wanted.placement.nodes[node].address,
                sudo_password=self._nodes.passwords.get(node),
            )
            for node, each in work.items()
            if each.runtime is not None and not self._has_runtime(node)
        }
        sending = threading.Thread(target=self._send, args=(receivers, report, changed), daemon=True)
        sending.start()
        progress = _Progress(work, report, self._state)
        try:
            outcome = run_playbook(folder, "apply.yml", report=progress.event, cancel=self._cancel)
        except BaseException:
            self._cancel.set()
            sending.join(10)
            raise
        sending.join()
        return outcome

    def _send(self, receivers: Mapping[str, Destination], report: Report, changed: Changed) -> None:
        if not receivers:
            return
        package = Package(self._wanted.runtime, self._runtime_folder)
        total = package.size_bytes
        started = time.monotonic()

        def tell(node: str, phase: str, count: int) -> None:
            text = f"{phase} {count // _MIB} of {total // _MIB} MiB" if count else phase
            report(f"{node} runtime", text, count / total if count else 1.0)

        failed = fan_out(package, receivers, self._nodes.ssh, report=tell, cancel=self._cancel)
        changed.seconds["runtime"] = time.monotonic() - started
        for node in receivers:
            self._state.journal("runtime", node=node, error=failed[node].message if node in failed else None)
            report(f"{node} runtime", "not sent" if node in failed else "there and checked", 1.0)
        changed.failed.update(failed)
        if len(failed) == len(receivers):
            self._cancel.set()  # nobody could go on: do not let Ansible wait for it

    def _has_runtime(self, node: str) -> bool:
        machine = self._machines.get(node)
        return machine is not None and machine.runtime == self._wanted.rendered.runtime_hash

    @property
    def _runtime_folder(self) -> str:
        return f"{RUNTIMES}/{self._wanted.rendered.runtime_hash}"

    def _host(self, node: str, work: NodeWork, folder: Path) -> Host:
        base, files = self._wanted.bases[node], self._files(node)
        about = variables(
            base,
            files,
            work,
            runtime=self._wanted.rendered.runtime_hash,
            bundle_path=str(folder / f"{node}.json"),
            file_system=self._wanted.file_system,
            may_reboot=self._wanted.may_reboot,
        )
        return Host(self._nodes.targets[node], about, sudo_password=self._nodes.passwords.get(node))

    def _write_bundles(self, folder: Path, work: Mapping[str, NodeWork]) -> None:
        """Write what `place.py` reads on each node; the manifest in it says what is not started yet."""
        for node, each in work.items():
            units = {
                name: value
                for name, value in self._known_units(node).items()
                if name not in each.start + each.restart + each.stop
            }
            text = self._manifest(node, self._files(node), units)
            write_private(
                folder / f"{node}.json", bundle(self._wanted.bases[node], self._files(node), each, text)
            )

    # -- manifests -------------------------------------------------------------------------------------

    def _files(self, node: str) -> dict[str, RenderedFile]:
        return self._wanted.rendered.files[node]

    def _known_units(self, node: str) -> dict[str, str]:
        machine = self._machines.get(node)
        return units_of(machine.manifest) if machine else {}

    def _hashes(self, node: str) -> dict[str, str]:
        return unit_hashes(self._wanted, node)

    def _manifest(self, node: str, files: Mapping[str, RenderedFile], units: Mapping[str, str]) -> bytes:
        return node_manifest(self._wanted, node, units)

    def _write_manifest(self, node: str, files: Mapping[str, RenderedFile], units: Mapping[str, str]) -> None:
        entry = file_entry(manifest.PATH, RenderedFile(self._manifest(node, files, units), manifest.MODE))
        self._place(node, entry)

    def _place(self, node: str, entry: Mapping[str, str]) -> None:
        document = {"directories": [], "remove": [], "keep": [], "files": [entry]}
        self._nodes.python(node, role_script("base", "place.py"), json.dumps(document).encode())

    def _write_manifests(self, work: Mapping[str, NodeWork], changed: Changed) -> None:
        """Write the manifest of every node where all went well: units that were started are in it now."""

        def write(node: str) -> None:
            waiting = changed.sessions.get(node, ())
            units = {name: value for name, value in self._hashes(node).items() if name not in waiting}
            self._write_manifest(node, self._files(node), units)

        _, failed = self._nodes.each(write, [node for node in work if node not in changed.failed])
        changed.failed.update(failed)

    def _keep_inventories(self, work: Mapping[str, NodeWork]) -> None:
        """Keep what nodes are like before anything of ours is there, so that `destroy` can compare."""

        def keep(node: str) -> None:
            machine = self._machines.get(node)
            if machine is None or machine.manifest is not None:
                return
            text = self._nodes.python(node, node_script("inventory.py"), b"")
            self._nodes.root(node, ["mkdir", "-p", "-m", "755", "/var/lib/rpicluster"])
            entry = file_entry(BEFORE, RenderedFile(text, 0o600))
            existing = self._nodes.ssh.run(
                self._nodes.targets[node], ["test", "-e", BEFORE], node=node, deadline_s=10.0
            )
            if existing.status != 0:  # an `up` that broke off has kept it already
                self._place(node, entry)

        _, failed = self._nodes.each(keep, work)
        for error in failed.values():
            raise error


class _Progress:
    """Events of Ansible as a line a node."""

    def __init__(self, work: Mapping[str, NodeWork], report: Report, state: RemoteState) -> None:
        self._report = report
        self._state = state
        self._done = dict.fromkeys(work, 0)

    def event(self, event: Event) -> None:
        """Tell what a node does now, and note in the journal what it has changed."""
        if event.kind == "task":
            self._report(event.node, event.step, min(0.95, self._done.get(event.node, 0) / 24))
        elif event.is_failure:
            self._report(event.node, f"failed: {event.step}", 1.0)
            self._state.journal("failed", node=event.node, step=event.step, message=event.message)
        elif event.is_end:
            self._done[event.node] = self._done.get(event.node, 0) + 1
            if event.changed:
                self._state.journal("done", node=event.node, step=event.step, seconds=event.seconds)
        elif event.kind == "end":
            for node in self._done:
                self._report(node, "placed", 1.0)
