"""The warm session of a real cluster: every way of dying is noticed and mended, the token stays secret."""

import contextlib
import io
import json
import os
import re
import signal
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpicluster.errors import RpiclusterError

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# Upper bounds from docs/explanation/warm-session.md, and room for a busy machine.
NOTICED_S = 20 + 10
HEALTHY_S = 240


class Session:
    """What the keeper says and what the processes do, through the files that the cluster rendered."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        manager = cluster.placement.nodes[cluster.spec.manager.name]
        self.manager = manager
        self.settings = json.loads(
            Path(manager.paths.conf, "session", f"keeper-{cluster.placement.login}.json").read_text()
        )

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(Path(self.settings["status_file"]).read_text())
        return document

    def until(self, right: Callable[[dict[str, Any]], bool], what: str, limit_s: float) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            status = self.status()
            if right(status):
                return status
            time.sleep(0.1)
        raise AssertionError(f"not {what} within {limit_s} s: {self.status()}")

    def healthy(self) -> dict[str, Any]:
        return self.until(lambda s: s["state"] == "healthy", "healthy", HEALTHY_S)

    def token(self) -> str:
        return (
            Path(self.settings["secret_environment"]["SPARK_CONNECT_AUTHENTICATE_TOKEN"]).read_text().strip()
        )

    def known_answer(self) -> int:
        with self.cluster.connection.session() as session:
            rows = session.sql("SELECT sum(id) FROM range(0, 1000, 1, 4)").rows()
        answer: int = rows[0][0]
        return answer


@pytest.fixture
def session(cluster: Any) -> Iterator[Session]:
    made = Session(cluster)
    made.healthy()
    yield made
    made.healthy()


def kill_application(session: Session, app_id: str) -> None:
    request = urllib.request.Request(
        f"{session.settings['resourcemanager']}/ws/v1/cluster/apps/{app_id}/state"
        f"?user.name={session.settings['user']}",
        method="PUT",
        data=b'{"state": "KILLED"}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status in (200, 202)


FAULTS = {
    "killed": (lambda session, status: os.kill(status["driver"]["pid"], signal.SIGKILL), "SIGKILL"),
    "frozen": (lambda session, status: os.kill(status["driver"]["pid"], signal.SIGSTOP), "did not answer"),
    "application-killed": (
        lambda session, status: kill_application(session, status["app_id"]),
        "is KILLED|is stopped",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lost_driver_is_noticed_replaced_and_answers_right(session: Session, fault: str) -> None:
    act, reason = FAULTS[fault]
    before = session.healthy()
    started = time.monotonic()
    act(session, before)
    noticed = session.until(
        lambda s: not s["driver"] or s["driver"]["pid"] != before["driver"]["pid"], "noticed", NOTICED_S
    )
    print(f"{fault}: noticed after {time.monotonic() - started:.1f} s: {noticed['last_reason']}")
    after = session.until(
        lambda s: s["state"] == "healthy" and s["restarts"] > before["restarts"], "healthy", HEALTHY_S
    )
    print(f"{fault}: healthy after {time.monotonic() - started:.1f} s")
    assert re.search(reason, after["last_reason"])
    assert after["app_id"] != before["app_id"]
    assert session.known_answer() == 499500


def test_a_killed_resourcemanager_does_not_cost_the_session_its_driver(session: Session) -> None:
    before = session.healthy()
    cluster = session.cluster
    unit = f"{cluster.placement.cluster_id}/{cluster.spec.manager.name}/resourcemanager"
    marker = f"-Drpicluster.unit={unit}".encode()
    victims = [pid for pid, line in command_lines() if any(word == marker for word in line.split(b"\0"))]
    assert len(victims) == 1
    os.kill(victims[0], signal.SIGSTOP)  # its successor might be there before the keeper asks again
    status = session.until(lambda s: s["yarn"].startswith("unknown"), "unsure about YARN", 60)
    assert status["state"] == "healthy"
    os.kill(victims[0], signal.SIGKILL)
    after = session.until(lambda s: s["yarn"] == "RUNNING", "known to YARN again", 180)
    assert (after["driver"], after["app_id"]) == (before["driver"], before["app_id"])
    assert session.known_answer() == 499500


def test_the_session_listens_on_loopback_only(session: Session) -> None:
    pid = session.healthy()["driver"]["pid"]
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            inodes.add(str(link.readlink()))
    addresses = []
    for table, loopback in (("tcp", r"^......7F$"), ("tcp6", r"^0{16}FFFF0000......7F$|^0{24}01000000$")):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and f"socket:[{columns[9]}]" in inodes:
                addresses.append((columns[1], bool(re.match(loopback, columns[1].partition(":")[0]))))
    assert len(addresses) >= 4, addresses  # Connect, UI, driver, block manager
    assert [address for address, is_loopback in addresses if not is_loopback] == []


def command_lines() -> Iterator[tuple[int, bytes]]:
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            yield int(directory.name), (directory / "cmdline").read_bytes()


def files_with(root: Path, token: bytes) -> list[str]:
    """Return the files below `root` that hold the token, the token's own file aside."""
    found = []
    for path in root.rglob("*"):
        with contextlib.suppress(OSError):  # it went meanwhile
            if path.is_file() and token in path.read_bytes():
                found.append(str(path))
    return found


