"""yarn-site.xml, capacity-scheduler.xml and the list of NodeManagers.

Names and defaults: yarn-default.xml of Hadoop 3.5.0.
"""

from collections.abc import Iterable, Iterator

from rpicluster.design import layout
from rpicluster.design.hdfs_files import NODEMANAGER_FREE_MIB
from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import Setting, setting
from rpicluster.model.spec import Role

# Environment that containers take over from their NodeManager: node by node it may differ.
CONTAINER_ENVIRONMENT = (
    "HADOOP_CONF_DIR",
    "JAVA_HOME",
    "LANG",
    "MALLOC_ARENA_MAX",
    "PATH",
    "SPARK_HOME",
    "SPARK_LOCAL_IP",
)


def yarn_site(inputs: Inputs, name: str) -> Iterator[Setting]:
    """Yield yarn-site.xml of node `name`: what clients need, and what its own daemons need."""
    yield from _client(inputs)
    yield from _logs()
    roles = inputs.roles_of(name)
    if Role.MANAGER in roles:
        yield from _resourcemanager(inputs, name)
    if Role.WORKER in roles:
        yield from _nodemanager(inputs, name)
        yield from _disk_checks()


def _client(inputs: Inputs) -> Iterator[Setting]:
    manager, sizes = inputs.manager, inputs.sizes
    yield setting("yarn.resourcemanager.hostname", inputs.node(manager).address, "Default: 0.0.0.0.")
    for key, port in (
        ("address", "rm_client"),
        ("scheduler.address", "rm_scheduler"),
        ("resource-tracker.address", "rm_tracker"),
        ("admin.address", "rm_admin"),
        ("webapp.address", "rm_http"),
    ):
        yield setting(f"yarn.resourcemanager.{key}", inputs.at(manager, port), "Default: 0.0.0.0.")
    yield setting(
        "yarn.resourcemanager.connect.retry-interval.ms",
        1000,
        "NodeManagers and sessions find a restarted ResourceManager within a second; default 30 s.",
    )
    yield setting(
        "yarn.application.classpath",
        "$HADOOP_CONF_DIR",
        "There is no Hadoop installation; Spark brings jars.",
    )
    yield setting(
        "yarn.scheduler.minimum-allocation-mb",
        sizes.min_allocation_mib,
        "Containers are rounded up to multiples of this; the default of 1024 wastes half a small Pi.",
    )
    yield setting(
        "yarn.scheduler.maximum-allocation-mb", sizes.max_allocation_mib, "The largest node; default 8192."
    )
    yield setting("yarn.scheduler.minimum-allocation-vcores", 1, "Hadoop's default.")
    yield setting(
        "yarn.scheduler.maximum-allocation-vcores", sizes.max_allocation_vcores, "The largest node."
    )


def _logs() -> Iterator[Setting]:
    yield setting(
        "yarn.log-aggregation-enable",
        True,
        "Logs of finished applications go to HDFS: `jobs logs` reads them.",
    )
    yield setting("yarn.nodemanager.remote-app-log-dir", layout.CONTAINER_LOGS, "In HDFS; default /tmp/logs.")
    yield setting(
        "yarn.log-aggregation.retain-seconds",
        layout.LOGS_KEPT_S,
        "A week. Hadoop deletes them in its JobHistoryServer, which does not run here: the session's daily "
        "housekeeping does.",
    )


def _resourcemanager(inputs: Inputs, name: str) -> Iterator[Setting]:
    paths = inputs.paths(name)
    yield setting(
        "yarn.resourcemanager.bind-host", inputs.node(name).address, "Listens on the node's address only."
    )
    yield setting(
        "yarn.webapp.enable-rest-app-submissions",
        False,
        "By default anybody who reaches port 8088 runs any command. Answers 403 instead.",
    )
    yield setting(
        "yarn.webapp.api-service.enable", False, "Another way to start containers by REST; Hadoop's default."
    )
    yield setting("yarn.webapp.ui2.enable", False, "Hadoop's default, stated: one page less to serve.")
    yield setting(
        "yarn.resourcemanager.webapp.ui-actions.enabled", False, "No kill button for whoever sees the page."
    )
    yield setting(
        "yarn.resourcemanager.webapp.rest-csrf.enabled",
        True,
        "A web page open in a browser cannot kill jobs.",
    )
    yield setting(
        "yarn.admin.acl",
        f"{inputs.yarn_admin} ",
        "Who may run admin commands; the default is everybody.",
    )
    yield setting(
        "yarn.resourcemanager.nodes.include-path",
        f"{paths.conf}/{layout.YARN_HOSTS}",
        "Only these NodeManagers may register; by default anybody's may, and receives containers with "
        "their secrets.",
    )
    yield setting(
        "yarn.resourcemanager.nodes.exclude-path",
        f"{paths.conf}/{layout.YARN_EXCLUDED}",
        "A NodeManager on this list, too, leaves: it gets no new containers, and those that run may end.",
    )
    yield setting(
        "yarn.resourcemanager.scheduler.class",
        "org.apache.hadoop.yarn.server.resourcemanager.scheduler.capacity.CapacityScheduler",
        "Hadoop's default, stated because capacity-scheduler.xml depends on it.",
    )
    yield from _recovery(inputs, name)
    yield from _liveness()
    for key in (
        "client",
        "scheduler.client",
        "resource-tracker.client",
        "amlauncher",
        "delegation-token-renewer",
    ):
        yield setting(
            f"yarn.resourcemanager.{key}.thread-count",
            4,
            "Threads; the default of 50 is for thousands of nodes.",
        )
    yield setting("yarn.resourcemanager.max-completed-applications", 200, "Kept in the heap; default 1000.")


