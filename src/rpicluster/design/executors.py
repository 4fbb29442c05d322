"""Choose the one executor size of a cluster, and count how many of them fit in the worst case.

YARN places application masters where it likes. So executors are counted after an adversary has put every
session's master where it displaces most of them: what is promised then holds for every placement.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rpicluster.design.sizes import ContainerSize

# Small, so that rounding loses little of a node; YARN's own 1024 would double most containers here.
MIN_ALLOCATION_MIB = 16
AM_HEAP_MIB = 64
AM_OVERHEAD_MIB = 128
AM_MIB = AM_HEAP_MIB + AM_OVERHEAD_MIB
SPARK_RESERVED_MIB = 300  # UnifiedMemoryManager.RESERVED_SYSTEM_MEMORY_BYTES: no task ever gets it
# Spark refuses a heap of less than 1.5 × its reserve as the JVM reports it: without one survivor space.
EXECUTOR_HEAP_MIN_MIB = 460
EXECUTOR_OVERHEAD_MIN_MIB = 228
EXECUTOR_MIN_MIB = EXECUTOR_HEAP_MIN_MIB + EXECUTOR_OVERHEAD_MIN_MIB
_OVERHEAD_SHARE = 6
_HEAP_MAX_MIB = 31 * 1024  # above, references take 8 bytes instead of 4
_TASK_HEAP_MIB = 32


@dataclass(frozen=True)
class Worker:
    """What the choice depends on: memory for containers and cores of one worker."""

    yarn_mib: int
    cores: int


@dataclass(frozen=True)
class Choice:
    """An executor size, and how many of them any placement of the masters leaves room for."""

    memory_mib: int
    count: int


def floor_to_allocation(memory_mib: int) -> int:
    """Return `memory_mib` rounded down to a multiple of YARN's minimum allocation."""
    return max(0, memory_mib) // MIN_ALLOCATION_MIB * MIN_ALLOCATION_MIB


def overhead_of(executor_mib: int) -> int:
    """Return how much of an executor's container is not heap: 228 MiB, and 1/6 of what is beyond 688."""
    return EXECUTOR_OVERHEAD_MIN_MIB + (executor_mib - EXECUTOR_MIN_MIB) // _OVERHEAD_SHARE


def executors_in_worst_case(yarn_mib: Iterable[int], executor_mib: int, masters: int) -> int:
    """Return how many executors fit whatever nodes `masters` application masters are placed on."""
    total = 0
    lost = [0] * (masters + 1)  # lost[m]: most executors that m masters can displace
    for memory, nodes in Counter(yarn_mib).items():
        slots, slack = divmod(memory, executor_mib)
        total += slots * nodes
        # The t-th executor of a node goes when its masters no longer fit beside the others.
        prices = [(slack + t * executor_mib) // AM_MIB + 1 for t in range(min(slots, masters))]
        if not prices or prices[0] > masters:
            continue
        for _ in range(min(nodes, masters // prices[0])):
            lost = [
                max([lost[m]] + [lost[m - price] + t for t, price in enumerate(prices, 1) if price <= m])
                for m in range(masters + 1)
            ]
    return total - lost[masters]


def choose(workers: Sequence[Worker], masters: int) -> Choice:
    """Return the executor size whose memory for tasks, times the cores that can work in it, is largest.

    A JVM costs Spark's own reserve and its overhead before it holds a row, so few fat executors win unless
    nodes differ. Ties go to the larger size. Count 0 means that `masters` sessions cannot each have one.
    """
    memories = [w.yarn_mib for w in workers]
    slots = {size: sum(memory // size for memory in memories) for size in _candidates(memories, masters)}
    ranked = sorted(((_worth(size, n, n, workers), size) for size, n in slots.items()), reverse=True)
    best, best_worth = Choice(EXECUTOR_MIN_MIB, 0), -1.0
    for without_masters, executor_mib in ranked:
        if without_masters < best_worth:
            break
        count = executors_in_worst_case(memories, executor_mib, masters)
        worth = _worth(executor_mib, count, slots[executor_mib], workers)
        if count >= masters and (worth, executor_mib) > (best_worth, best.memory_mib):
            best, best_worth = Choice(executor_mib, count), worth
    return best


def cores_of(executor_mib: int, workers: Iterable[Worker]) -> int:
    """Return the cores of every executor: those that keep most cores busy."""
    return _cores_and_busy(executor_mib, workers)[0]


def application_master() -> ContainerSize:
    """Return the container of a session's application master."""
    return ContainerSize(
        AM_MIB,
        AM_HEAP_MIB,
        AM_OVERHEAD_MIB,
        1,
        f"it only asks YARN for executors: heap {AM_HEAP_MIB} MiB + {AM_OVERHEAD_MIB} MiB beside it",
    )


def executor(choice: Choice, workers: Sequence[Worker]) -> ContainerSize:
    """Return the container of an executor, with its reason."""
    overhead = overhead_of(choice.memory_mib)
    holding = sum(1 for w in workers if w.yarn_mib >= choice.memory_mib)
    return ContainerSize(
        choice.memory_mib,
        choice.memory_mib - overhead,
        overhead,
        cores_of(choice.memory_mib, workers),
        f"of all sizes, {choice.memory_mib} MiB let most memory and cores work: {choice.count} executors on "
        f"{holding} workers, wherever YARN puts the application masters",
    )


def _for_tasks(executor_mib: int) -> int:
    return executor_mib - overhead_of(executor_mib) - SPARK_RESERVED_MIB


def _cores_and_busy(executor_mib: int, workers: Iterable[Worker]) -> tuple[int, float]:
    holding = Counter((w.cores, w.yarn_mib // executor_mib) for w in workers if w.yarn_mib >= executor_mib)
    at_most = max(1, _for_tasks(executor_mib) // _TASK_HEAP_MIB)
    options = {1} | {min(at_most, c) for have, n in holding for c in (have // n, -(-have // n)) if c}

    def busy(cores: int) -> float:
        # A task too many on a core counts a quarter of an idle core: tasks often wait for disk and network.
        # An executor needs a core even where executors outnumber cores: no choice of cores avoids that.
        return sum(
            (min(have, n * cores) - max(0, n * cores - max(have, n)) / 4) * nodes
            for (have, n), nodes in holding.items()
        )

    return max(((cores, busy(cores)) for cores in sorted(options)), key=lambda option: option[1])


def _worth(executor_mib: int, count: int, slots: int, workers: Iterable[Worker]) -> float:
    busy = _cores_and_busy(executor_mib, workers)[1] * count / slots
    return _for_tasks(executor_mib) * count * busy


def _candidates(memories: Iterable[int], masters: int) -> set[int]:
    # The best size fills some node, bare or beside masters, with a whole number of executors.
    sizes = {EXECUTOR_MIN_MIB}
    for memory in set(memories):
        for taken in {0, 1, masters}:
            left = memory - taken * AM_MIB
            sizes |= {floor_to_allocation(left // slots) for slots in range(1, left // EXECUTOR_MIN_MIB + 1)}
    return {size for size in sizes if size - overhead_of(size) <= _HEAP_MAX_MIB and size <= max(memories)}
