"""spark-defaults.conf: what all drivers of a cluster share. For Spark 4.1.4 and Iceberg 1.11.0."""

import re
from collections.abc import Iterator

from rpicluster.design import jvm, layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import Setting, setting
from rpicluster.model.ports import LOOPBACK
from rpicluster.model.spec import ClusterSpec

CATALOG = "rpi"
_PARQUET_ROW_GROUP_MIB = 32
_SPLIT_MIB = 32
_SHUFFLE_PART_MIB = 16

# What users may not set under `spark:`, and where the value comes from instead. Matched against whole keys.
_REFUSED: tuple[tuple[str, str], ...] = (
    (
        r"spark\.(driver|executor|yarn\.am)\.(memory|memoryOverhead|memoryOverheadFactor|minMemoryOverhead|cores)"
        r"|spark\.(executor\.pyspark\.memory|executor\.instances|memory\.offHeap\..*)"
        r"|spark\.(driver|executor|yarn\.am)\.(extraJavaOptions|defaultJavaOptions)"
        r"|spark\.dynamicAllocation\.(enabled|minExecutors|maxExecutors|initialExecutors|shuffleTracking\.enabled)",
        "memory and cores are computed from the nodes; change `nodes`, `reserve` or `sessions`",
    ),
    (
        r"spark\.([A-Za-z0-9_.-]*\.)?port(\.maxRetries)?",
        "ports are allocated once and kept",
    ),
    (
        r"spark\.[A-Za-z0-9_.-]*(bindAddress|binding\.address)|spark\.driver\.host|spark\.ui\.(reverseProxy.*|filters)",
        "daemons listen on the node's own address only",
    ),
    (
        r"(?i)spark\.[A-Za-z0-9_.-]*(secret|password|passphrase|token|credential|access[._-]?key)[A-Za-z0-9_.-]*"
        r"|(?-i:spark\.authenticate.*|spark\.network\.crypto.*|spark\.redaction.*|spark\.acls.*)",
        "this file is readable by every user of the manager",
    ),
    (
        rf"spark\.sql\.(catalog\.{CATALOG}(\..*)?|catalogImplementation|defaultCatalog|extensions|warehouse\.dir)"
        r"|spark\.hadoop\..*",
        "tables and file system are this cluster's own",
    ),
    (
        r"spark\.(master|submit\..*|plugins|jars|local\.dir|app\.name|eventLog\..*)"
        r"|spark\.(driver|executor)\.(extraClassPath|extraLibraryPath|plugins)"
        r"|spark\.yarn\.(jars|archive|queue|stagingDir|populateHadoopClasspath)"
        r"|spark\.(yarn\.appMasterEnv|executorEnv)\..*|spark\.(pyspark\..*|connect\.authenticate\..*)",
        "the session's launcher sets this",
    ),
)


def check_extras(spec: ClusterSpec) -> None:
    """Raise ValueError, naming key and reason, when `spark:` sets what rpicluster computes or keeps safe."""
    for key in sorted(spec.spark):
        for pattern, reason in _REFUSED:
            if re.fullmatch(pattern, key):
                raise ValueError(f"spark: {key!r} cannot be set here: {reason}")


def spark_defaults(inputs: Inputs) -> Iterator[Setting]:
    """Yield spark-defaults.conf of the manager; `spark:` of the spec replaces what it names.

    Raises ValueError for extras that `check_extras` refuses.
    """
    check_extras(inputs.spec)
    extras = inputs.spec.spark
    for entry in (
        *_yarn(inputs),
        *_network(inputs),
        *_executors(inputs),
        *_sql(inputs),
        *_tables(inputs),
        *_connect(),
        *_driver_memory(inputs),
        *_r(inputs),
    ):
        if entry.key not in extras:
            yield entry
    for key in sorted(extras):
        yield setting(key, extras[key], "From `spark:` in cluster.yml.")


