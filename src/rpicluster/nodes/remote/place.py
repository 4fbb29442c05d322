"""RemotePlace: the nodes of a cluster behind SSH, looked at once, and asked what runs."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rpicluster.design import layout
from rpicluster.design.mount_unit import unit_name
from rpicluster.design.plan import Action, Step
from rpicluster.design.preview import PATHS
from rpicluster.errors import HostKeyRefused, NodeAmbiguous, RpiclusterError
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.remote.commands import Nodes, node_script
from rpicluster.nodes.remote.finding import Finder
from rpicluster.nodes.remote.manifest import absolute, units_of
from rpicluster.nodes.remote.observed import unit_state
from rpicluster.nodes.remote.placement import target_of
from rpicluster.nodes.remote.state import RemoteState
from rpicluster.nodes.ssh.observe import Observation, observe_nodes
from rpicluster.nodes.ssh.openssh import HostKey, OpenSsh
from rpicluster.nodes.ssh.read_system import read_units

_STATUS_DEADLINE_S = 1.2  # `status` answers within 2 s whatever is dead


@dataclass(frozen=True)
class RemoteUnit:
    """A unit as its node's systemd sees it."""

    node: str
    unit: str
    state: Literal["running", "stopped", "failed", "unknown"]
    pid: int | None
    detail: str = ""


@dataclass(frozen=True)
class Look:
    """One look at all nodes: what was seen now, what is known from before, and why nodes do not answer."""

    machines: dict[str, MachineFacts | None]
    unreachable: dict[str, str]
    errors: dict[str, RpiclusterError]
    new_host_keys: dict[str, HostKey]


