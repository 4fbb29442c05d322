"""Every file and unit of a cluster, from spec, sizes and placement. The same input, the same bytes."""

import shlex
from collections.abc import Mapping
from dataclasses import replace

from rpicluster.design import (
    daemon_units,
    hdfs_files,
    layout,
    log_files,
    session_files,
    spark_files,
    yarn_files,
)
from rpicluster.design.hosts_block import java_hosts
from rpicluster.design.inputs import Inputs
from rpicluster.design.machine_files import machine_files
from rpicluster.design.settings import HEADER, Setting, as_properties, as_xml
from rpicluster.design.sizes import Sizes
from rpicluster.design.units import Rendered, RenderedFile, Unit
from rpicluster.model.facts import Placement
from rpicluster.model.spec import ClusterSpec


def render(
    spec: ClusterSpec,
    sizes: Sizes,
    placement: Placement,
    runtime_hash: str,
    *,
    keeper_sources: Mapping[str, bytes],
    sparklyr_jar: bytes | None = None,
) -> Rendered:
    """Return every file and every unit of the cluster.

    `keeper_sources` is the program that keeps a session, file by file name; it runs on nodes without
    rpicluster. `sparklyr_jar` is the gateway's program, for sessions that have one.
    Raises ValueError, naming the key or the node, for `spark:` extras that are refused and for
    a placement that does not fit the spec.
    """
    inputs = Inputs.checked(spec, sizes, placement)
    files = {node.name: _common_files(inputs, node.name) for node in spec.nodes}
    keeper = {layout.keeper_file(name): RenderedFile(source) for name, source in keeper_sources.items()}
    files[inputs.manager] |= {**_manager_files(inputs), **keeper}
    if inputs.has_gateway:
        if sparklyr_jar is None:
            raise ValueError("sessions.sparklyr: on, and no sparklyr was found")
        files[inputs.manager][layout.SPARKLYR_JAR] = RenderedFile(sparklyr_jar)
    sessions = tuple(session_files.session_unit(inputs, user, keeper) for user in inputs.users)
    units = (*daemon_units.daemon_units(inputs), *sessions)
    if not spec.is_local:
        here: dict[str, list[Unit]] = {name: [] for name in files}
        for unit in units:
            here[unit.node].append(unit)
        for name in files:
            files[name] |= machine_files(inputs, name, here[name])
        # What systemd is told of a unit is part of it: when that changes, the unit restarts.
        units = tuple(replace(unit, reads=(*unit.reads, layout.systemd_file(unit.name))) for unit in units)
    return Rendered(
        files={name: dict(sorted(of_node.items())) for name, of_node in files.items()},
        units=units,
        runtime_hash=runtime_hash,
    )


def settings_of(inputs: Inputs, name: str) -> dict[str, list[Setting]]:
    """Return the settings in every settings file of node `name`, with their reasons."""
    settings = {
        "hadoop/core-site.xml": list(hdfs_files.core_site(inputs, name)),
        "hadoop/hdfs-site.xml": list(hdfs_files.hdfs_site(inputs, name)),
        "hadoop/yarn-site.xml": list(yarn_files.yarn_site(inputs, name)),
    }
    if name == inputs.manager:
        settings["hadoop/capacity-scheduler.xml"] = list(yarn_files.capacity_scheduler(inputs))
        settings[layout.SPARK_DEFAULTS] = list(spark_files.spark_defaults(inputs))
    return settings


def _common_files(inputs: Inputs, name: str) -> dict[str, RenderedFile]:
    files = {
        path: RenderedFile(as_xml(settings) if path.endswith(".xml") else as_properties(settings))
        for path, settings in settings_of(inputs, name).items()
    }
    files["hadoop/log4j2.properties"] = RenderedFile(log_files.daemons())
    files["env/rpicluster.sh"] = RenderedFile(_shell_environment(inputs, name))
    if not inputs.spec.is_local:
        files[layout.JAVA_HOSTS] = RenderedFile(java_hosts(name))
    return files


def _manager_files(inputs: Inputs) -> dict[str, RenderedFile]:
    files = {
        layout.DFS_HOSTS: RenderedFile(hdfs_files.dfs_hosts(inputs)),
        layout.YARN_HOSTS: RenderedFile(yarn_files.yarn_hosts(inputs)),
        layout.DFS_EXCLUDED: RenderedFile(hdfs_files.dfs_excluded()),
        layout.YARN_EXCLUDED: RenderedFile(yarn_files.yarn_excluded()),
        "spark/log4j2.properties": RenderedFile(log_files.containers()),
        "spark/log4j2-driver.properties": RenderedFile(log_files.driver()),
    }
    for user in inputs.users:
        document = session_files.keeper_settings(inputs, user, session_files.launch_of(inputs, user))
        files[layout.keeper_settings(user)] = RenderedFile(document)
    return files


def _shell_environment(inputs: Inputs, name: str) -> bytes:
    node = inputs.node(name)
    values = {
        "JAVA_HOME": node.java_home,
        "SPARK_HOME": node.paths.runtime,
        "HADOOP_CONF_DIR": f"{node.paths.conf}/hadoop",
        "SPARK_CONF_DIR": f"{node.paths.conf}/spark",
    }
    lines = [f"# {HEADER}", *(f"export {key}={shlex.quote(value)}" for key, value in values.items())]
    # Last, so that nothing of the system is replaced.
    lines.append('export PATH="$PATH:$JAVA_HOME/bin:$SPARK_HOME/bin"')
    return ("\n".join(lines) + "\n").encode()
