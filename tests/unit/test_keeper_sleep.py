"""Sessions that nobody uses end, and the next connection starts them: the keeper, and the client's wait."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rpicluster.errors import Unhealthy
from rpicluster.health.probes import session_in_words
from rpicluster.health.waking import wake
from rpicluster.session.keeper.idleness import callers, established

sys.path.insert(0, str(Path(__file__).parent))
from fake_gateway import SESSION
from test_keeper import FakeResourceManager, Session, free_port, until_gone

PATIENCE_S = 1.0


@pytest.fixture(params=["connect", "both"])
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Session]:
    manager = FakeResourceManager()
    made = Session(tmp_path, manager)
    made.config["sleep_after_s"] = PATIENCE_S
    if request.param == "both":
        port = free_port()
        made.config["java"].append(str(port))
        door = {"kind": "sparklyr", "host": "127.0.0.1", "port": port, "session": SESSION, "namespace": "rpi"}
        made.config["doors"].insert(0, door)
    yield made
    if made.keeper is not None:
        made.stop()
    manager.stop()


def door_of(session: Session) -> tuple[str, int]:
    door = session.config["doors"][0]
    return door["host"], door["port"]


def asleep(session: Session) -> dict[str, Any]:
    return session.until(lambda s: s["state"] == "asleep", "asleep")


def test_a_driver_that_nobody_uses_ends_and_a_connection_starts_the_next_one(session: Session) -> None:
    session.start()
    before = session.healthy()
    status = asleep(session)
    assert until_gone(before["driver"]["pid"])
    assert (status["driver"], status["app_id"], status["doors"]) == (None, None, [])
    assert not status["is_waking"]
    session.until(lambda s: s["updated_at"] > status["updated_at"] + 1, "said again")
    assert session.status()["since"] == status["since"]
    with socket.create_connection(door_of(session), timeout=10) as caller:
        assert caller.recv(1) == b"", "it hangs up: the driver will answer"
    waking = session.until(lambda s: s["state"] == "starting", "starting")
    assert waking["is_waking"]
    after = session.healthy()
    assert after["app_id"] not in (None, before["app_id"])
    assert (after["restarts"], after["replaced"], after["is_waking"]) == (0, None, False)
    asleep(session)


@pytest.mark.parametrize("session", ["connect"], indirect=True)
def test_it_stays_while_a_client_is_connected_or_tasks_run(session: Session) -> None:
    session.start()
    started = session.healthy()
    with socket.create_connection(door_of(session)):
        later = session.until(lambda s: s["updated_at"] > started["since"] + 3 * PATIENCE_S, "used")
        assert (later["state"], later["app_id"]) == ("healthy", started["app_id"])
    session.set("running", "1")
    busy = session.until(lambda s: s["updated_at"] > later["updated_at"] + 3 * PATIENCE_S, "used")
    assert (busy["state"], busy["app_id"]) == ("healthy", started["app_id"])
    (session.directory / "running").unlink()
    asleep(session)


@pytest.mark.parametrize("session", ["connect"], indirect=True)
def test_it_never_sleeps_unless_asked_to(session: Session) -> None:
    session.config["sleep_after_s"] = None
    session.start()
    started = session.healthy()
    later = session.until(lambda s: s["updated_at"] > started["since"] + 3 * PATIENCE_S, "unused")
    assert later["state"] == "healthy"


@pytest.mark.parametrize("session", ["connect"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_asleep_can_be_stopped(session: Session, number: int) -> None:
    session.start()
    asleep(session)
    assert session.keeper
    os.kill(session.keeper.pid, number)
    assert session.keeper.wait(timeout=10) == 0
    assert session.status()["state"] == "stopped"


def test_who_is_connected_is_read_from_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert callers({port}, ()) == 0, "a server that listens is no caller"
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, _ = server.accept()
            with served:
                assert callers({port}, ()) == 1
                assert callers({port}, {client.getsockname()[1]}) == 0
                assert callers({client.getsockname()[1]}, {port}) == 0


def test_the_kernels_table_is_understood_for_both_protocols() -> None:
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid inode\n"
    four = "   0: 0100007F:49C0 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 1 1\n"
    six = f"   1: {'0' * 32}:0016 {'0' * 24}0100007F:0050 01 00000000:00000000 00:00000000 0 0 0 1\n"
    gone = four.replace(" 01 ", " 06 ")
    assert list(established(head + four + six + gone)) == [(0x49C0, 0xC350), (22, 80)]


class Door:
    """A session's door and its keeper's report; `report` is what a client reads."""

    def __init__(self, greeting: bytes) -> None:
        self.report: dict[str, Any] | None = None
        self.knocks = 0
        self._greeting = greeting
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            self.knocks += 1
            with caller:
                caller.sendall(self._greeting)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.fixture
def make_door() -> Iterator[Callable[[bytes], Door]]:
    made: list[Door] = []

    def make(greeting: bytes) -> Door:
        made.append(Door(greeting))
        return made[-1]

    yield make
    for door in made:
        door.close()


def never(words: str) -> None:
    raise AssertionError(words)


def test_a_door_that_answers_costs_one_knock_and_no_question(make_door: Callable[[bytes], Door]) -> None:
    door = make_door(b"\0")
    wake("127.0.0.1", door.port, lambda: pytest.fail("nobody needs to ask"), tell=never)
    assert door.knocks == 1


@pytest.mark.parametrize("report", [None, {"state": "restarting"}, {"state": "starting", "is_waking": False}])
def test_a_door_that_is_shut_for_another_reason_is_left_to_the_client(
    make_door: Callable[[bytes], Door], report: dict[str, Any] | None
) -> None:
    wake("127.0.0.1", make_door(b"").port, lambda: report, tell=never)


def test_a_sleeping_session_is_waited_for_and_its_user_told_why(make_door: Callable[[bytes], Door]) -> None:
    door, told = make_door(b""), []
    reports = iter(
        [
            {"state": "ending", "waiting_for": "the driver to end"},
            {"state": "asleep"},
            {"state": "starting", "is_waking": True, "waiting_for": "the driver to answer"},
            {"state": "healthy", "is_waking": False},
        ]
    )
    wake("127.0.0.1", door.port, lambda: next(reports), tell=told.append)
    assert next(reports, None) is None
    assert told == ["the session was asleep, as nobody used it; it starts now …"]
    deadline = time.monotonic() + 5
    while door.knocks < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert door.knocks == 3, "a knock while the driver was ending woke nobody"


def test_one_that_does_not_wake_is_said_with_what_it_waits_for(make_door: Callable[[bytes], Door]) -> None:
    report = {"state": "starting", "is_waking": True, "waiting_for": "YARN to start the application master"}
    with pytest.raises(Unhealthy, match="YARN to start the application master") as raised:
        wake("127.0.0.1", make_door(b"").port, lambda: report, tell=lambda words: None, timeout_s=0.1)
    assert raised.value.hint == "rpicluster status"


def test_status_says_that_it_sleeps_and_that_this_is_fine() -> None:
    words = session_in_words({"state": "asleep", "since": 1000.0, "waiting_for": None}, now=1000.0 + 3 * 3600)
    assert words == ("ok", "asleep for 3 h; the next connection wakes it")
