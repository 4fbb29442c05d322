"""The keeper against a driver with real sockets in a real process, and a ResourceManager that can go away."""

import ast
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpicluster.session import keeper
from rpicluster.session.keeper import config, processes

SOURCES = Path(keeper.__file__).parent
KEEPER = SOURCES / "__main__.py"
FAKE_DRIVER = Path(__file__).with_name("fake_driver.py")
TOKEN = "the-token-that-nobody-may-see"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class FakeResourceManager:
    """A ResourceManager's three answers: one application, all applications of a user, and a kill."""

    def __init__(self) -> None:
        self.state = "RUNNING"
        self.leftovers: list[dict[str, Any]] = []
        self.killed: list[str] = []
        self.safe_mode = ""
        manager = self

        class Rest(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.startswith("/jmx?"):
                    self.answer({"beans": [{"Safemode": manager.safe_mode}]})
                elif "?states=" in self.path:
                    live = [app for app in manager.leftovers if app["id"] not in manager.killed]
                    self.answer({"apps": {"app": live} if live else None})
                else:
                    self.answer(
                        {"app": {"state": manager.state, "diagnostics": "Application killed by user ana."}}
                    )

            def do_PUT(self) -> None:
                manager.killed.append(self.path.split("/")[5])
                self.answer({"state": "KILLING"})

            def answer(self, document: Any) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, *unused: object) -> None:
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Rest)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Session:
    """One keeper with its configuration, in a directory of its own."""

    def __init__(self, directory: Path, manager: FakeResourceManager) -> None:
        self.directory = directory
        self.manager = manager
        self.keeper: subprocess.Popen[bytes] | None = None
        secret = directory / "token"
        secret.write_text(TOKEN + "\n")
        secret.chmod(0o600)
        port, ui_port = free_port(), free_port()
        self.config: dict[str, Any] = {
            "schema": 1,
            "name": "session-ana",
            "java": [sys.executable, str(FAKE_DRIVER), str(directory), str(port), str(ui_port)],
            "environment": {"GRPC_VERBOSITY": "NONE"},
            "secret_environment": {"SPARK_CONNECT_AUTHENTICATE_TOKEN": str(secret)},
            "directory": str(directory),
            "log": str(directory / "driver.log"),
            "doors": [{"kind": "connect", "host": "127.0.0.1", "port": port}],
            "ui": f"http://127.0.0.1:{ui_port}",
            "resourcemanager": manager.url,
            "user": "ana",
            "probe_interval_s": 0.2,
            "probe_timeout_s": 1,
            "start_timeout_s": 20,
            "failures_before_restart": 2,
            "status_file": str(directory / "status.json"),
            "chores": [],
        }

    def set(self, name: str, content: str = "") -> None:
        (self.directory / name).write_text(content)

    def start(self) -> None:
        path = self.directory / "keeper.json"
        path.write_text(json.dumps(self.config))
        self.keeper = subprocess.Popen(
            [sys.executable, str(KEEPER), str(path)],
            stdout=(self.directory / "keeper.log").open("ab"),
            stderr=subprocess.STDOUT,
        )

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.directory / "status.json").read_text())
        return document

    def until(
        self, right: Callable[[dict[str, Any]], bool], what: str, limit_s: float = 60
    ) -> dict[str, Any]:
        deadline = time.monotonic() + limit_s
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            if (self.directory / "status.json").exists():
                status = self.status()
                if right(status):
                    return status
            time.sleep(0.02)
        raise AssertionError(f"not {what} within {limit_s} s: {status}; {self.words()}")

    def healthy(self, restarts: int = 0) -> dict[str, Any]:
        return self.until(lambda s: s["state"] == "healthy" and s["restarts"] >= restarts, "healthy")

    def words(self) -> str:
        return (self.directory / "keeper.log").read_text()

    def stop(self) -> int:
        assert self.keeper is not None
        if self.keeper.poll() is None:
            self.keeper.terminate()
        return self.keeper.wait(timeout=20)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    manager = FakeResourceManager()
    made = Session(tmp_path, manager)
    yield made
    if made.keeper is not None:
        made.stop()
    manager.stop()


def alive(pid: int) -> bool:
    return processes.process_stat(pid)[0] not in ("", "Z")


def until_gone(pid: int, limit_s: float = 10) -> bool:
    deadline = time.monotonic() + limit_s
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive(pid)


