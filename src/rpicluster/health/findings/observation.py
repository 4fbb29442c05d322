"""What the daemons of a cluster said of themselves and each other, as plain values."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataNodeSeen:
    """A DataNode as the NameNode sees it; `node` is its name in cluster.yml, or its address."""

    node: str
    state: str  # "live", "dead", or one of Hadoop's admin states such as "decommissioned"
    last_contact_s: int = 0
    failed_volumes: int = 0


@dataclass(frozen=True)
class HdfsSeen:
    """HDFS in numbers; `safe_mode` is the NameNode's own explanation, "" when it is off."""

    safe_mode: str = ""
    capacity_bytes: int = 0
    remaining_bytes: int = 0
    blocks: int = 0
    missing_blocks: int = 0
    corrupt_blocks: int = 0
    under_replicated_blocks: int = 0
    datanodes: tuple[DataNodeSeen, ...] = ()


@dataclass(frozen=True)
class NodeManagerSeen:
    """A NodeManager as the ResourceManager sees it."""

    node: str
    state: str  # RUNNING, LOST, UNHEALTHY, DECOMMISSIONED, ...
    health_report: str = ""


@dataclass(frozen=True)
class PartSeen:
    """A daemon as its supervisor sees it; `state` is one of `health.status.State`."""

    node: str
    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class PrivateFile:
    """A file on the control machine that holds a secret."""

    path: str
    mode: int


@dataclass(frozen=True)
class ClusterObservation:
    """One look at a cluster's daemons. None is "not seen"; the `..._error` says why, "" if not asked.

    `nodemanagers` is () when the ResourceManager answered and knows none.
    """

    hdfs: HdfsSeen | None = None
    hdfs_error: str = ""
    nodemanagers: tuple[NodeManagerSeen, ...] | None = None
    yarn_error: str = ""
    parts: tuple[PartSeen, ...] = ()
    private_files: tuple[PrivateFile, ...] = ()