def hdfs_files(session: Session, folder: str) -> Iterator[tuple[str, bytes]]:
    web = session.cluster.connection.webhdfs
    base = f"{web}/webhdfs/v1"
    user = f"user.name={session.cluster.connection.webhdfs_user}"
    try:
        with urllib.request.urlopen(f"{base}{folder}?op=LISTSTATUS&{user}", timeout=20) as answer:
            entries = json.load(answer)["FileStatuses"]["FileStatus"]
    except urllib.error.HTTPError as problem:
        assert problem.code == 404
        return
    for entry in entries:
        path = f"{folder}/{entry['pathSuffix']}"
        if entry["type"] == "DIRECTORY":
            yield from hdfs_files(session, path)
        else:
            with urllib.request.urlopen(f"{base}{path}?op=OPEN&{user}", timeout=60) as answer:
                yield path, answer.read()


def unpacked(content: bytes) -> bytes:
    """Return what a file says; Spark stages its settings as a zip."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return b"\n".join(archive.read(name) for name in archive.namelist())


def test_the_token_is_on_no_command_line_in_no_log_page_staging_file_or_container(session: Session) -> None:
    token = session.token().encode()
    before = session.healthy()
    seen: list[str] = []
    done = threading.Event()

    def look_at_command_lines() -> None:
        while not done.is_set():
            seen.extend(f"{pid}" for pid, line in command_lines() if token in line)
            time.sleep(0.02)

    watcher = threading.Thread(target=look_at_command_lines)
    watcher.start()
    try:
        os.kill(before["driver"]["pid"], signal.SIGKILL)  # so that a start is watched as well
        status = session.until(
            lambda s: s["state"] == "healthy" and s["restarts"] > before["restarts"], "healthy", HEALTHY_S
        )
        assert session.known_answer() == 499500
    finally:
        done.set()
        watcher.join()
    assert seen == []

    ui, app_id = session.settings["ui"], status["app_id"]
    for page in ("/environment/", f"/api/v1/applications/{app_id}/environment"):
        with urllib.request.urlopen(f"{ui}{page}", timeout=20) as answer:
            text = answer.read()
        assert b"spark.app.name" in text
        assert token not in text

    staged = list(hdfs_files(session, f"/user/{session.settings['user']}/.sparkStaging"))
    assert any(app_id in path for path, _ in staged)
    assert [path for path, content in staged if token in unpacked(content)] == []

    own = {session.settings["secret_environment"]["SPARK_CONNECT_AUTHENTICATE_TOKEN"]}
    roots = {
        Path(directory)
        for node in session.cluster.placement.nodes.values()
        for directory in (node.paths.conf, node.paths.data, node.paths.logs, node.paths.run)
    }
    assert {path for root in roots for path in files_with(root, token)} - own == set()
    # The application master and the executors got an environment of their own.
    holders = {status["driver"]["pid"]}
    for directory in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if token in (directory / "environ").read_bytes():
                holders.add(int(directory.name))
    assert holders == {status["driver"]["pid"]}


def test_a_wrong_token_is_refused(session: Session) -> None:
    from rpicluster.services.connect.session import ConnectSession

    connection = session.cluster.connection
    with (
        ConnectSession(
            port=connection.connect_port,
            token="wrong",
            proto_path=Path(connection.proto_path),
            user=connection.user,
        ) as stranger,
        pytest.raises(RpiclusterError),
    ):
        stranger.sql("select 1").rows()
