"""The driver that stands beside a run: asked until it answers, missed when it dies, ended with the script."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from batch_here import runs_in, silent, start

from rpicluster.design import batch

FAKE_DRIVER = Path(__file__).with_name("fake_driver.py")
# Any address of loopback is this machine's.
HOST = "127.0.0.1"
LOOK = """\
import json, os, time
import rpicluster
path = os.environ["RPICLUSTER_CONNECTION"]
print(json.dumps({**json.load(open(path)), "token_in_environment": [n for n in os.environ if "TOKEN" in n]}))
print("looked", flush=True)
while os.path.exists(os.environ["RPICLUSTER_STATE_DIR"]): time.sleep(0.1)
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs whose driver is the fake one; the script goes on as long as the folder `state-dir` is there."""
    (tmp_path / "fake").mkdir()
    (tmp_path / "state-dir").mkdir()
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state-dir"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    command = [sys.executable, str(FAKE_DRIVER), str(tmp_path / "fake"), "@connect@", "@spark_driver@"]
    monkeypatch.setattr(batch, "_driver", lambda *_: command)
    given = batch._ports

    def here(*arguments):
        return {name: {**about, "host": HOST} for name, about in given(*arguments).items()}

    monkeypatch.setattr(batch, "_ports", here)
    found = runs_in(tmp_path)
    yield found
    (tmp_path / "state-dir").rmdir() if (tmp_path / "state-dir").exists() else None
    for record in found.all():
        if not record.is_final:
            found.kill(record.id)


def until(true, what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def app_of(folder: Path) -> int:
    """Return the pid of the fake driver, which is the end of its application's id."""
    return int((folder / "fake" / "app_id").read_text().rpartition("_")[2])


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_the_script_starts_when_the_driver_answers_and_the_driver_ends_with_it(runs, tmp_path):
    run = start(runs, tmp_path, LOOK)
    until(lambda: b"looked" in runs.log(run), "the script")
    told = json.loads(runs.log(run).splitlines()[0])
    folder = Path(runs._root) / run
    assert told["token_file"] == str(folder / "token")
    assert told["connect_port"] in batch._LOCAL_PORTS
    assert told["token_in_environment"] == [], "the script reads the file"
    token = (folder / "token").read_text().strip()
    assert len(token) > 40
    driver = app_of(tmp_path)
    assert token.encode() not in Path(f"/proc/{driver}/cmdline").read_bytes()
    assert runs.one(run).application == (tmp_path / "fake" / "app_id").read_text()
    (tmp_path / "state-dir").rmdir()
    assert runs.follow(run, show=silent, say=silent).exit_code == 0
    assert not alive(driver)


def test_a_driver_that_dies_at_its_start_is_told_with_its_own_words(runs, tmp_path):
    (tmp_path / "fake" / "dies").write_text("")
    record = runs.follow(start(runs, tmp_path, LOOK), show=silent, say=silent)
    assert (record.state, record.exit_code) == ("failed", None)
    assert record.reason.startswith("its driver did not start: ended with exit code 1: Exception in thread")
    assert "no DataNode" in record.reason


def test_a_driver_that_never_answers_is_given_up_with_what_was_waited_for(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "START_TIMEOUT_S", 3)
    monkeypatch.setattr(batch, "_driver", lambda *_: ["/bin/sleep", "300"])
    said: list[str] = []
    record = runs.follow(start(runs, tmp_path, LOOK), show=silent, say=said.append)
    assert record.reason == "its driver did not start: no answer within 3 s; it waited for it to listen"
    assert said == ["waiting for its driver: it to listen"]


def test_a_driver_that_dies_under_the_script_is_told_in_the_log_once(runs, tmp_path):
    run = start(runs, tmp_path, LOOK)
    until(lambda: b"looked" in runs.log(run), "the script")
    os.kill(app_of(tmp_path), signal.SIGKILL)
    until(lambda: b"is gone" in runs.log(run), "the log")
    (tmp_path / "state-dir").rmdir()
    record = runs.follow(run, show=silent, say=silent)
    assert (record.state, record.exit_code) == ("ended", 0)
    assert runs.log(run).count(b"rpicluster: the driver of this run is gone: ended by SIGKILL") == 1


def test_a_run_that_is_killed_while_its_driver_starts_leaves_no_driver(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "_driver", lambda *_: ["/bin/sleep", "301.5"])
    run = start(runs, tmp_path, LOOK)
    assert runs.kill(run).state == "killed"
    assert not [p for p in Path("/proc").iterdir() if p.name.isdigit() and b"301.5" in _command(p)]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
