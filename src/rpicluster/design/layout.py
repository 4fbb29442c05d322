"""Where things stand below a node's directories; the one place that knows, so that edges and files agree."""

from rpicluster.model.facts import NodePaths

SPARK_DEFAULTS = "spark/spark-defaults.conf"
DFS_HOSTS = "hadoop/dfs-hosts"
YARN_HOSTS = "hadoop/yarn-hosts"
JAVA_HOSTS = "hadoop/java-hosts"
# Who is on its way out; empty but while a node leaves.
DFS_EXCLUDED = "hadoop/dfs-hosts-exclude"
YARN_EXCLUDED = "hadoop/yarn-hosts-exclude"
SPARKLYR_JAR = "session/sparklyr.jar"
KEEPER = "session/keeper"  # a directory of Python files

# Who runs what on real nodes, where units are systemd's. The group says who belongs to the cluster's
# services; it gives no rights in HDFS.
HDFS_USER = "rpi-hdfs"
YARN_USER = "rpi-yarn"
TUNNEL_USER = "rpi-tunnel"
BUILD_USER = "rpi-build"
GROUP = "rpicluster"
SYSTEMD = "/etc/systemd/system"
FIREWALL = "firewall.nft"
CHECKPOINT = "checkpoint"
# Whose data are large, or written much: they go to `storage:`.
USERS = {"namenode": HDFS_USER, "datanode": HDFS_USER, "nodemanager": YARN_USER}
ON_DISK = frozenset(USERS)

# R packages built from sources on a node, beside the runtime; then where Debian's R looks for others.
R_FOLDER = "/opt/rpicluster/r"
R_LIBRARY = f"{R_FOLDER}/library"
R_LIBRARIES = (R_LIBRARY, "/usr/local/lib/R/site-library", "/usr/lib/R/site-library")

# In HDFS.
WAREHOUSE = "/warehouse"
CONTAINER_LOGS = "/logs"
LOGS_KEPT_S = 7 * 86400


def systemd_unit(name: str) -> str:
    """Return the name of the systemd service of a unit; by it a node's processes are known as ours."""
    return f"rpicluster-{name}.service"


def systemd_file(name: str) -> str:
    """Return the file that tells systemd of a unit."""
    return f"{SYSTEMD}/{systemd_unit(name)}"


def session_unit(user: str) -> str:
    """Return the name of a user's session unit."""
    return f"session-{user}"


def keeper_file(name: str) -> str:
    """Return the rendered file that holds the keeper's source file `name`."""
    return f"{KEEPER}/{name}"


def keeper_settings(user: str) -> str:
    """Return the rendered file that tells the keeper of `user` what to run."""
    return f"session/keeper-{user}.json"


def home(user: str) -> str:
    """Return a user's directory in HDFS; the superuser creates it with mode 0700."""
    return f"/user/{user}"


def data_directory(paths: NodePaths, unit: str) -> str:
    """Return the directory above a unit's own: on the disk for data, where the node has one."""
    return paths.disk.path if paths.disk is not None and unit in ON_DISK else paths.data


def unit_directory(paths: NodePaths, unit: str) -> str:
    """Return a unit's working and temporary directory; it must exist, mode 0700, before the unit starts."""
    return f"{data_directory(paths, unit)}/{unit}"


def hadoop_directory(paths: NodePaths) -> str:
    """Return where Hadoop puts what has no place of its own."""
    return f"{paths.data}/hadoop"


def namenode_directory(paths: NodePaths) -> str:
    """Return where the NameNode keeps image and edits; its `current/VERSION` says whose file system it is."""
    return f"{unit_directory(paths, 'namenode')}/name"


def checkpoint_directory(paths: NodePaths) -> str:
    """Return where the daily checkpoint keeps its copy of the NameNode's image."""
    return f"{unit_directory(paths, 'namenode')}/checkpoint"


def datanode_directory(paths: NodePaths) -> str:
    """Return where a DataNode keeps blocks."""
    return f"{unit_directory(paths, 'datanode')}/blocks"


def resourcemanager_directory(paths: NodePaths) -> str:
    """Return where the ResourceManager keeps what it needs to go on after a restart."""
    return f"{paths.data}/resourcemanager/state"


def containers_directory(paths: NodePaths) -> str:
    """Return where containers work and spill; emptied by the NodeManager."""
    return f"{unit_directory(paths, 'nodemanager')}/containers"


def container_logs_directory(paths: NodePaths) -> str:
    """Return where containers log until their application ends and the logs go to HDFS."""
    return f"{paths.logs}/containers"


def logs_directory(paths: NodePaths, unit: str) -> str:
    """Return the directory of a unit's logs; on real nodes its own, because rolling renames files in it."""
    return f"{paths.logs}/{unit}" if paths.per_unit else paths.logs


def log_file(paths: NodePaths, unit: str, log: str = "") -> str:
    """Return the log `log` of a unit, by default the one that its own log4j2 writes and rolls."""
    return f"{logs_directory(paths, unit)}/{log or unit}.log"


def run_directory(paths: NodePaths, unit: str) -> str:
    """Return the directory where a unit says how it is."""
    return f"{paths.run}/{unit}" if paths.per_unit else paths.run


def tunnel_keys(paths: NodePaths) -> str:
    """Return the file of public keys that may tunnel; written by the edge, root's, 0644, never rendered."""
    return f"{paths.conf}/tunnel-keys"


def token_file(paths: NodePaths, user: str) -> str:
    """Return the 0600 file with the token of a user's Connect door; written by the edge, never rendered."""
    return f"{paths.data}/{session_unit(user)}/token"


def connection_file(paths: NodePaths, user: str) -> str:
    """Return where housekeeping finds how to reach a user's session; written by the edge, never rendered."""
    return f"{paths.data}/{session_unit(user)}/connection.json"


def status_file(paths: NodePaths, user: str) -> str:
    """Return where the keeper says how the session is."""
    unit = session_unit(user)
    return f"{run_directory(paths, unit)}/{unit}.json"
