"""The question for every kind of door."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .http2 import grpc_unary
from .wire import ProbeFailed, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    Question = Callable[[Wire, str, str, str, float], str]


def proto(number: int, value: bytes) -> bytes:
    """Return a length-delimited protobuf field of fewer than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


def ask_connect(wire: Wire, token: str, user: str, session: str, timeout_s: float) -> str:
    """Return the application id that Spark Connect answers to Config.Get("spark.app.id").

    Field numbers: spark/connect/base.proto of Spark 4.1.4, messages ConfigRequest and ConfigResponse.
    """
    key = b"spark.app.id"
    request = (
        proto(1, session.encode())
        + proto(2, proto(1, user.encode()[:100]))
        + proto(3, proto(2, proto(1, key)))
        + proto(4, b"rpicluster-keeper")
    )
    answer = grpc_unary(wire, "/spark.connect.SparkConnectService/Config", request, token, timeout_s)
    _, found, rest = answer.partition(proto(1, key) + b"\x12")
    if not found or not rest or len(rest) <= rest[0]:
        raise ProbeFailed(f"{wire.where} did not name its application")
    return rest[1 : 1 + rest[0]].decode("utf-8", "replace")


DOOR_QUESTIONS: dict[str, Question] = {"connect": ask_connect}
