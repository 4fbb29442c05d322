"""The keeper's question to sparklyr's gateway, against one with real sockets."""

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rpicluster.session.keeper import wire
from rpicluster.session.keeper.config import Config, Door
from rpicluster.session.keeper.sparklyr import Call, Jobj, SparklyrDoor, framed
from rpicluster.session.keeper.wire import Hopeless, ProbeFailed, StopRequested, TooSlow

sys.path.insert(0, str(Path(__file__).parent))
from fake_gateway import SESSION, FakeGateway

APP = "application_1_0001"
LIFE = "this-life"
TIMEOUT_S = 0.5


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    made = FakeGateway(APP, life=LIFE)
    yield made
    with contextlib.suppress(OSError):  # closed by the test
        made.close()


def door_to(port: int, *, namespace: str = "rpi.default", stopping: Callable[[], bool] | None = None):  # type: ignore[no-untyped-def]
    door = Door("sparklyr", "127.0.0.1", port, SESSION, namespace)
    config = Config(
        name="session-ana",
        java=["java"],
        environment={},
        secret_environment={},
        directory="/",
        log="",
        doors=[door],
        ui="",
        resourcemanager="",
        user="ana",
        status_file="",
        probe_timeout_s=TIMEOUT_S,
    )
    return SparklyrDoor(config, door, LIFE, stopping or (lambda: False))


def until(right: Callable[[], bool], limit_s: float = 5) -> bool:
    deadline = time.monotonic() + limit_s
    while not right() and time.monotonic() < deadline:
        time.sleep(0.01)
    return right()


def answered(door: SparklyrDoor) -> str:
    try:
        return door.ask()
    except TooSlow:
        return ""


def asked(gateway: FakeGateway, method: str) -> int:
    return sum(call[1] == method for call in gateway.calls)


def test_the_first_question_makes_the_context_and_uses_the_namespace(gateway: FakeGateway) -> None:
    assert door_to(gateway.port).ask() == APP
    assert gateway.has_context
    assert [call[1:] for call in gateway.calls] == [
        ("getenv", "RPICLUSTER_DRIVER"),
        ("getBackend",),
        ("builder",),
        ("getOrCreate",),
        ("sparkContext",),
        ("setSparkContext", "context"),
        ("applicationId",),
        ("getProperties",),
        ("get", "rpicluster.clients"),
        ("<init>",),
        ("put", "rpicluster.clients", "clients"),
        ("sql", "USE rpi.default"),
        ("isStopped",),
        ("toString",),
    ]


def test_a_call_is_framed_as_sparklyr_frames_it() -> None:
    # What R writes for invoke(<jobj 7>, "m", "ä", <jobj 8>): core_invoke.R, core_serialize.R.
    body = (
        b"\0\0\0\x027\0" + b"\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\x02m\0" + b"\0\0\0\x02"
        b"c\0\0\0\x03\xc3\xa4\0" + b"j\0\0\0\x028\0"
    )
    assert framed(Call(Jobj("7"), "m", ("ä", Jobj("8")))) == len(body).to_bytes(4, "big") + body


def test_many_questions_are_one_client_and_one_session(gateway: FakeGateway) -> None:
    door = door_to(gateway.port)
    assert {door.ask() for _ in range(30)} == {APP}
    assert (gateway.clients, gateway.clients_ever) == (1, 1)
    assert gateway.knocks == 10, "every third round shows that the gateway takes callers in"
    assert asked(gateway, "getOrCreate") == asked(gateway, "sql") == 1
    assert asked(gateway, "isStopped") == 30


def cancelled(gateway: FakeGateway) -> list[str]:
    return [call[2] for call in gateway.calls if call[1] == "cancelJobGroup"]


