"""Who runs what on a real node, and which directories must exist for them, there and in HDFS."""

from dataclasses import dataclass

from rpicluster.design import daemon_units, layout
from rpicluster.design.inputs import Inputs
from rpicluster.model.spec import Role

NO_LOGIN = "/usr/sbin/nologin"


@dataclass(frozen=True)
class SystemUser:
    """A login that must exist on a node; its password is `*`: none fits, and sshd does not call it locked."""

    name: str
    group: str
    purpose: str
    home: str = "/nonexistent"  # never made
    shell: str = NO_LOGIN


@dataclass(frozen=True)
class Directory:
    """A directory that must exist on a node before its units start."""

    path: str
    mode: int
    owner: str = "root"
    group: str = "root"


@dataclass(frozen=True)
class HdfsDirectory:
    """A directory that HDFS's superuser makes; `permission` is octal, as WebHDFS wants it."""

    path: str
    permission: str
    owner: str


def system_users(inputs: Inputs, name: str) -> tuple[SystemUser, ...]:
    """Return the logins that node `name` needs besides those of people; all belong to one group."""
    users = {
        layout.HDFS_USER: "NameNode, DataNode and the daily checkpoint",
        layout.YARN_USER: "ResourceManager, NodeManager and the containers of all users",
    }
    if name == inputs.manager:
        users[layout.TUNNEL_USER] = "SSH tunnels to the cluster's pages, and nothing else"
    if inputs.spec.r is not None:
        users[layout.BUILD_USER] = "building R packages from their sources"
    return tuple(SystemUser(user, layout.GROUP, purpose) for user, purpose in users.items())


def directories(inputs: Inputs, name: str) -> tuple[Directory, ...]:
    """Return the directories of node `name`, parents first.

    Not listed, because systemd makes them with the unit: what is below `paths.run`, and sessions' logs, which
    get the group of the session's login.
    """
    paths, service = inputs.paths(name), layout.GROUP
    found = [
        Directory(paths.conf, 0o755),
        Directory(paths.data, 0o755),
        *((Directory(paths.disk.path, 0o755),) if paths.disk is not None else ()),
        # Several daemons may use it; none may remove what is another's.
        Directory(layout.hadoop_directory(paths), 0o1770, "root", service),
        Directory(paths.logs, 0o755),
    ]
    if inputs.spec.r is not None:
        found.append(Directory(layout.R_FOLDER, 0o755))
    for unit, user in _units(inputs, name):
        person = user not in (layout.HDFS_USER, layout.YARN_USER)
        found.append(
            Directory(layout.unit_directory(paths, unit), 0o700, user, "root" if person else service)
        )
        if not person:  # the NameNode logs before its unit ever starts: when it is formatted
            found.append(Directory(layout.logs_directory(paths, unit), 0o750, user, service))
    if Role.WORKER in inputs.roles_of(name):
        found.append(Directory(layout.container_logs_directory(paths), 0o750, layout.YARN_USER, service))
    return tuple(found)


def _units(inputs: Inputs, name: str) -> list[tuple[str, str]]:
    of_hdfs = ("namenode", "datanode")
    units = [
        (daemon, layout.HDFS_USER if daemon in of_hdfs else layout.YARN_USER)
        for daemon in daemon_units.daemons_of(inputs, name)
    ]
    if name == inputs.manager:
        units += [(layout.session_unit(user), user) for user in inputs.users]
    return units


def hdfs_directories(inputs: Inputs) -> tuple[HdfsDirectory, ...]:
    """Return what must exist in HDFS, parents first; the superuser makes it and gives it to its owner."""
    superuser = inputs.hdfs_superuser
    return (
        HdfsDirectory("/tmp", "1777", superuser),  # noqa: S108  in HDFS
        HdfsDirectory(layout.CONTAINER_LOGS, "1777", superuser),
        HdfsDirectory("/user", "755", superuser),
        *(HdfsDirectory(layout.home(user), "700", user) for user in inputs.users),
        HdfsDirectory(layout.WAREHOUSE, "1777", superuser),
        HdfsDirectory(f"{layout.WAREHOUSE}/default", "1777", superuser),
    )
