"""A plain pyspark client, which pysparklyr stands on, gets answers at the door with what `connect` says."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rpicluster.cli.main import run
from rpicluster.services.connect.connection import Connection

# What `pip install pyspark[connect]` brings beside pyspark itself, which is taken from the runtime.
NEEDED = ("pandas", "pyarrow", "grpc", "grpc_status", "google.rpc", "zstandard")


def has(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # of its parent
        return False


MISSING = [name for name in NEEDED if not has(name)]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(MISSING), reason=f"Python lacks {', '.join(MISSING)}: the extra `pyspark`"),
]

PROGRAM = """
import json, sys
from pyspark.sql import SparkSession
import pandas

spark = SparkSession.builder.remote(sys.argv[1]).getOrCreate()
spark.sql("USE rpi.default")
frame = spark.createDataFrame(pandas.DataFrame({"carrier": ["AA", "B6", "B6"], "delay": [1.5, 2.0, 4.0]}))
frame.createOrReplaceTempView("late")
rows = spark.sql("SELECT carrier, avg(delay) AS delay FROM late GROUP BY carrier ORDER BY carrier").toPandas()
frame.writeTo("rpi.default.of_pyspark").createOrReplace()
count = spark.table("of_pyspark").count()
spark.sql("DROP TABLE rpi.default.of_pyspark")
print(json.dumps({"version": spark.version, "rows": rows.values.tolist(), "count": count}))
spark.stop()
"""


def client(runtime, url: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """Run the program as its user does: the token in the environment, or in the URL."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            map(str, [runtime.path / "python", *(runtime.path / "python/lib").glob("py4j-*.zip")])
        ),
    }
    for name in ("SPARK_CONNECT_AUTHENTICATE_TOKEN", "SPARK_REMOTE", "SPARK_HOME"):
        environment.pop(name, None)
    if token:
        environment["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = token
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture
def connection(cluster, capsys) -> Connection:
    """What `connect --json` leads to."""
    assert run(["connect", "--json", "--cluster", cluster.name]) == 0
    return Connection.load(Path(json.loads(capsys.readouterr().out)["connection"]))


def test_a_pyspark_client_gets_answers_and_writes_a_table(runtime, connection):
    done = client(runtime, f"sc://localhost:{connection.connect_port}", connection.token())
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said == {"version": "4.1.4", "rows": [["AA", 1.5], ["B6", 3.0]], "count": 3}


def test_the_token_may_stand_in_the_url(runtime, connection):
    url = f"sc://localhost:{connection.connect_port}/;token={connection.token()}"
    done = client(runtime, url, None)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("token", [None, "wrong"])
def test_without_the_token_it_gets_none(runtime, connection, token):
    done = client(runtime, f"sc://localhost:{connection.connect_port}", token)
    assert done.returncode != 0
    assert "UNAUTHENTICATED" in done.stderr
    assert connection.token() not in done.stderr