def test_what_a_dead_client_left_is_cancelled_and_dropped_and_others_keep_theirs(
    gateway: FakeGateway,
) -> None:
    door = door_to(gateway.port)
    with socket.create_server(("127.0.0.1", 0)) as port_of_one_that_lives:
        living = f"rpicluster-7-1-1764000000000-{port_of_one_that_lives.getsockname()[1]}"
        with socket.create_server(("127.0.0.1", 0)) as closed:
            dead = f"rpicluster-8-1-1764000000001-{closed.getsockname()[1]}"
        before_on_this_port = living.replace("rpicluster-7-1-1764000000000", "rpicluster-6-1-1763999999999")
        gateway.register = {before_on_this_port: ["old"], living: ["kept"], dead: ["a", "b`,`c"]}
        assert door.ask() == APP
        assert gateway.register == {living: ["kept"]}
        assert sorted(cancelled(gateway)) == sorted([before_on_this_port, dead])
        assert ("get", dead) in [call[2] for call in gateway.calls if call[1] == "%>%"]
        door.ask()
        assert len(cancelled(gateway)) == 2, "once"


def test_a_second_visit_finds_the_register_of_the_first(gateway: FakeGateway) -> None:
    door = door_to(gateway.port)
    door.ask()
    door.close()
    door.ask()
    assert asked(gateway, "<init>") == asked(gateway, "put") == 1


@pytest.mark.parametrize("method", ["listLocalTempViews", "dropTempView"])
def test_a_client_whose_views_cannot_be_dropped_is_said_once_and_costs_no_more(
    gateway: FakeGateway, method: str
) -> None:
    door = door_to(gateway.port)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        dead = f"rpicluster-8-1-1764000000001-{closed.getsockname()[1]}"
    gateway.register = {dead: ["a"]}
    gateway.fails = method
    with pytest.raises(ProbeFailed, match="IllegalStateException: no"):
        door.ask()
    assert gateway.register == {}
    assert door.ask() == APP


def test_leaving_leaves_nothing_in_the_driver(gateway: FakeGateway) -> None:
    door = door_to(gateway.port)
    door.ask()
    door.close()
    assert until(lambda: gateway.clients == 0)
    assert door.ask() == APP, "and one can come back"
    assert gateway.clients == 1


def test_a_context_that_takes_long_is_waited_for_over_several_rounds(gateway: FakeGateway) -> None:
    gateway.context_may_come.clear()
    door = door_to(gateway.port)
    said: list[str] = []

    def waited_twice() -> bool:
        with pytest.raises(TooSlow) as caught:
            door.ask()
        said.append(str(caught.value))
        return sum("did not answer within 0.5 s: it is making the SparkContext" in line for line in said) > 1

    # A busy machine may need more than one round to come as far as that.
    assert until(waited_twice, limit_s=60), said
    gateway.context_may_come.set()
    assert until(lambda: answered(door) == APP, limit_s=60)
    assert asked(gateway, "getOrCreate") == 1, "asking again would make another one"
    assert gateway.clients_ever == 1


@pytest.mark.parametrize("cut_at", [2, 4, 5, 8, 9])
def test_an_answer_that_a_round_saw_the_start_of_is_read_whole_by_the_next(
    gateway: FakeGateway, cut_at: int
) -> None:
    gateway.context_takes_s, gateway.context_comes_cut_at = 2 * TIMEOUT_S, cut_at
    door = door_to(gateway.port)
    with pytest.raises(TooSlow):
        door.ask()
    assert until(lambda: answered(door) == APP)
    assert asked(gateway, "getOrCreate") == 1 == gateway.clients_ever


def test_a_call_that_a_round_had_no_time_to_send_is_sent_by_the_next(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    late_s = 0.0
    monkeypatch.setattr(wire, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + late_s))
    cut_short = 0
    for round_ends_at in range(2, 40):
        looks = iter(range(40))

        def stopping(looks: Iterator[int] = looks, end: int = round_ends_at) -> bool:
            nonlocal late_s
            if next(looks, 0) == end:  # the keeper was held up, before this look at the clock
                late_s += 2 * TIMEOUT_S
            return False

        door = door_to(gateway.port, stopping=stopping)
        try:
            assert door.ask() == APP
        except TooSlow:
            cut_short += 1
            assert door.ask() == APP
        door.close()
    assert cut_short >= 10


