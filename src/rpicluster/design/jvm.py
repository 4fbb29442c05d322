"""JVM flags of every process, in one place: sizing promises memory that only these flags keep.

Sources: `docs/explanation/sizing.md` has the measurements; the flags themselves are documented by
`java -XX:+PrintFlagsFinal` and the OpenJDK 17 `java` manual page.
"""

# Without this glibc keeps one arena of freed memory a thread; it belongs into every environment.
ENVIRONMENT: tuple[tuple[str, str], ...] = (("MALLOC_ARENA_MAX", "1"),)

# A heap that was needed once is given back. Serial collects small heaps with the least memory of its own.
_SMALL = (
    "-XX:+UseSerialGC",
    "-XX:MinHeapFreeRatio=10",
    "-XX:MaxHeapFreeRatio=20",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",  # a daemon that lost a thread only looks alive
)
# The first compiler needs a fraction of the second one's memory, and daemons mostly wait.
_FIRST_COMPILER = ("-XX:TieredStopAtLevel=1", "-XX:CICompilerCount=1")
_DAEMON = (
    "-Xms8m",
    "-Xss256k",
    *_SMALL,
    *_FIRST_COMPILER,
    "-XX:MaxMetaspaceSize=96m",
    "-XX:ReservedCodeCacheSize=24m",
)
# Smaller survivor spaces: Spark does not count one of them as memory, and refuses a heap below 450 MiB.
_SERIAL = ("-XX:+UseSerialGC", "-XX:SurvivorRatio=16")
_PARALLEL = ("-XX:+UseParallelGC",)
_PARALLEL_FROM_MIB = 1024
# The second compiler took 41 MiB more of an executor (measured); from here on its overhead has them.
_SECOND_COMPILER_FROM_MIB = 680
_DIRECT_MIN_MIB = 48

# (setting, value, reason): the flags of executors hold only with these.
EXECUTOR_SETTINGS: tuple[tuple[str, str, str], ...] = (
    (
        "spark.network.maxRemoteBlockSizeFetchToMem",
        "32m",
        "Larger blocks go to disk. Executors do not start with less direct memory than this; default 200m.",
    ),
    (
        "spark.reducer.maxSizeInFlight",
        "12m",
        "Blocks on their way to one task, in memory beside the heap; 48m by default.",
    ),
)


def daemon_flags(name: str, heap_mib: int) -> tuple[str, ...]:
    """Return the flags of a Hadoop daemon (`namenode`, `datanode`, `resourcemanager`, `nodemanager`)."""
    return (f"-Dproc_{name}", f"-Xmx{heap_mib}m", *_DAEMON)


def am_flags() -> tuple[str, ...]:
    """Return `spark.yarn.am.extraJavaOptions`; Spark wants the heap as `spark.yarn.am.memory`."""
    return (
        "-Xms8m",
        "-Xss256k",
        *_SMALL,
        *_FIRST_COMPILER,
        "-XX:MaxMetaspaceSize=96m",
        "-XX:ReservedCodeCacheSize=24m",
        "-XX:MaxDirectMemorySize=16m",
    )


def executor_flags(heap_mib: int, cores: int) -> tuple[str, ...]:
    """Return `spark.executor.extraJavaOptions`; Spark wants the heap as `spark.executor.memory`.

    They keep what is beside the heap inside `rpicluster.design.executors.overhead_of`.
    """
    small = heap_mib < _SECOND_COMPILER_FROM_MIB
    return (
        *(_PARALLEL if cores > 1 and heap_mib >= _PARALLEL_FROM_MIB else _SERIAL),
        *(_FIRST_COMPILER if small else ()),
        "-Xss512k",
        "-XX:-UsePerfData",
        f"-XX:MaxMetaspaceSize={160 if small else 256}m",
        f"-XX:ReservedCodeCacheSize={48 if small else 96}m",
        f"-XX:MaxDirectMemorySize={max(_DIRECT_MIN_MIB, heap_mib // 16 + 12 * cores)}m",
    )


def driver_flags(heap_mib: int, *, gateway: bool = False) -> tuple[str, ...]:
    """Return all flags of a session driver, heap included (it is started by us, not by YARN).

    sparklyr sends a whole `copy_to` as one message, and its gateway holds that twice beside the heap while it
    grows (Netty's frame decoder, by 4 MiB a time): 1e6 rows of 4 columns are 61 MB.
    """
    return (
        f"-Xmx{heap_mib}m",
        "-Xms64m",
        "-Xss1m",  # Catalyst recurses over deep plans
        "-XX:+UseSerialGC",
        "-XX:MinHeapFreeRatio=10",
        "-XX:MaxHeapFreeRatio=30",
        "-XX:-UsePerfData",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:MaxMetaspaceSize=320m",
        "-XX:ReservedCodeCacheSize=96m",
        f"-XX:MaxDirectMemorySize={192 if gateway else 96}m",
    )