def _r(inputs: Inputs) -> Iterator[Setting]:
    if inputs.spec.r is not None:
        yield setting(
            "spark.executorEnv.R_LIBS_SITE",
            ":".join(layout.R_LIBRARIES),
            "Where R on a worker finds packages: those built there, then Debian's.",
        )


def _yarn(inputs: Inputs) -> Iterator[Setting]:
    am = inputs.sizes.application_master
    yield setting("spark.master", "yarn", "The cluster.")
    yield setting(
        "spark.submit.deployMode", "client", "The driver runs on the manager, outside YARN, and stays warm."
    )
    yield setting(
        "spark.yarn.jars",
        f"local:{inputs.runtime}/jars/*",
        "Every node has them: a session ships kilobytes where stock Spark uploads 422 MB.",
    )
    yield setting("spark.yarn.am.memory", f"{am.heap_mib}m", am.reason)
    yield setting(
        "spark.yarn.am.memoryOverhead", f"{am.overhead_mib}m", "Beside the heap; default at least 384 MiB."
    )
    yield setting("spark.yarn.am.cores", am.cores, "It waits, mostly.")
    yield setting("spark.yarn.am.extraJavaOptions", " ".join((*jvm.am_flags(), _IPV4)), "Small and quiet.")
    yield setting(
        "spark.yarn.populateHadoopClasspath", False, "There is no Hadoop installation; Spark brings jars."
    )
    yield setting("spark.yarn.submit.file.replication", inputs.sizes.replication, "As all files.")
    yield setting(
        "spark.yarn.scheduler.heartbeat.interval-ms",
        1000,
        "New executors are heard of within a second; default 3 s.",
    )
    yield setting("spark.yarn.maxAppAttempts", 4, "As many application masters may be lost …")
    yield setting(
        "spark.yarn.am.attemptFailuresValidityInterval", "1h", "… within an hour; a session lives for weeks."
    )
    yield setting(
        "spark.executor.failuresValidityInterval", "1h", "Lost executors are forgotten after an hour, too."
    )


# Without it Java opens dual-stack sockets, and tools show every address as ::ffff:….
_IPV4 = "-Djava.net.preferIPv4Stack=true"


def _network(inputs: Inputs) -> Iterator[Setting]:
    address = inputs.node(inputs.manager).address
    yield setting(
        "spark.driver.host", address, "Executors come back to this address; a Pi's own name says 127.0.1.1."
    )
    yield setting("spark.driver.bindAddress", address, "Listens on the node's address only.")
    yield from _ports(inputs)
    yield setting(
        "spark.authenticate",
        True,
        "A secret per application, made by YARN: without it whoever reaches the driver's port can pose "
        "as an executor.",
    )
    yield setting("spark.network.timeout", "60s", "A silent node is given up after a minute; default two.")
    yield setting("spark.executor.heartbeatInterval", "10s", "Spark's default, well below the timeout.")
    yield setting(
        "spark.ui.killEnabled", False, "No kill link for whoever sees the page; `jobs kill` asks the driver."
    )
    yield setting(
        "spark.redaction.regex",
        "(?i)secret|password|passphrase|token|access[.]?key|credential",
        "What pages and logs show as asterisks.",
    )
    yield setting("spark.eventLog.enabled", False, "Nobody reads it here, and it would fill the disk.")
    # Requests that come through the manager, as the CLI's do: from its own address, on loopback 127.0.0.1.
    own = LOOPBACK if address.startswith("127.") else address
    yield setting(
        "spark.hadoop.yarn.web-proxy.address",
        f"{own}:{inputs.node(inputs.manager).ports['rm_http']}",
        "Whose requests the session's page answers itself; it sends others to the ResourceManager. By "
        "default that "
        "is whatever the manager's host name resolves to, on Debian 127.0.1.1, from which nobody ever comes.",
    )


def _ports(inputs: Inputs) -> Iterator[Setting]:
    if inputs.spec.is_local:
        yield setting(
            "spark.port.maxRetries", 0, "A taken port is an error; Spark would silently take the next one."
        )
        return
    ports = inputs.executor_ports
    yield setting(
        "spark.blockManager.port",
        ports.start,
        "Executors listen for one another here and above, where the firewall guards; by default on any port.",
    )
    yield setting(
        "spark.port.maxRetries",
        len(ports) - 1,
        "An executor takes the next port when others of its node hold this one. Drivers would do so, too: "
        "the firewall guards as many above theirs.",
    )


