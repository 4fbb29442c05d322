"""The keeper with both doors, against a driver in a real process."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_gateway import SESSION
from test_keeper import FakeResourceManager, Session, free_port, until_gone


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    manager = FakeResourceManager()
    made = Session(tmp_path, manager)
    port = free_port()
    made.config["java"].append(str(port))
    made.config["doors"].insert(
        0,
        {
            "kind": "sparklyr",
            "host": "127.0.0.1",
            "port": port,
            "session": SESSION,
            "namespace": "rpi.default",
        },
    )
    yield made
    if made.keeper is not None:
        made.stop()
    manager.stop()


def test_a_session_with_both_doors_is_one_application_and_the_keeper_one_client(session: Session) -> None:
    session.start()
    status = session.healthy()
    assert [door["kind"] for door in status["doors"]] == ["sparklyr", "connect"]
    session.until(lambda s: s["last_probe_at"] > status["last_probe_at"] + 1, "probed again")
    assert (session.directory / "clients").read_text() == "1"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("no-gateway", "the sparklyr door: .* cannot be reached"),
        ("stopped", "the SparkContext of .* is stopped"),
    ],
)
def test_a_lost_gateway_or_a_stopped_context_in_a_living_driver_is_replaced(
    session: Session, fault: str, reason: str
) -> None:
    import re

    session.start()
    before = session.healthy()
    session.set(fault)
    after = session.until(lambda s: s["driver"] not in (None, before["driver"]), "replaced")
    (session.directory / fault).unlink(missing_ok=True)
    after = session.healthy(restarts=1)
    assert re.search(reason, after["replaced"]["reason"])
    assert until_gone(before["driver"]["pid"])


def test_a_process_that_a_signal_stopped_is_not_asked_twice(session: Session) -> None:
    session.config["failures_before_restart"] = 1000
    session.start()
    before = session.healthy()
    os.kill(before["driver"]["pid"], signal.SIGSTOP)
    after = session.healthy(restarts=1)
    assert "its process was stopped by a signal" in after["replaced"]["reason"]
    assert until_gone(before["driver"]["pid"])


def test_a_process_that_is_stopped_between_two_questions_is_not_waited_for(session: Session) -> None:
    session.config["probe_interval_s"] = 60
    session.start()
    before = session.healthy()
    os.kill(before["driver"]["pid"], signal.SIGSTOP)
    started = time.monotonic()
    session.healthy(restarts=1)
    assert time.monotonic() - started < 30


def test_no_driver_is_started_while_another_gateway_has_the_port(session: Session) -> None:
    with socket.create_server(("127.0.0.1", session.config["doors"][0]["port"])):
        session.start()
        port = session.config["doors"][0]["port"]
        status = session.until(
            lambda s: s["waiting_for"] == f"127.0.0.1:{port} to become free", "waiting for the port"
        )
        assert status["driver"] is None
    session.healthy()
