"""The vocabulary of sizing: what `rpicluster.design.sizing` computes and everything else reads."""

from dataclasses import dataclass


@dataclass(frozen=True)
class JvmSize:
    """A JVM outside YARN: what it is promised of the node's RAM, and the heap inside that."""

    memory_mib: int
    heap_mib: int
    reason: str


@dataclass(frozen=True)
class ContainerSize:
    """A YARN container: heap plus overhead is what Spark asks for, `memory_mib` what YARN grants."""

    memory_mib: int
    heap_mib: int
    overhead_mib: int
    cores: int
    reason: str


@dataclass(frozen=True)
class NodeSizes:
    """How one node's RAM and cores are shared out; the parts sum to at most `memory_mib`."""

    name: str
    memory_mib: int
    cores: int
    reserve_mib: int
    reserve_reason: str
    daemons: dict[str, JvmSize]  # "namenode" | "resourcemanager" | "datanode" | "nodemanager"
    drivers: int  # session drivers this node holds, each of Sizes.driver
    yarn_memory_mib: int  # 0 where there is no NodeManager
    yarn_vcores: int
    yarn_reason: str


@dataclass(frozen=True)
class Sizes:
    """All sizes of a cluster."""

    nodes: dict[str, NodeSizes]
    driver: JvmSize
    application_master: ContainerSize
    executor: ContainerSize
    executors_max: int  # that fit beside the application masters of all sessions
    sessions_max: int
    min_allocation_mib: int
    max_allocation_mib: int
    max_allocation_vcores: int
    am_resource_percent: float  # yarn.scheduler.capacity.maximum-am-resource-percent, 0–1
    replication: int
    shuffle_partitions: int
    notes: tuple[str, ...] = ()  # things worth saying, e.g. a node that holds no executor
