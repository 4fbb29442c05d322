import json
import time

import pytest

from rpicluster.errors import Unhealthy, Unreachable
from rpicluster.health.readiness import wait_for
from rpicluster.health.status import Part, Probe, Status, ask_all


def refuse() -> tuple[str, str]:
    raise Unreachable("ResourceManager at 127.1.1.1:8088 refused the connection\nmore")


def sleep() -> tuple[str, str]:
    time.sleep(30)
    return "ok", "late"


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
