"""Sizing of clusters that people have, its refusals, and its reasons."""

import pytest

from rpicluster.design.executors import (
    EXECUTOR_HEAP_MIN_MIB,
    EXECUTOR_MIN_MIB,
    Choice,
    Worker,
    choose,
)
from rpicluster.design.explain import explain
from rpicluster.design.jvm import am_flags, daemon_flags, driver_flags, executor_flags
from rpicluster.design.sizes import Sizes
from rpicluster.design.sizing import THIS_MACHINE, WORKER_MIN_MIB, default_local_budgets, size
from rpicluster.errors import SizingRefused
from rpicluster.model.facts import ClusterFacts, HostFacts
from rpicluster.model.memory import format_memory
from rpicluster.model.spec import ClusterSpec

from .sizing_clusters import PI_2G, PI_4G, PI_8G, PI_16G, Node, build, cluster, on_larger_machine

BOTH, MANAGER, WORKER = ("manager", "worker"), ("manager",), ("worker",)


def pis(*memories: int) -> tuple[ClusterSpec, ClusterFacts]:
    """Return a cluster of four-core boards; the first manages."""
    return cluster([(memory, 4, WORKER if i else MANAGER) for i, memory in enumerate(memories)])


def local_cluster(host_mib: int) -> tuple[ClusterSpec, ClusterFacts]:
    """Return what `init` would write for a machine of `host_mib`."""
    budgets = default_local_budgets(HostFacts(memory_mib=host_mib, cores=4))
    roles = {"manager": MANAGER, "solo": BOTH}
    named: dict[str, Node] = {name: (mib, cores, roles.get(name, WORKER)) for name, mib, cores in budgets}
    return build(named, local=True, host_mib=host_mib)


GOLDEN = {
    "one local machine of 4 GiB": cluster([(4096 - 256, 2, BOTH)], local=True, host_mib=4096),
    "three virtual nodes on 4 GiB": local_cluster(4096),
    "three Pi 4 of 4 GB": pis(PI_4G, PI_4G, PI_4G),
    "mixed 2/4/8/16": pis(PI_2G, PI_4G, PI_8G, PI_16G),
    "mixed 16/8/4/2": pis(PI_16G, PI_8G, PI_4G, PI_2G),
    "three of 2 GB": pis(PI_2G, PI_2G, PI_2G),
    "4+2+2": pis(PI_4G, PI_2G, PI_2G),
    "four of 4 GB": pis(PI_4G, PI_4G, PI_4G, PI_4G),
}


@pytest.mark.parametrize("mix", GOLDEN)
def test_executors_get_at_least_45_percent_of_the_workers_ram(mix: str) -> None:
    spec, facts = GOLDEN[mix]
    sizes = size(spec, facts)
    ram = sum(facts.nodes[node.name].memory_mib for node in spec.workers)
    if mix == "one local machine of 4 GiB":
        ram = 4096  # the whole machine, its operating system included
    assert sizes.executors_max * sizes.executor.memory_mib >= 0.45 * ram


@pytest.mark.parametrize("mix", ["three Pi 4 of 4 GB", "three of 2 GB", "4+2+2", "four of 4 GB"])
def test_equal_workers_get_one_fat_executor_each_with_all_their_cores(mix: str) -> None:
    spec, facts = GOLDEN[mix]
    sizes = size(spec, facts)
    assert (sizes.executors_max, sizes.executor.cores) == (len(spec.workers), 4)


def test_the_smallest_local_cluster_has_an_executor_on_both_workers() -> None:
    sizes = size(*local_cluster(4096))
    assert [node.yarn_memory_mib > 0 for node in sizes.nodes.values()] == [False, True, True]
    assert sizes.executors_max == 2


@pytest.mark.parametrize("mix", ["mixed 2/4/8/16", "mixed 16/8/4/2"])
def test_no_worker_of_a_mixed_cluster_stays_without_an_executor(mix: str) -> None:
    sizes = size(*GOLDEN[mix])
    assert sizes.notes == ()
    assert all(n.yarn_memory_mib >= sizes.executor.memory_mib for n in sizes.nodes.values() if n.yarn_vcores)


