import json
import time

import pytest

from rpicluster.errors import Unhealthy, Unreachable
from rpicluster.health.probes import session_in_words
from rpicluster.health.readiness import wait_for
from rpicluster.health.status import Part, Probe, Status, ask_all


def refuse() -> tuple[str, str]:
    raise Unreachable("ResourceManager at 127.1.1.1:8088 refused the connection\nmore")


def sleep() -> tuple[str, str]:
    time.sleep(30)
    return "ok", "late"


REPORT = {
    "state": "healthy",
    "app_id": "application_1_0002",
    "driver": {"pid": 7},
    "restarts": 0,
    "replaced": None,
    "doors": [{"kind": "sparklyr"}, {"kind": "connect"}],
    "waiting_for": None,
    "last_reason": None,
}


def test_a_session_says_in_plain_words_what_happened_to_it():
    state, words = session_in_words(REPORT, now=1000)
    assert (state, words) == (
        "ok",
        "application_1_0002, driver process 7, open to sparklyr and Spark Connect",
    )
    killed = {"at": 400, "reason": "the driver was killed by SIGKILL"}
    _, words = session_in_words({**REPORT, "restarts": 3, "replaced": killed}, now=1000)
    assert words.endswith("; replaced 3 times, last 10 min ago: the driver was killed by SIGKILL")
    waits = {"state": "starting", "waiting_for": "its ports"}
    state, words = session_in_words({**REPORT, **waits, "restarts": 1, "replaced": killed}, now=1000)
    assert state == "starting"
    assert words == "its ports; the driver before was given up: the driver was killed by SIGKILL"


def test_a_report_of_an_older_keeper_is_understood():
    report = {key: value for key, value in REPORT.items() if key not in ("replaced", "doors")}
    assert session_in_words(report, now=0) == ("ok", "application_1_0002, driver process 7")


def test_a_part_that_hangs_is_silent_and_keeps_nobody_waiting():
    started = time.monotonic()
    parts = ask_all(
        [
            Probe("namenode", "m", lambda: ("ok", "2 DataNodes")),
            Probe("resourcemanager", "m", refuse),
            Probe("session", "m", sleep),
        ],
        deadline_s=0.3,
    )
    assert time.monotonic() - started < 1
    assert [part.state for part in parts] == ["ok", "down", "silent"]
    assert parts[1].detail == "ResourceManager at 127.1.1.1:8088 refused the connection"


def test_the_first_part_that_is_not_fine_is_the_cause():
    status = Status(
        "demo", (Part("a", "m", "ok", ""), Part("b", "m", "frozen", "stopped"), Part("c", "m", "down", "x"))
    )
    assert not status.healthy
    assert status.cause == "b on m is frozen: stopped"
    assert json.loads(json.dumps(status.document()))["healthy"] is False


@pytest.mark.parametrize("count", [0, 40])
def test_any_number_of_parts_that_are_fine_is_healthy(count):
    status = Status("demo", ask_all([Probe(f"p{i}", "m", lambda: ("ok", "")) for i in range(count)]))
    assert status.healthy
    assert status.cause is None
    assert len(status.parts) == count


def test_waiting_ends_as_soon_as_nothing_is_missing():
    answers = iter(["a", "b", None])
    said = []
    wait_for("x", lambda: next(answers), timeout_s=5, report=said.append, poll_s=0)
    assert said == ["a", "b"]


def test_waiting_in_vain_says_what_was_missing_last():
    with pytest.raises(Unhealthy, match=r"for HDFS, in vain: ResourceManager at .* refused"):
        wait_for("HDFS", refuse, timeout_s=0.05, report=lambda text: None, poll_s=0.01)
