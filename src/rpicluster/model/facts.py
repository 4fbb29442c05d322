"""Facts: what was observed of nodes, so that nothing below has to look at the world."""

from pydantic import BaseModel, ConfigDict, Field


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeFacts(_Model):
    """One node as observed. For a virtual local node, `memory_mib` and `cores` are its budget."""

    name: str
    memory_mib: int = Field(gt=0, description="RAM as the node itself sees it")
    cores: int = Field(ge=1)
    arch: str = "unknown"
    os: str = "unknown"
    java_home: str | None = None
    java_major: int | None = None
    free_disk_mib: int | None = None
    observed: bool = Field(default=True, description="False: declared in cluster.yml, not yet seen")


class HostFacts(_Model):
    """The machine that all virtual local nodes share."""

    memory_mib: int = Field(gt=0)
    cores: int = Field(ge=1)


class ClusterFacts(_Model):
    """All nodes, by name; `host` is set when the nodes are virtual and share one machine."""

    nodes: dict[str, NodeFacts]
    host: HostFacts | None = None


class NodePaths(_Model):
    """Directories on a node, absolute, safe for Hadoop URIs and Java's class path."""

    conf: str
    data: str
    logs: str
    run: str
    runtime: str


class NodePlacement(_Model):
    """Where a node's daemons listen and keep their files; allocated once by the edge and kept."""

    address: str
    paths: NodePaths
    java_home: str
    python: str = Field(description="interpreter for the session keeper and its chores")
    ports: dict[str, int] = Field(description="by the names of `rpicluster.model.ports`")


class Placement(_Model):
    """Where everything stands; with spec and sizes it decides every rendered byte."""

    cluster_id: str = Field(
        description="unique per cluster, marks its processes: `-Drpicluster.unit=ID/UNIT`"
    )
    nodes: dict[str, NodePlacement]
    login: str = Field(description="the user that runs the daemons of a local cluster, superuser of HDFS")
