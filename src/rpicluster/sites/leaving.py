"""Nodes leave: their blocks are copied away, their containers end, and then all of ours on them is removed.

Whatever breaks off goes on with the next `up`: who leaves is known from what is remembered, and how far it is
from the NameNode.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from rpicluster.design import layout, leaving
from rpicluster.design.leaving import Leaver, Member, Storage, Stored
from rpicluster.design.plan import Action, Step
from rpicluster.design.preview import PATHS
from rpicluster.design.units import RenderedFile
from rpicluster.errors import HostKeyRefused, RpiclusterError, Unhealthy, UsageError
from rpicluster.model.facts import kept_disk
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.remote import members
from rpicluster.nodes.remote.commands import Nodes
from rpicluster.nodes.remote.manifest import absolute, owner_of
from rpicluster.nodes.remote.removal import take_away
from rpicluster.nodes.remote.state import RemoteState
from rpicluster.nodes.ssh.observe import observe_nodes
from rpicluster.sites.site import Report

if TYPE_CHECKING:
    from rpicluster.services.namenode import NameNode
    from rpicluster.services.webhdfs import WebHdfs
    from rpicluster.services.yarn import Yarn

# For this long nothing at all may happen: no block copied, no step of the NameNode.
STALLED_S = 600.0
# A container may take this long to end; then its NodeManager is stopped, and Spark does its tasks again.
GRACE_S = 300.0
_POLL_S = 2.0
_REFRESH_S = 120.0
_LEAVING = "leaving"


class Daemons:
    """What the NameNode and the ResourceManager say of nodes that leave."""

    def __init__(self, namenode: "NameNode", hdfs: "WebHdfs", yarn: "Yarn") -> None:
        """Ask these three."""
        self._namenode, self._hdfs, self._yarn = namenode, hdfs, yarn

    def storage(self) -> Storage:
        """Return HDFS in the numbers that decide. Raises Unreachable, ServiceError."""
        report = self._namenode.report()
        nodes = {
            node.name: Stored(
                node.state,
                blocks=node.blocks,
                used_bytes=node.used_bytes,
                remaining_bytes=node.remaining_bytes,
                to_copy=node.to_copy,
                open_files=node.open_files,
                silent_s=node.last_contact_s,
            )
            for node in report.datanodes
        }
        return Storage(nodes, self._hdfs.defaults().replication, report.missing_blocks)

    def containers(self, addresses: Collection[str]) -> dict[str, int]:
        """Return how many containers of jobs run at addresses; application masters do not count.

        A master lives as long as its session, for weeks; YARN starts another when its NodeManager ends.
        """
        masters: dict[str, int] = {}
        for application in self._yarn.applications(states=("RUNNING",)):
            host = application.am_node.partition(":")[0]
            masters[host] = masters.get(host, 0) + 1
        return {
            node.host: max(0, node.containers - masters.get(node.host, 0))
            for node in self._yarn.nodes()
            if node.host in addresses
        }


class Leaving:
    """The members of a cluster behind SSH that cluster.yml no longer names, or no longer as workers."""

    def __init__(
        self,
        spec: ClusterSpec,
        state: RemoteState,
        nodes: Nodes,
        machines: Mapping[str, MachineFacts | None],
        daemons: Callable[[], Daemons],
        *,
        clock_s: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Stand for those that leave; `nodes` and `machines` are those that stay."""
        self._spec, self._state, self._nodes, self._machines = spec, state, nodes, machines
        self._daemons = daemons
        self._clock_s, self._pause = clock_s, pause
        self.known = members.known_members(state, machines.get(self._manager))

    @property
    def _manager(self) -> str:
        return self._spec.manager.name

    @cached_property
    def found(self) -> tuple[Leaver, ...]:
        """Who leaves; nobody where the manager changes, which is refused."""
        if leaving.manager_refusal(self.known, self._spec):
            return ()
        return leaving.leavers(self.known, self._spec)

    def members(self, staying: Mapping[str, Member]) -> dict[str, Member]:
        """Return all members while some leave: those are still what they were."""
        return {**staying, **{leaver.name: leaver.member for leaver in self.found}}

    @cached_property
    def nodes(self) -> Nodes:
        """How those are reached that go for good."""
        whole = {leaver.name: leaver.member for leaver in self.found if leaver.whole}
        targets = {name: member.target for name, member in whole.items()}
        known = next(iter(self._nodes.passwords.values()), None)
        passwords = dict(self._nodes.passwords)
        if known is not None:  # one person's nodes: asked for once
            passwords.update({name: known for name in targets if name not in passwords})
        return Nodes(targets, self._nodes.ssh, passwords)

    @cached_property
    def _look(self) -> tuple[dict[str, MachineFacts], dict[str, str]]:
        seen = observe_nodes(self.nodes.targets, self.nodes.ssh, sudo_passwords=self.nodes.passwords)
        cluster = self._machines.get(self._manager)
        ours = owner_of(cluster) if cluster is not None else None
        machines, gone = {}, {}
        for name, observation in seen.items():
            if observation.facts is None:
                error = observation.error
                other = isinstance(error, HostKeyRefused)
                why = error.message if error is not None else "it said nothing"
                gone[name] = "another machine answers in its place" if other else why
                continue
            owner = owner_of(observation.facts)
            if owner is not None and owner != ours:
                gone[name] = f"it belongs to cluster {owner[0]!r} now"
            else:
                machines[name] = observation.facts
        return machines, gone

    @property
    def machines(self) -> dict[str, MachineFacts]:
        """Those that go and answer, as they were seen."""
        return self._look[0]

    @property
    def gone(self) -> dict[str, str]:
        """Why the others do not answer."""
        return self._look[1]

    # -- planning --------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """Return the steps of those that leave."""
        if not self.found:
            return []
        staying = [node.name for node in self._spec.workers]
        return leaving.leave_steps(self.found, staying, self.gone)

    def refusals(self) -> list[str]:
        """Return why nobody may leave now."""
        moved = leaving.manager_refusal(self.known, self._spec)
        if moved:
            return [moved]
        if not self.found:
            return []
        found = self._renamed() + self._without_root()
        if not any(leaver.member.datanode for leaver in self.found):
            return found
        try:
            return found + leaving.refusals(self.found, self._daemons().storage(), self.gone)
        except RpiclusterError as error:
            names = " and ".join(leaver.name for leaver in self.found)
            return [
                *found,
                f"{names} cannot leave while HDFS does not say where its blocks are: {error.message}; "
                "`rpicluster start` first",
            ]

    def _renamed(self) -> list[str]:
        stay = {m.machine_id: name for name, m in self._machines.items() if m is not None and m.machine_id}
        return [
            f"{name} is called {stay[machine.machine_id]} now: a node keeps its name as long as it belongs "
            "to the cluster. Take it out, `rpicluster up`, then add it under the new name"
            for name, machine in self.machines.items()
            if machine.machine_id in stay
        ]

    def _without_root(self) -> list[str]:
        return [
            f"{name} cannot be cleared: its login cannot become root; sudo wants a password or refuses"
            for name, machine in self.machines.items()
            if machine.privilege == "none"
        ]

    # -- moving out ------------------------------------------------------------------------------------

    def move_out(self, *, report: Report) -> None:
        """Copy every block away and let containers end; returns when all that leave may be switched off.

        Raises UsageError where copies could not be kept, Unhealthy when nothing happens for ten minutes.
        """
        workers = [leaver for leaver in self.found if leaver.member.datanode]
        if not workers:
            return
        daemons = self._daemons()
        storage = daemons.storage()
        if refused := leaving.refusals(workers, storage, self.gone):
            raise UsageError("; ".join(refused))
        names = [leaver.name for leaver in workers]
        lists = leaving.exclude_files(workers)
        if any(leaver.member.datanode in storage.datanodes for leaver in workers):
            self._state.journal("leaving", nodes=names)
            self._tell(lists)
            self._wait(workers, daemons, report)
            self._state.journal("moved-out", nodes=names)
        self._stop_nodemanagers(workers)
        # Back to what the plan knows: empty. They are read with the next reload, which the plan has.
        members.place(self._nodes, self._manager, dict.fromkeys(lists, RenderedFile(b"")))

    def _tell(self, lists: Mapping[str, RenderedFile]) -> None:
        """Have NameNode and ResourceManager count the workers out."""
        known = self._machines.get(self._manager)
        there = set(known.deployed) if known is not None else set()
        if not all(absolute(path) in there for path in lists):
            raise UsageError(
                "the cluster was set up by a rpicluster that could not take nodes out",
                hint="put the node back into cluster.yml, `rpicluster up`, and take it out again",
            )
        reloaded = ("namenode", "resourcemanager")

        def mark(document: dict[str, Any]) -> None:
            # If the node is put back into cluster.yml, the next `up` has both read their lists again.
            for unit in reloaded:
                started_with = document.get("units", {}).get(unit)
                if started_with:
                    document["units"][unit] = f"{started_with.partition('.')[0]}.{_LEAVING}"

        members.edit_manifest(self._nodes, self._manager, mark)
        members.place(self._nodes, self._manager, lists)
        self._nodes.systemctl(self._manager, "reload", reloaded, deadline_s=_REFRESH_S)

    def _wait(self, workers: Collection[Leaver], daemons: Daemons, report: Report) -> None:
        began = moved = self._clock_s()
        before: object = None
        while True:
            now = self._clock_s()
            try:
                blocks, busy = self._state_of(workers, daemons)
            except RpiclusterError as error:
                blocks, busy = {workers_name(workers): error.message.splitlines()[0]}, {}
            waits = now - began < GRACE_S
            for leaver in workers:
                said = blocks.get(leaver.name) or (busy.get(leaver.name) if waits else None)
                report(f"{leaver.name} leaves", said or "every block is elsewhere", 0.0 if said else 1.0)
            if not blocks and not (busy and waits):
                return
            if (blocks, busy) != before:
                before, moved = (blocks, busy), now
            if now - moved > STALLED_S:
                raise Unhealthy(
                    f"nothing has moved for {STALLED_S / 60:.0f} min: " + "; ".join([*blocks.values()]),
                    hint="see `rpicluster doctor`; `rpicluster up` goes on, with or without the node",
                )
            self._pause(_POLL_S)

    def _state_of(
        self, workers: Collection[Leaver], daemons: Daemons
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Return, by node, what is still to copy and what still runs, in words."""
        storage = daemons.storage()
        running = daemons.containers([leaver.member.address for leaver in workers])
        blocks = {leaver.name: said for leaver in workers if (said := leaving.still_to_do(leaver, storage))}
        busy = {
            leaver.name: f"{leaver.name}: {running[leaver.member.address]} containers may end"
            for leaver in workers
            if running.get(leaver.member.address) and leaver.name not in self.gone
        }
        return blocks, busy

    def _stop_nodemanagers(self, workers: Iterable[Leaver]) -> None:
        for leaver in workers:
            if leaver.whole and leaver.name in self.machines:
                unit = layout.systemd_unit("nodemanager")
                there = self.machines[leaver.name].units
                if unit in there and there[unit].loaded != "not-found":
                    self.nodes.systemctl(leaver.name, "stop", ("nodemanager",))

    # -- after that ------------------------------------------------------------------------------------

    def clear(self, staying: Mapping[str, Member], *, report: Report) -> dict[str, RpiclusterError]:
        """Take everything of ours away from those that left, and forget them; return errors by node.

        Who failed stays a member: the next `up` tries again.
        """
        if not self.found:
            return {}
        failed = self._clear_whole(report)
        _, errors = self._nodes.each(
            self._clear_worker, [leaver.name for leaver in self.found if not leaver.whole]
        )
        failed.update(errors)
        for name, why in self.gone.items():
            report(name, f"left behind as it is: {why}", 1.0)
        late = {leaver.name: leaver.member for leaver in self.found if leaver.name in failed}
        members.settle(self._nodes, self._state, self._manager, {**staying, **late})
        done = [leaver.name for leaver in self.found if leaver.name not in failed]
        self._state.journal("left", nodes=done)
        for leaver in self.found:
            if leaver.whole and leaver.name in done:
                self._state.forget_facts(leaver.name)
        return failed

    def _clear_whole(self, report: Report) -> dict[str, RpiclusterError]:
        if not self.machines:
            return {}
        left, failed = take_away(self.nodes, self._state, self.machines, report=report)
        for name, entries in left.items():
            if entries:
                failed[name] = Unhealthy(f"{name} has left, and something of ours is still there: {entries}")
            else:
                report(name, "has left; nothing of the cluster is on it", 1.0)
        return failed

    def take_all_away(self, *, report: Report) -> tuple[dict[str, list[str]], dict[str, RpiclusterError]]:
        """Clear those that go, for a cluster that ends: nothing of theirs is kept. Answers as `take_away`."""
        if not self.found:
            return {}, {}
        for name, why in self.gone.items():
            report(name, f"left behind as it is: {why}", 1.0)
        return take_away(self.nodes, self._state, self.machines, report=report) if self.machines else ({}, {})

    def _clear_worker(self, node: str) -> None:
        machine = self._machines.get(node)
        disk = kept_disk(machine) if machine is not None else None
        paths = PATHS.model_copy(update={"disk": disk})
        folders = [layout.unit_directory(paths, unit) for unit in ("datanode", "nodemanager")]
        self._nodes.root(node, ["rm", "-rf", "--", *folders], deadline_s=300.0)


def workers_name(workers: Collection[Leaver]) -> str:
    """Return the names of nodes in one word."""
    return " and ".join(leaver.name for leaver in workers)


def is_leaving(step: Step) -> bool:
    """Return whether a step is one of those above, and not of a node that stays."""
    return step.action in (Action.LEAVE, Action.CLEAR)
