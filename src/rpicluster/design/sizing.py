"""From spec and facts to the memory and cores of every process, or a refusal with the arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rpicluster.design import executors
from rpicluster.design.daemon_sizes import (
    DRIVER,
    DRIVER_WITH_GATEWAY,
    OS_RESERVE_MIB,
    Frame,
    frame,
    os_reserve,
    shortfall,
)
from rpicluster.design.executors import AM_MIB, EXECUTOR_MIN_MIB, Choice, Worker, floor_to_allocation
from rpicluster.design.explain import explain
from rpicluster.design.sizes import JvmSize, NodeSizes, Sizes
from rpicluster.errors import SizingRefused
from rpicluster.model.facts import ClusterFacts, HostFacts
from rpicluster.model.memory import format_memory
from rpicluster.model.spec import ClusterSpec, Gateway, Role

__all__ = ["THIS_MACHINE", "default_local_budgets", "explain", "size"]

THIS_MACHINE = "this machine"
DEFAULT_SESSIONS_MAX = 4
# Of containers: an executor beside a master, for YARN may put the master on any worker.
WORKER_MIN_MIB = AM_MIB + EXECUTOR_MIN_MIB
_LOCAL_WORKER_MAX_MIB = 2048
_TASKS_PER_CORE = 3
_SHUFFLE_PARTITIONS_MIN = 8


@dataclass(frozen=True)
class _Node:
    """What sizing needs to know of one node, from spec and facts."""

    name: str
    memory_mib: int
    cores: int
    roles: tuple[Role, ...]
    virtual: bool
    workers: int
    own_reserve_mib: int | None
    driver: JvmSize  # of each session, where it manages

    @property
    def manages(self) -> bool:
        return Role.MANAGER in self.roles

    @property
    def works(self) -> bool:
        return Role.WORKER in self.roles

    def frame(self, memory_mib: int | None = None) -> Frame:
        """What is taken before drivers and containers, if the node had `memory_mib`."""
        have = self.memory_mib if memory_mib is None else memory_mib
        return frame(have, self.roles, self.workers, virtual=self.virtual, reserve_mib=self.own_reserve_mib)

    def needs_mib(self, sessions: int) -> int:
        """Room for `sessions` drivers if it manages, and for a master beside an executor if it works."""
        return (sessions * self.driver.memory_mib if self.manages else 0) + (
            WORKER_MIN_MIB if self.works else 0
        )

    def has_room(self, sessions: int, memory_mib: int) -> bool:
        return self.frame(memory_mib).room_mib >= self.needs_mib(sessions)


@dataclass(frozen=True)
class _Cluster:
    nodes: tuple[_Node, ...]
    sessions_asked: int | None

    @property
    def manager(self) -> _Node:
        return next(node for node in self.nodes if node.manages)

    @property
    def workers(self) -> list[_Node]:
        return [node for node in self.nodes if node.works]

    def yarn_mib(self, node: _Node, sessions: int, memory_mib: int | None = None) -> int:
        """Memory that `node` gives to containers when the manager holds `sessions` drivers."""
        if not node.works:
            return 0
        room = node.frame(memory_mib).room_mib
        if node.manages:
            room -= sessions * node.driver.memory_mib
            if self.sessions_asked is None and sessions < DEFAULT_SESSIONS_MAX:
                # More is saved for the next session: containers must not shrink when it comes.
                room = min(room, _yarn_beside_drivers(node, sessions + 1))
        return floor_to_allocation(room)

    def containers(self, sessions: int) -> list[Worker]:
        return [Worker(self.yarn_mib(node, sessions), node.cores) for node in self.workers]


def size(spec: ClusterSpec, facts: ClusterFacts) -> Sizes:
    """Return all sizes of the cluster that `spec` asks for, on machines as in `facts`.

    Raises SizingRefused with the node, the MiB it is short and the smallest change that is accepted.
    """
    cluster = _join(spec, facts)
    _refuse_small_nodes(cluster)
    if spec.is_local:
        _refuse_overfull_host(cluster, facts.host)
    sessions, choice = _sessions_and_executors(cluster)
    workers = cluster.containers(sessions)
    executor = executors.executor(choice, workers)
    nodes = {node.name: _node_sizes(cluster, node, sessions, executor.cores) for node in cluster.nodes}
    replication, replication_notes = _replication(spec, len(workers))
    return Sizes(
        nodes=nodes,
        driver=cluster.manager.driver,
        application_master=executors.application_master(),
        executor=executor,
        executors_max=choice.count,
        sessions_max=sessions,
        min_allocation_mib=executors.MIN_ALLOCATION_MIB,
        max_allocation_mib=max(worker.yarn_mib for worker in workers),
        max_allocation_vcores=max(worker.cores for worker in workers),
        am_resource_percent=_am_resource_percent([worker.yarn_mib for worker in workers], sessions),
        replication=replication,
        shuffle_partitions=max(_SHUFFLE_PARTITIONS_MIN, _TASKS_PER_CORE * choice.count * executor.cores),
        notes=(*_notes(cluster, nodes, choice), *replication_notes),
    )


def default_local_budgets(host: HostFacts) -> list[tuple[str, int, int]]:
    """Return (name, memory_mib, cores) of a manager and two workers that are polite to this machine.

    Together at most half of the RAM, unless the smallest cluster needs more; a worker gets at most 2 GiB.
    A machine too small for two workers gets one node that does everything; `size` has the last word on it.
    """
    manager = DRIVER.memory_mib - frame(0, (Role.MANAGER,), 2, virtual=True).room_mib
    worker_min = WORKER_MIN_MIB - frame(0, (Role.WORKER,), 2, virtual=True).room_mib
    most = host.memory_mib - os_reserve(host.memory_mib)
    if manager + 2 * worker_min > most:
        return [("solo", most, host.cores)]
    polite = (host.memory_mib // 2 - manager) // 2
    worker = min(max(worker_min, polite), _LOCAL_WORKER_MAX_MIB)
    cores = max(1, host.cores // 2)
    return [("manager", manager, 1), ("worker1", worker, cores), ("worker2", worker, cores)]


def _join(spec: ClusterSpec, facts: ClusterFacts) -> _Cluster:
    workers, roles = len(spec.workers), spec.roles
    driver = DRIVER_WITH_GATEWAY if spec.sessions.sparklyr is Gateway.ON else DRIVER
    return _Cluster(
        tuple(
            _Node(
                node.name,
                facts.nodes[node.name].memory_mib,
                facts.nodes[node.name].cores,
                roles[node.name],
                spec.is_local,
                workers,
                node.reserve,
                driver,
            )
            for node in spec.nodes
        ),
        spec.sessions.max,
    )


def _yarn_beside_drivers(node: _Node, sessions: int) -> int:
    # By default drivers take at most a third of what daemons leave on a node that also works.
    return 2 * sessions * node.driver.memory_mib


def _refuse_small_nodes(cluster: _Cluster) -> None:
    sessions = cluster.sessions_asked or 1
    for node in sorted(cluster.nodes, key=lambda n: n.name):
        if node.has_room(sessions, node.memory_mib):
            continue
        short = shortfall(partial(node.has_room, sessions), node.memory_mib)
        raise SizingRefused(
            f"{node.name} has {node.memory_mib} MiB, {short} MiB too few: {_arithmetic(node, sessions)}",
            node=node.name,
            short_mib=short,
            hint=_hint(node, sessions, short),
        )


def _arithmetic(node: _Node, sessions: int) -> str:
    parts = node.frame()
    terms = [("operating system", parts.reserve_mib)] if parts.reserve_mib else []
    terms += [(name, daemon.memory_mib) for name, daemon in parts.daemons.items()]
    if node.manages:
        of_each = (
            f"{sessions} session drivers of {node.driver.memory_mib} MiB"
            if sessions > 1
            else "session driver"
        )
        terms.append((of_each, sessions * node.driver.memory_mib))
    if node.works:
        terms += [("application master", AM_MIB), ("smallest executor", EXECUTOR_MIN_MIB)]
    return " + ".join(f"{what} {mib}" for what, mib in terms) + f" = {sum(mib for _, mib in terms)} MiB"


def _hint(node: _Node, sessions: int, short_mib: int) -> str:
    fewer = [k for k in range(1, sessions) if node.manages and node.has_room(k, node.memory_mib)]
    if fewer:
        return f"write `sessions: {{max: {fewer[-1]}}}`"
    if node.own_reserve_mib is not None and node.own_reserve_mib - short_mib >= OS_RESERVE_MIB:
        return f"write `reserve: {format_memory(node.own_reserve_mib - short_mib)}` for {node.name}"
    enough = node.memory_mib + short_mib
    if node.virtual:
        return f"write `local: {{memory: {format_memory(enough)}}}` for {node.name}"
    if node.manages:
        return f"give the role manager to a node with at least {enough} MiB of RAM"
    return f"take {node.name} out of `nodes`: a worker needs at least {enough} MiB of RAM"


def _refuse_overfull_host(cluster: _Cluster, host: HostFacts | None) -> None:
    if host is None:
        raise ValueError("the facts of a local cluster must say what machine its nodes share")
    budgets = sum(node.memory_mib for node in cluster.nodes)

    def holds(memory_mib: int) -> bool:
        return budgets + os_reserve(memory_mib) <= memory_mib

    if holds(host.memory_mib):
        return
    short = shortfall(holds, host.memory_mib)
    reserve = os_reserve(host.memory_mib)
    raise SizingRefused(
        f"{THIS_MACHINE} has {host.memory_mib} MiB, {short} MiB too few: virtual nodes {budgets} + "
        f"operating system {reserve} = {budgets + reserve} MiB",
        node=THIS_MACHINE,
        short_mib=short,
        hint=_lower_budgets(cluster, budgets + reserve - host.memory_mib),
    )


def _lower_budgets(cluster: _Cluster, too_much_mib: int) -> str:
    """Return which budgets to lower, those with most to spare first, to free `too_much_mib`."""
    sessions = cluster.sessions_asked or 1
    spare = {n: n.memory_mib - shortfall(partial(n.has_room, sessions), 0) for n in cluster.nodes}
    changes = []
    for node in sorted(spare, key=lambda n: (-spare[n], n.name)):
        less = min(spare[node], too_much_mib)
        if less > 0:
            changes.append(f"`local: {{memory: {format_memory(node.memory_mib - less)}}}` for {node.name}")
            too_much_mib -= less
    if too_much_mib > 0:
        return "take a worker out of `nodes`: these do not fit even with the smallest budgets"
    return "write " + ", ".join(changes)


def _sessions_and_executors(cluster: _Cluster) -> tuple[int, Choice]:
    asked = cluster.sessions_asked
    for sessions in [asked] if asked else range(_drivers_by_default(cluster.manager), 0, -1):
        workers = cluster.containers(sessions)
        if not _each_has_an_executor([worker.yarn_mib for worker in workers], sessions):
            continue
        choice = executors.choose(workers, sessions)
        if asked or sessions == 1 or cluster.manager.works or _mostly_executors(choice, workers):
            return sessions, choice
    raise _too_many_sessions(cluster, asked or 1)


def _each_has_an_executor(yarn_mib: Sequence[int], sessions: int) -> bool:
    return executors.executors_in_worst_case(yarn_mib, EXECUTOR_MIN_MIB, sessions) >= sessions


def _drivers_by_default(manager: _Node) -> int:
    room = manager.frame().room_mib
    fits = 1
    for sessions in range(2, DEFAULT_SESSIONS_MAX + 1):
        beside = _yarn_beside_drivers(manager, sessions) if manager.works else 0
        if room >= sessions * manager.driver.memory_mib + beside:
            fits = sessions
    return fits


def _mostly_executors(choice: Choice, workers: Sequence[Worker]) -> bool:
    # A further session must not make its application master displace what it came to use.
    return 4 * choice.count * choice.memory_mib >= 3 * sum(worker.yarn_mib for worker in workers)


def _too_many_sessions(cluster: _Cluster, sessions: int) -> SizingRefused:
    node = min(cluster.workers, key=lambda n: (-cluster.yarn_mib(n, sessions), n.name))
    others = [cluster.yarn_mib(n, sessions) for n in cluster.workers if n is not node]

    def enough(memory_mib: int) -> bool:
        return _each_has_an_executor([*others, cluster.yarn_mib(node, sessions, memory_mib)], sessions)

    short = shortfall(enough, node.memory_mib)
    fewer = (
        k
        for k in range(sessions - 1, 1, -1)
        if _each_has_an_executor([cluster.yarn_mib(n, k) for n in cluster.workers], k)
    )
    have = sum(cluster.yarn_mib(n, sessions) for n in cluster.workers)
    return SizingRefused(
        f"{sessions} sessions need an application master of {AM_MIB} MiB and an executor of "
        f"{EXECUTOR_MIN_MIB} MiB each, {sessions * WORKER_MIN_MIB} MiB wherever YARN puts them; the "
        f"workers have {have} MiB for containers, and {node.name} is {short} MiB short",
        node=node.name,
        short_mib=short,
        hint=f"write `sessions: {{max: {next(fewer, 1)}}}`",
    )


def _node_sizes(cluster: _Cluster, node: _Node, sessions: int, executor_cores: int) -> NodeSizes:
    parts = node.frame()
    drivers = sessions if node.manages else 0
    yarn = cluster.yarn_mib(node, sessions)
    left = parts.room_mib - drivers * node.driver.memory_mib
    reason = f"{left} MiB are left, rounded down to whole {executors.MIN_ALLOCATION_MIB} MiB"
    if left - yarn >= executors.MIN_ALLOCATION_MIB:
        reason = f"{left} MiB are left, and {left - yarn} of them are saved for session {sessions + 1}"
    return NodeSizes(
        name=node.name,
        memory_mib=parts.memory_mib,
        cores=node.cores,
        reserve_mib=parts.reserve_mib,
        reserve_reason=parts.reserve_reason,
        daemons=parts.daemons,
        drivers=drivers,
        yarn_memory_mib=yarn,
        # YARN refuses what no registered node could hold, cores included, even when it only counts memory.
        yarn_vcores=max(node.cores, executor_cores) if node.works else 0,
        yarn_reason=reason if node.works else "it has no NodeManager",
    )


def _am_resource_percent(yarn_mib: Sequence[int], sessions: int) -> float:
    """Return the fraction that masters may use: enough for all, also while the largest worker is away.

    CapacityScheduler 3.5.0 multiplies it with the queue's memory and rounds up to the minimum allocation
    (AbstractLeafQueue.calculateAndGetAMResourceLimitPerPartition), with a user limit of 100 % for each user.
    """
    left = sum(yarn_mib) - (max(yarn_mib) if len(yarn_mib) > 1 else 0)
    return min(1.0, math.ceil(100 * sessions * AM_MIB / left) / 100)


def _replication(spec: ClusterSpec, datanodes: int) -> tuple[int, list[str]]:
    wanted = spec.hdfs.replication
    if wanted is None:
        return min(2, datanodes), []
    notes = [
        f"hdfs.replication is {wanted}, and there are {datanodes} DataNodes: files get {datanodes} copies"
    ]
    return min(wanted, datanodes), notes if wanted > datanodes else []


def _notes(cluster: _Cluster, nodes: dict[str, NodeSizes], choice: Choice) -> list[str]:
    notes = []
    for node in sorted(cluster.nodes, key=lambda n: n.name):
        yarn = nodes[node.name].yarn_memory_mib
        if 0 < yarn < choice.memory_mib:
            notes.append(
                f"{node.name} holds no executor: its {yarn} MiB for containers are less than an executor's "
                f"{choice.memory_mib} MiB; it keeps files, and may hold an application master"
            )
        if node.own_reserve_mib is not None and not node.virtual and node.own_reserve_mib < OS_RESERVE_MIB:
            notes.append(
                f"{node.name} reserves {node.own_reserve_mib} MiB, less than the {OS_RESERVE_MIB} MiB that "
                "an operating system needs: the kernel may kill processes"
            )
    return notes
