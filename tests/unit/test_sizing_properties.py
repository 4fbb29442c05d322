"""Every generated cluster is either accepted with all that is promised, or refused with honest arithmetic."""

import random
import re

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from rpicluster.design.explain import CONTAINERS, explain
from rpicluster.design.jvm import executor_flags
from rpicluster.design.sizes import Sizes
from rpicluster.design.sizing import THIS_MACHINE, size
from rpicluster.errors import SizingRefused
from rpicluster.model.facts import ClusterFacts
from rpicluster.model.spec import ClusterSpec, Role

from .sizing_clusters import (
    PI_2G,
    PI_4G,
    PI_8G,
    PI_16G,
    Node,
    am_limit_mib,
    build,
    fewest_executors,
    granted_mib,
    grown,
    on_larger_machine,
    run_sessions,
    yarn_of,
)

MEASURED_RSS_MIB = {"namenode": 165, "resourcemanager": 218, "datanode": 138, "nodemanager": 172}
OS_MIB = 256
SPARK_HEAP_MIB = (
    450  # UnifiedMemoryManager refuses less, and the serial collector hides 1/30 of a heap from it
)
REFUSALS = (r"has \d+ MiB, \d+ MiB too few", r"sessions need an application master")

BOARDS = (PI_2G, PI_4G, PI_8G, PI_16G)
Made = tuple[ClusterSpec, ClusterFacts]