def test_a_session_that_answers_is_healthy_and_the_status_says_how_fast(session: Session) -> None:
    session.start()
    status = session.healthy()
    assert status["app_id"] == (session.directory / "app_id").read_text()
    assert status["yarn"] == "RUNNING"
    assert status["doors"][0]["kind"] == "connect"
    assert 0 <= status["doors"][0]["answer_ms"] <= 1000
    assert status["waiting_for"] is None
    assert (session.directory / "status.json").stat().st_mode & 0o777 == 0o644


def test_all_probes_of_one_driver_use_one_session(session: Session) -> None:
    session.start()
    session.healthy()

    def asked() -> list[str]:
        return (session.directory / "sessions").read_text().split()

    session.until(lambda unused_status: len(asked()) >= 4, "probed four times")
    assert len(set(asked())) == 1


@pytest.mark.parametrize(
    ("number", "reason"),
    [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "did not answer")],
    ids=["dead", "frozen"],
)
def test_a_dead_or_frozen_driver_is_replaced(session: Session, number: int, reason: str) -> None:
    session.start()
    before = session.healthy()
    os.kill(before["driver"]["pid"], number)
    after = session.healthy(restarts=1)
    assert after["driver"]["pid"] != before["driver"]["pid"]
    assert after["app_id"] != before["app_id"]
    assert reason in after["last_reason"]
    assert until_gone(before["driver"]["pid"])


def test_a_context_that_stopped_in_a_living_driver_is_noticed_though_the_door_answers(
    session: Session,
) -> None:
    session.start()
    before = session.healthy()
    session.set("no-ui")
    after = session.healthy(restarts=1)
    assert after["driver"]["pid"] != before["driver"]["pid"]
    assert "the SparkContext is stopped or stuck" in after["last_reason"]


@pytest.mark.parametrize("state", ["KILLED", "FAILED", "FINISHED"])
def test_an_application_that_yarn_ended_is_replaced_at_the_first_answer(session: Session, state: str) -> None:
    session.config["failures_before_restart"] = 1000
    session.start()
    session.healthy()
    session.manager.state = state
    after = session.until(lambda s: s["restarts"] >= 1, "replaced")
    session.manager.state = "RUNNING"
    assert f"is {state}: Application killed by user ana." in after["last_reason"]
    session.healthy(restarts=1)


def test_an_unreachable_resourcemanager_is_no_reason_to_end_the_driver(session: Session) -> None:
    session.start()
    before = session.healthy()
    session.manager.stop()
    status = session.until(lambda s: s["yarn"].startswith("unknown"), "unsure about YARN")
    later = session.until(lambda s: s["last_probe_at"] > status["last_probe_at"] + 1, "probed again")
    assert later["state"] == "healthy"
    assert later["driver"] == before["driver"]
    assert "Connection refused" in later["yarn"]


def test_one_slow_answer_does_not_replace_the_driver(session: Session) -> None:
    session.start()
    before = session.healthy()
    session.set("slow", "1.3")
    status = session.until(lambda s: s["last_reason"] is not None, "noticed")
    assert "did not answer within 1 s" in status["last_reason"]
    after = session.until(lambda s: s["state"] == "healthy", "healthy again")
    assert (after["restarts"], after["driver"]) == (0, before["driver"])


def test_a_door_that_refuses_the_token_says_so_in_plain_words(session: Session) -> None:
    session.config["start_timeout_s"] = 2
    session.config["secret_environment"] = {}
    session.config["environment"]["SPARK_CONNECT_AUTHENTICATE_TOKEN"] = "another one"
    session.start()
    status = session.until(lambda s: s["last_reason"] is not None, "given up")
    assert "it refused the token: Invalid token: kein SchlÃ¼ssel" not in status["last_reason"]
    assert "it refused the token: Invalid token: kein Schlüssel" in status["last_reason"]


def test_a_wait_for_the_application_master_is_told_in_yarns_words(session: Session) -> None:
    session.config["java"] = ["/bin/sleep", "100"]
    session.start()
    session.until(lambda s: s["driver"] is not None, "started")
    session.manager.leftovers = [
        {
            "id": "application_1_2",
            "name": "session-ana",
            "state": "ACCEPTED",
            "diagnostics": "Queue's AM limit\nexceeded",
        }
    ]
    status = session.until(lambda s: "application_1_2" in (s["waiting_for"] or ""), "waiting for YARN")
    assert status["waiting_for"].endswith("Queue's AM limit exceeded")


