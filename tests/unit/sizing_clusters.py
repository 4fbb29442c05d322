"""Clusters for the tests of sizing, and a YARN that knows nothing of how sizes were chosen."""

import itertools
import math
import random
from collections.abc import Sequence

from rpicluster.design.sizes import ContainerSize, Sizes
from rpicluster.model.facts import ClusterFacts, HostFacts, NodeFacts
from rpicluster.model.spec import ClusterSpec

# RAM as the boards themselves see it, MiB.
PI_2G, PI_4G, PI_8G, PI_16G = 1849, 3790, 7780, 15900

Node = tuple[int, int, Sequence[str]]  # RAM in MiB, cores, roles


def cluster(
    nodes: Sequence[Node],
    *,
    local: bool = False,
    host_mib: int | None = None,
    sessions: int | None = None,
    replication: int | None = None,
    reserves: dict[str, int] | None = None,
) -> tuple[ClusterSpec, ClusterFacts]:
    """Return spec and facts of nodes n00, n01, …; a local cluster's machine has room enough unless told."""
    named = {f"n{i:02}": node for i, node in enumerate(nodes)}
    return build(
        named, local=local, host_mib=host_mib, sessions=sessions, replication=replication, reserves=reserves
    )


def build(
    named: dict[str, Node],
    *,
    local: bool = False,
    host_mib: int | None = None,
    sessions: int | None = None,
    replication: int | None = None,
    reserves: dict[str, int] | None = None,
) -> tuple[ClusterSpec, ClusterFacts]:
    def place(name: str) -> dict[str, object]:
        memory, cores, _ = named[name]
        return {"local": {"memory": f"{memory}M", "cores": cores}} if local else {"ssh": {"host": name}}

    def reserve(name: str) -> dict[str, object]:
        return {"reserve": f"{reserves[name]}M"} if reserves and name in reserves else {}

    spec = ClusterSpec.model_validate(
        {
            "name": "test",
            "nodes": [
                {"name": name, "roles": list(node[2]), **place(name), **reserve(name)}
                for name, node in named.items()
            ],
            "sessions": {"max": sessions},
            "hdfs": {"replication": replication},
        }
    )
    total = sum(memory for memory, _, _ in named.values())
    return spec, ClusterFacts(
        nodes={n: NodeFacts(name=n, memory_mib=node[0], cores=node[1]) for n, node in named.items()},
        host=HostFacts(memory_mib=host_mib or total * 2 + 1024, cores=8) if local else None,
    )


def grown(facts: ClusterFacts, name: str, more_mib: int) -> ClusterFacts:
    """Return facts in which one node has more RAM."""
    node = facts.nodes[name]
    more = node.model_copy(update={"memory_mib": node.memory_mib + more_mib})
    return facts.model_copy(update={"nodes": {**facts.nodes, name: more}})


def on_larger_machine(facts: ClusterFacts, more_mib: int) -> ClusterFacts:
    """Return facts in which the machine that virtual nodes share has more RAM."""
    host = facts.host and HostFacts(memory_mib=facts.host.memory_mib + more_mib, cores=facts.host.cores)
    return facts.model_copy(update={"host": host})


def granted_mib(asked: ContainerSize, sizes: Sizes) -> int:
    """Return what YARN makes of a request, like DefaultResourceCalculator.normalize; refuse like it."""
    step = sizes.min_allocation_mib
    granted = math.ceil(max(asked.heap_mib + asked.overhead_mib, step) / step) * step
    assert granted <= sizes.max_allocation_mib, "InvalidResourceRequestException: memory"
    assert asked.cores <= sizes.max_allocation_vcores, "InvalidResourceRequestException: vcores"
    return granted


def am_limit_mib(sizes: Sizes, yarn_mib: Sequence[int]) -> int:
    """Return what masters may use, like AbstractLeafQueue.calculateAndGetAMResourceLimitPerPartition."""
    step = sizes.min_allocation_mib
    return math.ceil(int(sum(yarn_mib) * sizes.am_resource_percent + 0.5) / step) * step


def yarn_of(sizes: Sizes) -> list[int]:
    return [node.yarn_memory_mib for node in sizes.nodes.values() if node.yarn_memory_mib]


def fewest_executors(yarn_mib: Sequence[int], am_mib: int, executor_mib: int, masters: int) -> int:
    """Return how many executors fit in the worst of all placements of the masters, by trying them all."""
    fewest = None
    for where in itertools.combinations_with_replacement(range(len(yarn_mib)), masters):
        left = list(yarn_mib)
        for node in where:
            left[node] -= am_mib
        if min(left) >= 0:
            count = sum(memory // executor_mib for memory in left)
            fewest = count if fewest is None else min(fewest, count)
    assert fewest is not None, "the masters fit nowhere"
    return fewest


def run_sessions(sizes: Sizes, rng: random.Random) -> None:
    """Start sessions and all executors, together or one after the other, each container anywhere it fits."""
    left = yarn_of(sizes)

    def start(memory_mib: int, what: str) -> None:
        fits = [i for i, memory in enumerate(left) if memory >= memory_mib]
        assert fits, f"{what} fits nowhere: {left}"
        left[rng.choice(fits)] -= memory_mib

    am, executor = granted_mib(sizes.application_master, sizes), granted_mib(sizes.executor, sizes)
    together = rng.random() < 0.5
    for _ in range(sizes.sessions_max if together else 1):
        start(am, "an application master")
    for _ in range(sizes.executors_max):
        start(executor, "an executor")
    for _ in range(0 if together else sizes.sessions_max - 1):
        start(am, "a further application master")