def test_a_gateway_that_is_slow_to_let_the_keeper_in_is_asked_again(gateway: FakeGateway) -> None:
    gateway.greeting_takes_s = 2 * TIMEOUT_S
    door = door_to(gateway.port)
    for _ in range(2):
        with pytest.raises(TooSlow, match="did not answer"):
            door.ask()
    gateway.greeting_takes_s = 0
    assert door.ask() == APP
    assert until(lambda: gateway.clients == 1), "those that were given up have left"


def test_a_context_that_cannot_be_made_is_no_use_asking_again(gateway: FakeGateway) -> None:
    gateway.context_fails = "IllegalStateException: Spark context stopped while waiting for backend"
    with pytest.raises(Hopeless, match=r"could not be made: .*stopped while waiting for backend$"):
        door_to(gateway.port).ask()
    assert until(lambda: gateway.clients == 0)


def test_a_namespace_that_is_not_there_yet_is_asked_for_again(gateway: FakeGateway) -> None:
    gateway.uses_fail = 2
    door = door_to(gateway.port)
    for _ in range(2):
        with pytest.raises(TooSlow, match=r"rpi\.default cannot be used: .*SCHEMA_NOT_FOUND"):
            door.ask()
    assert door.ask() == APP
    assert asked(gateway, "sql") == 3 and asked(gateway, "getOrCreate") == 1


def test_a_stopped_context_is_no_use_asking_again(gateway: FakeGateway) -> None:
    door = door_to(gateway.port)
    door.ask()
    gateway.stopped = lambda: True
    with pytest.raises(Hopeless, match=f"the SparkContext of {APP} is stopped"):
        door.ask()


def test_one_late_answer_is_taken_in_the_next_round(gateway: FakeGateway) -> None:
    door = door_to(gateway.port)
    door.ask()

    def slow() -> bool:
        gateway.stopped = lambda: False
        time.sleep(1.5 * TIMEOUT_S)
        return False

    gateway.stopped = slow
    with pytest.raises(TooSlow, match=r"did not answer within 0\.5 s"):
        door.ask()
    time.sleep(TIMEOUT_S)
    assert door.ask() == APP
    assert gateway.clients_ever == 1
    assert asked(gateway, "isStopped") == 2


@pytest.mark.parametrize("how", ["another life", "guest of another gateway"])
def test_a_gateway_of_another_program_is_not_taken_for_ours(gateway: FakeGateway, how: str) -> None:
    if how == "another life":
        gateway.life = "another-life"
    else:
        gateway.redirect = gateway.port + 1
    with pytest.raises(Hopeless, match="is the gateway of another program"):
        door_to(gateway.port).ask()
    assert not gateway.has_context, "nothing is started in somebody else's driver"


def test_what_is_no_gateway_is_named_so(gateway: FakeGateway) -> None:
    gateway.garbage = b"HTTP/1.1 400 Bad Request\r\n\r\n"
    with pytest.raises(ProbeFailed, match="does not speak sparklyr's protocol"):
        door_to(gateway.port).ask()


def test_a_gateway_that_accepts_and_says_nothing_does_not_hold_the_keeper_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        started = time.monotonic()
        with pytest.raises(TooSlow, match="did not answer"):
            door_to(mute.getsockname()[1]).ask()
        assert time.monotonic() - started < TIMEOUT_S + 1


def test_a_dead_gateway_is_refused_at_once_and_a_new_one_is_visited_anew(gateway: FakeGateway) -> None:
    door = door_to(gateway.port)
    door.ask()
    gateway.close()
    for _ in range(2):  # its own connection stands
        assert door.ask() == APP
    for _ in range(2):
        with pytest.raises(ProbeFailed, match="Connection refused"):
            door.ask()
    successor = FakeGateway(APP, port=gateway.port, life=LIFE)
    try:
        door.close()
        assert door.ask() == APP
        assert successor.clients == 1
    finally:
        successor.close()


def test_a_stop_ends_the_wait_for_the_context(gateway: FakeGateway) -> None:
    gateway.context_takes_s = 5
    stop = threading.Event()
    door = door_to(gateway.port, stopping=stop.is_set)
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with pytest.raises(StopRequested):
        door.ask()
    assert time.monotonic() - started < TIMEOUT_S + 0.5
