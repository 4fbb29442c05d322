"""The real runtime, fetched once from the package registries: what Spark must still do after pruning."""

import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from rpicluster.runtime.store import MANIFEST, ensure, installed, verify

pytestmark = [pytest.mark.network, pytest.mark.timeout(1200)]
JOB_TIMEOUT_S = 900  # minutes, on a machine that does other things as well


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """One fetch for all these tests; a cache named by the environment is used and kept."""
    given = os.environ.get("RPICLUSTER_CACHE_DIR")
    return Path(given) if given else tmp_path_factory.mktemp("runtime")


@pytest.fixture(scope="session")
def runtime(cache):
    return ensure(cache)


@pytest.fixture
def environment(runtime, tmp_path):
    """What Spark needs to run on loopback alone."""
    return {
        **os.environ,
        "SPARK_HOME": str(runtime.path),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(tmp_path / "spark"),
        "PYSPARK_PYTHON": sys.executable,
        "JAVA_TOOL_OPTIONS": f"-Dderby.system.home={tmp_path}",
    }


def spark(runtime, environment, program, *args, **more):
    return subprocess.run(
        [
            str(runtime.path / "bin" / program),
            "--master",
            "local[2]",
            "--conf",
            "spark.ui.enabled=false",
            *args,
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=JOB_TIMEOUT_S,
        check=False,
        **more,
    )


def test_it_is_whole_and_smaller_than_what_was_fetched(runtime, cache):
    assert verify(runtime) == []
    assert installed(cache) == runtime
    assert 400e6 < runtime.size_bytes < 480e6
    assert runtime.pruned_bytes > 200e6


def test_a_second_fetch_elsewhere_gives_the_same_bytes(runtime, tmp_path):
    other = ensure(tmp_path / "another cache")
    manifests = [json.loads((r.path / MANIFEST).read_text()) for r in (runtime, other)]
    assert manifests[0] == manifests[1]
    shutil.rmtree(other.path)


def test_both_processors_have_their_native_libraries(runtime):
    """The machine field of an ELF header (offset 18): 62 is x86-64, 183 is AArch64."""
    found = {}
    for jar in (runtime.path / "jars").glob("*.jar"):
        with zipfile.ZipFile(jar) as opened:
            assert opened.testzip() is None
            if jar.name.startswith(("rocksdbjni", "zstd-jni")):
                natives = [n for n in opened.namelist() if n.endswith((".so", ".dll", ".dylib", ".jnilib"))]
                found[jar.name] = sorted(opened.read(name)[18] for name in natives)
    assert set(map(tuple, found.values())) == {(62, 183)} and len(found) == 2


JOB = """
import sys
from pyspark.ml.clustering import KMeans
from pyspark.ml.feature import VectorAssembler
from pyspark.ml.regression import LinearRegression
from pyspark.sql import SparkSession, functions as F

d = sys.argv[1]
s = SparkSession.builder.getOrCreate()
print("hadoop", s._jvm.org.apache.hadoop.util.VersionInfo.getVersion())
df = s.range(1000).select("id", (F.col("id") % 7).alias("k"), (F.col("id") * 2.0 + 1).alias("y"))
for kind in ("parquet", "orc", "csv", "json"):
    df.write.option("header", "true").format(kind).save(f"{d}/{kind}")
    print(kind, s.read.option("header", "true").format(kind).load(f"{d}/{kind}").count())
for codec in ("zstd", "snappy", "gzip", "lz4"):
    df.write.option("compression", codec).parquet(f"{d}/{codec}")
    print(codec, s.read.parquet(f"{d}/{codec}").count())
print("group", df.groupBy("k").agg(F.sum("y")).count())
s.sql("create table rpi.default.t using iceberg as select id, cast(id as string) s from range(100)")
s.sql("delete from rpi.default.t where id < 10")
print("iceberg", s.table("rpi.default.t").count(), s.table("rpi.default.t.snapshots").count())
v = VectorAssembler(inputCols=["id"], outputCol="features").transform(df)
print("slope", round(LinearRegression(labelCol="y").fit(v).coefficients[0], 6))
print("centres", len(KMeans(k=3, seed=1).fit(v).clusterCenters()))
print("udf", df.select(F.udf(lambda x: x + 1, "long")("id").alias("n")).agg(F.sum("n").alias("n")).first().n)
stream = (s.readStream.schema(df.schema).parquet(f"{d}/parquet").groupBy("k").count()
          .writeStream.format("memory").queryName("out").outputMode("complete")
          .option("checkpointLocation", f"{d}/checkpoint").trigger(availableNow=True).start())
stream.awaitTermination(300)
print("stream", s.table("out").count(), stream.exception())
df.createOrReplaceTempView("v")
query = "select count(*) c from v where cast(k as string) collate UNICODE_CI = '1'"
print("collation", s.sql(query).first().c)
s.stop()
"""
EXPECTED = """hadoop 3.5.0
parquet 1000
orc 1000
csv 1000
json 1000
zstd 1000
snappy 1000
gzip 1000
lz4 1000
group 7
iceberg 90 2
slope 2.0
centres 3
udf 500500
stream 7 None
collation 143
"""


def test_spark_does_all_that_the_project_promises(runtime, environment, tmp_path):
    """SQL, file formats and codecs, Iceberg, ML, Python UDFs, streaming on RocksDB, collations."""
    (tmp_path / "job.py").write_text(JOB)
    settings = {
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.catalog.rpi": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.rpi.type": "hadoop",
        "spark.sql.catalog.rpi.warehouse": str(tmp_path / "warehouse"),
        "spark.sql.streaming.stateStore.providerClass": "org.apache.spark.sql.execution.streaming.state."
        "RocksDBStateStoreProvider",
    }
    options = [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    run = spark(
        runtime, environment, "spark-submit", *options, str(tmp_path / "job.py"), str(tmp_path / "data")
    )
    # spark-submit sends a Python program's traceback to its own stdout.
    assert run.stdout == EXPECTED and run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


@pytest.mark.long
def test_spark_shell_compiles_scala(runtime, environment, tmp_path):
    typed = """
        case class P(a: Int)
        println("sum " + spark.createDataset(Seq(P(1), P(2))).map(_.a + 1).reduce(_ + _))
        :quit
    """
    run = spark(runtime, environment, "spark-shell", cwd=tmp_path, input=textwrap.dedent(typed))
    assert "sum 5" in run.stdout, run.stdout[-2000:] + run.stderr[-2000:]


@pytest.mark.long
def test_the_hive_classes_that_sparklyr_asks_for_are_there(runtime, environment, tmp_path):
    """sparklyr enables Hive support unless told otherwise: a table in an embedded metastore must work."""
    statement = "create table t as select 1 a; select sum(a) + 41 from t"
    warehouse = f"spark.sql.warehouse.dir={tmp_path / 'hive'}"
    run = spark(runtime, environment, "spark-sql", "--conf", warehouse, "-e", statement, cwd=tmp_path)
    assert run.returncode == 0 and run.stdout.strip().splitlines()[-1] == "42", run.stderr[-4000:]


CLIENT = """
import sys, uuid
sys.path.insert(0, sys.argv[1])
import grpc
import pyspark.sql.connect.proto as p
from pyspark.sql.connect.proto.base_pb2_grpc import SparkConnectServiceStub
channel = grpc.insecure_channel(f"127.0.0.1:{sys.argv[2]}")
grpc.channel_ready_future(channel).result(timeout=float(sys.argv[3]))
plan = p.Plan(root=p.Relation(sql=p.SQL(query="select 6 * 7 as answer")))
me = p.UserContext(user_id="me")
request = p.ExecutePlanRequest(session_id=str(uuid.uuid4()), user_context=me, plan=plan)
answers = SparkConnectServiceStub(channel).ExecutePlan(request)
batches = [a.arrow_batch for a in answers if a.HasField("arrow_batch")]
import pyarrow
print(pyarrow.ipc.open_stream(batches[0].data).read_all().to_pylist())
print(sorted({"pandas", "py4j", "pyspark.sql.session"} & set(sys.modules)))
"""


def test_spark_connect_answers_a_client_that_has_the_protobuf_classes_only(runtime, environment, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [
            *(str(runtime.path / "bin/spark-submit"), "--master", "local[1]"),
            *("--conf", "spark.ui.enabled=false", "--conf", f"spark.connect.grpc.binding.port={port}"),
            *("--conf", "spark.connect.grpc.binding.address=127.0.0.1"),
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
        ],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = subprocess.run(
            [sys.executable, "-B", "-c", CLIENT, str(runtime.path / "connect"), port, str(JOB_TIMEOUT_S)],
            capture_output=True,
            text=True,
            timeout=JOB_TIMEOUT_S,
            check=False,
        )
    finally:
        server.terminate()
        server.wait(60)
    assert client.stdout.splitlines() == ["[{'answer': 42}]", "[]"], client.stderr[-4000:]
