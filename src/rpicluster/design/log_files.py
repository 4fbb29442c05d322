"""log4j2 settings: every log has a size at which it rolls, because a full SD card stops everything."""

from rpicluster.design.settings import HEADER

_FILE_MIB = 8
_FILES_KEPT = 3
_PATTERN = "%d{ISO8601} %p %c{1}: %m%n"

# Quiet where Hadoop writes a line for every block or every container of every heartbeat.
_DAEMON_LEVELS = {
    "BlockStateChange": "warn",
    "org.apache.hadoop.hdfs.StateChange": "warn",
    "org.apache.hadoop.hdfs.server.datanode.DataNode.clienttrace": "off",
    "org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit": "off",
    "org.apache.hadoop.metrics2": "error",
    "org.apache.hadoop.util.NativeCodeLoader": "error",
    "org.eclipse.jetty": "warn",
}
_SPARK_LEVELS = {
    "org.apache.hadoop.metrics2": "error",
    "org.apache.hadoop.util.NativeCodeLoader": "error",
    "org.sparkproject.jetty": "error",
    # One WARN a query that Spark has plain reasons for.
    "org.apache.spark.sql.catalyst.util.SparkStringUtils": "error",
}


def _levels(levels: dict[str, str]) -> list[str]:
    lines = []
    for number, name in enumerate(sorted(levels), 1):
        lines += [f"logger.l{number}.name = {name}", f"logger.l{number}.level = {levels[name]}"]
    return lines


def _rolling(fallback: str) -> list[str]:
    return [
        "appender.file.type = RollingFile",
        "appender.file.name = file",
        f"appender.file.fileName = {fallback}",
        f"appender.file.filePattern = {fallback}.%i",
        "appender.file.layout.type = PatternLayout",
        f"appender.file.layout.pattern = {_PATTERN}",
        "appender.file.policies.type = Policies",
        "appender.file.policies.size.type = SizeBasedTriggeringPolicy",
        f"appender.file.policies.size.size = {_FILE_MIB}MB",
        "appender.file.strategy.type = DefaultRolloverStrategy",
        f"appender.file.strategy.max = {_FILES_KEPT}",
    ]


def _console(target: str) -> list[str]:
    return [
        "appender.console.type = Console",
        "appender.console.name = console",
        f"appender.console.target = {target}",
        "appender.console.layout.type = PatternLayout",
        f"appender.console.layout.pattern = {_PATTERN}",
    ]


def daemons() -> bytes:
    """Return log4j2.properties of the Hadoop daemons; each names its file with -Drpicluster.log."""
    lines = [
        f"# {HEADER}",
        "status = error",
        *_rolling("${sys:rpicluster.log}"),
        *_console("SYSTEM_ERR"),
        "rootLogger.level = info",
        "rootLogger.appenderRef.file.ref = file",
        # What ends a daemon is also told to its supervisor.
        "rootLogger.appenderRef.console.ref = console",
        "rootLogger.appenderRef.console.level = error",
        *_levels(_DAEMON_LEVELS),
    ]
    return ("\n".join(lines) + "\n").encode()


def containers() -> bytes:
    """Return log4j2.properties that Spark ships to containers, where standard error is the log."""
    lines = [
        f"# {HEADER}",
        "status = error",
        *_console("SYSTEM_ERR"),
        "rootLogger.level = warn",
        "rootLogger.appenderRef.console.ref = console",
        *_levels(_SPARK_LEVELS),
    ]
    return ("\n".join(lines) + "\n").encode()


def driver() -> bytes:
    """Return log4j2.properties of session drivers, which are not in a container; each names its file."""
    lines = [
        f"# {HEADER}",
        "status = error",
        *_rolling("${sys:rpicluster.log}"),
        *_console("SYSTEM_ERR"),
        "rootLogger.level = warn",
        "rootLogger.appenderRef.file.ref = file",
        # What ends a driver is also told to its keeper, who quotes it.
        "rootLogger.appenderRef.console.ref = console",
        "rootLogger.appenderRef.console.level = error",
        *_levels(_SPARK_LEVELS),
    ]
    return ("\n".join(lines) + "\n").encode()
