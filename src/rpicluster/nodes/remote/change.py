"""A plan carried out on nodes behind SSH: one run of Ansible with the stream of the runtime beside it."""

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpicluster.design.plan import Action, Plan, Step
from rpicluster.design.units import Rendered, RenderedFile, unit_hash
from rpicluster.errors import RemoteCommandFailed, RpiclusterError, UsageError
from rpicluster.model.facts import Placement
from rpicluster.model.machine import MachineFacts, Manifest
from rpicluster.nodes.ansible.events import Event
from rpicluster.nodes.ansible.playbook import Outcome, run_playbook
from rpicluster.nodes.ansible.rundir import Host, write_private, write_run
from rpicluster.nodes.fanout.send import MANIFEST, Destination, Package, fan_out
from rpicluster.nodes.remote import manifest, r_archive, storage
from rpicluster.nodes.remote.bundle import (
    RUNTIMES,
    NodeWork,
    bundle,
    start_order,
    variables,
)
from rpicluster.nodes.remote.commands import Nodes, node_script, role_script
from rpicluster.nodes.remote.manifest import Base, manifest_of, units_of
from rpicluster.nodes.remote.members import place
from rpicluster.nodes.remote.r_work import ARCHIVE, RWork
from rpicluster.nodes.remote.state import RemoteState
from rpicluster.nodes.ssh.read_deployed import read_manifest

BEFORE = "/var/lib/rpicluster/before.json"
Report = Callable[[str, str, float], None]  # (node, what it does, share done 0–1)
_MIB = 1 << 20
_START_S = 120.0
_SOURCES_S = 300.0  # some megabytes, on a node with a slow card
_SETTLE_S = 600.0  # apt on a Pi


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
            if base.storage:
                reasons.append(f"data in {base.storage['path']}")
        if base.packages:
            reasons.append("install " + ", ".join(base.packages))
        if storage.is_away(base.storage, machine):
            reasons.append(f"the disk for data on {base.storage['mount']}")
        if base.boot_file:
            reasons.append(f"memory cgroup in {base.boot_file}, which counts after a reboot")
        if reasons:
            steps.append(Step(Action.PREPARE, node, "node", "; ".join(reasons)))
    return steps


def unit_hashes(wanted: Wanted, node: str) -> dict[str, str]:
    """Return the hashes of a node's units, by name."""
    files = wanted.rendered.files[node]
    return {unit.name: unit_hash(unit, files) for unit in wanted.rendered.units if unit.node == node}


def node_manifest(wanted: Wanted, node: str, units: Mapping[str, str], *, base_hash: str) -> bytes:
    """Return a node's manifest, with the hashes of the units that were started and of what is whole there."""
    return manifest_of(
        cluster=wanted.cluster,
        cluster_id=wanted.placement.cluster_id,
        node=node,
        runtime=wanted.rendered.runtime_hash,
        base_hash=base_hash,
        files=wanted.rendered.files[node],
        units=units,
        more={
            **storage.manifest_entry(wanted.placement.nodes[node].paths),
            **wanted.manifest_more.get(node, {}),
        },
    )


def settle(nodes: Nodes, names: Sequence[str]) -> None:
    """Wait on each node for the end of what an `up` that was broken off has begun there.

    Raises RemoteCommandFailed, which names what does not end. One that does not answer now is left out later.
    """
    order = json.dumps({"timeout_s": _SETTLE_S}).encode()
    script = node_script("settle.py")
    _, failed = nodes.each(lambda n: nodes.python(n, script, order, deadline_s=_SETTLE_S + 20), names)
    for error in failed.values():
        if isinstance(error, RemoteCommandFailed):
            raise error


