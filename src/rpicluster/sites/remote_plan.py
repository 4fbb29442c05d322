"""What would have to change on nodes behind SSH; see `design.plan`."""

import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from rpicluster.design import layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.plan import Observed, Plan, make_plan
from rpicluster.design.sizes import Sizes
from rpicluster.design.units import Rendered
from rpicluster.design.whereabouts import macs_of, manager_refusal, move_steps, moves
from rpicluster.errors import (
    UsageError,
)
from rpicluster.nodes.remote import members
from rpicluster.nodes.remote import observed as seen
from rpicluster.nodes.remote import placement as places
from rpicluster.nodes.remote.base import base_of
from rpicluster.nodes.remote.change import prepare_steps
from rpicluster.nodes.remote.manifest import owner_of
from rpicluster.nodes.remote.r_work import RRequest, r_steps
from rpicluster.nodes.remote.room import no_room
from rpicluster.nodes.remote.storage import format_steps
from rpicluster.runtime import store
from rpicluster.sites.r_packages import r_request
from rpicluster.sites.remote_look import RemoteLook

TRUST = "users of one cluster trust each other: containers run as the NodeManager's user"
USUAL_RUNTIME_BYTES = 456_000_000  # where none is in the cache yet


@dataclass(frozen=True)
class CheckedNode:
    """One node, as `check` shows it; `state` is `ready`, `member`, `unreachable` or `refused`."""

    name: str
    address: str
    system: str
    memory_mib: int
    cores: int
    java: int | None
    state: str
    detail: str