def _recovery(inputs: Inputs, name: str) -> Iterator[Setting]:
    state = layout.resourcemanager_directory(inputs.paths(name))
    yield setting(
        "yarn.resourcemanager.recovery.enabled",
        True,
        "A restarted ResourceManager knows running applications.",
    )
    yield setting(
        "yarn.resourcemanager.store.class",
        "org.apache.hadoop.yarn.server.resourcemanager.recovery.FileSystemRMStateStore",
        "Plain files; the LevelDB store needs classes that no jar of this Hadoop has (ADR 0014).",
    )
    yield setting(
        "yarn.resourcemanager.fs.state-store.uri",
        f"file://{state}",
        "On the manager's disk: works while HDFS is down.",
    )
    yield setting(
        "yarn.node-attribute.fs-store.root-dir",
        f"file://{layout.unit_directory(inputs.paths(name), 'resourcemanager')}/node-attribute",
        "Default: a folder in /tmp by the user's name, which others can make and clusters would share.",
    )
    yield setting(
        "yarn.resourcemanager.work-preserving-recovery.enabled", True, "Containers go on through a restart."
    )
    yield setting(
        "yarn.resourcemanager.work-preserving-recovery.scheduling-wait-ms",
        2000,
        "After every start nothing is scheduled for this long, so that NodeManagers can report; default "
        "10 s.",
    )
    yield setting(
        "yarn.resourcemanager.am.max-attempts",
        4,
        "How often an application master may be lost; a session lives for weeks and forgets losses after "
        "an hour.",
    )


def _liveness() -> Iterator[Setting]:
    yield setting(
        "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms",
        500,
        "Containers are handed out with heartbeats: an executor starts half a second earlier than with 1000.",
    )
    yield setting(
        "yarn.nm.liveness-monitor.expiry-interval-ms",
        30000,
        "A node is lost after 30 s of silence and its work starts elsewhere; default 10 min.",
    )
    yield setting(
        "yarn.am.liveness-monitor.expiry-interval-ms",
        30000,
        "The same for application masters; default 15 min. A ResourceManager that restarts just after a "
        "master was lost learns of the loss by this alone.",
    )
    yield setting(
        "yarn.resourcemanager.rm.container-allocation.expiry-interval-ms",
        120000,
        "A container that was granted and never started is taken back; default 10 min.",
    )


