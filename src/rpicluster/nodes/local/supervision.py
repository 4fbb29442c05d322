"""supervisord as the keeper of a cluster's processes: its configuration, its socket, its orphans."""

import fcntl
import http.client
import json
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rpicluster.design.units import Unit
from rpicluster.errors import LocalEngineError
from rpicluster.nodes.local.processes import (
    HASH_VARIABLE,
    RUNTIME_VARIABLE,
    UNIT_VARIABLE,
    Process,
    end_processes,
    own_processes,
    read_process,
)
from rpicluster.nodes.local.state import ClusterState, write_file

_CALL_TIMEOUT_S = 1.5
_BOOT_TIMEOUT_S = 15.0
_KILL_DEADLINE_S = 15.0
_ORPHAN_GRACE_S = 8.0
_POLL_S = 0.05
_EXEC_TIMEOUT_S = 10.0
_OPEN_FILES = 4096
# A unit that dies before this is started again after 1, 2, 3 … s; after it, at once.
_SETTLED_S = 10
_HERE = Path(__file__).parent
_BAD_NAME = 10  # supervisor.xmlrpc.Faults
_NOT_RUNNING = 70
_ALREADY_ADDED = 90

_SUPERVISORD_CONF = """\
[unix_http_server]
file={alias}/supervisor.sock
chmod=0700

[supervisord]
logfile={alias}/state/supervisor/supervisord.log
logfile_maxbytes=1MB
logfile_backups=2
pidfile={alias}/state/supervisor/supervisord.pid
childlogdir={alias}/state/supervisor
directory={alias}/state
umask=077
minfds={files}
nocleanup=true

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[include]
files={alias}/state/supervisor/units/*.ini
"""
# Program and script come from the environment: supervisor expands them after it has cut comments off.
_PROGRAM = """\
[program:{program}]
command=%(ENV_RPICLUSTER_PYTHON)s -I -S %(ENV_RPICLUSTER_UNIT_EXEC)s {alias}/state/supervisor/units/{program}.json
autostart=false
autorestart=true
startsecs={settled}
startretries=1000000
stopsignal=TERM
stopwaitsecs={stop_timeout}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={alias}/state/logs/{node}/{unit}.out
stdout_logfile_maxbytes=5MB
stdout_logfile_backups=2
"""

State = Literal["running", "stopped", "failed"]
_STATES: dict[str, State] = {
    "RUNNING": "running",
    "STARTING": "running",
    "STOPPING": "running",
    "STOPPED": "stopped",
    "EXITED": "failed",
    "BACKOFF": "failed",
    "FATAL": "failed",
    "UNKNOWN": "failed",
}


@dataclass(frozen=True)
class UnitStatus:
    """A unit as it is: `config_hash` and `runtime` are what the living process was started with."""

    node: str
    unit: str
    state: State
    pid: int | None
    config_hash: str
    runtime: str
    detail: str


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a Unix socket; supervisor's own transport has no timeout and would wait for a frozen one."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path, self._timeout_s)


