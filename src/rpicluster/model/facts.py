"""Facts: what was observed of nodes, so that nothing below has to look at the world."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rpicluster.errors import FactsIncomplete
from rpicluster.model.machine import Java, MachineFacts

JAVA_WANTED = 17  # where there is a choice; see rpicluster.model.java
DATA_MOUNT = "/srv/rpicluster"  # where a disk is mounted that cluster.yml names


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


class DataDisk(_Model):
    """Where a node's large data lie, when not below `NodePaths.data`; the manifest on the node keeps it."""

    path: str = Field(description="folder of ours: blocks, the NameNode's image and containers are below it")
    mount: str = Field(default="", description="mount point that must be there, or nothing may be written")
    disk: str = Field(default="", description="its name in /dev/disk/by-id, where cluster.yml names a disk")
    uuid: str = Field(default="", description="of its file system, where it was seen")
    filesystem: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether we mount it; else it is mounted by whoever set the node up."""
        return self.mount == DATA_MOUNT


class NodePaths(_Model):
    """Directories on a node, absolute, safe for Hadoop URIs and Java's class path."""

    conf: str
    data: str
    logs: str
    run: str
    runtime: str
    per_unit: bool = Field(
        default=False,
        description="every unit logs and reports in a directory of its own: on real nodes, where units are "
        "different users",
    )
    disk: DataDisk | None = Field(default=None, description="None: large data lie below `data`, too")


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


def kept_disk(machine: MachineFacts) -> DataDisk | None:
    """Return the disk that holds a node's data by its manifest; None: none, or no manifest."""
    about = machine.manifest.extra.get("storage") if machine.manifest is not None else None
    try:
        return DataDisk.model_validate(about) if about else None
    except ValidationError as error:  # of another version: it must not look like "none"
        raise FactsIncomplete(
            "the manifest of a node says where its data lie, and this version cannot read it",
            hint="use the version of rpicluster that wrote it; rpicluster version",
        ) from error


def best_java(machine: MachineFacts) -> Java | None:
    """Return the Java that daemons would run on: 17, else the nearest newer, else the newest older one."""
    return min(
        (java for java in machine.java if java.major is not None),
        key=lambda java: (
            java.major != JAVA_WANTED,
            (java.major or 0) < JAVA_WANTED,
            abs((java.major or 0) - JAVA_WANTED),
        ),
        default=None,
    )


def node_facts(name: str, machine: MachineFacts, *, data_path: str = "/") -> NodeFacts:
    """Return what sizing needs of a machine; free disk is that of the file system that holds `data_path`.

    Raises FactsIncomplete when RAM or cores were not seen.
    """
    if machine.memory is None or machine.processor is None:
        missing = "RAM" if machine.memory is None else "cores"
        why = "; ".join(f"{p.fact}: {p.message}" for p in machine.problems) or "the node did not say why"
        raise FactsIncomplete(f"{name}: its {missing} could not be read ({why})")
    best = best_java(machine)
    mount = machine.mount_of(data_path)
    return NodeFacts(
        name=name,
        memory_mib=machine.memory.total_mib,
        cores=machine.processor.cores,
        arch=machine.kernel_arch or "unknown",
        os=machine.os.name if machine.os else "unknown",
        java_home=best.home if best else None,
        java_major=best.major if best else None,
        free_disk_mib=mount.free_mib if mount else None,
    )
