"""What the cluster's daemons say of themselves and of each other."""

from collections.abc import Iterator

from rpicluster.health.findings.finding import NOTE, PROBLEM, WARNING, Seen, Trouble, cluster_kind

HDFS_FULL_PERCENT = 85
# Hadoop's words for nodes that were taken out on purpose.
_LEAVING = frozenset({"decommissioned", "decommissioning", "decommission in progress"})
_DOWN = frozenset({"down", "frozen", "silent"})
_STATUS = "rpicluster status"
_WORDS = {
    "down": "it ended or was stopped",
    "frozen": "a signal has stopped it (SIGSTOP)",
    "silent": "it hangs, or the machine is too busy to answer",
}


def _workers(seen: Seen) -> list[str]:
    return [node.name for node in seen.spec.workers if node.name not in seen.errors]


@cluster_kind("daemons-not-asked", NOTE, "The daemons were not asked")
def daemons_not_asked(seen: Seen) -> Iterator[Trouble]:
    """Nodes are set up, and nobody could ask NameNode and ResourceManager about HDFS and YARN."""
    if seen.cluster is None and seen.is_deployed:
        yield Trouble(
            what="NameNode and ResourceManager were not asked",
            cause="they listen on the cluster's address only, and there is no way to them from here",
            evidence=(f"set up: {', '.join(n.name for n in seen.nodes if n.facts.manifest is not None)}",),
            fix="ask for their state",
            command=_STATUS,
        )


@cluster_kind("daemon-down", PROBLEM, "A daemon does not run or does not answer")
def daemon_down(seen: Seen) -> Iterator[Trouble]:
    """As its supervisor, or the question put to it, shows."""
    for part in seen.cluster.parts if seen.cluster else ():
        if part.state in _DOWN:
            yield Trouble(
                what=f"{part.name} on {part.node} is {part.state}",
                cause=_WORDS[part.state],
                evidence=(part.detail,),
                fix="start what is down; logs say why it ended",
                command="rpicluster start",
                node=part.node,
            )


@cluster_kind("namenode-silent", PROBLEM, "The NameNode does not answer")
def namenode_silent(seen: Seen) -> Iterator[Trouble]:
    """It was asked and gave no answer; nothing is known of HDFS then."""
    if seen.cluster and seen.cluster.hdfs_error and not _is_down(seen, "namenode"):
        yield _silent(seen, "NameNode", seen.cluster.hdfs_error)


@cluster_kind("resourcemanager-silent", PROBLEM, "The ResourceManager does not answer")
def resourcemanager_silent(seen: Seen) -> Iterator[Trouble]:
    """It was asked and gave no answer; nothing is known of the NodeManagers then."""
    if seen.cluster and seen.cluster.yarn_error and not _is_down(seen, "resourcemanager"):
        yield _silent(seen, "ResourceManager", seen.cluster.yarn_error)


def _is_down(seen: Seen, part: str) -> bool:
    """Whether daemon-down tells about it already."""
    return any(p.name == part and p.state in _DOWN for p in (seen.cluster.parts if seen.cluster else ()))


def _silent(seen: Seen, daemon: str, said: str) -> Trouble:
    manager = seen.spec.manager.name
    return Trouble(
        what=f"the {daemon} on {manager} does not answer",
        cause="it is down, still starting, or the node is out of memory",
        evidence=(said,),
        fix="look whether it runs, then start it",
        command=_STATUS,
        node=manager,
    )


@cluster_kind("safe-mode", PROBLEM, "HDFS takes no changes")
def safe_mode(seen: Seen) -> Iterator[Trouble]:
    """The NameNode is in safe mode: it waits for DataNodes, was told to, or is short of disk."""
    hdfs = seen.cluster.hdfs if seen.cluster else None
    if hdfs and hdfs.safe_mode:
        yield Trouble(
            what="HDFS is in safe mode: it can be read, and not written",
            cause=(
                "too few blocks were reported since it started, the NameNode's disk is full, or somebody "
                "asked for it"
            ),
            evidence=(hdfs.safe_mode.strip(),),
            fix="start the missing DataNodes and free the manager's disk; it ends by itself",
            command=_STATUS,
            node=seen.spec.manager.name,
        )


@cluster_kind("datanode-dead", PROBLEM, "A DataNode is dead, or never came")
def datanode_dead(seen: Seen) -> Iterator[Trouble]:
    """Workers whose DataNode the NameNode no longer hears, or does not know. Nodes that leave on purpose
    are none.
    """
    hdfs = seen.cluster.hdfs if seen.cluster else None
    if hdfs is None:
        return
    known = {datanode.node: datanode for datanode in hdfs.datanodes}
    for datanode in hdfs.datanodes:
        if datanode.state == "dead":
            yield _dead_datanode(datanode.node, f"dead, last heard {datanode.last_contact_s} s ago")
    for worker in _workers(seen):
        if worker not in known:
            yield _dead_datanode(worker, f"not among the {len(known)} DataNodes that the NameNode knows")


