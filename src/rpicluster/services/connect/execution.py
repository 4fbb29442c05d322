"""One plan on the server, from its request to its last answer.

The answers outlive the connection: Spark keeps them until they are released, so a broken tunnel, or
the two minutes after which the server ends every stream, is followed by a reattachment, not by a
second run. While nothing comes, a small call asks whether the server still answers, because a frozen
driver or a pulled cable ends no TCP connection. (HTTP/2 keepalive pings cannot do this: Spark's
server counts more than one in five minutes as abuse.)
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rpicluster.errors import RpiclusterError, SqlError
from rpicluster.services.connect.door import Door, new_id
from rpicluster.services.connect.failures import failure_of, unreachable

# A silent server is asked after QUIET_S and must answer within ANSWER_S: noticed after 17 s at most.
QUIET_S = 5.0
ANSWER_S = 12.0
# How long a broken connection may take to come back, and the pauses between attempts.
RECONNECT_S = 20.0
_PAUSES_S = (0.2, 0.5, 1.0, 2.0)
INTERRUPT_S = 5.0
_NOT_FOUND = "INVALID_HANDLE.OPERATION_NOT_FOUND"


@dataclass(frozen=True)
class SqlProgress:
    """How far a statement is: its stages and tasks, what they read, and the tasks that run now."""

    stages_done: int
    stages_total: int
    tasks_done: int
    tasks_total: int
    running_tasks: int
    input_bytes: int
    elapsed_s: float


class Execution:
    """Runs one plan and iterates over the server's answers, progress reports taken out.

    The request leaves at construction. Raises SqlError, SessionLost or Unreachable while iterated.
    Leaving the iteration early, by an exception or by closing it, cancels the work on the cluster.
    """

    def __init__(
        self,
        door: Door,
        session_id: str,
        plan: Any,
        *,
        on_progress: Callable[[SqlProgress], None] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Send `plan`; it may run for `timeout_s` seconds, answers fetched included."""
        messages = door.messages
        self._door = door
        self._session_id = session_id
        self._operation_id = new_id()
        self._on_progress = on_progress
        self._timeout_s = timeout_s
        self._started = time.monotonic()
        self._last_response_id = ""
        self._release: Any = None
        option = messages.ExecutePlanRequest.RequestOption(
            reattach_options=messages.ReattachOptions(reattachable=True)
        )
        self._request = messages.ExecutePlanRequest(
            operation_id=self._operation_id,
            plan=plan,
            request_options=[option],
            **door.identity(session_id),
        )
        self._call = door.stream("ExecutePlan", self._request, timeout_s=self._remaining())

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the answers; see the class."""
        try:
            for answer in self._answers():
                if answer.HasField("execution_progress"):
                    self._report(answer.execution_progress)
                else:
                    yield answer
        except GeneratorExit:
            # This may be the garbage collector in the middle of gRPC's own code, whose locks the same
            # thread cannot take twice: a call from here would wait for itself.
            self._door.afterwards(self._give_up)
            raise
        except RpiclusterError:  # the server has ended it, does not answer, or was told to end it
            self._forget()
            raise
        except BaseException:
            self._give_up()
            raise
        self._forget()

    def interrupt(self) -> None:
        """Cancel this plan's work on the cluster, within INTERRUPT_S; no error if the server is gone."""
        messages = self._door.messages
        request = messages.InterruptRequest(
            interrupt_type=messages.InterruptRequest.INTERRUPT_TYPE_OPERATION_ID,
            operation_id=self._operation_id,
            **self._door.identity(self._session_id),
        )
        # The caller is on its way out with an error of its own, which must not be replaced.
        with contextlib.suppress(RpiclusterError):
            self._door.ask("Interrupt", request, timeout_s=INTERRUPT_S)

    def _answers(self) -> Iterator[Any]:
        from grpc import RpcError

        broken_since: float | None = None
        with _Watch(self._door, self._session_id) as watch:
            while True:
                try:
                    for answer in watch.over(self._call):
                        broken_since = None
                        self._door.observe(answer)
                        self._last_response_id = answer.response_id
                        if answer.HasField("result_complete"):
                            return
                        yield answer
                    self._reattach()  # the server ends every stream after two minutes
                except RpcError as error:
                    broken_since = self._mend(error, watch, broken_since)

    def _mend(self, error: Any, watch: "_Watch", broken_since: float | None) -> float:
        """Start another call where that may help and return since when it is broken; raises otherwise."""
        failure = failure_of(error)
        if watch.silence:
            raise unreachable(self._door.where, watch.silence) from error
        if failure.code == "DEADLINE_EXCEEDED" and self._timeout_s is not None:
            self.interrupt()
            raise SqlError(
                f"the statement ran longer than {self._timeout_s:g} s and was cancelled",
                condition="TIMEOUT",
            ) from error
        now = time.monotonic()
        since = now if broken_since is None else broken_since
        # A server that never answered this session is not waited for; nor is one that stays away.
        hopeless = not self._door.server_session_id or now - since > RECONNECT_S
        never_arrived = failure.condition == _NOT_FOUND and not self._last_response_id
        if hopeless or not (never_arrived or failure.code == "UNAVAILABLE"):
            raise self._door.explained(error, self._session_id) from error
        time.sleep(_PAUSES_S[min(int(now - since), len(_PAUSES_S) - 1)])
        if never_arrived:  # the session is the same and knows nothing of it, so it did not run
            self._call = self._door.stream("ExecutePlan", self._request, timeout_s=self._remaining())
        else:
            self._reattach()
        return since

    def _reattach(self) -> None:
        messages = self._door.messages
        request = messages.ReattachExecuteRequest(
            operation_id=self._operation_id, **self._door.identity(self._session_id)
        )
        if self._last_response_id:
            request.last_response_id = self._last_response_id
        self._call = self._door.stream("ReattachExecute", request, timeout_s=self._remaining())

    def _give_up(self) -> None:
        self._call.cancel()
        self.interrupt()
        self._forget()

    def _forget(self) -> None:
        """Tell the server to forget the answers; not waited for, as it does so itself in time."""
        self._call.cancel()
        messages = self._door.messages
        request = messages.ReleaseExecuteRequest(
            operation_id=self._operation_id,
            release_all=messages.ReleaseExecuteRequest.ReleaseAll(),
            **self._door.identity(self._session_id),
        )
        self._release = self._door.send("ReleaseExecute", request)

    def _remaining(self) -> float | None:
        if self._timeout_s is None:
            return None
        return max(0.001, self._timeout_s - (time.monotonic() - self._started))

    def _report(self, progress: Any) -> None:
        if self._on_progress is None:
            return
        stages = progress.stages
        self._on_progress(
            SqlProgress(
                stages_done=sum(stage.done for stage in stages),
                stages_total=len(stages),
                tasks_done=sum(stage.num_completed_tasks for stage in stages),
                tasks_total=sum(stage.num_tasks for stage in stages),
                running_tasks=progress.num_inflight_tasks,
                input_bytes=sum(stage.input_bytes_read for stage in stages),
                elapsed_s=time.monotonic() - self._started,
            )
        )