def _executors(inputs: Inputs) -> Iterator[Setting]:
    executor, sizes = inputs.sizes.executor, inputs.sizes
    idle_s = inputs.spec.sessions.idle_timeout_s
    yield setting("spark.executor.memory", f"{executor.heap_mib}m", executor.reason)
    yield setting(
        "spark.executor.memoryOverhead",
        f"{executor.overhead_mib}m",
        "Beside the heap: threads, code, buffers.",
    )
    yield setting("spark.executor.cores", executor.cores, "Tasks at a time.")
    for key, value, reason in jvm.EXECUTOR_SETTINGS:
        yield setting(key, value, reason)
    flags = (*jvm.executor_flags(executor.heap_mib, executor.cores), _IPV4)
    yield setting("spark.executor.extraJavaOptions", " ".join(flags), "See docs/explanation/sizing.md.")
    yield setting("spark.dynamicAllocation.enabled", True, "Executors come with work and go without.")
    yield setting(
        "spark.dynamicAllocation.shuffleTracking.enabled",
        True,
        "There is no external shuffle service for this runtime.",
    )
    yield setting(
        "spark.dynamicAllocation.shuffleTracking.timeout",
        f"{idle_s}s",
        "Executors with old shuffle files go as well; by default they stay until the driver collects "
        "garbage.",
    )
    yield setting(
        "spark.dynamicAllocation.minExecutors", 1, "One is kept warm: a first one takes 14 s to come."
    )
    yield setting("spark.dynamicAllocation.initialExecutors", 1, "The warm one.")
    yield setting("spark.executor.instances", 1, "The same, stated: Spark warns when it is absent.")
    yield setting(
        "spark.dynamicAllocation.maxExecutors", sizes.executors_max, "As many as fit beside all sessions."
    )
    yield setting("spark.dynamicAllocation.executorIdleTimeout", f"{idle_s}s", "`sessions.idle_timeout_s`.")
    yield setting(
        "spark.dynamicAllocation.cachedExecutorIdleTimeout",
        f"{max(3600, idle_s)}s",
        "Cached tables hold executors for an hour; by default for ever.",
    )
    if not inputs.spec.is_local:
        yield setting(
            "spark.decommission.enabled",
            True,
            "On a node that leaves, executors end their tasks and take no new ones.",
        )
    yield setting(
        "spark.scheduler.minRegisteredResourcesRatio", 0, "The door opens while the executor still starts."
    )
    yield setting(
        "spark.scheduler.mode",
        "FAIR",
        "Two queries of one user share the cores; by default the second waits.",
    )
    yield setting(
        "spark.locality.wait",
        "500ms",
        "Reading 64 MB over the network takes about as long as waiting any longer.",
    )


def _sql(inputs: Inputs) -> Iterator[Setting]:
    yield setting(
        "spark.sql.shuffle.partitions",
        inputs.sizes.shuffle_partitions,
        "A few tasks a core; the default of 200 is not.",
    )
    yield setting(
        "spark.sql.adaptive.advisoryPartitionSizeInBytes", f"{_SHUFFLE_PART_MIB}m", "Default 64 MB."
    )
    yield setting(
        "spark.sql.files.maxPartitionBytes",
        f"{_SPLIT_MIB}m",
        "Bytes a task reads: fits a small heap; default 128 MB.",
    )
    yield setting("spark.sql.parquet.compression.codec", "zstd", "Fewer bytes on slow disks than snappy.")
    yield setting(
        "spark.hadoop.parquet.block.size",
        _PARQUET_ROW_GROUP_MIB * 1024 * 1024,
        "Bytes a writer buffers for each open file; 128 MiB does not fit a small heap.",
    )
    yield setting(
        "spark.sql.ansi.enabled",
        True,
        "Spark 4's default, stated: an overflow or a failed cast is an error. Off, integers wrap around "
        "silently.",
    )
    yield setting(
        "spark.sql.session.timeZone",
        "UTC",
        "The same text gives the same time on every cluster, whatever /etc/timezone says; clients show "
        "local time.",
    )
    yield setting(
        "spark.sql.execution.arrow.maxRecordsPerBatch", 50000, "Rows a batch to clients; default 10000."
    )


