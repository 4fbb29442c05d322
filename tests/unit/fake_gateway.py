"""A gateway of sparklyr for tests, with real sockets: it reads as sparklyr's Backend and StreamHandler do.

Written from sparklyr's sources (1.9.5): java/spark-2.4.0/{backend,handler,stream,serializer}.scala and
R/core_{gateway,invoke,serialize}.R.
"""

import contextlib
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

SESSION = 42


class FakeGateway:
    """Serves `port` of 127.0.0.1; attributes say what goes wrong, and what was asked."""

    def __init__(self, app_id: str, *, port: int = 0, life: str | None = None) -> None:
        self.app_id = app_id
        self.life = os.environ.get("RPICLUSTER_DRIVER", "") if life is None else life
        self.redirect = 0  # tell callers to go to another gateway
        self.context_takes_s = 0.0
        self.context_may_come = threading.Event()
        self.context_may_come.set()
        self.greeting_takes_s = 0.0  # of callers that want a client's port
        self.context_fails = ""
        self.context_comes_cut_at = 0  # this many bytes of the answer come at once, the others later
        self.stopped: Callable[[], bool] = lambda: False
        self.uses_fail = 0  # how many more `USE` are refused
        self.garbage = b""
        self.calls: list[tuple[str, ...]] = []
        self.clients = 0  # that are connected now
        self.clients_ever = 0
        self.knocks = 0
        self.has_context = False
        self.register: dict[str, list[str]] = {}  # client -> its views
        self._has_register = False
        self.fails = ""  # a method that throws
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)  # a waiting accept does not notice a close
        self._server.close()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._greet, args=(caller,), daemon=True).start()

    def _greet(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(ConnectionError):  # it has left
            command, session, _ = struct.unpack(">iii", exactly(caller, 12))
            assert command == 0
            if self.garbage:
                caller.sendall(self.garbage)
                return
            if session != SESSION:
                self.knocks += 1
                caller.sendall(struct.pack(">iii", session, 0, 0))
                return
            time.sleep(self.greeting_takes_s)
            if self.redirect:
                caller.sendall(struct.pack(">iii", session, self.redirect, 0))
                return
            with socket.create_server(("127.0.0.1", 0)) as own:
                self.clients += 1
                self.clients_ever += 1
                caller.sendall(struct.pack(">iii", session, self.port, own.getsockname()[1]))
                threading.Thread(target=self._client, args=(own,), daemon=True).start()
                caller.recv(1)  # until it leaves
                self.clients -= 1
                # A waiting accept does not notice that its socket is closed.
                own.shutdown(socket.SHUT_RDWR)

    def _client(self, own: socket.socket) -> None:
        objects: dict[str, str] = {}
        try:
            peer, _ = own.accept()
            with peer:
                while True:
                    length = struct.unpack(">i", exactly(peer, 4))[0]
                    self._answer(peer, exactly(peer, length), objects)
        except OSError:
            return

    def _answer(self, peer: socket.socket, message: bytes, objects: dict[str, str]) -> None:
        read = Reader(message)
        target, static, reference, method = read.text(), read.integer(), read.integer(), read.text()
        assert reference == 0
        arguments = []
        for _ in range(read.integer()):
            arguments.append(read.argument(objects))
        assert read.take(1) == b"", "bytes behind the last argument"
        name = target if static else objects[target]
        self.calls.append((name, method, *arguments))
        try:
            answer = self._do(name, method, arguments)
        except RuntimeError as problem:
            words = f"java.lang.{problem}\n\tat org.apache.spark.Somewhere".encode()
            peer.sendall(struct.pack(">ii", -1, len(words)) + words)
            return
        if isinstance(answer, bool):
            content = b"b" + struct.pack(">i", answer)
        elif answer is None:
            content = b"n"
        else:
            is_object = method not in ("getenv", "applicationId", "toString", "%>%")
            if is_object:
                objects[str(len(objects))] = answer
                answer = str(len(objects) - 1)
            words = answer.encode()
            content = (b"j" if is_object else b"c") + struct.pack(">i", len(words)) + words
        whole = struct.pack(">i", 0) + content
        if method == "getOrCreate" and self.context_comes_cut_at:
            peer.sendall(whole[: self.context_comes_cut_at])
            time.sleep(self.context_takes_s)
            whole = whole[self.context_comes_cut_at :]
        peer.sendall(whole)

    def _do(self, name: str, method: str, arguments: list[str]) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("java.lang.System", "getenv"): self.life,
            ("java.lang.System", "getProperties"): "properties",
            ("java.util.Properties", "<init>"): "clients",
            ("properties", "get"): "clients" if self._has_register else None,
            ("sparklyr.Shell", "getBackend"): "backend",
            ("org.apache.spark.sql.SparkSession", "builder"): "builder",
            ("session", "sparkContext"): "context",
            ("context", "applicationId"): self.app_id,
        }
        if self.fails and self.fails in (method, *[step[0] for step in arguments if isinstance(step, tuple)]):
            raise RuntimeError("IllegalStateException: no")
        if (name, method) in known:
            return known[name, method]
        if (name, method) == ("builder", "getOrCreate"):
            if not self.context_comes_cut_at:
                time.sleep(self.context_takes_s)
            self.context_may_come.wait()
            if self.context_fails:
                raise RuntimeError(self.context_fails)
            self.has_context = True
            return "session"
        if (name, method) == ("backend", "setSparkContext"):
            assert arguments == ["context"]
            return None
        if (name, method) == ("session", "sql"):
            if self.uses_fail:
                self.uses_fail -= 1
                raise RuntimeError("RuntimeException: [SCHEMA_NOT_FOUND] no such namespace")
            return "rows"
        if (name, method) == ("context", "isStopped"):
            return self.stopped()
        if (name, method) == ("properties", "put"):
            self._has_register = True
            return None
        if (name, method) == ("clients", "toString"):
            return "{" + ", ".join(f"{group}=SparkSession@1f" for group in self.register) + "}"
        if (name, method) == ("context", "cancelJobGroup"):
            return None
        if (name, method) == ("clients", "%>%"):
            return self._chain(arguments)
        raise RuntimeError(f"IllegalArgumentException: invalid method {method} for object {name}")

    def _chain(self, steps: list[tuple[str, ...]]) -> Any:
        (first, group), *_, (last, *arguments) = steps
        if (first, last) == ("remove", "toString"):
            del self.register[group]
            return "SparkSession@1f"
        assert first == "get"
        if last == "mkString":
            return ",".join("`" + view.replace("`", "``") + "`" for view in self.register[group])
        assert last == "dropTempView"
        self.register[group].remove(arguments[0])
        return True


class Reader:
    """What sparklyr's Serializer reads of a message."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._content[self._at : self._at + count]
        self._at += len(taken)
        return taken

    def integer(self) -> int:
        number: int = struct.unpack(">i", self.take(4))[0]
        return number

    def argument(self, objects: dict[str, str]) -> Any:
        kind = self.take(1)
        if kind == b"l":
            return tuple(self.argument(objects) for _ in range(self.integer()))
        value = self.text()
        return objects[value] if kind == b"j" else value

    def text(self) -> str:
        content = self.take(self.integer())
        assert content[-1:] == b"\0", "length and stream do not match"
        return content[:-1].decode()


def exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = peer.recv(count - len(data))
        if not more:
            raise ConnectionError("the client has left")
        data += more
    return data