def test_no_driver_is_started_while_hdfs_is_in_safe_mode(session: Session) -> None:
    session.config["namenode"] = session.manager.url
    session.manager.safe_mode = "Safe mode is ON."
    session.start()
    status = session.until(lambda s: s["waiting_for"] == "HDFS to leave safe mode", "waiting for HDFS")
    assert status["driver"] is None
    session.manager.safe_mode = ""
    assert session.healthy()["restarts"] == 0


def test_a_namenode_that_never_answers_does_not_keep_the_driver_from_its_own_error(session: Session) -> None:
    session.config["namenode"] = f"http://127.0.0.1:{free_port()}"
    session.config["start_timeout_s"] = 2
    session.set("dies")
    session.start()
    status = session.until(lambda s: s["last_reason"] is not None, "failed")
    assert "no DataNode" in status["last_reason"]


def test_sigterm_stops_the_driver_and_ends_the_keeper_with_0(session: Session) -> None:
    session.start()
    pid = session.healthy()["driver"]["pid"]
    assert session.stop() == 0
    assert not alive(pid)
    status = session.status()
    assert (status["state"], status["driver"]) == ("stopped", None)


def test_sigterm_also_ends_a_driver_that_ignores_it_and_everything_it_started(session: Session) -> None:
    session.set("deaf")
    session.set("child")
    session.start()
    pid = session.healthy()["driver"]["pid"]
    child = int((session.directory / "child").read_text())
    started = time.monotonic()
    assert session.stop() == 0
    assert time.monotonic() - started < 15
    assert not alive(pid)
    assert until_gone(child)


def test_sigterm_is_obeyed_while_the_keeper_waits_for_an_answer(session: Session) -> None:
    session.config["probe_timeout_s"] = 60
    session.start()
    pid = session.healthy()["driver"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    time.sleep(0.5)
    started = time.monotonic()
    assert session.stop() == 0
    assert time.monotonic() - started < 3
    assert not alive(pid)


def test_a_killed_keeper_takes_its_driver_along_and_the_next_one_starts_at_once(session: Session) -> None:
    session.start()
    pid = session.healthy()["driver"]["pid"]
    assert session.keeper is not None
    session.keeper.kill()
    session.keeper.wait(timeout=5)
    assert until_gone(pid)
    session.start()
    session.until(lambda s: s["state"] == "healthy" and s["driver"]["pid"] != pid, "healthy again")


def test_a_driver_that_outlived_its_keeper_is_ended_and_a_stranger_with_its_pid_is_not(
    session: Session,
) -> None:
    outlived, stranger = (subprocess.Popen(["sleep", "100"], start_new_session=True) for _ in range(2))
    try:
        stale = processes.identity(stranger.pid)
        session.set("status.json", json.dumps({"driver": {**stale, "start_ticks": stale["start_ticks"] - 1}}))
        session.start()
        session.until(lambda s: s.get("state") == "healthy", "healthy")
        session.stop()
        assert stranger.poll() is None
        session.set("status.json", json.dumps({"driver": processes.identity(outlived.pid)}))
        session.start()
        assert outlived.wait(timeout=10) == -signal.SIGKILL
        session.until(lambda s: s.get("state") == "healthy", "healthy")
    finally:
        for process in (outlived, stranger):
            process.kill()
            process.wait(timeout=5)


def test_a_second_keeper_of_the_same_session_is_refused(session: Session) -> None:
    session.start()
    before = session.healthy()
    path = session.directory / "keeper.json"
    second = subprocess.run(
        [sys.executable, str(KEEPER), str(path)], capture_output=True, text=True, timeout=10, check=False
    )
    assert second.returncode == 2
    assert f"another keeper (process {before['keeper_pid']})" in second.stderr
    assert session.status()["driver"] == before["driver"]


def test_a_taken_port_is_named_and_the_driver_starts_when_it_is_free(session: Session) -> None:
    port = session.config["doors"][0]["port"]
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        session.start()
        status = session.until(lambda s: "to become free" in (s["waiting_for"] or ""), "waiting")
        assert f"127.0.0.1:{port}" in status["waiting_for"]
        assert status["driver"] is None
    session.healthy()


def test_a_driver_that_dies_at_its_start_is_retried_with_pauses_and_its_last_words_are_shown(
    session: Session,
) -> None:
    session.set("dies")
    session.start()
    status = session.until(lambda s: s["state"] == "backoff", "backing off")
    assert "ended with exit code 1" in status["last_reason"]
    assert 'Exception in thread "main" java.io.IOException: no DataNode' in status["last_reason"]
    assert "failure 2 in a row" in status["waiting_for"]
    (session.directory / "dies").unlink()
    session.healthy(restarts=2)


def test_a_driver_that_cannot_be_started_is_told_with_its_cause(session: Session) -> None:
    session.config["java"] = ["/nowhere/bin/java"]
    session.start()
    status = session.until(lambda s: s["last_reason"] is not None, "failed")
    assert "the driver cannot be started" in status["last_reason"]
    assert "/nowhere/bin/java" in status["last_reason"]


def test_an_application_left_by_an_earlier_driver_is_ended_before_the_next_start(session: Session) -> None:
    session.manager.leftovers = [
        {"id": "application_1_1", "name": "session-ana", "state": "RUNNING"},
        {"id": "application_1_9", "name": "a batch job", "state": "RUNNING"},
    ]
    session.start()
    session.healthy()
    assert session.manager.killed == ["application_1_1"]


def test_the_token_is_in_the_drivers_environment_and_nowhere_else(session: Session) -> None:
    session.start()
    pid = session.healthy()["driver"]["pid"]
    assert session.keeper is not None
    assert TOKEN in Path(f"/proc/{pid}/environ").read_text()
    for process in (pid, session.keeper.pid):
        assert TOKEN not in Path(f"/proc/{process}/cmdline").read_text()
    session.stop()
    files = [path for path in session.directory.iterdir() if path.name != "token"]
    assert files
    assert [path.name for path in files if TOKEN in path.read_text()] == []


def test_a_secret_that_others_may_read_starts_nothing(session: Session) -> None:
    (session.directory / "token").chmod(0o640)
    session.start()
    assert session.keeper is not None
    assert session.keeper.wait(timeout=10) == 2
    assert "mode 0600" in session.words()
    assert "0640" in session.words()
    assert not (session.directory / "driver.log").exists()


def test_the_drivers_environment_holds_nothing_of_the_keepers_own(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dsurprise")
    session.start()
    pid = session.healthy()["driver"]["pid"]
    assert b"JAVA_TOOL_OPTIONS" not in Path(f"/proc/{pid}/environ").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, '"schema" must be 1'),
        (
            {"doors": [{"kind": "window", "host": "127.0.0.1", "port": 1}]},
            "unknown kind 'window'; known: connect",
        ),
        ({"doors": []}, "must not be empty"),
        ({"colour": "blue"}, "colour"),
        ({"doors": [{"kind": "connect"}]}, "host"),
    ],
)
def test_a_wrong_configuration_is_refused_with_the_key(
    session: Session, change: dict[str, Any], words: str
) -> None:
    path = session.directory / "keeper.json"
    path.write_text(json.dumps({**session.config, **change}))
    with pytest.raises(config.ConfigError) as refusal:
        config.load_config(str(path))
    assert words in str(refusal.value)
    assert str(path) in str(refusal.value)


