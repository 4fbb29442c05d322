"""What a session's keeper reads: one JSON document with the driver's command, its doors and its chores."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rpicluster.design import daemon_units, jvm, layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.units import Unit
from rpicluster.model.ports import LOOPBACK, SPARKLYR_SESSION

SCHEMA = 1
DAY_S = 86400
# What Spark's own launcher passes to Java 17 (org.apache.spark.launcher.JavaModuleOptions of 4.1.4).
MODULE_FLAGS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-modules=jdk.incubator.vector",
    *(
        f"--add-opens=java.base/{package}=ALL-UNNAMED"
        for package in (
            "java.lang",
            "java.lang.invoke",
            "java.lang.reflect",
            "java.io",
            "java.net",
            "java.nio",
            "java.util",
            "java.util.concurrent",
            "java.util.concurrent.atomic",
            "jdk.internal.ref",
            "sun.nio.ch",
            "sun.nio.cs",
            "sun.security.action",
            "sun.util.calendar",
        )
    ),
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "--enable-native-access=ALL-UNNAMED",
)


@dataclass(frozen=True)
class Launch:
    """What a session's driver is: its main class, resource, extra settings, and the doors it opens."""

    main_class: str
    resource: str = "spark-internal"
    arguments: tuple[str, ...] = ()
    conf: tuple[tuple[str, str], ...] = ()
    doors: tuple[str, ...] = ("connect",)  # in the order in which they open


CONNECT = Launch("org.apache.spark.sql.connect.service.SparkConnectServer")
NAMESPACE = "rpi.default"


def launch_of(inputs: Inputs, user: str) -> Launch:
    """Return what the session of `user` is: Spark Connect alone, or both doors in one JVM.

    With the gateway, Spark Connect is a plugin of the SparkContext, which the gateway's first client makes.
    Never `--remote`: it listens on 0.0.0.0 then, and asks nobody for a name.
    """
    if not inputs.has_gateway:
        return CONNECT
    return Launch(
        "sparklyr.Shell",
        f"{inputs.paths(inputs.manager).conf}/{layout.SPARKLYR_JAR}",
        (str(inputs.sparklyr_ports(user)[0]), str(SPARKLYR_SESSION), "--service"),
        (("spark.plugins", "org.apache.spark.sql.connect.SparkConnectPlugin"),),
        ("sparklyr", "connect"),
    )


def session_unit(inputs: Inputs, user: str, keeper_files: Iterable[str]) -> Unit:
    """Return the unit that keeps the session of `user` on the manager; `keeper_files` are what it runs."""
    node, name = inputs.node(inputs.manager), layout.session_unit(user)
    conf = node.paths.conf
    return Unit(
        name=name,
        node=inputs.manager,
        argv=(
            node.python,
            f"{conf}/{layout.keeper_file('__main__.py')}",
            f"{conf}/{layout.keeper_settings(user)}",
        ),
        environment=daemon_units.environment(inputs, inputs.manager, user),
        reads=(
            "hadoop/core-site.xml",
            "hadoop/hdfs-site.xml",
            "hadoop/yarn-site.xml",
            *sorted(keeper_files),
            layout.keeper_settings(user),
            "spark/log4j2.properties",
            "spark/log4j2-driver.properties",
            layout.SPARK_DEFAULTS,
            *((layout.SPARKLYR_JAR,) if inputs.has_gateway else ()),
        ),
        directory=layout.unit_directory(node.paths, name),
        after=("namenode", "resourcemanager", "datanode", "nodemanager"),
        stop_timeout_s=30,
        user="" if inputs.spec.is_local else user,
    )


