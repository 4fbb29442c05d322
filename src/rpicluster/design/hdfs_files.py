"""core-site.xml, hdfs-site.xml and the list of DataNodes.

Names and defaults: core-default.xml and hdfs-default.xml of Hadoop 3.5.0.
"""

from collections.abc import Iterable, Iterator

from rpicluster.design import layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import Setting, setting
from rpicluster.model.ports import DATANODE_INTERNAL_PORT
from rpicluster.model.spec import Role

# Below this much free space a DataNode gets no new block, a NodeManager no new container, and the NameNode
# becomes read-only: in this order, so that a filling disk stops data before it stops the cluster.
DATANODE_FREE_MIB = 1024
NODEMANAGER_FREE_MIB = 512
NAMENODE_FREE_MIB = 256
# HDFS pipelines are not mended on fewer DataNodes than this: there is no other DataNode to take over.
_MANY_DATANODES = 4


def core_site(inputs: Inputs, name: str) -> Iterator[Setting]:
    """Yield core-site.xml of node `name`: the same on every node but for its directories."""
    trash_min = max(1, -(-inputs.spec.hdfs.trash_interval_s // 60))
    yield setting(
        "fs.defaultFS", inputs.hdfs, "The file system; an address, because names on a Pi say 127.0.1.1."
    )
    yield setting(
        "hadoop.tmp.dir",
        layout.hadoop_directory(inputs.paths(name)),
        "Hadoop's default is /tmp/hadoop-LOGIN: anybody's directory, emptied at boot, in RAM on some "
        "systems.",
    )
    yield setting(
        "fs.permissions.umask-mode",
        "022",
        "Tables are readable by all users; homes are private by mode 0700.",
    )
    yield setting(
        "fs.trash.interval", trash_min, "Minutes for which `rm` can be undone; Hadoop's default is never."
    )
    yield setting(
        "fs.trash.checkpoint.interval",
        min(60, trash_min),
        "Minutes between clean-ups; the default (as long as the interval) keeps files for up to twice "
        "the time.",
    )
    yield setting(
        "io.file.buffer.size", 65536, "64 KiB a read or write; 4 KiB means sixteen times the system calls."
    )
    yield setting(
        "ipc.client.connect.max.retries.on.timeouts",
        3,
        "A node that is switched off is given up after about a minute; the default of 45 tries takes 15 "
        "minutes.",
    )
    yield setting(
        "ipc.client.rpc-timeout.ms", 60000, "A frozen daemon becomes an error after a minute, not two."
    )
    yield setting("ipc.server.read.threadpool.size", 1, "One reader thread is enough for tens of nodes.")
    yield setting("hadoop.http.acceptor.count", 1, "Small web servers; the default scales with cores.")
    yield setting("hadoop.http.selector.count", 1, "Small web servers; the default scales with cores.")
    yield setting(
        "hadoop.http.idle_timeout.ms", 60000, "Hadoop's default, stated because tunnels rely on it."
    )
    yield setting(
        "hadoop.security.authorization",
        False,
        "Stated: with simple authentication it checks names that clients claim.",
    )


def hdfs_site(inputs: Inputs, name: str) -> Iterator[Setting]:
    """Yield hdfs-site.xml of node `name`: what clients need, and what its own daemons need."""
    yield from _client(inputs)
    roles = inputs.roles_of(name)
    if Role.MANAGER in roles:
        yield from _namenode(inputs, name)
    if Role.WORKER in roles:
        yield from _datanode(inputs, name)
    yield from _liveness()


def _client(inputs: Inputs) -> Iterator[Setting]:
    few = len(inputs.workers) < _MANY_DATANODES
    yield setting(
        "dfs.checksum.type",
        "CRC32",
        "zlib computes it at C speed, so that `put` and `get` can compare whole files from Python.",
    )
    manager = inputs.manager
    yield setting(
        "dfs.namenode.rpc-address", inputs.at(manager, "namenode_rpc"), "Listens on the node's address only."
    )
    yield setting(
        "dfs.namenode.http-address", inputs.at(manager, "namenode_http"), "Default: 0.0.0.0. JMX and WebHDFS."
    )
    yield setting(
        "dfs.replication", inputs.sizes.replication, "Copies of every block; 2 survive the loss of one node."
    )
    yield setting(
        "dfs.blocksize",
        inputs.spec.hdfs.block_size * 1024 * 1024,
        "Bytes a block; smaller than Hadoop's 128 MiB, so that a file of 1 GB keeps 16 slow cores busy.",
    )
    yield setting(
        "dfs.client.use.datanode.hostname",
        True,
        "Clients use the address that dfs.datanode.hostname states (see there).",
    )
    yield setting("dfs.datanode.use.datanode.hostname", True, "The same between DataNodes.")
    yield setting(
        "dfs.client.socket-timeout", 30000, "A reader or writer turns to another copy after 30 s, not 60 s."
    )
    yield setting(
        "dfs.client.block.write.replace-datanode-on-failure.policy",
        "NEVER" if few else "DEFAULT",
        "When a DataNode fails during a write: with 3 or fewer there is none to replace it, so go on "
        "with the rest.",
    )
    yield setting(
        "dfs.client.block.write.replace-datanode-on-failure.best-effort",
        True,
        "Go on writing when no replacement is found; the NameNode makes the missing copy later.",
    )
    yield setting("dfs.permissions.enabled", True, "Hadoop's default, stated: files belong to their users.")


def _liveness() -> Iterator[Setting]:
    yield setting("dfs.heartbeat.interval", 3, "Seconds; Hadoop's default, part of the sum below.")
    yield setting(
        "dfs.namenode.heartbeat.recheck-interval",
        45000,
        "A DataNode counts as dead after 2 × this + 10 heartbeats = 120 s (default 10.5 min): longer "
        "than a Pi "
        "takes to reboot, so that a reboot does not start copying its blocks.",
    )


def _namenode(inputs: Inputs, name: str) -> Iterator[Setting]:
    paths = inputs.paths(name)
    yield setting("dfs.namenode.name.dir", f"file://{layout.namenode_directory(paths)}", "Image and edits.")
    yield setting(
        "dfs.hosts",
        f"{paths.conf}/{layout.DFS_HOSTS}",
        "Only these DataNodes may register; by default anybody's may, and receives blocks.",
    )
    yield setting(
        "dfs.hosts.exclude",
        f"{paths.conf}/{layout.DFS_EXCLUDED}",
        "A DataNode on this list, too, leaves: its blocks are copied to the others first.",
    )
    yield setting(
        "dfs.namenode.decommission.interval",
        5,
        "Seconds between two looks at a DataNode that leaves; the default of 30 is for thousands of nodes.",
    )
    yield setting(
        "dfs.namenode.replication.max-streams",
        8,
        "Blocks that a DataNode copies at a time; with the default of 2, every 3 s, small files take hours.",
    )
    yield setting(
        "dfs.namenode.replication.max-streams-hard-limit",
        16,
        "The same, with those copies that cannot wait; default 4.",
    )
    yield setting(
        "dfs.namenode.replication.work.multiplier.per.iteration",
        8,
        "Copies that are handed out every 3 s, times the DataNodes; default 2.",
    )
    yield setting(
        "dfs.namenode.reconstruction.pending.timeout-sec",
        60,
        "A copy that has not arrived after a minute is made again; default 5 min.",
    )
    yield setting(
        "dfs.namenode.lease-hard-limit-sec",
        300,
        "A file whose writer died is closed after 5 min; until then its last block keeps its node from "
        "leaving. Default 20 min.",
    )
    yield setting(
        "dfs.namenode.datanode.registration.ip-hostname-check",
        False,
        "Addresses need no reverse DNS; dfs.hosts decides.",
    )
    if inputs.spec.is_local:
        group, why = layout.GROUP, "Members of this login group may do everything."
    else:
        group = layout.HDFS_USER
        why = "Members of a login group of this name on the manager may do everything; there is none."
    yield setting("dfs.permissions.superusergroup", group, why)
    yield setting(
        "dfs.webhdfs.rest-csrf.enabled", True, "A web page open in a browser cannot write through WebHDFS."
    )
    yield setting(
        "dfs.namenode.safemode.extension",
        1000,
        "Milliseconds that safe mode lasts on after 99.9 % of blocks were reported. The default of 30 s lets "
        "thousands of DataNodes finish reporting before copying starts; ours report within a second or "
        "two, and "
        "a copy started too early is dropped again.",
    )
    yield setting(
        "dfs.namenode.safemode.recheck.interval", 200, "Look five times a second whether safe mode can end."
    )
    yield setting(
        "dfs.namenode.safemode.min.datanodes",
        1,
        "An empty file system is writable only when there is a DataNode.",
    )
    yield setting("dfs.namenode.handler.count", 8, "RPC threads; default 10.")
    yield setting("dfs.namenode.avoid.read.stale.datanode", True, "Read elsewhere after 30 s of silence.")
    yield setting("dfs.namenode.avoid.write.stale.datanode", True, "Write elsewhere after 30 s of silence.")
    yield setting(
        "dfs.namenode.resource.du.reserved",
        NAMENODE_FREE_MIB * 1024 * 1024,
        "Bytes; with less free the NameNode becomes read-only, so that edits are never cut short.",
    )
    yield setting(
        "dfs.namenode.block-placement.min-blocks-for.write",
        max(1, -(-DATANODE_FREE_MIB // inputs.spec.hdfs.block_size)),
        f"Blocks that must fit for a DataNode to get one: keeps {DATANODE_FREE_MIB} MiB free for "
        "everything else. "
        "dfs.datanode.du.reserved cannot do that on a disk shared with the system: it counts what others "
        "already use.",
    )
    yield from _checkpoint(inputs, name)


def _checkpoint(inputs: Inputs, name: str) -> Iterator[Setting]:
    paths, node = inputs.paths(name), inputs.node(name)
    yield setting(
        "dfs.namenode.checkpoint.dir",
        f"file://{layout.checkpoint_directory(paths)}",
        "The daily checkpoint's own copy of the image.",
    )
    yield setting(
        "dfs.namenode.secondary.http-address",
        f"{node.address}:0",
        "No SecondaryNameNode runs; its one-shot form merges the edits once a day and does not listen.",
    )
    yield setting(
        "dfs.namenode.checkpoint.period",
        3600,
        "Seconds; a NameNode that starts from an image older than this saves a new one.",
    )
    yield setting(
        "dfs.namenode.num.extra.edits.retained",
        10000,
        "Transactions kept besides what the last two images need; the default of a million is for standbys.",
    )


def _datanode(inputs: Inputs, name: str) -> Iterator[Setting]:
    paths, address = inputs.paths(name), inputs.node(name).address
    yield setting("dfs.datanode.data.dir", f"file://{layout.datanode_directory(paths)}", "Blocks.")
    yield setting("dfs.datanode.address", inputs.at(name, "datanode_data"), "Default: 0.0.0.0.")
    yield setting("dfs.datanode.http.address", inputs.at(name, "datanode_http"), "Default: 0.0.0.0. WebHDFS.")
    if not inputs.spec.is_local:
        yield setting(
            "dfs.datanode.http.internal-proxy.port",
            DATANODE_INTERNAL_PORT,
            "The server behind the page, on 127.0.0.1; default: any port, which no firewall could guard.",
        )
    yield setting("dfs.datanode.ipc.address", inputs.at(name, "datanode_ipc"), "Default: 0.0.0.0.")
    yield setting(
        "dfs.datanode.hostname",
        address,
        "What clients connect to. Without it a DataNode on loopback is known as 127.0.0.1, where it does "
        "not listen.",
    )
    yield setting("dfs.datanode.handler.count", 3, "RPC threads; default 10.")
    yield setting(
        "dfs.datanode.max.transfer.threads",
        256,
        "Streams at a time, one thread each; 4096 would outgrow the heap.",
    )
    yield setting(
        "dfs.datanode.synconclose",
        True,
        "A finished block is on the disk: one switch powers all nodes, so a power cut hits every copy at "
        "once.",
    )
    yield setting(
        "dfs.datanode.sync.behind.writes",
        True,
        "Start writing out early, so that the sync at the end is short.",
    )
    yield setting(
        "dfs.datanode.du.reserved",
        DATANODE_FREE_MIB * 1024 * 1024,
        "Bytes not counted as HDFS's on a disk of its own (see min-blocks-for.write for shared disks).",
    )


def dfs_excluded(sources: Iterable[str] = ()) -> bytes:
    """Return the DataNodes that leave, each as `address:port`, one a line; none but while that lasts."""
    return "".join(f"{source}\n" for source in sorted(sources)).encode()


def dfs_hosts(inputs: Inputs) -> bytes:
    """Return the DataNodes that may register, one `address:port` a line."""
    return "".join(f"{inputs.datanode_source(name)}\n" for name in sorted(inputs.workers)).encode()
