"""One arm64 node with our runtime and our configuration: daemons, a job on YARN, native libraries."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from foreign import ADDRESS, Pi

from rpicluster.design import daemon_units, layout
from rpicluster.design.accounts import directories, hdfs_directories
from rpicluster.design.inputs import Inputs
from rpicluster.design.preview import JAVA_HOME, PATHS, PYTHON
from rpicluster.design.rendering import render
from rpicluster.design.sizing import size
from rpicluster.design.units import Rendered, Unit
from rpicluster.model.facts import ClusterFacts, NodeFacts, NodePlacement, Placement
from rpicluster.model.ports import MANAGER_PORTS, SESSION_PORTS, WORKER_PORTS
from rpicluster.model.specfile import parse_spec
from rpicluster.runtime import store
from rpicluster.runtime.lock import Artifact
from rpicluster.runtime.maven_fetch import fetch_with_jgo, sha256_of

pytestmark = pytest.mark.timeout(9000)

HERE = Path(__file__).parent
SPEC = f"""
name: arm
users: [pi]
nodes:
  - {{name: pi1, ssh: {{host: {ADDRESS}, user: pi}}, hardware: {{memory: 8G, cores: 4}}}}
"""
HDFS, YARN = f"http://{ADDRESS}:9870", f"http://{ADDRESS}:8088"
# LevelDB for Java with a library for arm64. It is no part of the runtime; docs/adr/0014 says why.
LEVELDB = Artifact(
    kind="maven-jar",
    group="org.openlabtesting.leveldbjni",
    name="leveldbjni-all",
    version="1.8",
    filename="leveldbjni-all-1.8.jar",
    sha256="40eb0c4f8c8a4b819c5949b19c38333411c1a4620f6e960a3313854d4adc7c83",
    size_bytes=1356630,
)
LEVELDB_JAR = f"/root/{LEVELDB.filename}"
# Emulation takes 10 to 20 times as long as a Pi; deadlines and heartbeats are made for a Pi.
SLOW = {
    "spark.dynamicAllocation.enabled": "false",
    "spark.network.timeout": "900s",
    "spark.executor.heartbeatInterval": "60s",
    "spark.yarn.am.waitTime": "900s",
    "spark.executor.memory": "640m",
    "spark.executor.cores": "1",
    "spark.executor.memoryOverhead": "1g",  # qemu's translations lie beside the heap
    "spark.yarn.am.memoryOverhead": "512m",
    "spark.ui.enabled": "false",
}

SLOW_YARN = {
    "yarn.am.liveness-monitor.expiry-interval-ms": "900000",
    "yarn.nm.liveness-monitor.expiry-interval-ms": "300000",
    "yarn.resourcemanager.rm.container-allocation.expiry-interval-ms": "900000",
}


def designed(runtime_hash: str) -> tuple[Inputs, Rendered]:
    spec = parse_spec(SPEC, "cluster.yml")
    facts = ClusterFacts(nodes={"pi1": NodeFacts(name="pi1", memory_mib=8192, cores=4, arch="aarch64")})
    ports = MANAGER_PORTS | WORKER_PORTS | SESSION_PORTS
    node = NodePlacement(address=ADDRESS, paths=PATHS, java_home=JAVA_HOME, python=PYTHON, ports=ports)
    placement = Placement(cluster_id="arm", nodes={"pi1": node}, login="pi")
    inputs = Inputs.checked(spec, size(spec, facts), placement)
    return inputs, render(spec, inputs.sizes, placement, runtime_hash, keeper_sources={})


def as_document(unit: Unit) -> dict[str, Any]:
    return {
        "name": unit.name,
        "argv": unit.argv,
        "environment": unit.environment,
        "directory": unit.directory,
    }


def steps(inputs: Inputs, units: dict[str, Unit]) -> list[dict[str, Any]]:
    """Return a node's first start, as `up` does it, and a job."""
    shell = {
        **dict(units["resourcemanager"].environment),
        "HADOOP_USER_NAME": "pi",
        "SPARK_CONF_DIR": f"{PATHS.conf}/spark",
        "PYSPARK_PYTHON": PYTHON,
    }
    settings = [word for key, value in SLOW.items() for word in ("--conf", f"{key}={value}")]
    folders = hdfs_directories(inputs)
    web = f"{HDFS}/webhdfs/v1{{}}?user.name={layout.HDFS_USER}&op="
    return [
        {
            "name": "format",
            "run": daemon_units.format_command(units["namenode"], "rpicluster-arm"),
            "environment": dict(units["namenode"].environment),
            "within_s": 600,
        },
        started("namenode", f"{HDFS}/jmx?qry=Hadoop:service=NameNode,name=NameNodeStatus", "active"),
        started(
            "datanode",
            f"{HDFS}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState",
            '"NumLiveDataNodes" : 1',
        ),
        {
            "name": "folders",
            "put": [
                url
                for folder in folders
                for url in (
                    f"{web.format(folder.path)}MKDIRS&permission={folder.permission}",
                    f"{web.format(folder.path)}SETOWNER&owner={folder.owner}",
                )
            ],
            "within_s": 300,
        },
        started("resourcemanager", f"{YARN}/ws/v1/cluster/info", "STARTED"),
        started("nodemanager", f"{YARN}/ws/v1/cluster/nodes?states=RUNNING", ADDRESS),
        {
            "name": "job",
            "run": [
                f"{PATHS.runtime}/bin/spark-submit",
                *settings,
                *("--driver-class-path", LEVELDB_JAR, "/root/natives.py"),
            ],
            "environment": shell,
            "within_s": 1800,
        },
    ]


