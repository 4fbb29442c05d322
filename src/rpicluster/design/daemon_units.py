"""The processes of every node: which program, with which flags and environment."""

from rpicluster.design import jvm, layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.units import Unit
from rpicluster.model.spec import Role

MAIN_CLASSES = {
    "namenode": "org.apache.hadoop.hdfs.server.namenode.NameNode",
    "resourcemanager": "org.apache.hadoop.yarn.server.resourcemanager.ResourceManager",
    "datanode": "org.apache.hadoop.hdfs.server.datanode.DataNode",
    "nodemanager": "org.apache.hadoop.yarn.server.nodemanager.NodeManager",
}
_READS = {
    "namenode": (
        "hadoop/core-site.xml",
        "hadoop/hdfs-site.xml",
        "hadoop/log4j2.properties",
    ),
    "datanode": ("hadoop/core-site.xml", "hadoop/hdfs-site.xml", "hadoop/log4j2.properties"),
    "resourcemanager": (
        "hadoop/capacity-scheduler.xml",
        "hadoop/core-site.xml",
        "hadoop/log4j2.properties",
        "hadoop/yarn-site.xml",
    ),
    "nodemanager": (
        "hadoop/core-site.xml",
        "hadoop/hdfs-site.xml",  # it writes logs to HDFS
        "hadoop/log4j2.properties",
        "hadoop/yarn-site.xml",
    ),
}
# Lists of nodes, and the program that has a daemon read them again without a restart.
_LISTS = {
    "namenode": (layout.DFS_HOSTS, layout.DFS_EXCLUDED),
    "resourcemanager": (layout.YARN_HOSTS, layout.YARN_EXCLUDED),
}
# A NodeManager that leaves is stopped by rpicluster, when its containers have ended or had their time; the
# ResourceManager's own limit only has to be longer.
_LEAVING_S = 3600
_REFRESH = {
    "namenode": ("org.apache.hadoop.hdfs.tools.DFSAdmin", "-refreshNodes"),
    "resourcemanager": (
        "org.apache.hadoop.yarn.client.cli.RMAdminCLI",
        "-refreshNodes",
        "-g",
        str(_LEAVING_S),
        "-server",
    ),
}
_REFRESH_HEAP_MIB = 48
_AFTER = {"datanode": ("namenode",), "nodemanager": ("resourcemanager",)}
IPV4 = "-Djava.net.preferIPv4Stack=true"
# A daemon may start `bash` (container launch, group look-up), `ls`, `du` and `df`, and nothing of the user's.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def daemons_of(inputs: Inputs, name: str) -> tuple[str, ...]:
    """Return the names of the daemons that run on node `name`."""
    roles = inputs.roles_of(name)
    manager = ("namenode", "resourcemanager") if Role.MANAGER in roles else ()
    worker = ("datanode", "nodemanager") if Role.WORKER in roles else ()
    return (*manager, *worker)


def daemon_units(inputs: Inputs) -> tuple[Unit, ...]:
    """Return the Hadoop daemons of all nodes, the manager's first."""
    order = sorted(inputs.spec.nodes, key=lambda node: node.name != inputs.manager)
    return tuple(
        _daemon(inputs, node.name, daemon) for node in order for daemon in daemons_of(inputs, node.name)
    )


def _daemon(inputs: Inputs, name: str, daemon: str) -> Unit:
    node = inputs.node(name)
    heap_mib = inputs.node_sizes(name).daemons[daemon].heap_mib
    lists = _LISTS.get(daemon, ())
    is_local = inputs.spec.is_local  # where nothing can reload a daemon
    return Unit(
        name=daemon,
        node=name,
        argv=daemon_argv(inputs, name, daemon, heap_mib, MAIN_CLASSES[daemon]),
        environment=environment(inputs, name, _hadoop_user(inputs, daemon)),
        reads=(*_READS[daemon], *lists) if is_local else (*_READS[daemon], layout.JAVA_HOSTS),
        directory=layout.unit_directory(node.paths, daemon),
        after=_AFTER.get(daemon, ()),
        user="" if is_local else _hadoop_user(inputs, daemon),
        rereads=() if is_local else lists,
        reload=_refresh(inputs, name, daemon) if lists and not is_local else (),
    )


def _refresh(inputs: Inputs, name: str, daemon: str) -> tuple[str, ...]:
    """Return the command that has a daemon read its lists of nodes again; there is no REST for it."""
    main, *arguments = _REFRESH[daemon]
    return daemon_argv(inputs, name, "refresh", _REFRESH_HEAP_MIB, main, *arguments, flags_of=daemon)


def _hadoop_user(inputs: Inputs, daemon: str) -> str:
    return inputs.hdfs_superuser if daemon in ("namenode", "datanode") else inputs.yarn_admin


def daemon_argv(
    inputs: Inputs,
    name: str,
    unit: str,
    heap_mib: int,
    main_class: str,
    *arguments: str,
    flags_of: str | None = None,
) -> tuple[str, ...]:
    """Return the command of a Java program on Hadoop's class path, marked as `unit` of this cluster."""
    node = inputs.node(name)
    return (
        f"{node.java_home}/bin/java",
        *jvm.daemon_flags(unit, heap_mib),
        IPV4,
        *(() if inputs.spec.is_local else (f"-Djdk.net.hosts.file={node.paths.conf}/{layout.JAVA_HOSTS}",)),
        marker(inputs, name, unit),
        # Nobody else's /tmp: private, on the disk, and emptied with the unit.
        f"-Djava.io.tmpdir={layout.unit_directory(node.paths, flags_of or unit)}",
        f"-Drpicluster.log={layout.log_file(node.paths, flags_of or unit, unit)}",
        "-cp",
        f"{node.paths.conf}/hadoop:{node.paths.runtime}/hadoop/*",
        main_class,
        *arguments,
    )


def marker(inputs: Inputs, name: str, unit: str) -> str:
    """Return the flag by which a process is known as this cluster's, even when its supervisor is gone."""
    return f"-Drpicluster.unit={inputs.placement.cluster_id}/{name}/{unit}"


def environment(inputs: Inputs, name: str, user: str) -> tuple[tuple[str, str], ...]:
    """Return the whole environment of a unit on node `name` that acts as `user`, sorted."""
    node = inputs.node(name)
    values = {
        "HADOOP_CONF_DIR": f"{node.paths.conf}/hadoop",
        "HADOOP_USER_NAME": user,
        "JAVA_HOME": node.java_home,
        "LANG": "C.UTF-8",
        "PATH": PATH,
        "SPARK_HOME": node.paths.runtime,
        # What Spark binds to where it has no setting for it: pages of drivers, ports of executors.
        "SPARK_LOCAL_IP": node.address,
        **dict(jvm.ENVIRONMENT),
    }
    return tuple(sorted(values.items()))


def format_command(unit: Unit, cluster_id: str) -> tuple[str, ...]:
    """Return the command that makes an empty file system for `unit`; it refuses over existing data."""
    return (*unit.argv, "-format", "-nonInteractive", "-clusterid", cluster_id)


def checkpoint_command(inputs: Inputs) -> tuple[str, ...]:
    """Return the command that merges the NameNode's edits into its image once, and ends."""
    heap_mib = inputs.node_sizes(inputs.manager).daemons["namenode"].heap_mib
    main = "org.apache.hadoop.hdfs.server.namenode.SecondaryNameNode"
    return daemon_argv(
        inputs, inputs.manager, layout.CHECKPOINT, heap_mib, main, "-checkpoint", "force", flags_of="namenode"
    )