class Supervisor:
    """The supervisord of one cluster. Whoever starts or stops units holds the cluster's lock."""

    def __init__(self, state: ClusterState, cluster_id: str) -> None:
        """Speak for the cluster `cluster_id` whose state is `state`; starts nothing."""
        self._state = state
        self._cluster_id = cluster_id
        self._folder = state.directory / "supervisor"

    # -- looking ---------------------------------------------------------------------------------------

    def statuses(self) -> list[UnitStatus]:
        """Return every unit that was ever started and not removed; answers within seconds whatever is dead."""
        known = {path.stem: json.loads(path.read_text()) for path in self._folder.glob("units/*.json")}
        if not known:
            return []
        infos = self._process_infos()
        if infos is None:
            orphans = {process.unit for process in own_processes()}
            return [
                UnitStatus(
                    unit["node"],
                    unit["unit"],
                    "failed" if self._mark(unit["node"], unit["unit"]) in orphans else "stopped",
                    None,
                    unit["environment"][HASH_VARIABLE],
                    "",
                    "its supervisor is gone",
                )
                for unit in known.values()
            ]
        return [_status(unit, infos.get(program)) for program, unit in sorted(known.items())]

    def is_up(self) -> bool:
        """Return whether supervisord answers."""
        return self._process_infos() is not None

    def _process_infos(self) -> dict[str, dict[str, Any]] | None:
        """Return supervisor's own table, None if there is no supervisord. Raises LocalEngineError if it is frozen."""
        try:
            return {info["name"]: info for info in self._call("getAllProcessInfo")}
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except (OSError, http.client.HTTPException) as error:
            if self._alias_is_locked():
                raise LocalEngineError(
                    f"the supervisor of cluster {self._state.name} (pid {self._pid()}) does not answer within "
                    f"{_CALL_TIMEOUT_S:g} s: {error or type(error).__name__}",
                    hint=f"kill -9 {self._pid()} && rpicluster start",
                ) from error
            return None

    def _pid(self) -> int | None:
        """Return the pid of the living supervisord, whatever its pid file says."""
        configuration = str(self._configuration)
        for process in own_processes():
            if configuration in process.argv and any(
                "supervisord_locked.py" in word for word in process.argv
            ):
                return process.pid
        return None

    @property
    def _configuration(self) -> Path:
        return self._state.alias / "state" / "supervisor" / "supervisord.conf"

    def _call(self, method: str, *arguments: object) -> Any:
        transport = _UnixTransport(str(self._state.socket), _CALL_TIMEOUT_S)
        with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
            return getattr(proxy.supervisor, method)(*arguments)

    def _call_unless(self, fault_code: int, method: str, *arguments: object) -> None:
        """Call, and take one fault as "already so"."""
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode != fault_code:
                raise

    def _alias_is_locked(self) -> bool:
        try:
            descriptor = os.open(self._state.alias, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _mark(self, node: str, unit: str) -> str:
        return f"{self._cluster_id}/{node}/{unit}"

    # -- supervisord itself ----------------------------------------------------------------------------

    def ensure_up(self) -> None:
        """Start supervisord unless it answers; what a killed one left running is ended first."""
        self._state.ensure_alias()
        if self.is_up():
            return
        _until(
            lambda: self.is_up() or not self._alias_is_locked(),
            _BOOT_TIMEOUT_S,
            f"the supervisor of cluster {self._state.name} (pid {self._pid()}) to answer or end",
        )
        if self.is_up():
            return
        self.end_orphans()
        self._boot()

    def _boot(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        files = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        text = _SUPERVISORD_CONF.format(alias=self._state.alias, files=files)
        (self._folder / "units").mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(self._folder / "supervisord.conf", text.encode(), 0o600)
        for path in self._folder.glob(
            "units/*.json"
        ):  # supervisord refuses a program whose log folder is missing
            (self._state.directory / "logs" / json.loads(path.read_text())["node"]).mkdir(
                mode=0o700, parents=True, exist_ok=True
            )
        environment = {
            **{
                name: os.environ[name]
                for name in ("HOME", "PATH", "PYTHONPATH", "PYTHONUSERBASE")
                if name in os.environ
            },
            "LANG": "C.UTF-8",
            "RPICLUSTER_PYTHON": shlex.quote(sys.executable),
            "RPICLUSTER_UNIT_EXEC": shlex.quote(str(_HERE / "unit_exec.py")),
        }
        try:
            started = subprocess.run(
                [
                    sys.executable,
                    "-P",
                    str(_HERE / "supervisord_locked.py"),
                    str(self._state.alias),
                    str(self._configuration),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_BOOT_TIMEOUT_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise LocalEngineError(
                f"supervisord did not go to the background in {_BOOT_TIMEOUT_S:g} s"
            ) from error
        if started.returncode != 0:
            cause = (started.stderr or started.stdout).strip().rpartition("\n")[
                2
            ] or f"exit code {started.returncode}"
            raise LocalEngineError(
                f"supervisord of cluster {self._state.name} did not start: {cause}",
                hint=f"cat {self._state.alias}/state/supervisor/supervisord.log",
            )
        _until(self.is_up, _BOOT_TIMEOUT_S, "supervisord to open its socket")

    def shut_down(self) -> None:
        """Stop supervisord and wait until it is gone; units must have been stopped before."""
        if self.is_up():
            self._call("shutdown")
            _until(lambda: not self._alias_is_locked(), _KILL_DEADLINE_S, "supervisord to end")
        self.end_orphans()

    def kill(self) -> None:
        """End supervisord by force, for `destroy` of a cluster whose supervisor is frozen."""
        pid = self._pid()
        process = read_process(pid) if pid else None
        if process is not None:
            os.kill(process.pid, signal.SIGKILL)
            _until(lambda: not self._alias_is_locked(), _KILL_DEADLINE_S, "supervisord to end")

    # -- units -----------------------------------------------------------------------------------------

    def start(self, unit: Unit, *, config_hash: str, runtime: str) -> None:
        """Start `unit` as given, replacing whatever runs in its place; returns when its process exists."""
        self.ensure_up()
        program = _program(unit)
        self.stop(unit.node, unit.name)
        self._define(unit, config_hash, runtime)
        self._call("reloadConfig")
        self._call_unless(_ALREADY_ADDED, "addProcessGroup", program)
        self._start(unit.node, unit.name)

    def _start(self, node: str, name: str) -> None:
        program = f"{node}.{name}"
        try:
            self._call("startProcess", program, False)
            _until(lambda: self._has_become(program), _EXEC_TIMEOUT_S, f"{name} on {node} to start")
        except (xmlrpc.client.Fault, LocalEngineError) as error:
            cause = error.faultString if isinstance(error, xmlrpc.client.Fault) else error.message
            raise LocalEngineError(
                f"{name} on {node} could not be started: {cause}",
                hint=f"tail {self._state.alias}/state/logs/{node}/{name}.out",
            ) from error

    def _has_become(self, program: str) -> bool:
        """Whether the unit's own program runs in place of unit_exec.py, or has died already."""
        info = self._call("getProcessInfo", program)
        process = read_process(info["pid"]) if info["pid"] else None
        return info["statename"] != "STARTING" or (process is not None and not _is_becoming(process))

    def restart_known(self, node: str, name: str) -> None:
        """Start a stopped unit again, as it was last started."""
        self.ensure_up()
        self.stop(node, name)
        self._start(node, name)

    def stop(self, node: str, name: str) -> None:
        """Stop a unit and everything that it started; the unit stays known. No error if it does not run."""
        program = f"{node}.{name}"
        if program in (self._process_infos() or {}):
            _until(
                lambda: self._is_stopped(program),
                self._stop_timeout_s(program) + _KILL_DEADLINE_S,
                f"{name} on {node} to stop",
            )
        self._end_marked(lambda mark: mark == self._mark(node, name))

    def _is_stopped(self, program: str) -> bool:
        """Ask for a stop where that is due; EXITED is no end, supervisor is about to start it again."""
        state = self._call("getProcessInfo", program)["statename"]
        if state in ("RUNNING", "STARTING", "BACKOFF"):
            self._call_unless(_NOT_RUNNING, "stopProcess", program, False)
        return state in ("STOPPED", "FATAL")

    def stop_all(self) -> None:
        """Stop all units, those first that others are started before, and then supervisord."""
        for wave in reversed(self._waves()):
            infos = self._process_infos() or {}
            asked = [program for program in wave if program in infos]
            for program in asked:
                self._is_stopped(program)  # all of a wave at once, then wait for each
            for program in asked:
                node, _, name = program.partition(".")
                self.stop(node, name)
        self.shut_down()

    def start_order(self) -> list[tuple[str, str]]:
        """Return (node, unit) of all known units, each behind those it is started after."""
        return [
            (node, name)
            for wave in self._waves()
            for node, _, name in (p.partition(".") for p in sorted(wave))
        ]

    def forget(self, node: str, name: str) -> None:
        """Remove a stopped unit, so that nothing starts it again."""
        program = f"{node}.{name}"
        for suffix in ("json", "ini"):
            (self._folder / "units" / f"{program}.{suffix}").unlink(missing_ok=True)
        if self.is_up():
            self._call("reloadConfig")
            self._call_unless(_BAD_NAME, "removeProcessGroup", program)  # it may never have been added

    def end_orphans(self) -> None:
        """End every process of this cluster that no supervisord watches. Raises LocalEngineError if one stays."""
        if self._alias_is_locked():
            return
        self._end_marked(lambda mark: mark.startswith(f"{self._cluster_id}/"))

    def processes(self) -> list[Process]:
        """Return all living processes of this cluster: supervisord, units, and what these started."""
        return [
            process
            for process in own_processes()
            if (process.unit or "").startswith(f"{self._cluster_id}/")
            or str(self._configuration) in process.argv
        ]

    def _end_marked(self, matches: Callable[[str], bool]) -> None:
        left = end_processes(
            lambda: [process for process in own_processes() if process.unit and matches(process.unit)],
            grace_s=_ORPHAN_GRACE_S,
            deadline_s=_ORPHAN_GRACE_S + _KILL_DEADLINE_S,
        )
        if left:
            names = ", ".join(f"pid {process.pid} ({process.unit})" for process in left)
            raise LocalEngineError(
                f"these processes do not end, even by SIGKILL: {names}", hint="look at: dmesg | tail"
            )

    def _stop_timeout_s(self, program: str) -> int:
        path = self._folder / "units" / f"{program}.json"
        return int(json.loads(path.read_text())["stop_timeout_s"]) if path.exists() else 0

    def _define(self, unit: Unit, config_hash: str, runtime: str) -> None:
        program = _program(unit)
        (self._state.directory / "logs" / unit.node).mkdir(mode=0o700, parents=True, exist_ok=True)
        document = {
            "node": unit.node,
            "unit": unit.name,
            "after": list(unit.after),
            "stop_timeout_s": unit.stop_timeout_s,
            "argv": list(unit.argv),
            "directory": unit.directory,
            "environment": {
                **_ambient(),
                **dict(unit.environment),
                UNIT_VARIABLE: self._mark(unit.node, unit.name),
                HASH_VARIABLE: config_hash,
                RUNTIME_VARIABLE: runtime,
            },
        }
        ini = _PROGRAM.format(
            program=program,
            alias=self._state.alias,
            node=unit.node,
            unit=unit.name,
            settled=_SETTLED_S,
            stop_timeout=unit.stop_timeout_s,
        )
        units = self._folder / "units"
        changed = not (units / f"{program}.ini").exists() or (units / f"{program}.ini").read_text() != ini
        write_file(units / f"{program}.json", json.dumps(document, indent=1).encode(), 0o600)
        if changed:
            write_file(units / f"{program}.ini", ini.encode(), 0o600)
            # Forgotten here, the program is added again with its new settings.
            self._call_unless(_BAD_NAME, "removeProcessGroup", program)

    def _waves(self) -> list[set[str]]:
        units = {path.stem: json.loads(path.read_text()) for path in self._folder.glob("units/*.json")}
        waves: list[set[str]] = []
        while waiting := set(units) - {program for wave in waves for program in wave}:
            blockers = {units[program]["unit"] for program in waiting}
            ready = {
                program
                for program in waiting
                if not set(units[program]["after"]) & (blockers - {units[program]["unit"]})
            }
            waves.append(ready or waiting)
        return waves


def _program(unit: Unit) -> str:
    return f"{unit.node}.{unit.name}"


def _ambient() -> Mapping[str, str]:
    """Return what every program expects to find; C.UTF-8, or Java cannot open files with non-ASCII names."""
    keep = ("HOME", "USER", "LOGNAME", "PATH", "TZ")
    return {"LANG": "C.UTF-8", "PATH": os.defpath} | {
        name: os.environ[name] for name in keep if name in os.environ
    }


def _status(unit: dict[str, Any], info: dict[str, Any] | None) -> UnitStatus:
    node, name = unit["node"], unit["unit"]
    if info is None:
        return UnitStatus(
            node, name, "stopped", None, unit["environment"][HASH_VARIABLE], "", "not known to its supervisor"
        )
    state, pid = _STATES[info["statename"]], info["pid"] or None
    process = read_process(pid) if pid else None
    recorded = unit["environment"]
    # What the process itself was started with is the truth; its file may have been written since.
    actual = recorded if process is None or _is_becoming(process) else process.environment
    return UnitStatus(
        node,
        name,
        state,
        pid,
        actual.get(HASH_VARIABLE, ""),
        actual.get(RUNTIME_VARIABLE, ""),
        info["description"] or info["spawnerr"],
    )


def _is_becoming(process: Process) -> bool:
    return (
        any(word.endswith("unit_exec.py") for word in process.argv)
        or not process.argv
        or (UNIT_VARIABLE not in process.environment)
    )


def _until(done: Callable[[], object], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline:
            raise LocalEngineError(f"waited {timeout_s:g} s for {what}")
        time.sleep(_POLL_S)