class _Watch:
    """Asks a silent server whether it still answers, and cancels the call if it does not."""

    def __init__(self, door: Door, session_id: str) -> None:
        self.silence = ""  # why the server counts as gone
        self._door = door
        self._session_id = session_id
        self._waiting: tuple[Any, float] | None = None  # the call waited for, and since when
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="connect-watch", daemon=True)

    def __enter__(self) -> "_Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def over(self, call: Any) -> Iterator[Any]:
        """Iterate over `call`, watched while its next answer is awaited and not while the caller works."""
        while True:
            self._waiting = (call, time.monotonic())
            try:
                answer = next(call)
            except StopIteration:
                return
            finally:
                self._waiting = None
            yield answer

    def _run(self) -> None:
        while not self._ended.wait(QUIET_S / 5):
            waiting = self._waiting
            if waiting is None or time.monotonic() - waiting[1] < QUIET_S:
                continue
            if self._answers():
                self._ended.wait(QUIET_S)
            elif self._waiting is waiting:
                self.silence = f"silent for {time.monotonic() - waiting[1]:.0f} s"
                waiting[0].cancel()
                return

    def _answers(self) -> bool:
        """Return whether the server answers a small question in time; any answer will do."""
        from grpc import RpcError

        messages = self._door.messages
        operation = messages.ConfigRequest.Operation(get=messages.ConfigRequest.Get(keys=["spark.app.id"]))
        request = messages.ConfigRequest(operation=operation, **self._door.identity(self._session_id))
        try:
            self._door.send("Config", request, timeout_s=ANSWER_S).result()
        except RpcError as error:
            # A broken connection ends the watched call by itself, which then reattaches.
            return failure_of(error).code != "DEADLINE_EXCEEDED"
        return True
