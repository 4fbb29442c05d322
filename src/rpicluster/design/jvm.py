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
    """Return `spark.executor.extraJavaOptions`; Spark wants the heap as `spark.executor.memory`."""
    collector = "-XX:+UseSerialGC" if cores == 1 or heap_mib < 1024 else "-XX:+UseParallelGC"
    return (
        collector,
        "-Xss512k",
        "-XX:-UsePerfData",
        "-XX:MaxMetaspaceSize=192m",
        "-XX:ReservedCodeCacheSize=96m",
        f"-XX:MaxDirectMemorySize={max(208, heap_mib // 8)}m",  # Spark refuses less than 200m
    )


def driver_flags(heap_mib: int) -> tuple[str, ...]:
    """Return all flags of a session driver, heap included (it is started by us, not by YARN)."""
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
        "-XX:MaxDirectMemorySize=96m",
    )