@pytest.mark.parametrize("host_mib", [*range(4096, 9000, 61), 16000, 24105, 65536, 515000])
def test_default_budgets_are_accepted_and_polite(host_mib: int) -> None:
    budgets = default_local_budgets(HostFacts(memory_mib=host_mib, cores=4))
    assert [name for name, _, _ in budgets] == ["manager", "worker1", "worker2"]
    assert size(*local_cluster(host_mib)).executors_max >= 2
    total = sum(memory for _, memory, _ in budgets)
    assert total <= max(host_mib // 2, 4096 - 256)
    assert max(memory for _, memory, _ in budgets) <= 2048


def test_a_machine_too_small_for_two_workers_gets_one_node() -> None:
    spec, facts = local_cluster(3700)
    assert [node.name for node in spec.nodes] == ["solo"]
    assert size(spec, facts).executors_max == 1


def test_a_machine_too_small_for_anything_is_refused_by_name() -> None:
    with pytest.raises(
        SizingRefused, match=r"solo has \d+ MiB, \d+ MiB too few: namenode \d+ \+ "
    ) as refused:
        size(*local_cluster(2000))
    assert refused.value.node == "solo"


def test_sessions_default_to_what_fits_and_at_most_four() -> None:
    managers = {PI_2G: 1, PI_4G: 2, PI_8G: 4, PI_16G: 4}
    found = {memory: size(*pis(memory, *[PI_16G] * 3)).sessions_max for memory in managers}
    assert found == managers


def test_a_manager_that_works_gives_drivers_at_most_a_third_by_default() -> None:
    for memory in range(3400, 30000, 97):
        node = size(*cluster([(memory, 4, BOTH)])).nodes["n00"]
        room = memory - node.reserve_mib - sum(d.memory_mib for d in node.daemons.values())
        assert node.drivers == 1 or node.drivers * 1056 <= room / 3


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("roles", [BOTH, WORKER])
def test_a_node_that_grows_bit_by_bit_never_has_less_for_containers(
    roles: tuple[str, ...], local: bool
) -> None:
    others: list[Node] = [] if roles == BOTH else [(PI_16G, 4, MANAGER)]
    before = 0
    for memory in range(3000, 20000, 37):
        now = size(*cluster([*others, (memory, 4, roles)], local=local)).nodes[f"n{len(others):02}"]
        assert now.yarn_memory_mib >= before
        before = now.yarn_memory_mib


@pytest.mark.parametrize(
    ("mix", "sessions"),
    [("4+2+2", 1), ("three of 2 GB", 1), ("three Pi 4 of 4 GB", 2), ("mixed 16/8/4/2", 4)],
)
def test_default_sessions_leave_executors_three_quarters_of_the_containers(mix: str, sessions: int) -> None:
    sizes = size(*GOLDEN[mix])
    containers = sum(node.yarn_memory_mib for node in sizes.nodes.values())
    assert sizes.sessions_max == sessions
    assert sizes.executors_max * sizes.executor.memory_mib >= 0.75 * containers


@pytest.mark.parametrize("yarn_mib", [(3232, 1072), (2400, 1104, 1200)])
def test_where_only_the_smallest_executor_serves_all_sessions_it_is_chosen(yarn_mib: tuple[int, ...]) -> None:
    assert choose([Worker(memory, 4) for memory in yarn_mib], 4) == Choice(EXECUTOR_MIN_MIB, 4)


def test_more_executors_than_cores_are_no_reason_to_have_none() -> None:
    assert choose([Worker(3 * EXECUTOR_MIN_MIB + 3 * 192, 1)], 3) == Choice(EXECUTOR_MIN_MIB, 3)


def test_spark_takes_the_smallest_heap_and_not_much_less() -> None:
    # Measured, OpenJDK 17, serial collector, SurvivorRatio=16: -Xmx460m is 451.5 MiB to Spark, 458m 449.6.
    assert 460 <= EXECUTOR_HEAP_MIN_MIB < 470
    assert {"-XX:+UseSerialGC", "-XX:SurvivorRatio=16"} <= set(executor_flags(EXECUTOR_HEAP_MIN_MIB, 4))


def test_one_session_too_many_is_refused_and_the_hint_is_accepted() -> None:
    nodes = [(PI_4G, 4, MANAGER), (PI_4G, 4, WORKER)]
    with pytest.raises(SizingRefused, match="3 session drivers of 1056 MiB 3168 = ") as refused:
        size(*cluster(nodes, sessions=3))
    assert refused.value.hint == "write `sessions: {max: 2}`"
    assert size(*cluster(nodes, sessions=2)).sessions_max == 2


def test_sessions_whose_masters_and_executors_do_not_fit_the_workers_are_refused() -> None:
    nodes = [(PI_16G, 4, MANAGER), (PI_2G, 4, WORKER)]
    with pytest.raises(SizingRefused, match="2 sessions need an application master") as refused:
        size(*cluster(nodes, sessions=2))
    assert refused.value.node == "n01"
    assert refused.value.hint == "write `sessions: {max: 1}`"


def test_a_refusal_names_the_same_node_in_any_order() -> None:
    named: dict[str, Node] = {"m": (PI_16G, 4, MANAGER), "b": (PI_2G, 4, WORKER), "a": (PI_2G, 4, WORKER)}
    with pytest.raises(SizingRefused, match="4 sessions need") as refused:
        size(*build(named, sessions=4))
    assert refused.value.node == "a"


@pytest.mark.parametrize("local", [True, False])
def test_a_worker_at_its_floor_is_accepted_and_one_mib_below_refused(local: bool) -> None:
    os_mib = 0 if local else 256
    floor = os_mib + 138 + 178 + WORKER_MIN_MIB

    def with_worker(memory: int) -> Sizes:
        return size(*cluster([(4096, 4, MANAGER), (memory, 4, WORKER)], local=local))

    assert with_worker(floor).executors_max == 1
    with pytest.raises(SizingRefused) as refused:
        with_worker(floor - 1)
    assert (refused.value.node, refused.value.short_mib) == ("n01", 1)
    hint = refused.value.hint or ""
    assert (f"memory: {format_memory(floor)}" if local else f"at least {floor} MiB") in hint


def test_budgets_beyond_the_machine_are_refused_and_the_hint_is_accepted() -> None:
    with pytest.raises(
        SizingRefused, match=r"virtual nodes 6442 \+ operating system 256 = 6698 MiB"
    ) as refused:
        size(*cluster([(1442, 1, MANAGER), (3000, 2, WORKER), (2000, 2, WORKER)], local=True, host_mib=4096))
    assert (refused.value.node, refused.value.hint) == (
        THIS_MACHINE,
        "write `local: {memory: 1196M}` for n01, `local: {memory: 1202M}` for n02",
    )
    smaller = [(1442, 1, MANAGER), (1196, 2, WORKER), (1202, 2, WORKER)]
    assert size(*cluster(smaller, local=True, host_mib=4096)).executors_max == 2


def test_facts_of_a_local_cluster_must_know_its_machine() -> None:
    spec, facts = cluster([(4096, 2, BOTH)], local=True)
    with pytest.raises(ValueError, match="what machine its nodes share"):
        size(spec, facts.model_copy(update={"host": None}))


def test_the_machine_of_virtual_nodes_keeps_its_operating_systems_memory() -> None:
    spec, facts = local_cluster(4090)
    size(spec, facts)
    with pytest.raises(SizingRefused) as refused:
        size(spec, on_larger_machine(facts, -1))
    assert (refused.value.node, refused.value.short_mib) == (THIS_MACHINE, 1)


def test_a_reserve_below_what_a_system_needs_is_obeyed_and_noted() -> None:
    nodes = [(PI_4G, 4, MANAGER), (PI_4G, 4, WORKER)]
    sizes = size(*cluster(nodes, reserves={"n01": 64}))
    assert sizes.nodes["n01"].reserve_mib == 64
    assert any("n01 reserves 64 MiB" in note and "kill" in note for note in sizes.notes)


def test_a_reserve_too_large_is_refused_and_the_hint_lowers_it() -> None:
    nodes = [(PI_4G, 4, MANAGER), (PI_2G, 4, WORKER)]
    with pytest.raises(SizingRefused, match="operating system 1000 \\+ ") as refused:
        size(*cluster(nodes, reserves={"n01": 1000}))
    fits = 1000 - refused.value.short_mib
    assert refused.value.hint == f"write `reserve: {fits}M` for n01"
    size(*cluster(nodes, reserves={"n01": fits}))


def test_more_replicas_than_datanodes_are_noted() -> None:
    sizes = size(*cluster([(PI_4G, 4, MANAGER), (PI_4G, 4, WORKER)], replication=3))
    assert sizes.replication == 1
    assert "hdfs.replication is 3, and there are 1 DataNodes: files get 1 copies" in sizes.notes


def test_a_worker_that_holds_no_executor_is_named() -> None:
    sizes = size(*cluster([(PI_4G, 4, MANAGER), (PI_2G, 4, WORKER), (63000, 32, WORKER)]))
    assert [note.split(":")[0] for note in sizes.notes] == ["n01 holds no executor"]


def test_the_namenode_grows_with_the_cluster() -> None:
    def heap(workers: int) -> int:
        nodes: list[Node] = [(PI_16G, 4, MANAGER), *[(PI_4G, 4, WORKER)] * workers]
        return size(*cluster(nodes)).nodes["n00"].daemons["namenode"].heap_mib

    assert heap(63) - heap(3) == 60 * 8
    assert heap(3) == heap(1)


def test_an_executors_heap_keeps_addresses_short() -> None:
    sizes = size(*cluster([(4096, 4, MANAGER), (65536, 32, WORKER)], sessions=1))
    assert sizes.executor.heap_mib <= 31 * 1024
    assert sizes.executors_max >= 2


def test_every_reason_says_its_own_numbers() -> None:
    sizes = size(*GOLDEN["mixed 2/4/8/16"])
    by_name = {node.name: {line.label: line for line in node.lines} for node in explain(sizes)}
    assert by_name["n03"]["datanode"].reason.startswith("heap 40 MiB + ")
    left = sizes.nodes["n01"].memory_mib - sum(
        line.memory_mib
        for label, line in by_name["n01"].items()
        if "YARN" not in label and "not" not in label
    )
    assert by_name["n01"]["YARN containers"].reason == f"{left} MiB are left, rounded down to whole 16 MiB"
    assert "1 × 1056 MiB" in by_name["n00"]["session drivers"].reason
    assert by_name["containers"]["executor"].memory_mib == sizes.executor.memory_mib


def test_memory_saved_for_the_next_session_is_said() -> None:
    node = size(*cluster([(7500, 4, BOTH)])).nodes["n00"]
    assert node.drivers == 2 or "saved for session 2" in node.yarn_reason
    saved = [m for m in range(5000, 9000, 50) if "saved for session 2" in yarn_reason(m)]
    assert saved


def yarn_reason(memory: int) -> str:
    return size(*cluster([(memory, 4, BOTH)])).nodes["n00"].yarn_reason


@pytest.mark.parametrize(
    "flags",
    [
        daemon_flags("namenode", 48),
        am_flags(),
        executor_flags(460, 1),
        executor_flags(3000, 4),
        driver_flags(576),
    ],
)
def test_every_jvm_has_one_collector_and_bounds_beside_its_heap(flags: tuple[str, ...]) -> None:
    assert sum(flag.endswith("GC") for flag in flags) == 1
    assert len({flag.split("=")[0] for flag in flags}) == len(flags)
    for bound in ("-XX:MaxMetaspaceSize=", "-XX:ReservedCodeCacheSize=", "-Xss"):
        assert any(flag.startswith(bound) for flag in flags)


def test_spark_gets_no_heap_among_its_java_options() -> None:
    for flags in (am_flags(), executor_flags(460, 1)):
        assert not any(flag.startswith("-Xmx") or "spark." in flag for flag in flags)


def test_a_gateway_takes_more_of_the_manager_and_the_explanation_says_so() -> None:
    spec, facts = pis(PI_4G, PI_4G, PI_4G)
    on = ClusterSpec.model_validate({**spec.model_dump(), "sessions": {"sparklyr": "on"}})
    with_it, without = size(on, facts), size(spec, facts)
    assert with_it.driver.memory_mib > without.driver.memory_mib
    assert with_it.driver.heap_mib == without.driver.heap_mib
    lines = [line for node in explain(with_it) for line in node.lines if line.label == "session drivers"]
    assert [line.memory_mib for line in lines] == [with_it.sessions_max * with_it.driver.memory_mib]
    assert "sparklyr's gateway" in lines[0].reason
    auto = ClusterSpec.model_validate({**spec.model_dump(), "sessions": {"sparklyr": "auto"}})
    assert size(auto, facts) == without
