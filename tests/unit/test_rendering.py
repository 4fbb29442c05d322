"""What must hold of every rendered cluster, whatever its size."""

import dataclasses
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from rpicluster.design import daemon_units, layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.rendering import render, settings_of
from rpicluster.design.settings import as_properties, as_xml, setting
from rpicluster.design.spark_files import check_extras
from rpicluster.design.units import Rendered, unit_hash
from rpicluster.model.facts import Placement
from rpicluster.model.ports import SESSION_PORTS
from rpicluster.model.spec import ClusterSpec, Role

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import JAR, KEEPER, NAMES, load, rendered

pytestmark = pytest.mark.filterwarnings("error")
every_case = pytest.mark.parametrize("case", NAMES)


def xml_of(result: Rendered, node: str, path: str) -> dict[str, str]:
    root = ElementTree.fromstring(result.files[node][path].content)
    assert root.tag == "configuration"
    return {p.findtext("name", ""): p.findtext("value", "") for p in root.iter("property")}


def properties_of(content: bytes) -> dict[str, str]:
    lines = [line for line in content.decode().splitlines() if line and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


def all_settings(result: Rendered) -> dict[tuple[str, str, str], str]:
    found = {}
    for node, files in result.files.items():
        for path, file in files.items():
            if path.endswith(".xml"):
                pairs = xml_of(result, node, path)
            elif path.endswith(".conf") and not path.startswith("/"):
                pairs = properties_of(file.content)
            else:
                continue
            found |= {(node, path, key): value for key, value in pairs.items()}
    return found


def again(inputs: Inputs, **changes: object) -> Rendered:
    placement = inputs.placement
    spec = inputs.spec.model_copy(update=changes)
    return render(spec, inputs.sizes, placement, "r", keeper_sources=KEEPER)


@every_case
def test_no_daemon_listens_on_all_addresses(case: str) -> None:
    addresses = {node.address for node in load(case).placement.nodes.values()} | {"127.0.0.1"}
    for (_, _, key), value in all_settings(rendered(case)).items():
        assert "0.0.0.0" not in value, key
        if re.search(r"address$|bind-host$|bindAddress$|driver\.host$|[^e]\.hostname$|^yarn.*hostname$", key):
            assert value.rsplit(":", 1)[0] in addresses, f"{key} = {value}"


@every_case
def test_no_value_depends_on_who_reads_the_file(case: str) -> None:
    for (_, path, key), value in all_settings(rendered(case)).items():
        assert "${" not in value, f"{path}: {key}"
        assert "localhost" not in value, f"{path}: {key}"


@every_case
def test_every_path_lies_below_the_directories_of_its_node(case: str) -> None:
    inputs = load(case)
    for (node, path, key), value in all_settings(rendered(case)).items():
        paths = inputs.paths(node)
        allowed = (paths.conf, paths.data, paths.logs, paths.runtime, layout.CONTAINER_LOGS)
        allowed += (paths.disk.path,) if paths.disk else ()
        for part in re.findall(r"(?:^|file://|local:)(/[^ ]+)", value):
            assert part.startswith(allowed), f"{path}: {key} = {value}"


@every_case
def test_no_hadoop_default_survives_that_is_made_for_large_machines(case: str) -> None:
    inputs = load(case)
    result = rendered(case)
    for name in inputs.workers:
        yarn = xml_of(result, name, "hadoop/yarn-site.xml")
        sizes = inputs.node_sizes(name)
        assert yarn["yarn.nodemanager.resource.memory-mb"] == str(sizes.yarn_memory_mib)
        assert yarn["yarn.nodemanager.vmem-check-enabled"] == "false"
        assert yarn["yarn.nodemanager.pmem-check-enabled"] == "true"
        assert yarn["yarn.nodemanager.disk-health-checker.disk-utilization-threshold.enabled"] == "false"
        assert int(yarn["yarn.nodemanager.disk-health-checker.min-free-space-per-disk-mb"]) > 0
    yarn = xml_of(result, inputs.manager, "hadoop/yarn-site.xml")
    assert yarn["yarn.scheduler.minimum-allocation-mb"] == str(inputs.sizes.min_allocation_mib)
    assert yarn["yarn.scheduler.maximum-allocation-mb"] == str(inputs.sizes.max_allocation_mib)
    assert int(yarn["yarn.nm.liveness-monitor.expiry-interval-ms"]) <= 30000
    assert yarn["yarn.webapp.enable-rest-app-submissions"] == "false"
    hdfs = xml_of(result, inputs.manager, "hadoop/hdfs-site.xml")
    assert int(hdfs["dfs.namenode.safemode.extension"]) <= 1000
    dead_s = 2 * int(hdfs["dfs.namenode.heartbeat.recheck-interval"]) / 1000 + 10 * int(
        hdfs["dfs.heartbeat.interval"]
    )
    assert 60 <= dead_s <= 120


@every_case
def test_what_spark_asks_for_is_what_yarn_grants(case: str) -> None:
    inputs = load(case)
    result = rendered(case)
    spark = properties_of(result.files[inputs.manager][layout.SPARK_DEFAULTS].content)
    step = inputs.sizes.min_allocation_mib
    for prefix, container in (
        ("spark.executor", inputs.sizes.executor),
        ("spark.yarn.am", inputs.sizes.application_master),
    ):
        asked = int(spark[f"{prefix}.memory"][:-1]) + int(spark[f"{prefix}.memoryOverhead"][:-1])
        assert asked == container.memory_mib
        assert asked % step == 0 and asked <= inputs.sizes.max_allocation_mib
    assert int(spark["spark.executor.cores"]) <= inputs.sizes.max_allocation_vcores
    assert int(spark["spark.dynamicAllocation.maxExecutors"]) == inputs.sizes.executors_max >= 1


@every_case
def test_units_start_java_itself_marked_and_with_their_whole_environment(case: str) -> None:
    inputs = load(case)
    for unit in rendered(case).units:
        node = inputs.node(unit.node)
        assert unit.argv[0].startswith("/")
        assert not any("bash" in part or "${" in part for part in unit.argv)
        environment = dict(unit.environment)
        assert environment["JAVA_HOME"] == node.java_home and environment["LANG"] == "C.UTF-8"
        assert environment["MALLOC_ARENA_MAX"] == "1"
        if unit.name in daemon_units.MAIN_CLASSES:
            assert unit.argv[0] == f"{node.java_home}/bin/java"
            assert f"-Drpicluster.unit={inputs.placement.cluster_id}/{unit.node}/{unit.name}" in unit.argv
            heap = inputs.node_sizes(unit.node).daemons[unit.name].heap_mib
            assert f"-Xmx{heap}m" in unit.argv


@every_case
def test_every_node_runs_the_daemons_of_its_roles_and_the_manager_the_sessions(case: str) -> None:
    inputs = load(case)
    running = {(unit.node, unit.name) for unit in rendered(case).units}
    wanted = {(inputs.manager, f"session-{user}") for user in inputs.users}
    for node in inputs.spec.nodes:
        roles = inputs.spec.roles_of(node)
        if Role.MANAGER in roles:
            wanted |= {(node.name, "namenode"), (node.name, "resourcemanager")}
        if Role.WORKER in roles:
            wanted |= {(node.name, "datanode"), (node.name, "nodemanager")}
    assert running == wanted


@every_case
def test_units_read_only_files_that_are_rendered(case: str) -> None:
    result = rendered(case)
    for unit in result.units:
        assert set(unit.reads) <= set(result.files[unit.node])
        assert set(unit.rereads) <= set(result.files[unit.node])
        parts = unit_hash(unit, result.files[unit.node]).split(".")
        assert [len(part) for part in parts] == ([64, 64] if unit.rereads else [64])


@every_case
def test_only_members_may_register(case: str) -> None:
    inputs = load(case)
    files = rendered(case).files[inputs.manager]
    assert len(files[layout.DFS_HOSTS].content.splitlines()) == len(inputs.workers)
    assert files[layout.YARN_HOSTS].content.decode().split() == sorted(
        inputs.node(name).address for name in inputs.workers
    )


@every_case
def test_a_keeper_is_told_everything_but_the_secret(case: str) -> None:
    inputs = load(case)
    ports = set()
    for user in inputs.users:
        document = json.loads(rendered(case).files[inputs.manager][layout.keeper_settings(user)].content)
        assert document["schema"] == 1 and document["user"] == user and document["name"] == f"session-{user}"
        assert document["java"][0] == f"{inputs.node(inputs.manager).java_home}/bin/java"
        (connect,) = (door for door in document["doors"] if door["kind"] == "connect")
        if inputs.has_gateway:
            assert document["java"][-5:-3] == ["sparklyr.Shell", "/etc/rpicluster/session/sparklyr.jar"]
        else:
            assert document["doors"] == [connect]
            assert document["java"][-2:] == [
                "org.apache.spark.sql.connect.service.SparkConnectServer",
                "spark-internal",
            ]
        assert not any("token" in part.lower() for part in document["java"])
        assert list(document["secret_environment"]) == ["SPARK_CONNECT_AUTHENTICATE_TOKEN"]
        assert {door["host"] for door in document["doors"]} == {"127.0.0.1"}
        assert f"spark.connect.grpc.binding.port={connect['port']}" in document["java"]
        ports |= {part.split("=")[1] for part in document["java"] if re.match(r"spark\.\S*port=", part)}
    assert len(ports) == len(SESSION_PORTS) * len(inputs.users), "two sessions share a port"


def test_a_gateway_brings_its_jar_to_the_manager_and_another_jar_restarts_sessions_alone() -> None:
    inputs, before = load("pi5-sparklyr"), rendered("pi5-sparklyr")
    assert before.files["pi1"][layout.SPARKLYR_JAR].content == JAR
    assert layout.SPARKLYR_JAR not in before.files["pi2"]
    after = render(
        inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=KEEPER, sparklyr_jar=b"another"
    )
    changed = {
        unit.name
        for unit in after.units
        if unit_hash(unit, before.files[unit.node]) != unit_hash(unit, after.files[unit.node])
    }
    assert changed == {"session-ana", "session-bob"}


def test_a_gateway_without_its_jar_is_refused() -> None:
    inputs = load("pi5-sparklyr")
    with pytest.raises(ValueError, match=r"sessions\.sparklyr: on, and no sparklyr was found"):
        render(inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=KEEPER)


@every_case
def test_without_a_gateway_nothing_speaks_of_sparklyr(case: str) -> None:
    if load(case).has_gateway:
        return
    for node, files in rendered(case).files.items():
        for path, file in files.items():
            assert b"sparklyr" not in file.content, f"{node}: {path}"


def test_the_keeper_stands_on_the_manager_as_it_was_passed_in() -> None:
    result = rendered("local-demo")
    passed_in = {layout.keeper_file(name): source for name, source in KEEPER.items()}
    below = {
        node: {path: file.content for path, file in files.items() if path.startswith(f"{layout.KEEPER}/")}
        for node, files in result.files.items()
    }
    assert below.pop("manager") == passed_in
    assert not any(below.values())


def test_a_changed_file_of_the_keeper_restarts_sessions_and_no_daemon() -> None:
    inputs = load("pi4-3x4g")
    before = rendered("pi4-3x4g")
    for name in KEEPER:
        keeper = {**KEEPER, name: b"# another\n"}
        after = render(inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=keeper)
        changed = {
            (unit.node, unit.name)
            for unit in after.units
            if unit_hash(unit, before.files[unit.node]) != unit_hash(unit, after.files[unit.node])
        }
        assert changed == {("pi1", "session-ana")}


def test_a_changed_user_setting_restarts_sessions_and_no_daemon() -> None:
    inputs = load("pi4-3x4g")
    before, after = rendered("pi4-3x4g"), again(inputs, spark={"spark.sql.ansi.enabled": "false"})
    restarted = {
        old.name
        for old, new in zip(before.units, after.units, strict=True)
        if unit_hash(old, before.files[old.node]) != unit_hash(new, after.files[new.node])
    }
    assert restarted == {"session-ana"}


def test_extras_replace_what_they_name_and_nothing_else() -> None:
    inputs = load("pi4-3x4g")
    spark = properties_of(rendered("pi4-3x4g").files["pi1"][layout.SPARK_DEFAULTS].content)
    assert spark["spark.sql.session.timeZone"] == "Europe/Berlin"
    assert spark["spark.sql.autoBroadcastJoinThreshold"] == "4m"
    plain = properties_of(again(inputs, spark={}).files["pi1"][layout.SPARK_DEFAULTS].content)
    assert {key for key in spark if spark[key] != plain.get(key)} == set(inputs.spec.spark)


def with_extra(key: str) -> ClusterSpec:
    return load("pi4-3x4g").spec.model_copy(update={"spark": {key: "1"}})


@pytest.mark.parametrize(
    "key",
    [
        "spark.executor.memory",
        "spark.executor.memoryOverhead",
        "spark.executor.cores",
        "spark.driver.memory",
        "spark.yarn.am.memory",
        "spark.executor.extraJavaOptions",
        "spark.memory.offHeap.size",
        "spark.dynamicAllocation.maxExecutors",
        "spark.ui.port",
        "spark.driver.port",
        "spark.port.maxRetries",
        "spark.driver.blockManager.port",
        "spark.connect.grpc.binding.port",
        "spark.driver.bindAddress",
        "spark.connect.grpc.binding.address",
        "spark.driver.host",
        "spark.connect.authenticate.token",
        "spark.authenticate",
        "spark.authenticate.secret",
        "spark.ssl.keyPassword",
        "spark.redaction.regex",
        "spark.sql.catalog.rpi",
        "spark.sql.catalog.rpi.warehouse",
        "spark.sql.catalogImplementation",
        "spark.sql.defaultCatalog",
        "spark.sql.extensions",
        "spark.hadoop.fs.defaultFS",
        "spark.master",
        "spark.yarn.jars",
        "spark.plugins",
        "spark.executorEnv.PATH",
        "spark.driver.extraClassPath",
    ],
)
def test_an_extra_that_is_computed_or_guarded_is_refused_by_its_name(key: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(key))):
        check_extras(with_extra(key))


