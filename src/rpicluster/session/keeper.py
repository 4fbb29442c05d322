"""Keep one warm session alive: start its driver, ask it questions, replace it when it stops answering.

Run as `python keeper.py CONFIG.json` under a supervisor. This one file is copied to nodes and runs with their
system's Python: it uses the standard library of Python 3.8 alone and imports nothing of this project.
Linux only.

Health is an answered request. A driver whose application was killed keeps its process and its open port, and
the kernel goes on accepting connections for a frozen process, so neither says anything (docs/adr/0007).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

if TYPE_CHECKING:
    Process = subprocess.Popen[bytes]

SCHEMA = 1
TOKEN_VARIABLE = "SPARK_CONNECT_AUTHENTICATE_TOKEN"  # noqa: S105 - its name, not the token
BACKOFF_S = (0, 1, 2, 5, 10, 30)  # pause before the n-th restart in a row
SETTLED_S = 60  # a driver that was healthy this long has left its bad streak behind
STOP_GRACE_S = 10  # Spark on YARN needs 1 to 4 s from SIGTERM to its end
REPLACE_GRACE_S = 4  # an unhealthy driver gets less
PORTS_FREE_TIMEOUT_S = 30
LEFTOVER_GRACE_S = 3  # an application master notices the loss of its driver by itself
CHORE_TIMEOUT_S = 3600
LOG_LIMIT_BYTES = 16 * 1024 * 1024
TICK_S = 0.2  # how late a signal or a dead driver may be noticed
ANSWER_LIMIT_BYTES = 1024 * 1024
RM_ENDED = ("FINISHED", "FAILED", "KILLED")


class ConfigError(Exception):
    """The configuration or a secret file cannot be used; the message says which and why."""


class StopRequested(Exception):
    """SIGTERM or SIGINT arrived."""


class ProbeFailed(Exception):
    """A question got no right answer; the message says which question and what came back."""


class ApplicationEnded(ProbeFailed):
    """YARN says that the application is over: asking again cannot help."""


# -------------------- configuration


@dataclass(frozen=True)
class Door:
    """One way into the session: `kind` chooses the question that the keeper asks there."""

    kind: str
    host: str
    port: int


@dataclass(frozen=True)
class Chore:
    """A command that runs every `every_s` seconds while the session is healthy."""

    name: str
    every_s: float
    argv: list[str]
    timeout_s: float = CHORE_TIMEOUT_S


@dataclass(frozen=True)
class Config:
    """What to start, where it answers, and how patient to be."""

    name: str
    java: list[str]
    environment: dict[str, str]
    secret_environment: dict[str, str]  # variable -> path of a file that only its owner may read
    directory: str
    log: str
    doors: list[Door]
    ui: str
    resourcemanager: str
    user: str
    status_file: str
    probe_interval_s: float = 5
    probe_timeout_s: float = 5
    start_timeout_s: float = 120
    namenode: str | None = None  # base URL; a driver that starts while HDFS is in safe mode dies of it
    failures_before_restart: int = 2
    chores: list[Chore] = field(default_factory=list)


def load_config(path: str) -> Config:
    """Read the configuration. Raises ConfigError that names the file and the key."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        if raw.pop("schema", None) != SCHEMA:
            raise ConfigError(f'{path}: "schema" must be {SCHEMA}')
        raw["doors"] = [Door(**door) for door in raw.get("doors", [])]
        raw["chores"] = [Chore(**chore) for chore in raw.get("chores", [])]
        config = Config(**raw)
    except (OSError, ValueError, TypeError, AttributeError) as problem:
        raise ConfigError(f"{path}: {problem}") from problem
    for door in config.doors:
        if door.kind not in DOOR_QUESTIONS:
            raise ConfigError(
                f"{path}: doors: unknown kind {door.kind!r}; known: {', '.join(DOOR_QUESTIONS)}"
            )
    if not config.java or not config.doors:
        raise ConfigError(f'{path}: "java" and "doors" must not be empty')
    return config