def _tables(inputs: Inputs) -> Iterator[Setting]:
    catalog = f"spark.sql.catalog.{CATALOG}"
    yield setting("spark.sql.catalogImplementation", "in-memory", "No Derby: it admits one driver at a time.")
    # No IcebergSparkSessionExtensions: with them Spark 4.1 does not bind the parameters of a statement
    # (UNBOUND_SQL_PARAMETER, measured). MERGE, UPDATE, DELETE and CALL work without.
    yield setting(catalog, "org.apache.iceberg.spark.SparkCatalog", "The catalog of persistent tables.")
    yield setting(f"{catalog}.type", "hadoop", "Definitions are files in HDFS, changed by atomic renames.")
    yield setting(f"{catalog}.warehouse", f"{inputs.hdfs}{layout.WAREHOUSE}", "Where tables live.")
    yield setting(f"{catalog}.default-namespace", "default", "`rpi.default`.")
    yield setting(
        f"{catalog}.cache-enabled",
        False,
        "By default a session sees another session's rows up to 30 s late.",
    )
    table = f"{catalog}.table-default"
    yield setting(
        f"{table}.write.parquet.row-group-size-bytes",
        _PARQUET_ROW_GROUP_MIB * 1024 * 1024,
        "As for plain Parquet.",
    )
    yield setting(
        f"{table}.read.split.target-size", _SPLIT_MIB * 1024 * 1024, "As for plain files; default 128 MiB."
    )
    yield setting(f"{table}.write.metadata.delete-after-commit.enabled", True, "Old definitions go …")
    yield setting(f"{table}.write.metadata.previous-versions-max", 20, "… when there are more than this.")
    yield setting(
        f"{table}.history.expire.max-snapshot-age-ms",
        inputs.spec.tables.keep_snapshots_s * 1000,
        "`tables.keep_snapshots_s`: how far back a table can be read.",
    )
    yield setting(
        f"{table}.history.expire.min-snapshots-to-keep", 5, "A table can always be undone a little."
    )


def _connect() -> Iterator[Setting]:
    yield setting(
        "spark.connect.grpc.binding.address", LOOPBACK, "The door listens on loopback; clients come by SSH."
    )
    yield setting(
        "spark.connect.progress.reportInterval", "500ms", "A person watches; the default of 2 s looks stuck."
    )
    yield setting("spark.connect.grpc.arrow.maxBatchSize", "4m", "Spark's default: below gRPC's own limit.")
    yield setting(
        "spark.connect.session.manager.defaultSessionTimeout",
        "24h",
        "Temporary views of a laptop that slept are still there; default one hour.",
    )
    yield setting(
        "spark.connect.execute.manager.detachedTimeout", "10m", "A query outlives its client's lost network."
    )


def _driver_memory(inputs: Inputs) -> Iterator[Setting]:
    yield setting(
        "spark.driver.maxResultSize",
        f"{max(128, inputs.sizes.driver.heap_mib // 2)}m",
        "Half of the driver's heap: a result too large is an error, not the end of the session.",
    )
    for key, count in (
        ("spark.ui.retainedJobs", 100),
        ("spark.ui.retainedStages", 100),
        ("spark.ui.retainedTasks", 5000),
        ("spark.ui.retainedDeadExecutors", 20),
        ("spark.sql.ui.retainedExecutions", 50),
        ("spark.sql.connect.ui.retainedSessions", 50),
        ("spark.sql.connect.ui.retainedStatements", 100),
    ):
        yield setting(key, count, "A session lives for weeks; what its page remembers must fit the heap.")