@pytest.mark.parametrize(
    "key",
    [
        "spark.sql.shuffle.partitions",
        "spark.sql.autoBroadcastJoinThreshold",
        "spark.sql.ansi.enabled",
        "spark.speculation",
        "spark.sql.catalog.other",
        "spark.executor.heartbeatInterval",
        "spark.dynamicAllocation.executorIdleTimeout",
        "spark.reducer.maxSizeInFlight",
    ],
)
def test_an_extra_that_is_a_matter_of_taste_is_taken(key: str) -> None:
    check_extras(with_extra(key))


def test_two_datanodes_that_the_namenode_could_not_tell_apart_are_refused() -> None:
    inputs = load("local-demo")
    nodes = dict(inputs.placement.nodes)
    same = {**nodes["worker2"].ports, "datanode_data": nodes["worker1"].ports["datanode_data"]}
    nodes["worker2"] = nodes["worker2"].model_copy(update={"ports": same})
    placement = inputs.placement.model_copy(update={"nodes": nodes})
    with pytest.raises(ValueError, match="datanode_data"):
        Inputs.checked(inputs.spec, inputs.sizes, placement)


def test_a_node_without_a_placement_is_named() -> None:
    inputs = load("local-demo")
    nodes = {name: node for name, node in inputs.placement.nodes.items() if name != "worker2"}
    with pytest.raises(ValueError, match="worker2"):
        Inputs.checked(inputs.spec, inputs.sizes, inputs.placement.model_copy(update={"nodes": nodes}))


