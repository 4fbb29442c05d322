"""What a node must hold before YARN gets any: the operating system, the daemons, the session drivers.

The figures are measured (`docs/explanation/sizing.md`) with the flags of `rpicluster.design.jvm`.
Everything here grows with a node's RAM by less than the RAM itself, so more RAM never means less for YARN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rpicluster.design.sizes import JvmSize
from rpicluster.model.spec import Role

OS_RESERVE_MIB = 256
_COMFORT_FROM_MIB = 4096
_COMFORT_MAX_MIB = 512
_NODES_INCLUDED = 3

# A driver with Spark Connect and Iceberg peaked 471 MiB above its -Xmx: two clients, bulk transfers.
DRIVER = JvmSize(
    memory_mib=1056,
    heap_mib=576,
    reason="1056 MiB hold a heap of 576 MiB and 480 MiB for classes, code, threads and network buffers",
)

# With sparklyr's gateway in the same JVM.
DRIVER_WITH_GATEWAY = JvmSize(
    memory_mib=1088,
    heap_mib=576,
    reason="1088 MiB hold a heap of 576 MiB and 512 MiB for classes, code, threads and network buffers of "
    "Spark Connect and sparklyr's gateway",
)


@dataclass(frozen=True)
class _Daemon:
    heap_mib: int
    beside_heap_mib: int  # classes, compiled code, threads, malloc: measured RSS less heap, after jobs
    heap_per_worker_mib: int  # for each worker after the first three
    why_growing: str = ""


DAEMONS: dict[str, _Daemon] = {
    "namenode": _Daemon(48, 120, 8, "1 MiB for 1000 blocks, some 8000 more blocks a worker"),
    "resourcemanager": _Daemon(72, 146, 2, "containers and heartbeats of each worker"),
    "datanode": _Daemon(40, 98, 0),
    "nodemanager": _Daemon(44, 134, 0),
}
DAEMONS_OF_ROLE: dict[Role, tuple[str, ...]] = {
    Role.MANAGER: ("namenode", "resourcemanager"),
    Role.WORKER: ("datanode", "nodemanager"),
}


@dataclass(frozen=True)
class Frame:
    """A node's RAM and what is taken from it before drivers and YARN; what is left may be negative."""

    memory_mib: int
    reserve_mib: int
    reserve_reason: str
    daemons: dict[str, JvmSize]

    @property
    def room_mib(self) -> int:
        """What is left for session drivers and containers."""
        return self.memory_mib - self.reserve_mib - sum(d.memory_mib for d in self.daemons.values())


def os_reserve(memory_mib: int) -> int:
    """Return the MiB that the operating system of a machine keeps: 256, and 1/16 of what is above 4 GiB."""
    return OS_RESERVE_MIB + _growth(memory_mib) - _growth(memory_mib) // 4


def frame(
    memory_mib: int, roles: Sequence[Role], workers: int, *, virtual: bool, reserve_mib: int | None = None
) -> Frame:
    """Return what a node of `memory_mib` with `roles` in a cluster of `workers` keeps from YARN.

    A virtual node has no operating system of its own; `reserve_mib` overrides what is computed.
    """
    reserve, reason = _reserve(memory_mib, virtual=virtual, override=reserve_mib)
    names = [name for role in Role if role in roles for name in DAEMONS_OF_ROLE[role]]
    comfort = min(_growth(memory_mib) // 4, _COMFORT_MAX_MIB) // len(names)
    return Frame(memory_mib, reserve, reason, {name: _daemon(name, workers, comfort) for name in names})


def shortfall(enough: Callable[[int], bool], memory_mib: int) -> int:
    """Return the fewest MiB to add to `memory_mib` so that `enough` holds; `enough` must be monotone."""
    high = 1
    while not enough(memory_mib + high):
        high *= 2
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(memory_mib + middle) else (middle, high)
    return high


def _growth(memory_mib: int) -> int:
    # One floor for everything that grows with RAM: two would both step at the same MiB and take 2 for 1.
    return max(0, memory_mib - _COMFORT_FROM_MIB) // 12


def _reserve(memory_mib: int, *, virtual: bool, override: int | None) -> tuple[int, str]:
    if override is not None:
        return override, f"{override} MiB are left to the system because `reserve` says so"
    if virtual:
        return 0, "a virtual node has no operating system: this machine's is counted once, for all of them"
    reserve = os_reserve(memory_mib)
    grown = reserve - OS_RESERVE_MIB
    more = f" and {grown} MiB, 1/16 of what is above 4 GiB, for its file cache" if grown else ""
    return reserve, f"the operating system keeps {OS_RESERVE_MIB} MiB{more}"


def _daemon(name: str, workers: int, comfort_mib: int) -> JvmSize:
    base = DAEMONS[name]
    grown = base.heap_per_worker_mib * max(0, workers - _NODES_INCLUDED)
    heap = base.heap_mib + grown + comfort_mib
    parts = [f"heap {base.heap_mib} MiB"]
    if grown:
        parts.append(f"{grown} MiB for {workers - _NODES_INCLUDED} further workers ({base.why_growing})")
    if comfort_mib:
        parts.append(f"{comfort_mib} MiB because the node has room")
    parts.append(f"{base.beside_heap_mib} MiB beside the heap (measured)")
    return JvmSize(heap + base.beside_heap_mib, heap, " + ".join(parts))