def _dead_datanode(node: str, said: str) -> Trouble:
    return Trouble(
        what=f"the DataNode of {node} is gone: its copies of blocks cannot be read",
        cause="the node or its daemon is down, or the network between them",
        evidence=(f"NameNode: {said}",),
        fix="start it; after a few minutes HDFS copies what it held from elsewhere",
        command="rpicluster start",
        node=node,
    )


@cluster_kind("datanode-disk-failed", PROBLEM, "A DataNode has lost a disk")
def datanode_disk_failed(seen: Seen) -> Iterator[Trouble]:
    """It reports failed volumes."""
    hdfs = seen.cluster.hdfs if seen.cluster else None
    for datanode in hdfs.datanodes if hdfs else ():
        if datanode.failed_volumes:
            yield Trouble(
                what=f"the DataNode of {datanode.node} cannot use {datanode.failed_volumes} of its disks",
                cause="the disk makes errors, is read-only, or is not mounted",
                evidence=(f"NameNode: {datanode.failed_volumes} failed volumes",),
                fix="see the findings about its disks; then start it again",
                command=_STATUS,
                node=datanode.node,
            )


@cluster_kind("nodemanager-unhealthy", PROBLEM, "A NodeManager is unhealthy, lost or never came")
def nodemanager_unhealthy(seen: Seen) -> Iterator[Trouble]:
    """YARN gives it no work. Nodes that leave on purpose are none."""
    managers = seen.cluster.nodemanagers if seen.cluster else None
    if managers is None:
        return
    for manager in managers:
        if manager.state in ("LOST", "UNHEALTHY", "REBOOTED", "SHUTDOWN"):
            said = f"{manager.state}: {manager.health_report}" if manager.health_report else manager.state
            yield _no_work(manager.node, said)
    known = {manager.node for manager in managers}
    for worker in _workers(seen):
        if worker not in known:
            yield _no_work(worker, f"not among the {len(known)} NodeManagers that the ResourceManager knows")


def _no_work(node: str, said: str) -> Trouble:
    return Trouble(
        what=f"the NodeManager of {node} takes no work",
        cause="its disk is full, its daemon or node is down, or the network between them",
        evidence=(f"ResourceManager: {said}",),
        fix="free its disk or start it",
        command="rpicluster start",
        node=node,
    )


@cluster_kind("blocks-missing", PROBLEM, "Data in HDFS cannot be read")
def blocks_missing(seen: Seen) -> Iterator[Trouble]:
    """No living DataNode has a good copy of some blocks."""
    hdfs = seen.cluster.hdfs if seen.cluster else None
    if hdfs and (hdfs.missing_blocks or hdfs.corrupt_blocks):
        yield Trouble(
            what=f"{hdfs.missing_blocks} blocks are missing, {hdfs.corrupt_blocks} have a damaged copy",
            cause="all DataNodes that held them are down, or their disks are lost",
            evidence=(
                f"of {hdfs.blocks} blocks: {hdfs.missing_blocks} missing, {hdfs.corrupt_blocks} corrupt",
            ),
            fix="start the missing workers; if a disk is lost, put the files again",
            command=_STATUS,
        )


@cluster_kind("blocks-under-replicated", WARNING, "Blocks have too few copies")
def blocks_under_replicated(seen: Seen) -> Iterator[Trouble]:
    """HDFS is copying them, or has no DataNode to copy them to."""
    hdfs = seen.cluster.hdfs if seen.cluster else None
    if hdfs and hdfs.under_replicated_blocks:
        live = sum(datanode.state == "live" for datanode in hdfs.datanodes)
        yield Trouble(
            what=f"{hdfs.under_replicated_blocks} of {hdfs.blocks} blocks have too few copies",
            cause="a DataNode is gone, or a file shall have more copies than there are DataNodes; HDFS "
            "copies by itself as long as enough DataNodes live",
            evidence=(
                f"under-replicated: {hdfs.under_replicated_blocks} of {hdfs.blocks}, {live} DataNodes live",
            ),
            fix="wait if it gets fewer; else start the missing DataNodes, or put the file again",
            command=_STATUS,
        )


@cluster_kind("hdfs-full", WARNING, "HDFS is more than 85 % full")
def hdfs_full(seen: Seen) -> Iterator[Trouble]:
    """Of what DataNodes may use, whoever takes it."""
    hdfs = seen.cluster.hdfs if seen.cluster else None
    if hdfs and hdfs.capacity_bytes:
        used = 100 - 100 * hdfs.remaining_bytes / hdfs.capacity_bytes
        if used > HDFS_FULL_PERCENT:
            yield Trouble(
                what=f"HDFS is {used:.0f} % full",
                cause="data, the trash, and what else lies on the DataNodes' disks",
                evidence=(
                    f"{hdfs.remaining_bytes >> 20} of {hdfs.capacity_bytes >> 20} MiB free, over all "
                    "DataNodes",
                ),
                fix="remove what is not needed, and empty the trash",
                command="rpicluster df; rpicluster ls -l .Trash",
            )