def with_values(xml: bytes, values: dict[str, str]) -> bytes:
    """Return a settings file with other values of settings that it has."""
    text = xml.decode()
    for name, value in values.items():
        text, count = re.subn(rf"(<name>{re.escape(name)}</name><value>)[^<]*", rf"\g<1>{value}", text)
        assert count == 1, name
    return text.encode()


def started(unit: str, until: str, has: str) -> dict[str, Any]:
    return {"name": unit, "start": unit, "until": until, "has": has, "within_s": 900}


def install(pi: Pi, inputs: Inputs, rendered: Rendered) -> None:
    """Put every rendered file in its place, and the programs of this test."""
    for path, file in rendered.files["pi1"].items():
        content = with_values(file.content, SLOW_YARN) if path.endswith("yarn-site.xml") else file.content
        pi.write(path if path.startswith("/") else f"{PATHS.conf}/{path}", content, file.mode)
    for directory in directories(inputs, "pi1"):
        made = pi.place / "upper" / directory.path.lstrip("/")
        made.mkdir(mode=directory.mode, parents=True, exist_ok=True)
    for program in ("natives.py", "daemons.py"):
        pi.write(f"/root/{program}", (HERE / "on_node" / program).read_bytes())


@pytest.fixture(scope="module")
def happened(
    debian: Path, runtime: store.Runtime, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What happened on the node: seconds of each step, and the job's answers."""
    inputs, rendered = designed(runtime.content_hash)
    pi = Pi(debian, tmp_path_factory.mktemp("pi"), runtime.path)
    install(pi, inputs, rendered)
    jar = fetch_with_jgo(LEVELDB, tmp_path_factory.mktemp("maven"), lambda _: None)
    assert sha256_of(jar) == LEVELDB.sha256
    pi.write(LEVELDB_JAR, jar.read_bytes())
    units = {unit.name: unit for unit in rendered.units if not unit.name.startswith("session-")}
    document = {
        "units": {name: as_document(unit) for name, unit in units.items()},
        "steps": steps(inputs, units),
    }
    pi.write("/root/steps.json", json.dumps(document))
    done = pi.run([PYTHON, "/root/daemons.py", "/root/steps.json"], timeout_s=7200)
    logs = {
        path.name: path.read_text(errors="replace")[-1500:]
        for path in (pi.place / "upper/root").glob("*.out")
    }
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{done.stdout}\n{logs}"
    found: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    assert found["job code"] == 0, f"{found['job said']}\n{logs['job.out']}"
    return found


@pytest.fixture(scope="module")
def answers(happened: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(happened["job said"][-1])
    return found


def test_all_four_daemons_start_on_arm64(happened: dict[str, Any]) -> None:
    assert {"namenode", "datanode", "resourcemanager", "nodemanager"} <= set(happened)


def test_a_job_on_yarn_answers_right_on_arm64(answers: dict[str, Any]) -> None:
    assert answers["machine"] == ["aarch64", "aarch64"]
    assert answers["master"] == "yarn"
    expected = [[g, len(range(g, 100000, 7)), sum(range(g, 100000, 7))] for g in range(7)]
    assert answers["sql"] == expected


@pytest.mark.parametrize("library", ["zstd", "lz4", "snappy", "rocksdb", "leveldb"])
def test_a_native_library_works_on_arm64(answers: dict[str, Any], library: str) -> None:
    loaded, right = answers[library]
    assert loaded and right is True
    if library == "lz4":
        assert loaded == "LZ4Factory:JNI"


@pytest.mark.parametrize("codec", ["zstd", "snappy", "lz4"])
def test_parquet_in_hdfs_is_written_and_read_on_arm64(answers: dict[str, Any], codec: str) -> None:
    assert answers[f"parquet {codec}"] == 499500


def test_no_leveldb_would_let_this_hadoops_nodemanager_recover(runtime: store.Runtime) -> None:
    """Why recovery is off, on every processor: when this fails, read docs/adr/0014 again."""
    names = {
        name for jar in (runtime.path / "hadoop").glob("*.jar") for name in zipfile.ZipFile(jar).namelist()
    }
    service = "org/apache/hadoop/yarn/server/nodemanager/recovery/NMLeveldbStateStoreService.class"
    (daemons,) = (runtime.path / "hadoop").glob("hadoop-client-minicluster-*.jar")
    wanted = b"org/apache/hadoop/shaded/org/iq80/leveldb/DB"
    assert wanted in zipfile.ZipFile(daemons).read(service)
    assert f"{wanted.decode()}.class" not in names


def test_the_leveldb_of_the_runtime_has_no_library_for_arm64(runtime: store.Runtime) -> None:
    (jar,) = (runtime.path / "jars").glob("leveldbjni-*.jar")
    natives = [name for name in zipfile.ZipFile(jar).namelist() if name.endswith(".so")]
    assert natives and not [name for name in natives if "aarch64" in name]
