"""The question for sparklyr's gateway, in sparklyr's own protocol (its R/core_*.R and java/*.scala, 1.9.5).

A client asks the gateway's port for a port of its own, and calls Java methods there for as long as its first
connection stands. Integers are big-endian; a string has its length before it, and on its way in a NUL
behind it.

The keeper is one client, for the driver's whole life: every new client costs the driver a port and threads.
Every third round it also knocks at the gateway's own port for a session that does not exist, which the
gateway answers and forgets, with five lines in its log: that shows that it still takes callers in.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .processes import port_is_free
from .wire import Hopeless, ProbeFailed, TooSlow, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .config import Config, Door

LIFE_VARIABLE = "RPICLUSTER_DRIVER"  # in the driver's environment: which life of a driver this is
GET_PORTS = 0
NOBODY = -1  # a session that no gateway has
KNOCK_EVERY = 3  # rounds
TEXT_LIMIT_BYTES = 1 << 20
CLIENTS = "rpicluster.clients"  # a property of the driver's: its clients, job group -> Spark session
REGISTERED = re.compile(r"(?P<group>[^\s{},=]+-(?P<at>[0-9]+)-(?P<port>[0-9]+))=")
VIEW = re.compile(r"`((?:[^`]|``)+)`")


class Jobj(str):
    """The name under which the driver keeps an object for this client."""


class Call(NamedTuple):
    """A Java method of an object, or of a class by its name, with its arguments."""

    target: str
    method: str
    arguments: tuple[str | tuple[str, ...], ...] = ()


def chain(target: Jobj, *steps: tuple[str, ...]) -> Call:
    """Return one call of several methods, each (name, arguments) of what the one before returned."""
    return Call(target, "%>%", steps)


class CallFailed(ProbeFailed):
    """The driver tried the method, and it threw."""


def text(value: str) -> bytes:
    """Return a string as the gateway reads it."""
    content = value.encode() + b"\0"
    return struct.pack(">i", len(content)) + content


def framed(call: Call) -> bytes:
    """Return a call with its length before it."""
    is_static = not isinstance(call.target, Jobj)
    body = text(call.target) + struct.pack(">ii", is_static, 0) + text(call.method)
    body += struct.pack(">i", len(call.arguments))
    for argument in call.arguments:
        body += _argument(argument)
    return struct.pack(">i", len(body)) + body


def _argument(value: str | tuple[str, ...]) -> bytes:
    if isinstance(value, tuple):
        return b"l" + struct.pack(">i", len(value)) + b"".join(map(_argument, value))
    return (b"j" if isinstance(value, Jobj) else b"c") + text(value)


def _integer(wire: Wire) -> int:
    number: int = struct.unpack(">i", wire.exactly(4))[0]
    return number


def _text(wire: Wire) -> str:
    length = _integer(wire)
    if not 0 <= length <= TEXT_LIMIT_BYTES:
        raise ProbeFailed(f"{wire.where} does not speak sparklyr's protocol")
    return wire.exactly(length).decode("utf-8", "replace")


def read_answer(wire: Wire) -> Any:
    """Return what a call returned: None, text, a number, a truth or a Jobj. Raises ProbeFailed."""
    if _integer(wire) != 0:
        words = _text(wire).strip().split("\n")[0] or "it did not say why"
        raise CallFailed(f"{wire.where}: {words[:300]}")
    kind = wire.exactly(1)
    if kind == b"n":
        return None
    if kind == b"c":
        return _text(wire)
    if kind == b"j":
        return Jobj(_text(wire))
    if kind in (b"i", b"b"):
        number = _integer(wire)
        return number if kind == b"i" else number != 0
    raise ProbeFailed(f"{wire.where} does not speak sparklyr's protocol: it answered type {kind!r}")


def ask_ports(wire: Wire, session: int) -> tuple[int, int]:
    """Return the gateway's port for `session` and the client's own; both are 0 for one that is not there."""
    wire.send(struct.pack(">iii", GET_PORTS, session, 0))
    answered, gateway, client = struct.unpack(">iii", wire.exactly(12))
    if answered != session:
        raise ProbeFailed(f"{wire.where} does not speak sparklyr's protocol")
    return gateway, client


class SparklyrDoor:
    """The keeper as a client of the gateway; its first visit makes the SparkContext."""

    def __init__(self, config: Config, door: Door, life: str, stopping: Callable[[], bool]) -> None:
        """Keep where to ask; nothing is asked yet. `life` is what the driver has as LIFE_VARIABLE."""
        self._door = door
        self._life = life
        self._timeout_s = config.probe_timeout_s
        self._stopping = stopping
        self._wires: list[Wire] = []  # the gateway's, then this client's own
        self._script: Generator[Call | ProbeFailed | str, Any, None] = self._visit()
        self._step: Call | ProbeFailed | str | None = None  # where the script stands
        self._is_waiting = False  # for the answer to the call there, which an earlier round may have sent
        self._busy = ""  # with what it is, if that may take long
        self._rounds = 0  # since it last took a caller in

    def ask(self) -> str:
        """Return the application's id. Raises ProbeFailed, and Hopeless where asking again cannot help.

        Making the SparkContext takes longer than a round: its answer is then waited for in the next one.
        """
        if self._rounds % KNOCK_EVERY == 0:
            with self._wire(self._door.port) as wire:
                ask_ports(wire, NOBODY)
        self._rounds += 1
        try:
            return self._go_on()
        except TooSlow as problem:
            raise TooSlow(f"{problem}{self._busy}") from problem
        except ProbeFailed:
            self.close()
            raise

    def close(self) -> None:
        """Leave; the driver then frees what it had for this client."""
        for wire in reversed(self._wires):
            wire.close()
        self._wires, self._script, self._busy = [], self._visit(), ""
        self._step, self._is_waiting = None, False

    def own_ports(self) -> list[int]:
        """Return the near ends of the connections that are kept."""
        return [wire.local_port for wire in self._wires]

    def _wire(self, port: int) -> Wire:
        return Wire(self._door.host, port, self._timeout_s, self._stopping)

    def _go_on(self) -> str:
        if not self._wires:
            self._enter()
        wire = self._wires[1]
        wire.renew()
        while True:
            step = self._step or next(self._script)
            if not isinstance(step, Call):
                self._step = None
                if isinstance(step, ProbeFailed):
                    raise TooSlow(str(step))  # not the end of the visit
                return step
            self._step = step  # a round may end before the call is sent, or its answer is whole
            if not self._is_waiting:
                wire.send(framed(step))
                self._is_waiting = True
            try:
                answer = wire.whole(read_answer)
            except CallFailed as problem:
                self._is_waiting = False
                self._step = self._script.throw(problem)
            else:
                self._is_waiting = False
                self._step = self._script.send(answer)

    def _enter(self) -> None:
        gateway = self._wire(self._door.port)
        try:
            port, own = ask_ports(gateway, self._door.session)
            if port != self._door.port or own == 0:
                # Another gateway was there first, and the driver's is one of its guests.
                raise Hopeless(f"{gateway.where} is the gateway of another program")
            self._wires = [gateway, self._wire(own)]
        except BaseException:
            gateway.close()
            raise

    def _visit(self) -> Generator[Call | ProbeFailed | str, Any, None]:
        """Yield calls, and take their answers; then, round after round, the application's id."""
        where = f"{self._door.host}:{self._door.port}"
        if (yield Call("java.lang.System", "getenv", (LIFE_VARIABLE,))) != self._life:
            raise Hopeless(f"{where} is the gateway of another program")
        backend = yield Call("sparklyr.Shell", "getBackend")
        self._busy = ": it is making the SparkContext"
        try:
            builder = yield Call("org.apache.spark.sql.SparkSession", "builder")
            session = yield Call(builder, "getOrCreate")
            context = yield Call(session, "sparkContext")
        except CallFailed as problem:
            raise Hopeless(f"the SparkContext could not be made: {problem}") from problem
        self._busy = ""
        yield Call(backend, "setSparkContext", (context,))
        app_id = yield Call(context, "applicationId")
        clients = yield from _register()
        yield from self._use(session)
        while True:
            if (yield Call(context, "isStopped")):
                raise Hopeless(f"the SparkContext of {app_id} is stopped")
            for group in self._departed((yield Call(clients, "toString"))):
                yield from _clean_up(context, clients, group)
            yield str(app_id)

    def _departed(self, register: str) -> list[str]:
        """Return the job groups of clients whose port is closed, or another client's by now."""
        latest: dict[int, tuple[int, str]] = {}
        found = [(int(m["port"]), int(m["at"]), m["group"]) for m in REGISTERED.finditer(register)]
        for port, at, group in found:
            latest[port] = max(latest.get(port, (0, "")), (at, group))
        return [
            group
            for port, _, group in found
            if latest[port][1] != group or port_is_free(self._door.host, port)
        ]

    def _use(self, session: Jobj) -> Generator[Call | ProbeFailed | str, Any, None]:
        """Choose the namespace of tables, which an `up` may still be making."""
        while self._door.namespace:
            try:
                yield Call(session, "sql", (f"USE {self._door.namespace}",))
                return
            except CallFailed as problem:
                yield ProbeFailed(f"{self._door.namespace} cannot be used: {problem}")


