"""Where things stand below a node's directories; the one place that knows, so that edges and files agree."""

from rpicluster.model.facts import NodePaths

SPARK_DEFAULTS = "spark/spark-defaults.conf"
DFS_HOSTS = "hadoop/dfs-hosts"
YARN_HOSTS = "hadoop/yarn-hosts"
KEEPER = "session/keeper"  # a directory of Python files

# In HDFS.
WAREHOUSE = "/warehouse"
CONTAINER_LOGS = "/logs"
LOGS_KEPT_S = 7 * 86400


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


def unit_directory(paths: NodePaths, unit: str) -> str:
    """Return a unit's working and temporary directory; it must exist, mode 0700, before the unit starts."""
    return f"{paths.data}/{unit}"


def hadoop_directory(paths: NodePaths) -> str:
    """Return where Hadoop puts what has no place of its own."""
    return f"{paths.data}/hadoop"


def namenode_directory(paths: NodePaths) -> str:
    """Return where the NameNode keeps image and edits; its `current/VERSION` says whose file system it is."""
    return f"{paths.data}/namenode/name"


def checkpoint_directory(paths: NodePaths) -> str:
    """Return where the daily checkpoint keeps its copy of the NameNode's image."""
    return f"{paths.data}/namenode/checkpoint"


def datanode_directory(paths: NodePaths) -> str:
    """Return where a DataNode keeps blocks."""
    return f"{paths.data}/datanode/blocks"


def resourcemanager_directory(paths: NodePaths) -> str:
    """Return where the ResourceManager keeps what it needs to go on after a restart."""
    return f"{paths.data}/resourcemanager/state"


def containers_directory(paths: NodePaths) -> str:
    """Return where containers work and spill; emptied by the NodeManager."""
    return f"{paths.data}/nodemanager/containers"


def container_logs_directory(paths: NodePaths) -> str:
    """Return where containers log until their application ends and the logs go to HDFS."""
    return f"{paths.logs}/containers"


def log_file(paths: NodePaths, unit: str) -> str:
    """Return the log that a unit's own log4j2 writes and rolls."""
    return f"{paths.logs}/{unit}.log"


def token_file(paths: NodePaths, user: str) -> str:
    """Return the 0600 file with the token of a user's Connect door; written by the edge, never rendered."""
    return f"{paths.data}/{session_unit(user)}/token"


def connection_file(paths: NodePaths, user: str) -> str:
    """Return where housekeeping finds how to reach a user's session; written by the edge, never rendered."""
    return f"{paths.data}/{session_unit(user)}/connection.json"


def status_file(paths: NodePaths, user: str) -> str:
    """Return where the keeper says how the session is."""
    return f"{paths.run}/{session_unit(user)}.json"
