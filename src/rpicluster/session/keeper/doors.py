"""The question for every kind of door."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from .http2 import grpc_unary
from .sparklyr import SparklyrDoor
from .wire import ProbeFailed, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from .config import Config, Door


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


class ConnectDoor:
    """Spark Connect, asked on a new connection each time."""

    def __init__(self, config: Config, door: Door, token: str, stopping: Callable[[], bool]) -> None:
        """Choose one session id for the driver's whole life, so that rounds do not pile up sessions in it."""
        self._config = config
        self._door = door
        self._token = token
        self._stopping = stopping
        self._session = str(uuid.uuid4())

    def ask(self) -> str:
        """Return the application's id. Raises ProbeFailed."""
        timeout_s = self._config.probe_timeout_s
        try:
            with Wire(self._door.host, self._door.port, timeout_s, self._stopping) as wire:
                return ask_connect(wire, self._token, self._config.user, self._session, timeout_s)
        except ProbeFailed as problem:
            if "INVALID_HANDLE" in str(problem):  # the machine slept longer than Spark keeps an idle session
                self._session = str(uuid.uuid4())
            raise

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def own_ports(self) -> list[int]:
        """Return nothing: no connection is kept."""
        return []


DOOR_KINDS = ("connect", "sparklyr")


def open_door(
    config: Config, door: Door, *, token: str, life: str, stopping: Callable[[], bool]
) -> ConnectDoor | SparklyrDoor:
    """Return whom to ask about a door; nothing is asked yet."""
    if door.kind == "sparklyr":
        return SparklyrDoor(config, door, life, stopping)
    return ConnectDoor(config, door, token, stopping)