class RemotePlan(RemoteLook):
    """The nodes, and what a plan makes of them; writes nothing to a node."""

    def plan(self, rendered: Rendered, sizes: Sizes, *, texts: bool = False) -> Plan:
        """Compare with what is there; changes nothing."""
        found = make_plan(
            self._written.name, rendered, self._observed(rendered), warnings=self._warnings(sizes)
        )
        taking_part = {node.name: self._machines[node.name] for node in self.spec.nodes}
        steps = [
            *format_steps(self.storage, self._left_out),
            *prepare_steps(self._bases(sizes), self._machines, self._left_out),
            *r_steps(self._r_request, taking_part, self._left_out),
        ]
        changes = self.place.with_texts(found.steps) if texts else found.steps
        leaves = self.leaving.steps()
        return replace(
            found,
            steps=(*leaves, *move_steps(self._moved), *steps, *changes),
            refusals=(*found.refusals, *self._refusals(), *self.leaving.refusals()),
        )

    @property
    def _moved(self) -> dict[str, tuple[str, str]]:
        """Nodes that answer and have another address than the cluster was set up with: (was, is)."""
        there = {n: m for n, m in self._machines.items() if m is not None and n not in self.look.unreachable}
        now = {n: placed.address for n, placed in self.placement.nodes.items() if n in there}
        return moves(members.known_addresses(self.state, there.values()), now)

    def _manager_moved(self) -> tuple[str, ...]:
        machine = self._machines[self.manager]
        if machine is None:
            return ()
        is_formatted, cards = machine.file_system is not None, macs_of(machine)
        refusal = manager_refusal(self.manager, self._moved, formatted=is_formatted, macs=cards)
        return (refusal,) if refusal else ()

    def _refusals(self) -> tuple[str, ...]:
        """Return why nothing may be changed, before anything is."""
        machines = {n: m for n, m in self._machines.items() if n not in self.look.unreachable}
        runtime = store.installed()
        return (
            *(choice.refusal for node, choice in self.storage.items() if choice.refusal and node in machines),
            *seen.refusals(machines, cluster=self._written.name, cluster_id=self.placement.cluster_id),
            *places.mixed_java(self._machines),
            *self._manager_moved(),
            *no_room(
                machines,
                runtime_hash=store.locked_hash()[:16],
                runtime_mib=(runtime.size_bytes if runtime else USUAL_RUNTIME_BYTES) >> 20,
                data={n: layout.data_directory(p.paths, "datanode") for n, p in self.placement.nodes.items()},
                r=self._written.r is not None,
            ),
        )

    def ssh_command(self, node: str, command: tuple[str, ...]) -> list[str]:
        """Return the ssh that logs in on a node, or runs a command there."""
        target = self.place.nodes.targets.get(node)
        if target is None:
            raise UsageError(
                f"no node is called {node!r}", hint="there are " + ", ".join(self.place.nodes.targets)
            )
        words = shlex.join(command) if command else ""
        return ["ssh", *self.place.nodes.ssh.where(target), "--", target.host, *([words] if words else [])]

    def _observed(self, rendered: Rendered) -> Observed:
        units: dict[str, tuple[str, ...]] = {}
        for unit in rendered.units:
            units[unit.node] = (*units.get(unit.node, ()), unit.name)
        return seen.observed(
            self._machines, self._left_out, units, manager=self.manager, file_system=self._file_system
        )

    @cached_property
    def _r_request(self) -> RRequest | None:
        """What is wanted of R on every node; None where cluster.yml asks for none."""
        return r_request(self._written)

    @property
    def _left_out(self) -> dict[str, str]:
        """Why nodes get no steps; none, while the manager was never seen: it may not be bought yet."""
        return self.look.unreachable if self._machines[self.manager] is not None else {}

    def _warnings(self, sizes: Sizes) -> tuple[str, ...]:
        absent = self._absent
        guessed = [n for n, machine in self._machines.items() if machine is None and n not in absent]
        notes = [*sizes.notes, TRUST, *self.gateway.notes]
        notes += [note for choice in self.storage.values() for note in choice.warnings]
        notes += [f"{name} was never seen and is left out until it answers" for name in absent]
        if guessed:
            notes.append(f"{', '.join(guessed)}: never seen, the plan assumes what `hardware:` says")
        if not self._left_out:
            notes += [f"{name} does not answer: {why}" for name, why in self.look.unreachable.items()]
        for name, home in places.java_homes(self._machines).items():
            machine = self._machines[name]
            if machine is not None and "-21-" in home and not machine.java:
                notes.append(f"{name}: Java 21 is installed, because 17 is not there for every node")
        return tuple(notes)

    @property
    def _file_system(self) -> str:
        return f"rpicluster-{self.placement.cluster_id}"

    def _bases(self, sizes: Sizes) -> dict[str, Any]:
        inputs = Inputs.checked(self.spec, sizes, self.placement)
        return {node.name: base_of(inputs, node.name, self._machines[node.name]) for node in self.spec.nodes}

    def checked(self) -> list[CheckedNode]:
        """Return every node with what matters of it."""
        refusals = self._refusals()
        return [self._checked(node.name, refusals) for node in self._written.nodes]

    def _checked(self, name: str, refusals: tuple[str, ...]) -> CheckedNode:
        machine, facts = self._machines[name], self.facts.nodes.get(name)
        if facts is None:
            detail = self.look.errors[name].message if name in self.look.errors else "never seen"
            return CheckedNode(name, "", "", 0, 0, None, "unreachable", detail)
        # A reason begins with whom it concerns: `pi1: …`, `pi1 has …`, `pi1 and pi2 have one machine-id`.
        reasons = [
            reason
            for reason in refusals
            if name in reason.partition(" have one ")[0].replace(":", " ").split()
        ]
        state, detail = "ready", ""
        if name in self.look.errors:
            state, detail = "unreachable", self.look.errors[name].message
        elif reasons:
            state, detail = "refused", "; ".join(reasons)
        elif machine is not None and owner_of(machine) is not None:
            state = "member"
        node = self.placement.nodes[name]
        chosen = (java.major for java in machine.java if java.home == node.java_home) if machine else ()
        return CheckedNode(
            name=name,
            address=node.address,
            system=facts.os,
            memory_mib=facts.memory_mib,
            cores=facts.cores,
            java=next(iter(chosen), facts.java_major),
            state=state,
            detail=detail,
        )
