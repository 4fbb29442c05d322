"""The channel to one Spark Connect server, and the calls that go through it."""

import contextlib
import ipaddress
import os
import threading
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rpicluster.errors import RpiclusterError, UsageError
from rpicluster.services.connect.failures import explain, failure_of
from rpicluster.services.connect.protocol import load_messages

_SERVICE = "/spark.connect.SparkConnectService/"
CLIENT_TYPE = "rpicluster"
# How long a TCP connection and HTTP/2 hello may take. A frozen driver's kernel still accepts connections.
WINDOW_BYTES = 2 << 20
CONNECT_S = 10
CALL_S = 15
AFTERWARDS_S = 5.0


class Door:
    """Spark Connect's calls for one session of one user. Nothing is sent before the first call.

    Safe to use from several threads. Raises UsageError for a host that is not this machine: the token
    would cross the network unencrypted, and the way to another machine is an SSH tunnel.
    """

    def __init__(self, *, host: str, port: int, token: str | None, proto_path: Path, user: str) -> None:
        """Keep where the server is and how to be let in."""
        if not _is_loopback(host):
            raise UsageError(
                f"Spark Connect is reached through this machine only, and {host} is another",
                hint="open an SSH tunnel, and connect to its local end",
            )
        self.host, self.port, self.user = host, port, user
        self.server_session_id = ""
        self._token = token
        self._proto_path = proto_path
        self._messages: Any = None
        self._channel: Any = None
        self._stubs: dict[str, Any] = {}
        # Unlike Queue, it may be put into while the same thread is inside of put().
        self._left_over: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._worker: threading.Thread | None = None
        weakref.finalize(self, self._left_over.put, None)

    @property
    def where(self) -> str:
        """Return `host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def messages(self) -> Any:
        """The module with Spark Connect's message classes."""
        if self._messages is None:
            self._messages = load_messages(self._proto_path)
        return self._messages

    def identity(self, session_id: str) -> dict[str, Any]:
        """Return the fields that every request carries."""
        user = self.messages.UserContext(user_id=self.user, user_name=self.user)
        fields = {"session_id": session_id, "user_context": user, "client_type": CLIENT_TYPE}
        if self.server_session_id:
            fields["client_observed_server_side_session_id"] = self.server_session_id
        return fields

    def ask(self, name: str, request: Any, *, timeout_s: float = CALL_S) -> Any:
        """Return the answer to a call of one request and one answer; raises as `explained` says."""
        from grpc import RpcError

        try:
            answer = self.stub(name)(request, metadata=self._metadata(), timeout=timeout_s)
        except RpcError as error:
            raise self.explained(error, request.session_id) from error
        self.observe(answer)
        return answer

    def send(self, name: str, request: Any, *, timeout_s: float = CALL_S) -> Any:
        """Start a call of one request and one answer, and return gRPC's future for it."""
        return self.stub(name).future(request, metadata=self._metadata(), timeout=timeout_s)

    def stream(self, name: str, request: Any, *, timeout_s: float | None) -> Any:
        """Start a call with many answers, and return gRPC's iterator over them."""
        return self.stub(name)(request, metadata=self._metadata(), timeout=timeout_s)

    def observe(self, answer: Any) -> None:
        """Remember the server's own name of the session, by which a restarted driver is noticed."""
        if answer.server_side_session_id:
            self.server_session_id = answer.server_side_session_id

    def explained(self, error: Any, session_id: str) -> Exception:
        """Return the project's error for a `grpc.RpcError`."""

        def full_details(error_id: str) -> Any:
            from grpc import RpcError

            request = self.messages.FetchErrorDetailsRequest(error_id=error_id, **self.identity(session_id))
            try:
                return self.stub("FetchErrorDetails")(request, metadata=self._metadata(), timeout=CALL_S)
            except RpcError:
                return None  # then the shortened message of the status has to do

        return explain(failure_of(error), where=self.where, full_details=full_details)

    def afterwards(self, action: Callable[[], None]) -> None:
        """Have a thread of its own do `action` soon; may be called anywhere, by the garbage collector too."""
        self._left_over.put(action)

    def stub(self, name: str) -> Any:
        """Return the callable for a method of the service, by its name."""
        if name not in self._stubs:
            streams = name in ("ExecutePlan", "ReattachExecute")
            answer = "ExecutePlan" if streams else name
            make: Callable[..., Any] = self._open().unary_stream if streams else self._open().unary_unary
            self._stubs[name] = make(
                _SERVICE + name,
                request_serializer=getattr(self.messages, f"{name}Request").SerializeToString,
                response_deserializer=getattr(self.messages, f"{answer}Response").FromString,
            )
        return self._stubs[name]

    def close(self) -> None:
        """Close the channel, when what was left for afterwards is done; a later call opens it again."""
        if self._worker is not None:
            self._left_over.put(None)
            self._worker.join(AFTERWARDS_S)
            self._worker = None
        self._stubs.clear()
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self.server_session_id = ""

    def _metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self._token}")] if self._token else []

    def _open(self) -> Any:
        if self._channel is None:
            self._channel = self._connect()
            self._worker = threading.Thread(
                target=_work_off, args=(self._left_over,), name="connect-afterwards", daemon=True
            )
            self._worker.start()
        return self._channel

    def _connect(self) -> Any:
        # Else gRPC's core writes to standard error and hooks fork(); R and the CLI start children.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
        import grpc

        options = [
            # Arrow batches grow beyond gRPC's 4 MiB when rows are wide.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Spark keeps the last 10 MiB that it has sent. A reader that was cut off begins again at what it
            # has read, so no more may be on its way; gRPC's own window grows beyond that.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
            # http_proxy must not send a loopback connection elsewhere.
            ("grpc.enable_http_proxy", 0),
            # Two sessions in one process must not share a connection, and so a broken one.
            ("grpc.use_local_subchannel_pool", 1),
            # The first of these is also gRPC's limit for the connection attempt itself.
            ("grpc.min_reconnect_backoff_ms", CONNECT_S * 1000),
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2000),
        ]
        return grpc.insecure_channel(f"{_bracketed(self.host)}:{self.port}", options)


def _work_off(actions: "SimpleQueue[Callable[[], None] | None]") -> None:
    for action in iter(actions.get, None):
        # Nobody waits for it. ValueError is gRPC's for a channel that was closed meanwhile.
        with contextlib.suppress(RpiclusterError, ValueError):
            action()
        del action  # it holds the door, which nobody else may hold any more


def new_id() -> str:
    """Return a fresh UUID, which is what Spark wants sessions and operations to be called."""
    return str(uuid.uuid4())


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
