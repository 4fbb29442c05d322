"""A plain pyspark client, which pysparklyr stands on, gets answers at the door with what `connect` says."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from rpicluster import rpackage
from rpicluster.cli.main import run
from rpicluster.services.connect.connection import Connection

# What `pip install pyspark[connect]` brings beside pyspark itself, which is taken from the runtime.
NEEDED = ("pandas", "pyarrow", "grpc", "grpc_status", "google.rpc", "zstandard")

ROOT = Path(__file__).parents[2]


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


def python_path(runtime) -> str:
    """Return where pyspark is, and py4j, which it imports though Spark Connect has no use for it."""
    folder = runtime.path / "python"
    return os.pathsep.join(map(str, [folder, *(folder / "lib").glob("py4j-*.zip")]))


def client(runtime, url: str, token: str | None) -> subprocess.CompletedProcess[str]:
    """Run the program as its user does: the token in the environment, or in the URL."""
    environment = {**os.environ, "PYTHONPATH": python_path(runtime)}
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


@pytest.mark.r
@pytest.mark.skipif(not shutil.which("Rscript"), reason="R is not installed")
def test_the_r_lines_of_the_docs_lead_pyspark_in_r_to_an_answer(cluster, runtime, connection, tmp_path):
    """As far as they can be run without pysparklyr: it does the rest by the same two calls."""
    if missing := rpackage.missing_packages():
        pytest.skip(f"R lacks {', '.join(missing)}")
    text = (ROOT / "docs" / "howto" / "pysparklyr.md").read_text(encoding="utf-8")
    lines = text.partition("```r\n")[2].partition("sc <- ")[0]
    assert 'path.expand("~/pyspark/bin/python")' in lines
    script = tmp_path / "connect.R"
    script.write_text(
        lines.replace("~/pyspark/bin/python", sys.executable)
        + """
sql <- reticulate::import("pyspark.sql")
spark <- sql$SparkSession$builder$remote(paste0("sc://localhost:", door$connect_port))$getOrCreate()
# Not toPandas(): reticulate 1.28 does not know the data frames of pandas 3.
answer <- spark$sql("SELECT id, id * 2 AS twice FROM range(3)")$toArrow()$to_pydict()
cat(names(answer), answer$twice)
"""
    )
    program = tmp_path / "rpicluster"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "from rpicluster.__main__ import main\nmain()\n"
    )
    program.chmod(0o755)
    done = subprocess.run(
        ["Rscript", "--vanilla", str(script)],
        env={
            **os.environ,
            "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": python_path(runtime),
            "RPICLUSTER_CLUSTER": cluster.name,
        },
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("id twice 0 2 4"), done.stdout