def read_secret(path: str) -> str:
    """Return the one line of a secret file. Raises ConfigError if anybody but its owner may open it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077 or status.st_uid != os.geteuid():
                raise ConfigError(
                    f"{path}: a secret must be a file of {os.geteuid()} with mode 0600, "
                    f"this one belongs to {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}"
                )
            secret = file.read(4096).strip()
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path}: the secret cannot be read: {problem}") from problem
    if not re.fullmatch(r"[!-~]+", secret):
        raise ConfigError(f"{path}: a secret is one line of printable ASCII without spaces")
    return secret


# -------------------- the network


class Wire:
    """A TCP connection that never waits past its deadline, nor for long once a stop was requested."""

    def __init__(self, host: str, port: int, timeout_s: float, stopping: Callable[[], bool]) -> None:
        """Connect within `timeout_s`, which also bounds everything that follows. Raises ProbeFailed."""
        self._deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._stopping = stopping
        self._room = ANSWER_LIMIT_BYTES
        self.where = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=timeout_s)
        except OSError as problem:
            raise ProbeFailed(f"{self.where} cannot be reached: {problem.strerror or problem}") from problem

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *unused: object) -> None:
        self._socket.close()

    def _left_s(self) -> float:
        if self._stopping():
            raise StopRequested
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise ProbeFailed(f"{self.where} did not answer within {self._timeout_s:g} s")
        return left_s

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._socket.settimeout(self._left_s())
            self._socket.sendall(data)
        except OSError as problem:
            raise ProbeFailed(
                f"{self.where} broke the connection: {problem.strerror or problem}"
            ) from problem

    def some(self, most: int) -> bytes:
        """Return 1 to `most` bytes, or nothing at the end of the stream."""
        while True:
            if not select.select([self._socket], [], [], min(TICK_S, self._left_s()))[0]:
                continue
            try:
                data = self._socket.recv(most)
            except OSError as problem:
                raise ProbeFailed(
                    f"{self.where} broke the connection: {problem.strerror or problem}"
                ) from problem
            self._room -= len(data)
            if self._room < 0:
                raise ProbeFailed(f"{self.where} sent more than {ANSWER_LIMIT_BYTES} bytes")
            return data

    def exactly(self, count: int) -> bytes:
        """Return `count` bytes."""
        data = b""
        while len(data) < count:
            more = self.some(count - len(data))
            if not more:
                raise ProbeFailed(f"{self.where} closed the connection in the middle of an answer")
            data += more
        return data


def http_json(
    url: str, timeout_s: float, stopping: Callable[[], bool], put: dict[str, str] | None = None
) -> Any:
    """Return the JSON that `url` answers to a GET, or to a PUT of `put`. Raises ProbeFailed.

    HTTP/1.0 over a Wire and not `http.client`, whose timeout starts anew with every byte that trickles in.
    """
    parts = urlsplit(url)
    body = b"" if put is None else json.dumps(put).encode()
    head = (
        f"{'GET' if put is None else 'PUT'} {parts.path}?{parts.query} HTTP/1.0\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    answer = b""
    with Wire(parts.hostname or "", parts.port or 80, timeout_s, stopping) as wire:
        wire.send(head.encode("ascii") + body)
        more = wire.some(65536)
        while more:
            answer += more
            more = wire.some(65536)
    top, _, content = answer.partition(b"\r\n\r\n")
    status = top.split(b"\r\n")[0][:80].decode("latin-1")
    if not re.match(r"HTTP/1\.[01] 2", status):
        raise ProbeFailed(f"{url} answered {status or 'nothing'}")
    try:
        return json.loads(content)
    except ValueError as problem:
        raise ProbeFailed(f"{url} answered something that is not JSON") from problem


# HTTP/2, RFC 9113: what one gRPC call needs and no more. No library: nodes have the system's Python only.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITY = 0x4, 0x8, 0x20
FRAME_LIMIT_BYTES = 16384  # SETTINGS_MAX_FRAME_SIZE, unless one says otherwise
GRPC_WORDS = {"4": "it was too slow", "14": "it is not ready", "16": "it refused the token"}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one HTTP/2 frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def prefixed(value: bytes) -> bytes:
    """Return an HPACK string without Huffman coding (RFC 7541, 5.1 and 5.2)."""
    length = len(value)
    if length < 127:
        return bytes([length]) + value
    head, length = b"\x7f", length - 127
    while length > 127:
        head, length = head + bytes([length & 127 | 128]), length >> 7
    return head + bytes([length]) + value


def header_block(headers: list[tuple[str, str]]) -> bytes:
    """Return the headers as HPACK literals that are never indexed (RFC 7541, 6.2.3)."""
    return b"".join(b"\x10" + prefixed(name.encode()) + prefixed(value.encode()) for name, value in headers)


def unpadded(kind: int, flags: int, payload: bytes) -> bytes:
    """Return the payload of a DATA or HEADERS frame without padding and priority."""
    start, end = 0, len(payload)
    if flags & PADDED:
        start, end = 1, end - (payload[0] if payload else 0)
    if kind == HEADERS and flags & PRIORITY:
        start += 5
    if start > end:
        raise ProbeFailed("it sent an HTTP/2 frame shorter than its own padding")
    return payload[start:end]


def read_stream(wire: Wire) -> tuple[bytes, bytes]:
    """Return the header blocks and the data of stream 1, when its end was read. Raises ProbeFailed."""
    blocks, data, ended, block_open = b"", b"", False, False
    while not ended or block_open:
        head = wire.exactly(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:], "big") & 0x7FFFFFFF
        if length > FRAME_LIMIT_BYTES:
            raise ProbeFailed(f"{wire.where} does not speak HTTP/2")
        payload = wire.exactly(length)
        if kind == SETTINGS and not flags & ACK:
            wire.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            wire.send(frame(PING, ACK, 0, payload[:8]))
        elif kind == GOAWAY and (payload[:4] < b"\0\0\0\1" or any(payload[4:8])):
            raise ProbeFailed(
                f"{wire.where} ended the connection (GOAWAY {int.from_bytes(payload[4:8], 'big')})"
            )
        elif kind == RST_STREAM and stream == 1:
            raise ProbeFailed(f"{wire.where} reset the request (code {int.from_bytes(payload[:4], 'big')})")
        elif kind == DATA and stream == 1:
            data += unpadded(kind, flags, payload)
            ended = ended or bool(flags & END_STREAM)
        elif kind in (HEADERS, CONTINUATION) and stream == 1:
            blocks += unpadded(kind, flags, payload) if kind == HEADERS else payload
            ended = ended or (kind == HEADERS and bool(flags & END_STREAM))
            block_open = not flags & END_HEADERS
    return blocks, data


def trailer(blocks: bytes, name: bytes) -> str | None:
    """Return the value of a plain header, or None if it is not there.

    The blocks are searched, not decoded: gRPC's Java and C servers Huffman-code no short plain header, and
    one call a connection leaves the dynamic table no earlier entry to point at.
    """
    _, found, rest = blocks.partition(prefixed(name))
    if not found or not rest or rest[0] & 0x80:
        return None
    length, start, shift = rest[0], 1, 0
    if length == 0x7F:  # RFC 7541, 5.1: the rest of the number follows, seven bits a byte
        for byte in rest[1:4]:
            length, start, shift = length + ((byte & 0x7F) << shift), start + 1, shift + 7
            if not byte & 0x80:
                break
    return unquote(rest[start : start + length].decode("latin-1"))


def grpc_unary(wire: Wire, path: str, message: bytes, token: str, timeout_s: float) -> bytes:
    """Return the message that answers one gRPC call over cleartext HTTP/2. Raises ProbeFailed."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", f"{max(1, int(timeout_s * 1000))}m"),
        ("authorization", f"Bearer {token}"),
    ]
    wire.send(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS, 0, 0, struct.pack(">HIHI", 1, 0, 2, 0))  # no header table, no pushes
        + frame(HEADERS, END_HEADERS, 1, header_block(headers))
        + frame(DATA, END_STREAM, 1, struct.pack(">BI", 0, len(message)) + message)
    )
    blocks, data = read_stream(wire)
    code = trailer(blocks, b"grpc-status")
    if code != "0":
        words = GRPC_WORDS.get(str(code), f"gRPC status {code}")
        raise ProbeFailed(
            f"{wire.where}: {words}: {(trailer(blocks, b'grpc-message') or '')[:300]}".rstrip(": ")
        )
    if data[:1] != b"\0" or len(data) < 5 or len(data) != 5 + int.from_bytes(data[1:5], "big"):
        raise ProbeFailed(f"{wire.where} answered with something that is not one gRPC message")
    return data[5:]