def _nodemanager(inputs: Inputs, name: str) -> Iterator[Setting]:
    paths, address, sizes = inputs.paths(name), inputs.node(name).address, inputs.node_sizes(name)
    yield setting("yarn.nodemanager.hostname", address, "The node is known by its address, not by a name.")
    yield setting("yarn.nodemanager.bind-host", address, "Listens on the node's address only.")
    yield setting("yarn.nodemanager.address", inputs.at(name, "nm_rpc"), "Default: 0.0.0.0, any port.")
    yield setting("yarn.nodemanager.localizer.address", inputs.at(name, "nm_localizer"), "Default: 0.0.0.0.")
    yield setting("yarn.nodemanager.webapp.address", inputs.at(name, "nm_http"), "Default: 0.0.0.0.")
    yield setting("yarn.nodemanager.webapp.rest-csrf.enabled", True, "As for the ResourceManager.")
    yield setting(
        "yarn.nodemanager.resource.memory-mb", sizes.yarn_memory_mib, f"{sizes.yarn_reason} Default: 8192."
    )
    yield setting("yarn.nodemanager.resource.cpu-vcores", sizes.yarn_vcores, "The node's cores; default 8.")
    yield setting(
        "yarn.nodemanager.resource.detect-hardware-capabilities", False, "Sizes come from the plan."
    )
    yield setting(
        "yarn.nodemanager.pmem-check-enabled", True, "A container that outgrows its memory is killed by name."
    )
    yield setting(
        "yarn.nodemanager.resource.memory.enforced",
        False,
        "The default leaves it to cgroups, which are not used: then nobody was killed (measured).",
    )
    yield setting(
        "yarn.nodemanager.vmem-check-enabled", False, "JVMs reserve far more address space than they use."
    )
    yield setting(
        "yarn.nodemanager.local-dirs", layout.containers_directory(paths), "Where containers work and spill."
    )
    yield setting(
        "yarn.nodemanager.log-dirs", layout.container_logs_directory(paths), "Logs of running applications."
    )
    yield setting(
        "yarn.nodemanager.recovery.enabled",
        False,
        "Needs LevelDB under names that no jar has (ADR 0014): a NodeManager's containers end with it.",
    )
    yield setting(
        "yarn.nodemanager.env-whitelist",
        ",".join(CONTAINER_ENVIRONMENT),
        "What containers inherit, node by node.",
    )
    yield setting("yarn.nodemanager.delete.debug-delay-sec", 0, "Directories of ended containers go at once.")
    yield setting(
        "yarn.nodemanager.log-container-debug-info.enabled",
        False,
        "Launch scripts hold the environment; by default they are copied into the logs.",
    )
    yield setting(
        "yarn.nodemanager.localizer.cache.target-size-mb", 1024, "Unused copies above this go; default 10 GB."
    )
    for key, threads, default in (
        ("container-manager", 4, 20),
        ("localizer.client", 2, 5),
        ("localizer.fetch", 2, 4),
        ("delete", 1, 4),
        ("collector-service", 1, 5),
    ):
        yield setting(f"yarn.nodemanager.{key}.thread-count", threads, f"Threads; default {default}.")
    yield setting("yarn.nodemanager.logaggregation.threadpool-size-max", 2, "Threads; default 100.")


def _disk_checks() -> Iterator[Setting]:
    prefix = "yarn.nodemanager.disk-health-checker"
    yield setting(
        f"{prefix}.disk-utilization-threshold.enabled",
        False,
        "By default a disk that is 90 % full makes the node UNHEALTHY without a word: 25 GB free on a "
        "laptop is plenty.",
    )
    yield setting(f"{prefix}.disk-free-space-threshold.enabled", True, "Free space is what counts.")
    yield setting(
        f"{prefix}.min-free-space-per-disk-mb",
        NODEMANAGER_FREE_MIB,
        "With less free the node takes no containers, and says so in its health report; default 0.",
    )
    yield setting(
        f"{prefix}.min-free-space-per-disk-watermark-high-mb",
        2 * NODEMANAGER_FREE_MIB,
        "It is healthy again with this much free, so that it does not come and go.",
    )
    yield setting(f"{prefix}.interval-ms", 30000, "How often disks are looked at; default 2 min.")


def capacity_scheduler(inputs: Inputs) -> Iterator[Setting]:
    """Yield capacity-scheduler.xml: one queue, for everything."""
    queue = "yarn.scheduler.capacity"
    yield setting(f"{queue}.root.queues", "default", "One queue: users of a small cluster share all of it.")
    yield setting(f"{queue}.root.default.capacity", 100, "Percent.")
    yield setting(f"{queue}.root.default.maximum-capacity", 100, "Percent.")
    yield setting(
        f"{queue}.root.default.user-limit-factor", 1, "One user may use everything while others are idle."
    )
    yield setting(
        f"{queue}.root.default.minimum-user-limit-percent",
        100 // max(1, inputs.sizes.sessions_max),
        "A share each.",
    )
    yield setting(f"{queue}.root.default.state", "RUNNING", "Hadoop's default.")
    yield setting(f"{queue}.maximum-applications", 100, "Default 10000.")
    yield setting(
        f"{queue}.maximum-am-resource-percent",
        inputs.sizes.am_resource_percent,
        "Share that application masters may take; with the default of 0.1 a small cluster accepts no job "
        "at all.",
    )
    yield setting(
        f"{queue}.resource-calculator",
        "org.apache.hadoop.yarn.util.resource.DefaultResourceCalculator",
        "Memory decides what fits: it cannot be shared, cores can.",
    )
    yield setting(
        f"{queue}.node-locality-delay",
        len(inputs.workers),
        "Heartbeats to wait for a node that holds the data: one round; the default of 40 waits 10 s on "
        "two nodes.",
    )


def yarn_excluded(addresses: Iterable[str] = ()) -> bytes:
    """Return the NodeManagers that leave, one address a line; none but while that lasts."""
    return "".join(f"{address}\n" for address in sorted(addresses)).encode()


def yarn_hosts(inputs: Inputs) -> bytes:
    """Return the NodeManagers that may register, one address a line."""
    return "".join(
        f"{address}\n" for address in sorted({inputs.node(name).address for name in inputs.workers})
    ).encode()