def made_from(rng: random.Random, kinds: list[tuple[int, int]], picks: list[int]) -> Made:
    """Return a cluster of nodes `picks`, indexes into `kinds` of (MiB, cores); everything else is drawn."""
    manager, works = rng.randrange(len(picks)), len(picks) == 1 or rng.random() < 0.5
    roles = {True: ("manager", "worker") if works else ("manager",), False: ("worker",)}
    nodes: dict[str, Node] = {f"n{i:02}": (*kinds[kind], roles[i == manager]) for i, kind in enumerate(picks)}
    total = sum(memory for memory, _, _ in nodes.values())
    reserves = {name: rng.randint(1, 1024) for name in nodes if rng.random() < 0.1}
    return build(
        nodes,
        local=rng.random() < 0.5,
        host_mib=total + rng.choice([100, total // 14 + 256, total // 14 + 256, total + 1024]),
        sessions=rng.choice([None, None, rng.randint(1, 3), rng.randint(1, 64)]),
        replication=rng.choice([None, rng.randint(1, 10)]),
        reserves=reserves if rng.random() < 0.3 else None,
    )


def made_from_seed(seed: int) -> Made:
    """Return a cluster of 1 to 64 nodes: cheap to draw, so that there can be many."""
    rng = random.Random(seed)
    memories = [rng.choice(BOARDS), rng.randint(1024, 4096), rng.randint(1024, 65536)]
    kinds = [(rng.choice(memories), rng.randint(1, 32)) for _ in range(rng.randint(1, 5))]
    nodes = rng.choice([rng.randint(1, 6), rng.randint(1, 64)])
    return made_from(rng, kinds, rng.choices(range(len(kinds)), k=nodes))


@st.composite
def small_clusters(draw: st.DrawFn) -> Made:
    """Draw clusters that shrink to the nodes that matter."""
    memories = st.one_of(st.sampled_from(BOARDS), st.integers(1024, 65536))
    kinds = draw(st.lists(st.tuples(memories, st.integers(1, 32)), min_size=1, max_size=4))
    picks = draw(st.lists(st.integers(0, len(kinds) - 1), min_size=1, max_size=6))
    return made_from(random.Random(draw(st.integers(0, 1000))), kinds, picks)


seeds = st.integers(0, 1 << 48)
clusters = st.one_of(small_clusters(), seeds.map(made_from_seed), seeds.map(made_from_seed))
generators = seeds.map(random.Random)


def generated(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@generated(6500)
@pytest.mark.timeout(900)
@given(clusters, generators)
def test_every_cluster_is_accepted_with_all_invariants_or_refused_with_the_arithmetic(
    made: Made, rng: random.Random
) -> None:
    spec, facts = made
    try:
        sizes = size(spec, facts)
    except SizingRefused as refused:
        check_refusal(spec, facts, refused)
    else:
        check_nodes(spec, facts, sizes)
        check_containers(spec, sizes)
        check_yarn_grants_the_default_job(spec, sizes, rng)
        check_explanation(sizes)


@generated(2500)
@given(clusters, st.integers(0, 63), st.one_of(st.integers(1, 40), st.integers(1, 20000)))
def test_more_ram_in_a_node_never_means_less_memory_for_its_containers(
    made: Made, which: int, more_mib: int
) -> None:
    spec, facts = made
    name = spec.nodes[which % len(spec.nodes)].name
    try:
        before = size(spec, facts)
    except SizingRefused:
        return
    after = size(spec, on_larger_machine(grown(facts, name, more_mib), 2 * more_mib))
    assert after.nodes[name].yarn_memory_mib >= before.nodes[name].yarn_memory_mib


@generated(1500)
@given(clusters, generators)
def test_sizes_do_not_depend_on_the_order_of_nodes(made: Made, rng: random.Random) -> None:
    spec, facts = made
    nodes = list(spec.nodes)
    rng.shuffle(nodes)
    other = spec.model_copy(update={"nodes": tuple(nodes)})
    assert outcome(spec, facts) == outcome(other, facts)


def outcome(spec: ClusterSpec, facts: ClusterFacts) -> Sizes | tuple[str, str, int, str | None]:
    try:
        return size(spec, facts)
    except SizingRefused as refused:
        return refused.message, refused.node, refused.short_mib, refused.hint


def check_nodes(spec: ClusterSpec, facts: ClusterFacts, sizes: Sizes) -> None:
    assert list(sizes.nodes) == [node.name for node in spec.nodes]
    for node in spec.nodes:
        made = sizes.nodes[node.name]
        roles = spec.roles_of(node)
        assert (made.memory_mib, made.cores) == (
            facts.nodes[node.name].memory_mib,
            facts.nodes[node.name].cores,
        )
        expected = {"namenode", "resourcemanager"} if Role.MANAGER in roles else set()
        expected |= {"datanode", "nodemanager"} if Role.WORKER in roles else set()
        assert set(made.daemons) == expected
        for name, daemon in made.daemons.items():
            assert daemon.memory_mib >= MEASURED_RSS_MIB[name]
            assert 40 <= daemon.heap_mib <= daemon.memory_mib - 98
        if node.reserve is not None:
            assert made.reserve_mib == node.reserve
        elif not spec.is_local:
            assert abs(made.reserve_mib - OS_MIB - max(0, made.memory_mib - 4096) / 16) <= 1
            assert made.reserve_mib >= OS_MIB
        promised = made.reserve_mib + sum(d.memory_mib for d in made.daemons.values())
        promised += made.drivers * sizes.driver.memory_mib + made.yarn_memory_mib
        assert promised <= made.memory_mib
        assert made.yarn_memory_mib % sizes.min_allocation_mib == 0
        assert made.drivers == (sizes.sessions_max if Role.MANAGER in roles else 0)
        assert (made.yarn_memory_mib > 0) == (made.yarn_vcores > 0) == (Role.WORKER in roles)
        if Role.WORKER in roles and (Role.MANAGER not in roles or spec.sessions.max):
            assert made.memory_mib - promised < sizes.min_allocation_mib, "RAM is left that nobody gets"
    if facts.host:
        assert sum(n.memory_mib for n in facts.nodes.values()) + OS_MIB <= facts.host.memory_mib
    if spec.sessions.max:
        assert sizes.sessions_max == spec.sessions.max
    assert spec.sessions.max or 1 <= sizes.sessions_max <= 4


def spark_sees_mib(heap_mib: int, cores: int) -> float:
    """Return the heap as the JVM tells it to Spark: without one survivor space (OpenJDK 17, measured)."""
    if any("Parallel" in flag for flag in executor_flags(heap_mib, cores)):
        return heap_mib * 0.88
    return heap_mib - heap_mib / 3 / 18 - 1


def check_containers(spec: ClusterSpec, sizes: Sizes) -> None:
    assert sizes.driver.memory_mib >= 1056
    assert sizes.driver.memory_mib - sizes.driver.heap_mib >= 471
    for container in (sizes.application_master, sizes.executor):
        assert container.heap_mib + container.overhead_mib == container.memory_mib
        assert granted_mib(container, sizes) == container.memory_mib
    assert spark_sees_mib(sizes.executor.heap_mib, sizes.executor.cores) >= SPARK_HEAP_MIB
    assert sizes.max_allocation_mib == max(yarn_of(sizes))
    vcores = [node.yarn_vcores for node in sizes.nodes.values() if node.yarn_memory_mib]
    assert 1 <= sizes.executor.cores <= min(vcores), "refused while only that worker is registered"
    assert sizes.executor.cores <= max(node.cores for node in sizes.nodes.values())
    assert sizes.max_allocation_vcores == max(vcores)
    workers = len(spec.workers)
    assert sizes.replication == min(spec.hdfs.replication or 2, workers)
    assert bool(spec.hdfs.replication and spec.hdfs.replication > workers) == any(
        "hdfs.replication" in note for note in sizes.notes
    )
    cores = sizes.executors_max * sizes.executor.cores
    assert sizes.shuffle_partitions >= 8
    assert 2 * cores <= sizes.shuffle_partitions <= max(8, 3 * cores)
    without = {n.name for n in sizes.nodes.values() if 0 < n.yarn_memory_mib < sizes.executor.memory_mib}
    assert without == {note.split()[0] for note in sizes.notes if "holds no executor" in note}


def check_yarn_grants_the_default_job(spec: ClusterSpec, sizes: Sizes, rng: random.Random) -> None:
    yarn, am, executor = yarn_of(sizes), sizes.application_master.memory_mib, sizes.executor.memory_mib
    assert sizes.executors_max >= sizes.sessions_max, "every session keeps an executor"
    assert 0 < sizes.am_resource_percent <= 1
    assert am_limit_mib(sizes, yarn) >= sizes.sessions_max * am
    if len(yarn) > 1 and sizes.am_resource_percent < 1:
        assert am_limit_mib(sizes, sorted(yarn)[:-1]) >= sizes.sessions_max * am, "while a worker is away"
    if len(yarn) ** sizes.sessions_max <= 300:
        assert fewest_executors(yarn, am, executor, sizes.sessions_max) == sizes.executors_max
    run_sessions(sizes, rng)


def check_explanation(sizes: Sizes) -> None:
    *nodes, containers = explain(sizes)
    assert [node.name for node in nodes] == list(sizes.nodes)
    for node in nodes:
        assert sum(line.memory_mib for line in node.lines) == node.memory_mib
        assert all(line.memory_mib >= 0 and len(line.reason) > 10 for line in node.lines)
    assert containers.name == CONTAINERS


def check_refusal(spec: ClusterSpec, facts: ClusterFacts, refused: SizingRefused) -> None:
    assert refused.node in facts.nodes or (facts.host and refused.node == THIS_MACHINE)
    assert refused.short_mib > 0
    assert refused.node in refused.message
    assert f"{refused.short_mib} MiB" in refused.message
    assert refused.hint
    assert not refused_again(spec, facts, refused, refused.short_mib), "enough was not enough"
    assert refused_again(spec, facts, refused, refused.short_mib - 1), "less would do"


def refused_again(spec: ClusterSpec, facts: ClusterFacts, first: SizingRefused, more_mib: int) -> bool:
    """Return whether `more_mib` for the node that was refused leaves it refused for the same reason."""
    if first.node == THIS_MACHINE:
        facts = on_larger_machine(facts, more_mib)
    else:
        facts = on_larger_machine(grown(facts, first.node, more_mib), 2 * more_mib)
    try:
        size(spec, facts)
    except SizingRefused as again:
        return again.node == first.node and reason(again) == reason(first)
    return False


def reason(refused: SizingRefused) -> str:
    found = [pattern for pattern in REFUSALS if re.search(pattern, refused.message)]
    assert len(found) == 1, refused.message
    return found[0]