# -------------------- the questions


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


if TYPE_CHECKING:
    Question = Callable[[Wire, str, str, str, float], str]
DOOR_QUESTIONS: dict[str, Question] = {"connect": ask_connect}


class Yarn:
    """What the ResourceManager knows about this session's applications."""

    def __init__(self, config: Config, stopping: Callable[[], bool]) -> None:
        """Keep whom to ask; nothing is asked yet."""
        self._config = config
        self._stopping = stopping
        self._apps = f"{config.resourcemanager}/ws/v1/cluster/apps"

    def _ask(self, url: str, put: dict[str, str] | None = None) -> Any:
        return http_json(url, self._config.probe_timeout_s, self._stopping, put)

    def says(self, app_id: str) -> str:
        """Return the application's state. Raises ApplicationEnded if it is over.

        An unreachable ResourceManager is no reason to end a driver, as applications outlive its restart.
        """
        try:
            app = self._ask(f"{self._apps}/{app_id}")["app"]
            state, words = str(app["state"]), " ".join(str(app.get("diagnostics")).split())[:200]
        except (ProbeFailed, KeyError, TypeError) as problem:
            return f"unknown: {problem}"
        if state in RM_ENDED:
            raise ApplicationEnded(f"YARN says that {app_id} is {state}: {words}")
        return state

    def live(self) -> list[dict[str, Any]]:
        """Return this session's applications that are not over. Raises ProbeFailed."""
        url = f"{self._apps}?states=NEW,NEW_SAVING,SUBMITTED,ACCEPTED,RUNNING&user={quote(self._config.user)}"
        try:
            apps = (self._ask(url)["apps"] or {}).get("app") or []
            return [app for app in apps if app["name"] == self._config.name]
        except (AttributeError, KeyError, TypeError) as problem:
            raise ProbeFailed(f"{url} answered something unexpected: {problem!r}") from problem

    def queue(self) -> str:
        """Return why an application is not started yet, in YARN's words, or nothing."""
        try:
            waiting = [app for app in self.live() if app["state"] == "ACCEPTED"]
        except (ProbeFailed, KeyError):
            return ""  # only a better wording of a wait that goes on anyway
        if not waiting:
            return ""
        words = " ".join(str(waiting[0].get("diagnostics")).split())[:300]
        return f"YARN to start the application master of {waiting[0]['id']}: {words}"

    def kill(self, app_id: str) -> None:
        """Ask YARN to end an application. Raises ProbeFailed."""
        self._ask(
            f"{self._apps}/{app_id}/state?user.name={quote(self._config.user)}", put={"state": "KILLED"}
        )


