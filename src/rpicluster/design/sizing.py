"""From spec and facts to the memory and cores of every process, or a refusal with the arithmetic."""

import math
from dataclasses import dataclass
from functools import partial

from rpicluster.design import executors
from rpicluster.design.daemon_sizes import DRIVER, OS_RESERVE_MIB, Frame, frame, os_reserve, shortfall
from rpicluster.design.executors import AM_MIB, EXECUTOR_MIN_MIB, Choice, Worker, floor_to_allocation
from rpicluster.design.sizes import Explanation, Line, NodeSizes, Sizes
from rpicluster.errors import SizingRefused
from rpicluster.model.facts import ClusterFacts, HostFacts
from rpicluster.model.memory import format_memory
from rpicluster.model.spec import ClusterSpec, NodeSpec, Role

THIS_MACHINE = "this machine"
DEFAULT_SESSIONS_MAX = 4
WORKER_MIN_MIB = (
    AM_MIB + EXECUTOR_MIN_MIB
)  # of containers: an executor beside a master, wherever YARN puts that
_LOCAL_WORKER_MAX_MIB = 2048
_TASKS_PER_CORE = 3
_SHUFFLE_PARTITIONS_MIN = 8


@dataclass(frozen=True)
class _Cluster:
    """The spec joined with what sizing needs of the facts."""

    spec: ClusterSpec
    facts: ClusterFacts

    def frame(self, node: NodeSpec, memory_mib: int | None = None) -> Frame:
        return frame(
            self.facts.nodes[node.name].memory_mib if memory_mib is None else memory_mib,
            self.spec.roles_of(node),
            len(self.spec.workers),
            virtual=self.spec.is_local,
            reserve_mib=node.reserve,
        )

    def works(self, node: NodeSpec) -> bool:
        return Role.WORKER in self.spec.roles_of(node)

    def yarn_mib(self, node: NodeSpec, sessions: int, memory_mib: int | None = None) -> int:
        """Memory that `node` gives to containers when the manager holds `sessions` drivers."""
        if not self.works(node):
            return 0
        room = self.frame(node, memory_mib).room_mib
        if node.name != self.spec.manager.name:
            return floor_to_allocation(room)
        room -= sessions * DRIVER.memory_mib
        if self.spec.sessions.max is None and sessions < DEFAULT_SESSIONS_MAX:
            # Up to here the next session is being saved for: it must not make containers smaller when it comes.
            room = min(room, _yarn_beside_drivers(sessions + 1))
        return floor_to_allocation(room)

    def workers(self, sessions: int) -> list[Worker]:
        return [
            Worker(self.yarn_mib(node, sessions), self.facts.nodes[node.name].cores)
            for node in self.spec.workers
        ]


def size(spec: ClusterSpec, facts: ClusterFacts) -> Sizes:
    """Return all sizes of the cluster that `spec` asks for on machines as in `facts`.

    Raises SizingRefused with the node, the MiB it is short and the smallest change that is accepted.
    """
    cluster = _Cluster(spec, facts)
    _refuse_small_nodes(cluster)
    _refuse_overfull_host(cluster)
    sessions, choice = _sessions_and_executors(cluster)
    workers = cluster.workers(sessions)
    executor = executors.executor(choice, workers)
    nodes = {node.name: _node_sizes(cluster, node, sessions) for node in spec.nodes}
    replication, replication_note = _replication(spec)
    total_cores = choice.count * executor.cores
    return Sizes(
        nodes=nodes,
        driver=DRIVER,
        application_master=executors.application_master(),
        executor=executor,
        executors_max=choice.count,
        sessions_max=sessions,
        min_allocation_mib=executors.MIN_ALLOCATION_MIB,
        max_allocation_mib=max(w.yarn_mib for w in workers),
        max_allocation_vcores=max(w.cores for w in workers),
        am_resource_percent=_am_resource_percent([w.yarn_mib for w in workers], sessions),
        replication=replication,
        shuffle_partitions=max(_SHUFFLE_PARTITIONS_MIN, _TASKS_PER_CORE * total_cores),
        notes=(*_notes(cluster, nodes, choice), *replication_note),
    )


