"""A result that nobody reads to its end, and that the garbage collector finds at the worst moment."""

import gc
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock

from rpicluster.services.connect.door import Door
from rpicluster.services.connect.execution import Execution

PATIENCE_S = 10.0


class LockedChannel:
    """Like gRPC's channel: every call takes one lock, which no thread can take twice."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.asked: list[str] = []
        self.released = threading.Event()

    def unary_stream(self, name: str, **_: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            answers = Mock()
            answers.__next__ = Mock(return_value=Mock(HasField=lambda field: False, response_id="1"))
            answers.cancel = lambda: self._take("cancel")
            return answers

        return call

    def unary_unary(self, name: str, **_: Any) -> Any:
        method = name.rpartition("/")[2]

        def call(*_: Any, **__: Any) -> Any:
            self._take(method)
            return Mock(server_side_session_id="")

        call.future = call  # type: ignore[attr-defined]
        return call

    def close(self) -> None:
        self._take("close")

    def _take(self, name: str) -> None:
        assert self.lock.acquire(timeout=PATIENCE_S), f"{name} waits for a lock that its own thread holds"
        self.asked.append(name)
        self.lock.release()
        if name == "ReleaseExecute":
            self.released.set()


def half_read() -> tuple[Any, LockedChannel, Door]:
    door = Door(host="127.0.0.1", port=1, token=None, proto_path=Path("nowhere"), user="u")
    door._messages = Mock()
    channel = LockedChannel()
    door._connect = lambda: channel  # type: ignore[method-assign]
    answers = iter(Execution(door, "session", Mock()))
    next(answers)
    return answers, channel, door


def test_a_half_read_result_is_given_up_even_while_its_thread_is_inside_of_grpc() -> None:
    answers, channel, door = half_read()
    cycle: list[Any] = [answers]
    cycle.append(cycle)  # only the garbage collector can free it now
    with channel.lock:
        del answers, cycle
        gc.collect()
    assert channel.released.wait(PATIENCE_S)
    assert channel.asked == ["cancel", "Interrupt", "cancel", "ReleaseExecute"]
    door.close()


def test_closing_waits_for_what_was_given_up_and_ends_its_thread() -> None:
    answers, channel, door = half_read()
    worker = next(thread for thread in threading.enumerate() if thread.name == "connect-afterwards")
    answers.close()
    door.close()
    assert channel.asked == ["cancel", "Interrupt", "cancel", "ReleaseExecute", "close"]
    assert not worker.is_alive()


def test_a_door_that_is_forgotten_leaves_no_thread() -> None:
    answers, _, door = half_read()
    worker = next(thread for thread in threading.enumerate() if thread.name == "connect-afterwards")
    del answers, door
    gc.collect()
    worker.join(PATIENCE_S)
    assert not worker.is_alive()