@dataclass(frozen=True)
class Health:
    """What a driver answered in one round of questions."""

    app_id: str
    doors: list[dict[str, Any]]
    ui_ms: int
    yarn: str


class Probe:
    """One round of questions to a driver: every door, the Spark UI, and YARN."""

    def __init__(self, config: Config, token: str, yarn: Yarn, stopping: Callable[[], bool]) -> None:
        """Choose one session id for the driver's whole life, so that rounds do not pile up sessions in it."""
        self._config = config
        self._token = token
        self._yarn = yarn
        self._stopping = stopping
        self._session = str(uuid.uuid4())

    def round(self) -> Health:
        """Ask everything once. Raises ProbeFailed for the first wrong or missing answer."""
        app_id, doors = "", []
        for door in self._config.doors:
            answered, took_ms = self._ask(door)
            doors.append({"kind": door.kind, "host": door.host, "port": door.port, "answer_ms": took_ms})
            app_id = app_id or answered
        started = time.monotonic()
        try:
            self._ui_shows(app_id)
        except ProbeFailed:
            self._yarn.says(app_id)  # if the application is over, that is the better reason, and final
            raise
        return Health(app_id, doors, int((time.monotonic() - started) * 1000), self._yarn.says(app_id))

    def _ask(self, door: Door) -> tuple[str, int]:
        timeout_s, started = self._config.probe_timeout_s, time.monotonic()
        try:
            with Wire(door.host, door.port, timeout_s, self._stopping) as wire:
                ask = DOOR_QUESTIONS[door.kind]
                answered = ask(wire, self._token, self._config.user, self._session, timeout_s)
        except ProbeFailed as problem:
            if "INVALID_HANDLE" in str(problem):  # the machine slept longer than Spark keeps an idle session
                self._session = str(uuid.uuid4())
            raise ProbeFailed(f"the {door.kind} door: {problem}") from problem
        return answered, int((time.monotonic() - started) * 1000)

    def _ui_shows(self, app_id: str) -> None:
        """Raise ProbeFailed unless the UI lists the application: it goes when the SparkContext stops."""
        url = f"{self._config.ui}/api/v1/applications"
        try:
            listed = http_json(url, self._config.probe_timeout_s, self._stopping)
        except ProbeFailed as problem:
            raise ProbeFailed(f"the SparkContext is stopped or stuck: its UI, {problem}") from problem
        if not isinstance(listed, list) or app_id not in [
            app.get("id") for app in listed if isinstance(app, dict)
        ]:
            raise ProbeFailed(f"the Spark UI at {url} does not show {app_id}")