class RemotePlace:
    """The nodes of one cluster behind SSH."""

    def __init__(
        self,
        spec: ClusterSpec,
        state: RemoteState,
        ssh: OpenSsh,
        passwords: Mapping[str, str] | None = None,
    ) -> None:
        """Stand for the nodes of `spec`; `passwords` are those that sudo wants, by node."""
        self.spec = spec
        self.state = state
        self.nodes = Nodes(
            {node.name: target_of(node) for node in spec.nodes},
            ssh,
            passwords if passwords is not None else {},
        )
        self.finder = Finder(self.nodes, state)

    def look(self, *, first_contact: bool = False) -> Look:
        """Look at every node once; writes nothing there.

        With `first_contact`, host keys of nodes that were never seen are learnt, and told. Nodes that do not
        answer are looked for. Raises HostKeyRefused: a key that is not the known one is no node that is off;
        and NodeAmbiguous where two machines claim to be one node.
        """
        new = frozenset(name for name in self.nodes.targets if self.state.known_facts(name) is None)
        seen = observe_nodes(
            self.nodes.targets,
            self.nodes.ssh,
            first_contact=new if first_contact else frozenset(),
            sudo_passwords=self.nodes.passwords,
        )
        seen = self.finder.found(seen)
        machines: dict[str, MachineFacts | None] = {}
        errors: dict[str, RpiclusterError] = {}
        for name, observation in seen.items():
            machines[name] = self._machine(name, observation)
            if observation.error is not None:
                errors[name] = observation.error
        return Look(
            machines=machines,
            unreachable={name: error.message for name, error in errors.items()},
            errors=errors,
            new_host_keys={name: seen[name].new_host_key for name in seen if seen[name].new_host_key},  # type: ignore[misc]
        )

    def _machine(self, name: str, observation: Observation) -> MachineFacts | None:
        if isinstance(observation.error, HostKeyRefused | NodeAmbiguous):
            raise observation.error
        if observation.facts is None:
            return self.state.known_facts(name)
        self.state.keep_facts(name, observation.facts)
        return observation.facts

    def with_texts(self, steps: Sequence[Step]) -> tuple[Step, ...]:
        """Return the steps with what files that change or go say now, for a diff; one command a node."""
        import tarfile

        wanted: dict[str, list[str]] = {}
        for step in steps:
            is_text = not step.target.endswith(".jar")
            if step.before and is_text and step.action in (Action.WRITE, Action.REMOVE):
                wanted.setdefault(step.node, []).append(absolute(step.target))

        def read(node: str) -> dict[str, str]:
            answer = self.nodes.root(node, ["tar", "-cf", "-", "--absolute-names", *wanted[node]])
            with tarfile.open(fileobj=io.BytesIO(answer)) as archive:
                return {
                    member.name: file.read().decode(errors="replace")
                    for member in archive
                    if (file := archive.extractfile(member)) is not None
                }

        texts, _ = self.nodes.each(read, wanted)
        return tuple(
            replace(step, before_text=texts.get(step.node, {}).get(absolute(step.target)))
            if step.before
            else step
            for step in steps
        )

    # -- what runs -------------------------------------------------------------------------------------

    def statuses(
        self,
        units: Mapping[str, tuple[str, ...]],
        *,
        disks: Mapping[str, str] | None = None,
        deadline_s: float = _STATUS_DEADLINE_S,
    ) -> tuple[list[RemoteUnit], dict[str, str]]:
        """Return the state of `units`, names by node, and why nodes do not answer; within 1.3 s.

        `disks` are the mount points of nodes' data: a unit that needs one which is away says so.
        """

        def ask(node: str) -> list[RemoteUnit]:
            names = [layout.systemd_unit(unit) for unit in units[node]]
            disk = (disks or {}).get(node)
            names += [unit_name(disk)] if disk else []
            properties = (
                "Id,LoadState,ActiveState,SubState,UnitFileState,Result,NRestarts,MainPID,ExecMainStatus"
            )
            answer = self.nodes.ssh.check(
                self.nodes.targets[node],
                ["systemctl", "show", "-p", properties, *names],
                node=node,
                deadline_s=deadline_s,
            )
            found = read_units(answer.decode(errors="replace"))
            mounted = disk is None or unit_state(found.get(unit_name(disk))) == "running"
            return [
                _unit(
                    node,
                    unit,
                    found.get(layout.systemd_unit(unit)),
                    missing="" if mounted or unit not in layout.ON_DISK else str(disk),
                )
                for unit in units[node]
            ]

        done, failed = self.nodes.each(ask, units)
        return [u for of_node in done.values() for u in of_node], {n: e.message for n, e in failed.items()}

    def seen_units(self, units: Mapping[str, tuple[str, ...]], look: Look) -> list[RemoteUnit]:
        """Return the state of `units`, names by node, as a look saw them."""
        found = []
        for node, names in units.items():
            machine, why = look.machines[node], look.unreachable.get(node)
            if machine is None or why is not None:
                found += [RemoteUnit(node, name, "unknown", None, why or "never seen") for name in names]
            else:
                found += [_unit(node, name, machine.units.get(layout.systemd_unit(name))) for name in names]
        return found

    def session_report(self, user: str, *, deadline_s: float = _STATUS_DEADLINE_S) -> dict[str, Any] | None:
        """Return what the keeper of a user's session last wrote; None before it wrote anything."""
        path = layout.status_file(PATHS, user)
        manager = self.spec.manager.name
        answer = self.nodes.ssh.run(
            self.nodes.targets[manager],
            ["cat", path],
            node=manager,
            deadline_s=deadline_s,
            sudo=True,
            sudo_password=self.nodes.passwords.get(manager),
        )
        try:
            document = json.loads(answer.stdout) if answer.status == 0 else None
        except ValueError:
            return None
        return document if isinstance(document, dict) else None

    def let_in(self, manager: str, wanted: Mapping[str, Any]) -> dict[str, str]:
        """Let this machine tunnel and make the sessions' tokens; return the tokens by user."""
        answer = self.nodes.python(manager, node_script("let_in.py"), json.dumps(wanted).encode())
        return {str(user): str(token) for user, token in json.loads(answer).items()}

    def started_units(self, look: Look) -> dict[str, tuple[str, ...]]:
        """Return the units that were ever started, by node, from the manifests."""
        return {
            name: tuple(units_of(machine.manifest))
            for name, machine in look.machines.items()
            if machine is not None and name not in look.unreachable
        }

    def stop(self, units: Mapping[str, tuple[str, ...]]) -> dict[str, RpiclusterError]:
        """Stop units: sessions first, then YARN, then HDFS; return errors by node."""
        failed: dict[str, RpiclusterError] = {}
        for kinds in (("session-",), ("nodemanager", "resourcemanager"), ("datanode", "namenode")):
            _, errors = self.nodes.each(_systemctl(self.nodes, "stop", units, kinds), units)
            failed.update(errors)
        return failed

    def start(self, units: Mapping[str, tuple[str, ...]]) -> dict[str, RpiclusterError]:
        """Start units that do not run, sessions last; return errors by node."""
        failed: dict[str, RpiclusterError] = {}
        for kinds in (("namenode", "datanode", "resourcemanager", "nodemanager"), ("session-",)):
            _, errors = self.nodes.each(_systemctl(self.nodes, "start", units, kinds), units)
            failed.update(errors)
        return failed


def _systemctl(
    nodes: Nodes, verb: str, units: Mapping[str, tuple[str, ...]], kinds: tuple[str, ...]
) -> Callable[[str], None]:
    return lambda node: nodes.systemctl(node, verb, [unit for unit in units[node] if unit.startswith(kinds)])


def _unit(node: str, name: str, unit: Any, *, missing: str = "") -> RemoteUnit:
    state = unit_state(unit)
    detail = "" if unit is None else f"systemd says {unit.active} ({unit.sub}), result {unit.result}"
    if missing and state != "running":
        state, detail = "failed", f"the disk with its data is not mounted on {missing}"
    return RemoteUnit(
        node, name, state, unit.pid if unit is not None and state == "running" else None, detail
    )