def test_more_users_than_sessions_are_refused_with_both_numbers() -> None:
    inputs = load("pi4-3x4g")
    crowd = tuple(f"user{i}" for i in range(inputs.sizes.sessions_max + 1))
    spec = inputs.spec.model_copy(update={"users": crowd})
    with pytest.raises(ValueError, match=rf"{len(crowd)} users .* holds {inputs.sizes.sessions_max}"):
        Inputs.checked(spec, inputs.sizes, inputs.placement)


def test_runtimes_at_different_paths_are_refused() -> None:
    inputs = load("local-demo")
    nodes = dict(inputs.placement.nodes)
    elsewhere = nodes["worker1"].paths.model_copy(update={"runtime": "/elsewhere"})
    nodes["worker1"] = nodes["worker1"].model_copy(update={"paths": elsewhere})
    placement = Placement(cluster_id="x", nodes=nodes, login="ana")
    with pytest.raises(ValueError, match="/elsewhere"):
        Inputs.checked(inputs.spec, inputs.sizes, placement)


@every_case
def test_every_setting_has_a_reason(case: str) -> None:
    inputs = load(case)
    for node in inputs.spec.nodes:
        for path, settings in settings_of(inputs, node.name).items():
            for entry in settings:
                assert entry.why.strip(), f"{path}: {entry.key}"