# -------------------- processes and files


def spawn(argv: list[str], environment: dict[str, str], directory: str, output: IO[bytes]) -> Process:
    """Start a program as leader of its own process group, which the kernel kills when the keeper dies."""
    prctl, keeper = ctypes.CDLL(None).prctl, os.getpid()

    def die_with_the_keeper() -> None:
        prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
        if os.getppid() != keeper:  # it died before the line above
            os._exit(1)

    return subprocess.Popen(
        argv,
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_the_keeper,  # noqa: PLW1509 - unsafe with threads; the keeper has none
    )


def process_stat(pid: int) -> tuple[str, int]:
    """Return state letter and start time in clock ticks of a process, or ("", 0) if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1").rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[19])


def identity(pid: int) -> dict[str, Any]:
    """Return what tells this process from every other one, before and after a reboot."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return {"pid": pid, "start_ticks": process_stat(pid)[1], "boot_id": boot}


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if anybody is left in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def port_is_free(host: str, port: int) -> bool:
    """Say whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: TIME_WAIT is no obstacle
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def cut_log(path: Path) -> None:
    """Move a log that has grown too long aside, and go on at its start.

    The driver holds the file open for appending, so it is copied and truncated: lines that it writes between
    the two are lost.
    """
    if path.exists() and path.stat().st_size > LOG_LIMIT_BYTES:
        shutil.copyfile(str(path), f"{path}.1")
        os.truncate(str(path), 0)


def last_words(path: Path, start: int) -> str:
    """Return the line of the log since `start` that best says why a driver ended, or nothing."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(size - 131072, start if start <= size else 0))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    for pattern in (
        r"^Exception in thread .*$",
        r"^.*OutOfMemoryError.*$",
        r"^Error: .*$",
        r"^.*\bERROR\b.*(?:\n[\w.$]+(?:Exception|Error)\b.*)?$",  # and the exception below it
    ):
        found = re.findall(pattern, text, re.MULTILINE)
        if found:
            return " ".join(str(found[-1]).split("\n"))[:300]
    return ""


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a file that everybody may read in one step."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), 0o644)
        json.dump(document, file, indent=1)
    draft.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file that this keeper writes; empty if there is none that can be read."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def base_environment(config: Config) -> dict[str, str]:
    """Return the configured environment; of the keeper's own only what every program expects."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "USER", "LANG", "TZ") if name in os.environ}
    return {**kept, **config.environment}


# -------------------- chores


class Chores:
    """Run the chores, one at a time; remember across restarts of the keeper when each is due."""

    def __init__(self, config: Config) -> None:
        """Read when each chore is due; a new one waits a full period: there is nothing to tidy yet."""
        self._config = config
        self._path = Path(config.status_file + ".chores")
        known = read_json(self._path)
        self.records: dict[str, dict[str, Any]] = {
            chore.name: dict(known.get(chore.name) or {"due_at": time.time() + chore.every_s})
            for chore in config.chores
        }
        self._running: tuple[Chore, Process, float] | None = None
        if config.chores:
            write_json(self._path, self.records)

    def tick(self) -> None:
        """Start what is due, and take note of what has ended."""
        if self._running:
            self._look_after(*self._running)
            return
        # Due the longest: a chore that is due all the time does not keep the others from running.
        first = min(self._config.chores, key=lambda chore: self.records[chore.name]["due_at"], default=None)
        if first and self.records[first.name]["due_at"] <= time.time():
            self._start(first)

    def _output(self, chore: Chore) -> Path:
        return Path(f"{self._config.log}.{chore.name}")

    def _start(self, chore: Chore) -> None:
        started = time.time()
        try:
            with self._output(chore).open("wb") as output:
                process = spawn(chore.argv, base_environment(self._config), self._config.directory, output)
            self._running = (chore, process, started)
        except OSError as problem:
            self._note(chore, started, None, f"it could not be started: {problem}")

    def _look_after(self, chore: Chore, process: Process, started: float) -> None:
        code = process.poll()
        if code is None and time.time() - started <= chore.timeout_s:
            return
        self.stop()
        lines = self._output(chore).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        words = f"stopped after {chore.timeout_s:g} s" if code is None else (lines or [""])[-1][:300]
        self._note(chore, started, code, words)

    def _note(self, chore: Chore, started: float, code: int | None, message: str) -> None:
        last = {
            "at": started,
            "took_s": round(time.time() - started, 1),
            "exit_code": code,
            "message": message,
        }
        self.records[chore.name] = {"due_at": started + chore.every_s, "last": last}
        write_json(self._path, self.records)

    def stop(self) -> None:
        """End the chore that runs, if any; without a note it is due again at once."""
        if self._running:
            process = self._running[1]
            signal_group(process.pid, signal.SIGKILL)
            process.wait(timeout=10)
            self._running = None


# -------------------- the keeper


class Keeper:
    """Start the driver, watch it, replace it, and say in the status file what is going on."""

    def __init__(self, config: Config) -> None:
        """Take the configuration; nothing is started yet."""
        self._config = config
        self._stop_requested = False
        self._yarn = Yarn(config, self._stopping)
        self._chores = Chores(config)
        self._driver: Process | None = None
        self._log = Path(config.log)
        self._log_start = 0
        self._status_file = Path(config.status_file)
        self._status: dict[str, Any] = {
            "schema": SCHEMA,
            "name": config.name,
            "state": None,
            "since": time.time(),
            "keeper_pid": os.getpid(),
            "driver": None,
            "app_id": None,
            "restarts": 0,
            "waiting_for": None,
            "last_reason": None,
            "doors": [],
            "ui_ms": None,
            "yarn": "unknown: not asked yet",
            "last_probe_at": None,
            "last_probe_ms": None,
        }

    def _stopping(self) -> bool:
        return self._stop_requested

    def _request_stop(self, unused_number: int, unused_frame: FrameType | None) -> None:
        self._stop_requested = True

    def run(self) -> int:
        """Keep the session until SIGTERM or SIGINT; returns the exit code."""
        signal.signal(signal.SIGTERM, self._request_stop)
        signal.signal(signal.SIGINT, self._request_stop)
        self._end_stale_driver()
        streak = 0
        try:
            while True:
                healthy_s = self._one_life()
                streak = 1 if healthy_s >= SETTLED_S else streak + 1
                pause_s = BACKOFF_S[min(streak, len(BACKOFF_S)) - 1]
                if pause_s:
                    self._say("backoff", waiting_for=f"{pause_s} s to pass: failure {streak} in a row")
                    self._sleep(pause_s)
                self._status["restarts"] += 1
        except StopRequested:
            self._say(
                "restarting", waiting_for="the driver to stop", last_reason="the keeper was asked to stop"
            )
            self._chores.stop()
            self._end_driver(STOP_GRACE_S)
            self._say("stopped", waiting_for=None)
        return 0

    # One life of a driver

    def _one_life(self) -> float:
        """Start a driver, end it when it fails, and return for how many seconds it was healthy."""
        healthy_since = None
        try:
            self._say("starting", waiting_for="its ports", app_id=None, doors=[], ui_ms=None)
            self._end_leftovers()
            self._wait_for_ports()
            self._wait_for_hdfs()
            probe = self._start_driver()
            self._wait_until_healthy(probe)
            healthy_since = time.monotonic()
            self._watch(probe)
        except (ProbeFailed, ConfigError) as problem:
            self._say("restarting", last_reason=str(problem), waiting_for="the old driver to end")
        self._end_driver(REPLACE_GRACE_S)
        return time.monotonic() - healthy_since if healthy_since else 0.0

    def _start_driver(self) -> Probe:
        config = self._config
        secrets = {name: read_secret(path) for name, path in config.secret_environment.items()}
        try:
            with self._log.open("ab") as log:
                self._log_start = log.seek(0, os.SEEK_END)
                environment = {**base_environment(config), **secrets}
                self._driver = spawn(config.java, environment, config.directory, log)
        except OSError as problem:
            raise ProbeFailed(f"the driver cannot be started: {problem}") from problem
        self._say("starting", waiting_for="the driver to answer", driver=identity(self._driver.pid))
        return Probe(config, secrets.get(TOKEN_VARIABLE, ""), self._yarn, self._stopping)

    def _wait_until_healthy(self, probe: Probe) -> None:
        limit_s = self._config.start_timeout_s
        deadline = time.monotonic() + limit_s
        while True:
            try:
                self._note_health(probe)
                return
            except ApplicationEnded:
                raise
            except ProbeFailed as problem:
                waiting_for = self._yarn.queue() or str(problem)
            self._check_alive()
            if time.monotonic() > deadline:
                raise ProbeFailed(
                    f"the driver was not ready {limit_s:g} s after its start; it waited for {waiting_for}"
                )
            self._say("starting", waiting_for=waiting_for)
            self._sleep(min(0.5, self._config.probe_interval_s))

    def _watch(self, probe: Probe) -> None:
        """Ask again and again. Raises ProbeFailed when the driver must be replaced."""
        failures = 0
        while True:
            self._sleep(self._config.probe_interval_s)
            try:
                self._note_health(probe)
                failures = 0
            except ApplicationEnded:
                raise
            except ProbeFailed as problem:
                failures += 1
                self._check_alive()
                self._say("unhealthy", last_reason=str(problem), last_probe_at=time.time())
                if failures >= self._config.failures_before_restart:
                    raise
            try:
                cut_log(self._log)
            except OSError as problem:
                self._talk(f"{self._log} cannot be cut: {problem}")

    def _note_health(self, probe: Probe) -> None:
        started = time.monotonic()
        health = probe.round()
        self._say(
            "healthy",
            waiting_for=None,
            app_id=health.app_id,
            doors=health.doors,
            ui_ms=health.ui_ms,
            yarn=health.yarn,
            last_probe_at=time.time(),
            last_probe_ms=int((time.monotonic() - started) * 1000),
        )

    def _check_alive(self) -> None:
        """Raise ProbeFailed with the cause if the driver's process is gone."""
        code = self._driver.poll() if self._driver else None
        if code is None:
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = last_words(self._log, self._log_start)
        raise ProbeFailed(f"the driver {how}{': ' + words if words else ''}; see {self._log}")

    # Ends

    def _end_driver(self, grace_s: float) -> None:
        """End the driver and all of its process group; returns when it is gone."""
        driver = self._driver
        if driver is None:
            return
        if process_stat(driver.pid)[0] not in ("T", "t"):  # a frozen process could not act on SIGTERM
            signal_group(driver.pid, signal.SIGTERM)
            deadline = time.monotonic() + grace_s
            while driver.poll() is None and time.monotonic() < deadline:
                time.sleep(TICK_S / 4)
        signal_group(driver.pid, signal.SIGKILL)
        driver.wait(timeout=10)
        self._driver = None
        self._status["driver"] = None

    def _end_stale_driver(self) -> None:
        """End a driver that an earlier keeper of this session left behind."""
        stale = read_json(self._status_file).get("driver")
        if not isinstance(stale, dict) or not isinstance(stale.get("pid"), int):
            return
        pid = stale["pid"]
        if process_stat(pid)[0] in ("", "Z") or identity(pid) != stale:
            return
        self._talk(f"ending the driver {pid} of an earlier keeper")
        signal_group(pid, signal.SIGKILL)

    def _end_leftovers(self) -> None:
        """End applications of earlier drivers, which would hold the memory that the next one needs."""
        deadline = time.monotonic() + LEFTOVER_GRACE_S
        try:
            live = self._yarn.live()
            while live and time.monotonic() < deadline:
                self._say("starting", waiting_for=f"{live[0]['id']} of an earlier driver to end")
                self._sleep(TICK_S)
                live = self._yarn.live()
            for app in live:
                self._talk(f"killing {app['id']} of an earlier driver")
                self._yarn.kill(app["id"])
        except (ProbeFailed, KeyError) as problem:
            self._talk(f"an earlier application may still hold containers: {problem}")

    # Waits and words

    def _wait_for_ports(self) -> None:
        ui = urlsplit(self._config.ui)
        wanted = [(door.host, door.port) for door in self._config.doors] + [
            (ui.hostname or "", ui.port or 80)
        ]
        deadline = time.monotonic() + PORTS_FREE_TIMEOUT_S
        taken = wanted
        while taken:
            taken = [(host, port) for host, port in wanted if not port_is_free(host, port)]
            names = ", ".join(f"{host}:{port}" for host, port in taken)
            if taken and time.monotonic() > deadline:
                raise ProbeFailed(f"another process still listens on {names}; `ss -ltnp` names it")
            if taken:
                self._say("starting", waiting_for=f"{names} to become free")
                self._sleep(1)

    def _wait_for_hdfs(self) -> None:
        """Wait until HDFS can be written; after `start_timeout_s` start all the same: its error says more."""
        url = f"{self._config.namenode}/jmx?qry=Hadoop:service=NameNode,name=NameNodeInfo"
        deadline = time.monotonic() + self._config.start_timeout_s
        while self._config.namenode and time.monotonic() < deadline:
            try:
                beans = http_json(url, self._config.probe_timeout_s, self._stopping)["beans"]
                if beans and beans[0]["Safemode"] == "":
                    return
                waiting_for = "HDFS to leave safe mode"
            except (ProbeFailed, KeyError, TypeError) as problem:
                waiting_for = f"HDFS: {problem}"
            self._say("starting", waiting_for=waiting_for)
            self._sleep(0.5)

    def _sleep(self, seconds: float) -> None:
        """Wait, but no longer than the driver lives; chores run meanwhile. Raises StopRequested."""
        deadline = time.monotonic() + seconds
        while True:
            if self._stop_requested:
                raise StopRequested
            if self._status["state"] == "healthy":
                self._chores.tick()
            left_s = deadline - time.monotonic()
            if left_s <= 0 or (self._driver and self._driver.poll() is not None):
                return
            time.sleep(min(TICK_S, left_s))

    def _say(self, state: str, **facts: Any) -> None:
        """Write the status file, and a line of talk when the state or what is waited for changed."""
        before = dict(self._status)
        self._status.update(facts, state=state, updated_at=time.time(), chores=self._chores.records)
        wait, changed = self._status["waiting_for"], before["state"] != state
        if changed:
            self._status["since"] = time.time()
        try:
            write_json(self._status_file, self._status)
        except OSError as problem:  # a full disk must not end a healthy session
            self._talk(f"{self._status_file} cannot be written: {problem}")
        if changed or (wait and wait != before["waiting_for"]):
            reason = self._status["last_reason"] if state in ("unhealthy", "restarting") else None
            self._talk("; ".join(part for part in (state, reason, wait and f"waiting for {wait}") if part))

    def _talk(self, words: str) -> None:
        sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self._config.name}: {words}\n")
        sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run the keeper of one configuration file; returns the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python keeper.py CONFIG.json\n")
        return 2
    try:
        config = load_config(arguments[0])
        for path in config.secret_environment.values():
            read_secret(path)
        with Path(config.status_file + ".lock").open("a", encoding="utf-8") as lock:
            # Two keepers of one session would end each other's drivers.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Keeper(config).run()
    except BlockingIOError:
        holder = read_json(Path(config.status_file)).get("keeper_pid")
        sys.stderr.write(
            f"keeper: {config.name}: another keeper (process {holder}) looks after this session\n"
        )
    except (ConfigError, OSError) as problem:
        sys.stderr.write(f"keeper: {problem}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