def _register() -> Generator[Call, Any, Jobj]:
    """Return the driver's register of its clients: an earlier visit's, or a new one."""
    properties = yield Call("java.lang.System", "getProperties")
    clients = yield Call(properties, "get", (CLIENTS,))
    if clients is None:
        # Properties are the one map that the gateway answers as a reference, and not by its content.
        clients = yield Call("java.util.Properties", "<init>")
        yield Call(properties, "put", (CLIENTS, clients))
    return Jobj(clients)


def _clean_up(context: Jobj, clients: Jobj, group: str) -> Generator[Call, Any, None]:
    """Cancel what a client that has left still runs; drop its views, with the rows cached for them."""
    yield Call(context, "cancelJobGroup", (group,))
    problem = None
    try:
        listed = yield chain(
            clients,
            ("get", group),
            ("sessionState",),
            ("catalog",),
            ("listLocalTempViews", "*"),
            ("mkString", ","),
        )
        for name in VIEW.findall(listed):
            yield chain(clients, ("get", group), ("catalog",), ("dropTempView", name.replace("``", "`")))
    except CallFailed as failed:
        problem = failed
    # Once, also when it failed. The driver would keep the session itself for us, so its text is asked for.
    yield chain(clients, ("remove", group), ("toString",))
    if problem:
        raise problem