def test_values_reach_xml_and_properties_unchanged() -> None:
    nasty = [setting("a.b", '<&>"', "test"), setting("a.c", "back\\slash #!: =", "test")]
    root = ElementTree.fromstring(as_xml(nasty))
    assert [p.findtext("value") for p in root] == ['<&>"', "back\\slash #!: ="]
    assert properties_of(as_properties(nasty))["a.c"] == "back\\\\slash #!: ="


@pytest.mark.parametrize("write", [as_xml, as_properties])
def test_a_line_break_cannot_smuggle_in_a_second_setting(write: object) -> None:
    with pytest.raises(ValueError, match="control character"):
        write([setting("spark.a", "x\nspark.b y", "test")])  # type: ignore[operator]


def test_a_key_that_comes_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        as_xml([setting("a", 1, "test"), setting("a", 2, "test")])


def test_the_format_command_is_the_namenodes_own_and_refuses_to_format_over_data() -> None:
    unit = next(unit for unit in rendered("local-demo").units if unit.name == "namenode")
    command = daemon_units.format_command(unit, "demo-1")
    assert command[: len(unit.argv)] == unit.argv
    assert command[len(unit.argv) :] == ("-format", "-nonInteractive", "-clusterid", "demo-1")


def test_rendering_does_not_depend_on_the_order_of_mappings() -> None:
    inputs = load("mixed-2-4-8-16")
    turned = inputs.placement.model_copy(
        update={"nodes": dict(reversed(list(inputs.placement.nodes.items())))}
    )
    sizes = dataclasses.replace(inputs.sizes, nodes=dict(reversed(list(inputs.sizes.nodes.items()))))
    assert render(inputs.spec, sizes, turned, "r", keeper_sources=KEEPER) == render(
        inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=KEEPER
    )
