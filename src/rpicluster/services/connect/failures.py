"""What went wrong, in the user's words: gRPC's statuses and Spark's details as this project's errors."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from rpicluster.errors import RpiclusterError, ServiceError, SessionLost, SqlError, Unreachable
from rpicluster.services.connect.protocol import status_messages

_DETAILS = "grpc-status-details-bin"
# Where a Java stack begins inside a message.
_STACK = re.compile(r"\n\s*(?:at [\w.$]+[\w$<>]+\(|Driver stacktrace:|\.\.\. \d+ more)")
# Analysis errors end in "; line 1 pos 14;" and the half-read plan.
_PLAN = re.compile(r"(; line \d+ pos \d+);\n'?[^\n]*(?:\n[ +:'][^\n]*)*\s*$")
_SESSION_GONE = {
    "INVALID_HANDLE.SESSION_CHANGED": "the session's driver was restarted; temporary views are gone",
    "INVALID_HANDLE.SESSION_NOT_FOUND": "the session's driver was restarted; temporary views are gone",
    "INVALID_HANDLE.SESSION_CLOSED": "Spark closed the session: it was idle for too long, or was ended",
}
_CONDITION = re.compile(r"^\[([A-Z][A-Z0-9_]*(?:\.[A-Z0-9_]+)*)\] ")


@dataclass(frozen=True)
class Failure:
    """What a failed call says about itself."""

    code: str  # gRPC's name of the status, such as UNAVAILABLE
    message: str
    metadata: dict[str, str] = field(default_factory=dict)  # Spark's ErrorInfo: errorId, errorClass, sqlState

    @property
    def condition(self) -> str:
        """Spark's error condition, "" if the failure is not Spark's."""
        named = _CONDITION.match(self.message)
        return self.metadata.get("errorClass") or (named.group(1) if named else "")

    @property
    def session_is_gone(self) -> bool:
        """Whether the server no longer knows the session."""
        return self.condition in _SESSION_GONE


def failure_of(error: Any) -> Failure:
    """Return what a `grpc.RpcError` says."""
    status_class, info_class = status_messages()
    message, metadata = error.details() or "", {}
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS:
            continue
        status = status_class.FromString(value)
        message = status.message or message
        for detail in status.details:
            if detail.type_url.endswith("/google.rpc.ErrorInfo"):
                metadata = dict(info_class.FromString(detail.value).metadata)
    return Failure(error.code().name, message, metadata)


def explain(  # noqa: PLR0911  one line a status
    failure: Failure, *, where: str, full_details: Callable[[str], Any]
) -> RpiclusterError:
    """Return the error to raise for `failure` of a call to the server at `where`.

    `full_details(error_id)` asks the server for the whole message, of which the status holds the beginning.
    """
    if failure.session_is_gone:
        return SessionLost(_SESSION_GONE[failure.condition], hint="run the statement again in a new session")
    match failure.code:
        case "UNAVAILABLE":
            return unreachable(where, failure.message)
        case "DEADLINE_EXCEEDED":
            return unreachable(where, "no answer in time")
        case "UNAUTHENTICATED" | "PERMISSION_DENIED":
            return ServiceError(
                f"Spark Connect at {where} refused the session's token",
                hint="rpicluster connect (it fetches the token of the running session)",
            )
        case "UNIMPLEMENTED":
            return ServiceError(
                f"{where} answers, but it is not Spark Connect: {failure.message}", hint="rpicluster status"
            )
        case "RESOURCE_EXHAUSTED" if not failure.condition:
            return ServiceError(f"a message to Spark Connect at {where} is too large: {failure.message}")
    return _sql_error(failure, full_details)


def unreachable(where: str, cause: str) -> Unreachable:
    """Return the error for a server that does not answer."""
    return Unreachable(f"Spark Connect at {where} does not answer: {cause}", hint="rpicluster status")


def _sql_error(failure: Failure, full_details: Callable[[str], Any]) -> SqlError:
    error_id = failure.metadata.get("errorId")
    details = full_details(error_id) if error_id else None
    message, condition, sqlstate = failure.message, failure.condition, failure.metadata.get("sqlState", "")
    if details is not None and details.HasField("root_error_idx"):
        best = _most_telling(details)
        message = best.message or message
        if best.HasField("spark_throwable"):
            condition = best.spark_throwable.error_class or condition
            sqlstate = best.spark_throwable.sql_state or sqlstate
    text = without_stack(message)
    if condition in ("", "INTERNAL_ERROR") and details is None:
        named = _CONDITION.match(text)
        condition = named.group(1) if named else condition
    return SqlError(text, condition=condition, sqlstate=sqlstate)


def _most_telling(details: Any) -> Any:
    """Return the error of the chain that says why: the outermost one with a condition, else the root.

    "Job aborted due to stage failure" has no condition and wraps what the user must read.
    """
    root = error = details.errors[details.root_error_idx]
    for _ in details.errors:  # a bound: a chain has no more links than there are errors
        if error.HasField("spark_throwable") and error.spark_throwable.error_class:
            return error
        if not error.HasField("cause_idx"):
            break
        error = details.errors[error.cause_idx]
    return root


def without_stack(message: str) -> str:
    """Return a Spark message up to where a Java stack or a query plan begins."""
    found = _STACK.search(message)
    text = message[: found.start()] if found else message
    planned = _PLAN.search(text)
    return (text[: planned.end(1)] if planned else text).strip()