def default_local_budgets(host: HostFacts) -> list[tuple[str, int, int]]:
    """Return (name, memory_mib, cores) of a manager and two workers that are polite to this machine.

    Together at most half of the RAM, unless the smallest cluster needs more; a worker gets at most 2 GiB.
    A machine too small for two workers gets one node that does everything; `size` has the last word on it.
    """
    manager = -frame(0, (Role.MANAGER,), 2, virtual=True).room_mib + DRIVER.memory_mib
    worker_min = -frame(0, (Role.WORKER,), 2, virtual=True).room_mib + WORKER_MIN_MIB
    most = host.memory_mib - os_reserve(host.memory_mib)
    if manager + 2 * worker_min > most:
        return [("solo", most, host.cores)]
    polite = (host.memory_mib // 2 - manager) // 2
    worker = min(max(worker_min, polite), _LOCAL_WORKER_MAX_MIB)
    cores = max(1, host.cores // 2)
    return [("manager", manager, 1), ("worker1", worker, cores), ("worker2", worker, cores)]


def explain(sizes: Sizes) -> list[Explanation]:
    """Return per node the lines that its RAM is shared out in, and last the containers, as data."""
    result = []
    for node in sizes.nodes.values():
        lines = [Line("operating system", node.reserve_mib, node.reserve_reason)]
        lines += [Line(name, daemon.memory_mib, daemon.reason) for name, daemon in node.daemons.items()]
        if node.drivers:
            reason = f"{node.drivers} × {sizes.driver.memory_mib} MiB; {sizes.driver.reason}"
            lines.append(Line("session drivers", node.drivers * sizes.driver.memory_mib, reason))
        if node.yarn_memory_mib:
            lines.append(Line("YARN containers", node.yarn_memory_mib, node.yarn_reason))
        if spare := node.memory_mib - sum(line.memory_mib for line in lines):
            lines.append(Line("not promised", spare, "left to the file cache"))
        result.append(Explanation(node.name, node.memory_mib, tuple(lines)))
    containers = (
        Line("application master", sizes.application_master.memory_mib, sizes.application_master.reason),
        Line("executor", sizes.executor.memory_mib, sizes.executor.reason),
    )
    return [*result, Explanation("containers", 0, containers)]


def _yarn_beside_drivers(sessions: int) -> int:
    # By default drivers take at most a third of what daemons leave on a node that also works.
    return 2 * sessions * DRIVER.memory_mib


def _needs_mib(cluster: _Cluster, node: NodeSpec, sessions: int) -> int:
    """Room that `node` must have for `sessions` drivers and, on a worker, a master beside an executor."""
    drivers = sessions * DRIVER.memory_mib if node.name == cluster.spec.manager.name else 0
    return drivers + (WORKER_MIN_MIB if cluster.works(node) else 0)


def _has_room(cluster: _Cluster, node: NodeSpec, needs_mib: int, memory_mib: int) -> bool:
    return cluster.frame(node, memory_mib).room_mib >= needs_mib


def _refuse_small_nodes(cluster: _Cluster) -> None:
    for node in sorted(cluster.spec.nodes, key=lambda n: n.name):
        sessions = cluster.spec.sessions.max or 1
        needs = _needs_mib(cluster, node, sessions)
        have = cluster.frame(node)
        if have.room_mib >= needs:
            continue
        short = shortfall(partial(_has_room, cluster, node, needs), have.memory_mib)
        raise SizingRefused(
            f"{node.name} has {have.memory_mib} MiB, {short} MiB too few: {_arithmetic(cluster, node, have, sessions)}",
            node=node.name,
            short_mib=short,
            hint=_hint(cluster, node, short, have.memory_mib + short),
        )


def _arithmetic(cluster: _Cluster, node: NodeSpec, have: Frame, sessions: int) -> str:
    parts = [f"operating system {have.reserve_mib}"] if have.reserve_mib else []
    parts += [f"{name} {daemon.memory_mib}" for name, daemon in have.daemons.items()]
    if node.name == cluster.spec.manager.name:
        parts.append(f"{sessions} × session driver {DRIVER.memory_mib}")
    if cluster.works(node):
        parts += [f"application master {AM_MIB}", f"smallest executor {EXECUTOR_MIN_MIB}"]
    return (
        " + ".join(parts) + f" = {have.memory_mib - have.room_mib + _needs_mib(cluster, node, sessions)} MiB"
    )


def _hint(cluster: _Cluster, node: NodeSpec, short_mib: int, enough_mib: int) -> str:
    if node.name == cluster.spec.manager.name and (asked := cluster.spec.sessions.max or 1) > 1:
        room = cluster.frame(node).room_mib
        fits = [k for k in range(1, asked) if room >= _needs_mib(cluster, node, k)]
        if fits:
            return f"write `sessions: {{max: {fits[-1]}}}`"
    if node.local:
        return f"write `local: {{memory: {format_memory(enough_mib)}}}` for {node.name}"
    return f"take {node.name} out of `nodes`, or give it {short_mib} MiB more RAM"


def _refuse_overfull_host(cluster: _Cluster) -> None:
    host = cluster.facts.host
    if not cluster.spec.is_local or host is None:
        return
    budgets = sum(cluster.facts.nodes[node.name].memory_mib for node in cluster.spec.nodes)
    if budgets + os_reserve(host.memory_mib) <= host.memory_mib:
        return
    short = shortfall(lambda m: budgets + os_reserve(m) <= m, host.memory_mib)
    over = budgets + os_reserve(host.memory_mib) - host.memory_mib
    raise SizingRefused(
        f"{THIS_MACHINE} has {host.memory_mib} MiB, {short} MiB too few: virtual nodes {budgets} + operating system "
        f"{os_reserve(host.memory_mib)} = {budgets + os_reserve(host.memory_mib)} MiB",
        node=THIS_MACHINE,
        short_mib=short,
        hint=f"lower the `local.memory` of its nodes by {over} MiB in all",
    )


def _sessions_and_executors(cluster: _Cluster) -> tuple[int, Choice]:
    asked = cluster.spec.sessions.max
    for sessions in [asked] if asked else range(_drivers_by_default(cluster), 0, -1):
        workers = cluster.workers(sessions)
        choice = executors.choose(workers, sessions)
        enough = asked or sessions == 1 or cluster.works(cluster.spec.manager)
        if choice.count >= sessions and (enough or _mostly_executors(choice, workers)):
            return sessions, choice
    raise _too_many_sessions(cluster, asked or 1)


def _drivers_by_default(cluster: _Cluster) -> int:
    manager = cluster.spec.manager
    room = cluster.frame(manager).room_mib
    fits = 1
    for sessions in range(2, DEFAULT_SESSIONS_MAX + 1):
        beside = _yarn_beside_drivers(sessions) if cluster.works(manager) else 0
        if room >= sessions * DRIVER.memory_mib + beside:
            fits = sessions
    return fits


def _mostly_executors(choice: Choice, workers: list[Worker]) -> bool:
    # A further session must not make its application master displace what it came to use.
    return 3 * choice.count * choice.memory_mib >= 2 * sum(w.yarn_mib for w in workers)


def _too_many_sessions(cluster: _Cluster, sessions: int) -> SizingRefused:
    node = min(cluster.spec.workers, key=lambda n: (-cluster.yarn_mib(n, sessions), n.name))
    have = cluster.facts.nodes[node.name].memory_mib
    others = [cluster.yarn_mib(n, sessions) for n in cluster.spec.workers if n.name != node.name]

    def enough(memory_mib: int) -> bool:
        memories = [*others, cluster.yarn_mib(node, sessions, memory_mib)]
        return executors.executors_in_worst_case(memories, EXECUTOR_MIN_MIB, sessions) >= sessions

    short = shortfall(enough, have)
    fewer = next(
        (k for k in range(sessions - 1, 0, -1) if executors.choose(cluster.workers(k), k).count >= k), 1
    )
    return SizingRefused(
        f"{sessions} sessions need {sessions} × (application master {AM_MIB} + smallest executor {EXECUTOR_MIN_MIB}) "
        f"MiB on the workers, and their {sum(cluster.yarn_mib(n, sessions) for n in cluster.spec.workers)} MiB for containers "
        f"do not hold that in every placement: {node.name} would need {short} MiB more",
        node=node.name,
        short_mib=short,
        hint=f"write `sessions: {{max: {fewer}}}`",
    )


def _node_sizes(cluster: _Cluster, node: NodeSpec, sessions: int) -> NodeSizes:
    parts = cluster.frame(node)
    drivers = sessions if node.name == cluster.spec.manager.name else 0
    yarn = cluster.yarn_mib(node, sessions)
    left = parts.room_mib - drivers * DRIVER.memory_mib
    reason = "it has no NodeManager"
    if yarn:
        saved = left - yarn >= executors.MIN_ALLOCATION_MIB
        reason = f"{left} MiB are left, rounded down to a multiple of {executors.MIN_ALLOCATION_MIB}"
        if saved:
            reason = f"{left} MiB are left; {left - yarn} of them are saved for session driver {sessions + 1}"
    return NodeSizes(
        name=node.name,
        memory_mib=parts.memory_mib,
        cores=cluster.facts.nodes[node.name].cores,
        reserve_mib=parts.reserve_mib,
        reserve_reason=parts.reserve_reason,
        daemons=parts.daemons,
        drivers=drivers,
        yarn_memory_mib=yarn,
        yarn_vcores=cluster.facts.nodes[node.name].cores if cluster.works(node) else 0,
        yarn_reason=reason,
    )


def _am_resource_percent(yarn_mib: list[int], sessions: int) -> float:
    """Return the share of the queue that masters may use, large enough also while the largest worker is away."""
    left = sum(yarn_mib) - (max(yarn_mib) if len(yarn_mib) > 1 else 0)
    return min(1.0, math.ceil(100 * sessions * AM_MIB / left) / 100)


def _replication(spec: ClusterSpec) -> tuple[int, tuple[str, ...]]:
    datanodes = len(spec.workers)
    wanted = spec.hdfs.replication
    if wanted is None:
        return min(2, datanodes), ()
    if wanted > datanodes:
        return datanodes, (
            f"hdfs.replication is {wanted}, and there are {datanodes} DataNodes: files get {datanodes} copies",
        )
    return wanted, ()


def _notes(cluster: _Cluster, nodes: dict[str, NodeSizes], choice: Choice) -> list[str]:
    notes = []
    for node in sorted(cluster.spec.nodes, key=lambda n: n.name):
        yarn = nodes[node.name].yarn_memory_mib
        if 0 < yarn < choice.memory_mib:
            notes.append(
                f"{node.name} holds no executor: its {yarn} MiB for containers are less than an executor's "
                f"{choice.memory_mib} MiB; it keeps files, and may hold an application master"
            )
        if node.reserve is not None and not cluster.spec.is_local and node.reserve < OS_RESERVE_MIB:
            notes.append(
                f"{node.name} reserves {node.reserve} MiB, less than the {OS_RESERVE_MIB} MiB that an operating "
                "system needs: the kernel may kill processes"
            )
    return notes