def test_the_keeper_is_python_3_8_with_its_standard_library_alone() -> None:
    sources = {path.stem: path.read_text() for path in SOURCES.glob("*.py")}
    assert {"__init__", "__main__", "loop"} <= set(sources)
    nodes = [node for text in sources.values() for node in ast.walk(ast.parse(text, feature_version=(3, 8)))]
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    froms = {(node.level, node.module or "") for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {name for level, name in froms if not level}
    newer = {"tomllib", "zoneinfo", "graphlib"}
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names) - newer
    assert {(level, name) for level, name in froms if level} <= {(1, name) for name in sources}


def test_the_keepers_files_alone_are_a_program_and_leave_no_other_files(session: Session) -> None:
    place = session.directory / "session" / "keeper"
    place.mkdir(parents=True)
    for source in SOURCES.glob("*.py"):
        shutil.copy(source, place)
    path = session.directory / "keeper.json"
    path.write_text(json.dumps({**session.config, "schema": 2}))
    alone = [sys.executable, "-I", "-S"]  # without site-packages, PYTHONPATH and the like
    there = "import importlib.util, sys; sys.exit(importlib.util.find_spec('rpicluster') is not None)"
    assert subprocess.run([*alone, "-c", there], timeout=10, check=False).returncode == 0
    command = [*alone, str(place / "__main__.py"), str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == f'keeper: {path}: "schema" must be 1\n'
    assert {file.name for file in place.parent.rglob("*")} == {
        "keeper",
        *(source.name for source in SOURCES.glob("*.py")),
    }