def keeper_settings(inputs: Inputs, user: str, launch: Launch) -> bytes:
    """Return the keeper's JSON document for `user`."""
    node, name = inputs.node(inputs.manager), layout.session_unit(user)
    paths = node.paths
    environment = dict(daemon_units.environment(inputs, inputs.manager, user))
    environment |= {"PYSPARK_PYTHON": node.python, "SPARK_CONF_DIR": f"{paths.conf}/spark"}
    document = {
        "schema": SCHEMA,
        "name": name,
        "java": driver_command(inputs, user, launch),
        "environment": environment,
        "secret_environment": {"SPARK_CONNECT_AUTHENTICATE_TOKEN": layout.token_file(paths, user)},
        "directory": layout.unit_directory(paths, name),
        "log": layout.log_file(paths, name, f"{name}-driver-output"),
        "doors": [_door(inputs, user, door) for door in launch.doors],
        "ui": f"http://{node.address}:{inputs.session_port(user, 'spark_ui')}",
        "resourcemanager": inputs.resourcemanager_url,
        "namenode": f"http://{inputs.at(inputs.manager, 'namenode_http')}",
        "user": user,
        "probe_interval_s": 5,
        "probe_timeout_s": 5,
        # A Pi that starts everything at once needs minutes; a driver that dies is noticed at once anyway.
        "start_timeout_s": 300,
        "failures_before_restart": 2,
        "sleep_after_s": inputs.spec.sessions.sleep_after_s,
        "status_file": layout.status_file(paths, user),
        "chores": _chores(inputs, user),
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _door(inputs: Inputs, user: str, kind: str) -> dict[str, object]:
    if kind != "sparklyr":
        return {"kind": kind, "host": LOOPBACK, "port": inputs.session_port(user, kind)}
    port = inputs.sparklyr_ports(user)[0]
    return {
        "kind": kind,
        "host": LOOPBACK,
        "port": port,
        "session": SPARKLYR_SESSION,
        "namespace": NAMESPACE,
    }


def driver_command(inputs: Inputs, user: str, launch: Launch) -> list[str]:
    """Return the driver's command; secrets are not in it."""
    node, name = inputs.node(inputs.manager), layout.session_unit(user)
    paths = node.paths
    conf = {
        "spark.app.name": name,
        "spark.local.dir": f"{layout.unit_directory(paths, name)}/spill",
        "spark.sql.warehouse.dir": f"{inputs.hdfs}{layout.home(user)}/.session-tables",
        "spark.ui.port": str(inputs.session_port(user, "spark_ui")),
        "spark.driver.port": str(inputs.session_port(user, "spark_driver")),
        "spark.driver.blockManager.port": str(inputs.session_port(user, "spark_blockmanager")),
        "spark.connect.grpc.binding.port": str(inputs.session_port(user, "connect")),
        **dict(launch.conf),
    }
    submit = spark_submit(
        inputs,
        conf,
        unit=f"{name}-driver",
        temporary=layout.unit_directory(paths, name),
        log=layout.log_file(paths, name, f"{name}-driver"),
    )
    return [*submit, "--class", launch.main_class, launch.resource, *launch.arguments]


def spark_submit(
    inputs: Inputs, conf: Mapping[str, str], *, unit: str, temporary: str, log: str
) -> list[str]:
    """Return the command of a driver on the manager, up to what it runs; `unit` marks its process."""
    node = inputs.node(inputs.manager)
    paths = node.paths
    return [
        f"{node.java_home}/bin/java",
        *jvm.driver_flags(inputs.sizes.driver.heap_mib, gateway=inputs.has_gateway),
        *MODULE_FLAGS,
        daemon_units.IPV4,
        daemon_units.marker(inputs, inputs.manager, unit),
        f"-Djava.io.tmpdir={temporary}",
        f"-Drpicluster.log={log}",
        f"-Dlog4j2.configurationFile={paths.conf}/spark/log4j2-driver.properties",
        "-cp",
        f"{paths.conf}/spark:{paths.conf}/hadoop:{paths.runtime}/jars/*",
        "org.apache.spark.deploy.SparkSubmit",
        "--properties-file",
        f"{paths.conf}/{layout.SPARK_DEFAULTS}",
        *(part for key in sorted(conf) for part in ("--conf", f"{key}={conf[key]}")),
    ]


def _chores(inputs: Inputs, user: str) -> list[dict[str, object]]:
    # On nodes of their own these are units of their own: HDFS's superuser merges edits, and rpicluster is
    # not installed there.
    if not inputs.spec.is_local or user != inputs.placement.login:
        return []
    node, tables = inputs.node(inputs.manager), inputs.spec.tables
    housekeeping = [
        node.python,
        "-m",
        "rpicluster.session.housekeeping",
        layout.connection_file(node.paths, user),
        "--keep-snapshots-s",
        str(tables.keep_snapshots_s),
        "--keep-orphan-files-s",
        str(tables.keep_orphan_files_s),
    ]
    return [
        {"name": "checkpoint", "every_s": DAY_S, "argv": list(daemon_units.checkpoint_command(inputs))},
        {"name": "expire", "every_s": DAY_S, "argv": housekeeping},
    ]
