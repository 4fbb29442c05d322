"""The main job passes on a real cluster, and cannot pass without one."""

import dataclasses
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from rpicluster.demo import data, run
from rpicluster.design.session_files import MODULE_FLAGS
from rpicluster.errors import RpiclusterError
from rpicluster.runtime.progress import ignore

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.r,
    pytest.mark.skipif(not shutil.which("Rscript"), reason="R is not installed"),
]


@pytest.fixture(scope="module")
def flights(cluster) -> Path:
    folder = data.fetch(ignore)
    run.load_tables(cluster, folder, lambda *_: None)
    return folder


def test_every_pipeline_agrees_with_local_r_and_every_claim_is_proven(cluster, flights):
    run.spread(cluster, cluster.check_door()["application"])
    outcome = run.run(cluster, flights)
    assert [p["name"] for p in outcome.pipelines] == ["filter", "summarise", "join", "window", "collect"]
    assert [e for e in outcome.evidence if not e.holds] == []
    assert outcome.picture.read_bytes().startswith(b"\x89PNG")


def test_tables_that_are_there_are_not_loaded_again(cluster, flights):
    before = cluster.webhdfs.content_summary("/warehouse")
    run.load_tables(cluster, flights, lambda *_: None)
    assert cluster.webhdfs.content_summary("/warehouse") == before


@pytest.fixture
def local_master(cluster, tmp_path):
    """A Spark Connect server of the same kind, with the same tables, and `local[*]` where YARN should be."""
    port = cluster.connection.connect_port + 1000
    paths = cluster.placement.nodes[cluster.spec.manager.name].paths
    command = [
        f"{cluster.site.java.home}/bin/java",
        "-Xmx700m",
        *MODULE_FLAGS,
        "-cp",
        f"{paths.conf}/spark:{paths.conf}/hadoop:{paths.runtime}/jars/*",
        "org.apache.spark.deploy.SparkSubmit",
        *("--properties-file", f"{paths.conf}/spark/spark-defaults.conf", "--master", "local[*]"),
        *(
            "--conf",
            f"spark.connect.grpc.binding.port={port}",
            "--conf",
            "spark.dynamicAllocation.enabled=false",
        ),
        *("--conf", "spark.ui.enabled=false", "--conf", "spark.driver.port=0"),
        *("--conf", "spark.driver.blockManager.port=0", "--conf", "spark.authenticate=false"),
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"),
    ]
    token = cluster.connection.token()
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(
        command,
        env={
            **os.environ,
            "SPARK_CONNECT_AUTHENTICATE_TOKEN": token,
            "HADOOP_CONF_DIR": f"{paths.conf}/hadoop",
        },
        stdout=log,
        stderr=log,
        cwd=tmp_path,
    )
    connection = dataclasses.replace(cluster.connection, connect_port=port)
    path = tmp_path / "connection.json"
    connection.save(path)
    deadline = time.monotonic() + 120
    while True:
        try:
            with connection.session() as session:
                session.sql("select 1").rows()
            break
        except RpiclusterError:
            assert process.poll() is None, (tmp_path / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (tmp_path / "server.log").read_text()[-3000:]
            time.sleep(1)
    yield path
    process.terminate()
    process.wait(30)
    log.close()


def test_spark_without_yarn_proves_nothing(cluster, flights, local_master):
    outcome = run.run(cluster, flights, connection=local_master)
    failed = {evidence.claim for evidence in outcome.evidence if not evidence.holds}
    assert "YARN runs the application" in failed
    assert "tasks ran in containers on 2 NodeManagers" in failed
    assert all(pipeline["wrong"] == "" for pipeline in outcome.pipelines), (
        "the answers are right all the same"
    )
