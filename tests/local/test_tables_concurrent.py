"""Persistent tables under two drivers at once, and under a driver that dies in the middle of a write."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rpicluster.errors import RpiclusterError
from rpicluster.services.connect.session import ConnectSession
from rpicluster.session import housekeeping, keeper
from rpicluster.session.keeper.records import read_json

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

HEALTHY_S = 300
WAREHOUSE = "/warehouse/default"
APPENDS = 8  # by each of two sessions


def free_ports(address: str, count: int) -> list[int]:
    sockets = [socket.create_server((address, 0)) for _ in range(count)]
    ports = [made.getsockname()[1] for made in sockets]
    for made in sockets:
        made.close()
    return ports


class SecondDriver:
    """Another session of the same user: the cluster's own settings, other ports, and a keeper of its own."""

    def __init__(self, cluster: Any, directory: Path) -> None:
        self.cluster = cluster
        manager = cluster.placement.nodes[cluster.spec.manager.name]
        first = json.loads(
            Path(manager.paths.conf, "session", f"keeper-{cluster.placement.login}.json").read_text()
        )
        connect, driver, blocks, ui = free_ports("127.0.0.1", 4)
        name = f"{first['name']}-second"
        java = [
            first["java"][0],
            *(self._changed(word, first["name"], name, directory) for word in first["java"][1:]),
        ]
        for key, port in (
            ("spark.connect.grpc.binding.port", connect),
            ("spark.driver.port", driver),
            ("spark.driver.blockManager.port", blocks),
            ("spark.ui.port", ui),
        ):
            java = [f"{key}={port}" if word.startswith(f"{key}=") else word for word in java]
        self.settings = {
            **first,
            "name": name,
            "java": java,
            "directory": str(directory),
            "log": str(directory / "driver.log"),
            "doors": [{"kind": "connect", "host": "127.0.0.1", "port": connect}],
            "ui": f"{first['ui'].rpartition(':')[0]}:{ui}",
            "status_file": str(directory / "status.json"),
            "start_timeout_s": HEALTHY_S,
            "chores": [],
        }
        self.port = connect
        self.directory = directory
        self.process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _changed(word: str, old: str, new: str, directory: Path) -> str:
        if word == f"spark.app.name={old}":
            return f"spark.app.name={new}"
        if word.startswith("-Drpicluster.log="):
            return f"-Drpicluster.log={directory}/driver-log4j.log"
        return word

    def start(self) -> None:
        path = self.directory / "keeper.json"
        path.write_text(json.dumps(self.settings))
        with (self.directory / "keeper.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, f"{keeper.__path__[0]}/__main__.py", str(path)], stdout=log, stderr=log
            )
        self.healthy()

    def status(self) -> dict[str, Any]:
        return read_json(self.directory / "status.json")

    def healthy(self, restarts: int = 0) -> dict[str, Any]:
        deadline = time.monotonic() + HEALTHY_S
        while time.monotonic() < deadline:
            status = self.status()
            if status.get("state") == "healthy" and status["restarts"] >= restarts:
                return status
            assert self.process is not None
            assert self.process.poll() is None, (self.directory / "keeper.log").read_text()
            time.sleep(0.2)
        raise AssertionError(f"not healthy within {HEALTHY_S} s: {self.status()}")

    def session(self) -> ConnectSession:
        connection = self.cluster.connection
        return ConnectSession(
            port=self.port,
            token=connection.token(),
            proto_path=Path(connection.proto_path),
            user=connection.user,
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(timeout=40)


@pytest.fixture(scope="module")
def second(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondDriver]:
    driver = SecondDriver(cluster, tmp_path_factory.mktemp("second"))
    try:
        driver.start()
        yield driver
    finally:
        driver.stop()


def web(cluster: Any, method: str, path: str, operation: str) -> Any:
    connection = cluster.connection
    request = urllib.request.Request(
        f"{connection.webhdfs}/webhdfs/v1{path}?op={operation}&user.name={connection.webhdfs_user}",
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        content = answer.read()
    return json.loads(content) if content else None


def data_files(cluster: Any, table: str) -> list[str]:
    listed = web(cluster, "GET", f"{WAREHOUSE}/{table}/data", "LISTSTATUS")["FileStatuses"]["FileStatus"]
    return sorted(entry["pathSuffix"] for entry in listed if entry["pathSuffix"].endswith(".parquet"))


def test_two_sessions_create_read_and_append_to_each_others_tables(
    cluster: Any, second: SecondDriver
) -> None:
    with cluster.connection.session() as one, second.session() as two:
        assert one.app_id() != two.app_id()
        one.sql("DROP TABLE IF EXISTS made_by_one")
        two.sql("DROP TABLE IF EXISTS made_by_two")
        one.sql("CREATE TABLE made_by_one AS SELECT id, 'one' AS who FROM range(10)")
        two.sql("CREATE TABLE made_by_two AS SELECT id, 'two' AS who FROM range(20)")
        two.sql("INSERT INTO made_by_one SELECT id, 'two' FROM range(5)")
        one.sql("INSERT INTO made_by_two SELECT id, 'one' FROM range(7)")
        count = "SELECT who, count(*) FROM {} GROUP BY who ORDER BY who"
        for session in (one, two):
            assert session.sql(count.format("made_by_one")).rows() == [("one", 10), ("two", 5)]
            assert session.sql(count.format("made_by_two")).rows() == [("one", 7), ("two", 20)]
        one.sql("ALTER TABLE made_by_two ADD COLUMN note STRING")
        assert "note" in two.sql("SELECT * FROM made_by_two LIMIT 1").columns
        two.sql("DROP TABLE made_by_one")
        with pytest.raises(RpiclusterError):
            one.sql("SELECT * FROM made_by_one").rows()
        one.sql("DROP TABLE made_by_two")


def test_every_append_of_two_sessions_at_once_is_kept(cluster: Any, second: SecondDriver) -> None:
    with cluster.connection.session() as one, second.session() as two:
        one.sql("DROP TABLE IF EXISTS raced")
        one.sql("CREATE TABLE raced (who STRING, turn INT)")
        together = threading.Barrier(2)
        problems: list[Exception] = []

        def append(session: ConnectSession, who: str) -> None:
            try:
                for turn in range(APPENDS):
                    together.wait(timeout=120)
                    session.sql(f"INSERT INTO raced VALUES ('{who}', {turn})")
            except (RpiclusterError, threading.BrokenBarrierError) as problem:
                together.abort()
                problems.append(problem)

        threads = [threading.Thread(target=append, args=pair) for pair in ((one, "one"), (two, "two"))]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=400)
        print(f"{2 * APPENDS} appends of two sessions took {time.monotonic() - started:.1f} s")
        assert problems == []
        rows = one.sql("SELECT who, turn FROM raced ORDER BY who, turn").rows()
        assert rows == [(who, turn) for who in ("one", "two") for turn in range(APPENDS)]
        assert one.sql("SELECT count(*) FROM rpi.default.raced.snapshots").rows() == [(2 * APPENDS,)]
        one.sql("DROP TABLE raced")


def test_a_driver_killed_in_the_middle_of_a_write_leaves_the_old_table_and_no_half_rows(
    cluster: Any, second: SecondDriver, tmp_path: Path
) -> None:
    with cluster.connection.session() as reader:
        reader.sql("DROP TABLE IF EXISTS half_written")
        reader.sql("CREATE TABLE half_written AS SELECT id FROM range(100)")
        committed = data_files(cluster, "half_written")
        before = second.healthy()

        def write() -> None:
            # One task after the other finishes a file of its own; the last ones never end within this test.
            statement = """INSERT INTO half_written
                SELECT id + if(id >= 4000, length(reflect('java.lang.Thread', 'sleep', 600000L)), 0)
                FROM range(0, 8000, 1, 80)"""
            writer = second.session()
            try:
                writer.sql(statement)
            except RpiclusterError as problem:
                ended.append(str(problem))
            finally:
                writer.close()

        ended: list[str] = []
        thread = threading.Thread(target=write)
        thread.start()
        deadline = time.monotonic() + 120
        while len(data_files(cluster, "half_written")) < len(committed) + 3:
            assert time.monotonic() < deadline, ended
            assert not ended
            time.sleep(0.1)
        os.kill(before["driver"]["pid"], signal.SIGKILL)
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert ended

        assert reader.sql("SELECT count(*), sum(id) FROM half_written").rows() == [(100, 4950)]
        assert reader.sql("SELECT count(*) FROM rpi.default.half_written.snapshots").rows() == [(1,)]
        second.healthy(restarts=before["restarts"] + 1)
        with second.session() as again:
            assert again.sql("SELECT count(*), sum(id) FROM half_written", timeout_s=120).rows() == [
                (100, 4950)
            ]
            again.sql("INSERT INTO half_written SELECT id FROM range(100, 110)")
        assert reader.sql("SELECT count(*), sum(id) FROM half_written").rows() == [(110, 5995)]

        orphans = set(data_files(cluster, "half_written")) - live_files(reader)
        assert orphans
        young = run_housekeeping(cluster, tmp_path)
        assert "0 orphan files" in line_of(young, "half_written")
        two_days_ago_ms = int((time.time() - 2 * 86400) * 1000)
        for name in orphans:
            path = f"{WAREHOUSE}/half_written/data/{name}"
            web(
                cluster,
                "PUT",
                path,
                f"SETTIMES&modificationtime={two_days_ago_ms}&accesstime={two_days_ago_ms}",
            )
        old = run_housekeeping(cluster, tmp_path)
        assert f"{len(orphans)} orphan files" in line_of(old, "half_written")
        assert set(data_files(cluster, "half_written")) == live_files(reader)
        assert reader.sql("SELECT count(*), sum(id) FROM half_written").rows() == [(110, 5995)]
        reader.sql("DROP TABLE half_written")


def live_files(reader: ConnectSession) -> set[str]:
    rows = reader.sql("SELECT file_path FROM rpi.default.half_written.all_data_files").rows()
    return {row[0].rpartition("/")[2] for row in rows}


def run_housekeeping(cluster: Any, directory: Path, *options: str) -> list[str]:
    path = directory / "connection.json"
    cluster.connection.save(path)
    lines: list[str] = []
    code = housekeeping.main([str(path), "--keep-orphan-files-s", "86400", *options], lines.append)
    assert code == 0, lines
    return lines


def line_of(lines: list[str], table: str) -> str:
    return next(line for line in lines if line.startswith(f"rpi.default.{table}:"))


def test_housekeeping_expires_old_snapshots_keeps_the_last_five_and_every_row(
    cluster: Any, tmp_path: Path
) -> None:
    with cluster.connection.session() as session:
        session.sql("DROP TABLE IF EXISTS `odd ``name'`")
        session.sql("CREATE TABLE `odd ``name'` AS SELECT 0 AS turn")
        for turn in range(1, 8):
            session.sql(f"INSERT OVERWRITE `odd ``name'` SELECT {turn}")
        lines = run_housekeeping(cluster, tmp_path, "--keep-snapshots-s", "0")
        assert "removed 3 data files" in line_of(lines, "odd `name'".replace("`", "")), lines
        assert session.sql("SELECT count(*) FROM rpi.default.`odd ``name'`.snapshots").rows() == [(5,)]
        assert session.sql("SELECT turn FROM `odd ``name'`").rows() == [(7,)]
        session.sql("DROP TABLE `odd ``name'`")


def test_housekeeping_removes_the_logs_of_ended_applications(cluster: Any, tmp_path: Path) -> None:
    hdfs = cluster.webhdfs
    ended = f"/logs/{cluster.login}/bucket-logs-tfile/0000/application_1_0000"
    (tmp_path / "log").write_text("said something once")
    hdfs.put(tmp_path / "log", f"{ended}/node")
    run_housekeeping(cluster, tmp_path)
    assert hdfs.exists(f"{ended}/node"), "a week has not gone by"
    run_housekeeping(cluster, tmp_path, "--keep-logs-s", "0")
    assert not hdfs.exists(ended)