def require_as_seen(
    nodes: Nodes, machines: Mapping[str, MachineFacts | None], unreachable: Mapping[str, str]
) -> None:
    """Raise UsageError if a node is no longer as the plan was made for: somebody else has changed it since.

    For the holder of the lease: whoever had it before may have ended between the look and now.
    """

    def read(node: str) -> Manifest | None:
        answer = nodes.ssh.run(nodes.targets[node], ["cat", manifest.PATH], node=node, deadline_s=20.0)
        return read_manifest(answer.stdout.decode(errors="replace")) if answer.status == 0 else None

    asked = [name for name, machine in machines.items() if machine is not None and name not in unreachable]
    found, _ = nodes.each(read, asked)  # one that does not answer now fails in its first step
    changed = [name for name, now in found.items() if (machine := machines[name]) and now != machine.manifest]
    if changed:
        raise UsageError(
            f"{', '.join(changed)}: somebody else has changed it since the plan was made",
            hint="look again: rpicluster plan",
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
        self._r: Mapping[str, RWork] = {}
        self.cancel = threading.Event()

    def carry_out(self, plan: Plan, *, report: Report, r: Mapping[str, RWork] | None = None) -> Changed:
        """Carry the plan out on every node that it names; what failed on a node does not stop the others.

        `r` is what nodes get of R, by name.

        Sessions are enabled and left for `settle`. Raises AnsibleFailed when nothing could be run at all.
        """
        work = {
            node: NodeWork.of([step for step in plan.steps if step.node == node])
            for node in dict.fromkeys(step.node for step in plan.steps)
        }
        self._r = r or {}
        self._state.journal("apply", plan=plan.hash, nodes=sorted(work))
        started = time.monotonic()
        changed = Changed(failed=self._keep_inventories(work))
        work = {node: each for node, each in work.items() if node not in changed.failed}
        folder = self._state.new_run()
        write_run(
            folder, {node: self._host(node, each, folder) for node, each in work.items()}, self._nodes.ssh
        )
        self._write_bundles(folder, work)
        changed.failed.update(self._send_r_sources(work, report))
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

    def _send_r_sources(self, work: Mapping[str, NodeWork], report: Report) -> dict[str, RpiclusterError]:
        """Send the sources of R packages; not by Ansible, whose `copy` wants a folder that the login owns."""

        def send(node: str) -> None:
            report(node, "sends sources of R packages", 0.0)
            sources = RenderedFile(r_archive.archive_of(self._r[node]), 0o600)
            place(self._nodes, node, {ARCHIVE: sources}, deadline_s=_SOURCES_S)

        wanted = [node for node, each in self._r.items() if node in work and each.files]
        return self._nodes.each(send, wanted)[1]

    def start_sessions(self, sessions: Mapping[str, tuple[str, ...]]) -> None:
        """Start sessions, and note in the manifest what they were started with."""
        script = role_script("base", "start_unit.py")
        for node, units in sessions.items():
            for unit in units:
                order = start_order(unit, self._hashes(node)[unit], restart=True)
                self._nodes.python(node, script, json.dumps(order).encode(), deadline_s=_START_S)
                self._state.journal("done", node=node, step="Start the session", item=unit)

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
        receivers = self._without_stored(receivers)
        sending = threading.Thread(target=self._send, args=(receivers, report, changed), daemon=True)
        sending.start()
        progress = _Progress(work, report, self._state)
        try:
            outcome = run_playbook(
                folder,
                "apply.yml",
                report=progress.event,
                cancel=self.cancel,
                sudo_password=next(iter(self._nodes.passwords.values()), None),
            )
            sending.join()
        except BaseException:
            self.cancel.set()
            sending.join(10)
            raise
        return outcome

    def _without_stored(self, receivers: Mapping[str, Destination]) -> dict[str, Destination]:
        """Leave out nodes where the runtime lies whole already, though nothing uses it yet.

        An `up` that was broken off behind the stream has left it so. What stands under this name was checked
        against its manifest before it was renamed.
        """
        whole = f"{self._runtime_folder}/{MANIFEST}"

        def there(node: str) -> bool:
            target = self._nodes.targets[node]
            return self._nodes.ssh.run(target, ["test", "-e", whole], node=node, deadline_s=10.0).status == 0

        stored, _ = self._nodes.each(there, receivers)  # one that does not answer now is asked by the stream
        return {node: each for node, each in receivers.items() if not stored.get(node)}

    def _send(self, receivers: Mapping[str, Destination], report: Report, changed: Changed) -> None:
        if not receivers:
            return
        package = Package(self._wanted.runtime, self._runtime_folder)
        total = package.size_bytes
        started = time.monotonic()

        def tell(node: str, phase: str, count: int) -> None:
            text = f"{phase} {count // _MIB} of {total // _MIB} MiB" if count else phase
            report(f"{node} runtime", text, count / total if count else 1.0)

        failed = fan_out(package, receivers, self._nodes.ssh, report=tell, cancel=self.cancel)
        changed.seconds["runtime"] = time.monotonic() - started
        for node in receivers:
            if node in failed:
                self._state.journal(
                    "failed", node=node, step="Send the runtime", message=failed[node].message
                )
            else:
                self._state.journal("done", node=node, step="Send the runtime", item="")
            report(f"{node} runtime", "not sent" if node in failed else "there and checked", 1.0)
        changed.failed.update(failed)
        if len(failed) == len(receivers):
            self.cancel.set()  # nobody could go on: do not let Ansible wait for it

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
            paths=self._wanted.placement.nodes[node].paths,
            unit_hashes=self._hashes(node),
            runtime=self._wanted.rendered.runtime_hash,
            bundle_path=str(folder / f"{node}.json"),
            file_system=self._wanted.file_system,
            may_reboot=self._wanted.may_reboot,
            r=self._r.get(node),
        )
        return Host(self._nodes.targets[node], about)

    def _write_bundles(self, folder: Path, work: Mapping[str, NodeWork]) -> None:
        """Write what `place.py` reads on each node; the manifest in it says what is not started yet."""
        for node, each in work.items():
            text = self._manifest_before(node, each)
            write_private(
                folder / f"{node}.json", bundle(self._wanted.bases[node], self._files(node), each, text)
            )

    # -- manifests -------------------------------------------------------------------------------------

    def _files(self, node: str) -> dict[str, RenderedFile]:
        return self._wanted.rendered.files[node]

    def _known_base(self, node: str) -> str:
        machine = self._machines.get(node)
        extra = machine.manifest.extra if machine and machine.manifest else {}
        return str(extra.get("base", ""))

    def _known_units(self, node: str) -> dict[str, str]:
        machine = self._machines.get(node)
        return units_of(machine.manifest) if machine else {}

    def _hashes(self, node: str) -> dict[str, str]:
        return unit_hashes(self._wanted, node)

    def _manifest_before(self, node: str, work: NodeWork) -> bytes:
        """Return the manifest that comes with the files: without the units that are to be started yet.

        Logins, names and timers come before and behind the files: whole when the run has ended.
        """
        units = {
            name: value
            for name, value in self._known_units(node).items()
            if name not in work.start + work.restart + work.stop
        }
        return node_manifest(self._wanted, node, units, base_hash=self._known_base(node))

    def _write_manifests(self, work: Mapping[str, NodeWork], changed: Changed) -> None:
        """Write the manifest of every node where all went well: units that were started are in it now."""

        def write(node: str) -> None:
            waiting = changed.sessions.get(node, ())
            units = {name: value for name, value in self._hashes(node).items() if name not in waiting}
            text = node_manifest(self._wanted, node, units, base_hash=self._wanted.bases[node].hash)
            if text == self._manifest_before(node, work[node]):
                return  # only a session is left to start: what came with the files says it all
            place(self._nodes, node, {manifest.PATH: RenderedFile(text, manifest.MODE)})
            self._state.journal("done", node=node, step="Write the manifest", item="")

        _, failed = self._nodes.each(write, [node for node in work if node not in changed.failed])
        changed.failed.update(failed)

    def _keep_inventories(self, work: Mapping[str, NodeWork]) -> dict[str, RpiclusterError]:
        """Keep what nodes are like before anything of ours is there, so that `destroy` can compare.

        Returns errors by node: nothing may be changed there.
        """

        def keep(node: str) -> None:
            machine = self._machines.get(node)
            if machine is None or machine.manifest is not None:
                return
            existing = self._nodes.ssh.run(
                self._nodes.targets[node], ["test", "-e", BEFORE], node=node, deadline_s=10.0
            )
            if existing.status == 0:  # an `up` that broke off has kept it already
                return
            text = self._nodes.python(node, node_script("inventory.py"), b"")
            self._nodes.root(node, ["mkdir", "-p", "-m", "755", "/var/lib/rpicluster"])
            place(self._nodes, node, {BEFORE: RenderedFile(text, 0o600)})
            self._state.journal("done", node=node, step="Keep what it is like before", item="")

        _, failed = self._nodes.each(keep, work)
        return failed


class _Progress:
    """Events of Ansible as a line a node."""

    def __init__(self, work: Mapping[str, NodeWork], report: Report, state: RemoteState) -> None:
        self._report = report
        self._state = state
        self._done = dict.fromkeys(work, 0)
        self._in_items: set[tuple[str, str]] = set()

    def event(self, event: Event) -> None:
        """Tell what a node does now, and note in the journal what it has changed."""
        if event.kind == "task":
            self._report(event.node, event.step, min(0.95, self._done.get(event.node, 0) / 24))
        elif event.is_failure:
            self._report(event.node, f"failed: {event.step}", 1.0)
            self._state.journal("failed", node=event.node, step=event.step, message=event.message)
        elif event.is_end:
            self._done[event.node] = self._done.get(event.node, 0) + 1
            if event.changed and (event.node, event.task) not in self._in_items:
                self._note(event)
        elif event.status == "item-ok" and event.changed:
            self._in_items.add((event.node, event.task))
            self._note(event)
        elif event.kind == "end":
            for node in self._done:
                self._report(node, "placed", 1.0)

    def _note(self, event: Event) -> None:
        self._state.journal("done", node=event.node, step=event.step, item=event.item, seconds=event.seconds)
