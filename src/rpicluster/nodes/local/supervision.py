"""The units of a cluster under its supervisord: start, stop, look, and end what got away."""

import json
import os
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
from rpicluster.nodes.local.supervisord import ALREADY_ADDED, BAD_NAME, NOT_RUNNING, Supervisord, until

_EXEC_TIMEOUT_S = 10.0
_KILL_DEADLINE_S = 15.0
_ORPHAN_GRACE_S = 8.0
# A unit that dies sooner than this is started again after 1, 2, 3 … s; one that dies later, at once.
_SETTLED_S = 10

# Program and script come from the environment: supervisor expands them after it has cut comments off.
_PROGRAM = """\
[program:{program}]
command=%(ENV_RPICLUSTER_PYTHON)s -I -S %(ENV_RPICLUSTER_UNIT_EXEC)s {units}/{program}.json
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


class Supervisor:
    """All units of one cluster. Whoever starts or stops any holds the cluster's lock."""

    def __init__(self, state: ClusterState, cluster_id: str) -> None:
        """Speak for the cluster `cluster_id` whose state is `state`; starts nothing."""
        self._state = state
        self._cluster_id = cluster_id
        self._units = state.directory / "supervisor" / "units"
        self.daemon = Supervisord(state)

    # -- looking ---------------------------------------------------------------------------------------

    def statuses(self) -> list[UnitStatus]:
        """Return every unit that was ever started and not removed; in 2 s, or an error says who is frozen."""
        known = self._known()
        if not known:
            return []
        infos = self.daemon.process_infos()
        if infos is None:
            orphans = {self._mark_of(process) for process in own_processes()}
            return [
                _unsupervised(unit, self._mark(unit["node"], unit["unit"]) in orphans)
                for unit in known.values()
            ]
        return [_status(unit, infos.get(program)) for program, unit in known.items()]

    def processes(self) -> list[Process]:
        """Return all living processes of this cluster: supervisord, units, and what these started."""
        configuration = str(self.daemon.configuration)
        return [
            process
            for process in own_processes()
            if self._mark_of(process) is not None or configuration in process.argv
        ]

    def start_order(self) -> list[tuple[str, str]]:
        """Return (node, unit) of all known units, each behind those that it is started after."""
        return [_split(program) for wave in self._waves() for program in sorted(wave)]

    # -- changing --------------------------------------------------------------------------------------

    def ensure_up(self) -> None:
        """Start supervisord unless it answers; what a killed one left running is ended first."""
        self._state.ensure_alias()
        if self.daemon.wait_until_settled():
            return
        self.end_orphans()
        for unit in self._known().values():  # supervisord refuses a program whose log folder is missing
            self._log_folder(unit["node"])
        self._units.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.daemon.boot()

    def start(self, unit: Unit, *, config_hash: str, runtime: str) -> None:
        """Start `unit` as given, replacing whatever runs in its place; returns when its process exists."""
        self.ensure_up()
        self.stop(unit.node, unit.name)
        self._define(unit, config_hash, runtime)
        self.daemon.call("reloadConfig")
        self.daemon.call_unless(ALREADY_ADDED, "addProcessGroup", f"{unit.node}.{unit.name}")
        self._start(unit.node, unit.name)

    def restart_known(self, node: str, name: str) -> None:
        """Start a stopped unit again, as it was last started."""
        self.ensure_up()
        self.stop(node, name)
        self._start(node, name)

    def stop(self, node: str, name: str) -> None:
        """Stop a unit and everything that it started; the unit stays known. No error if it does not run."""
        program = f"{node}.{name}"
        if program in self.daemon.programs():
            timeout_s = self._known().get(program, {}).get("stop_timeout_s", 0) + _KILL_DEADLINE_S
            until(lambda: self._is_stopped(program), timeout_s, f"{name} on {node} to stop")
        self._end_marked(lambda mark: mark == self._mark(node, name))

    def stop_all(self) -> None:
        """Stop all units, those first that others are started before, and then supervisord."""
        if self.daemon.wait_until_settled():
            for wave in reversed(self._waves()):
                there = sorted(wave & self.daemon.programs())
                for program in there:
                    self._is_stopped(program)  # ask all of a wave, then wait for each
                for program in there:
                    self.stop(*_split(program))
            self.daemon.shut_down()
        self.end_orphans()

    def forget(self, node: str, name: str) -> None:
        """Remove a stopped unit, so that nothing starts it again."""
        program = f"{node}.{name}"
        for suffix in ("json", "ini"):
            (self._units / f"{program}.{suffix}").unlink(missing_ok=True)
        if self.daemon.answers():
            self.daemon.call("reloadConfig")
            self.daemon.call_unless(BAD_NAME, "removeProcessGroup", program)  # it may never have been added

    def end_orphans(self) -> None:
        """End all processes that no supervisord watches any more. Raises LocalEngineError if one stays."""
        if not self.daemon.lives():
            self._end_marked(lambda mark: True)

    # -- one unit --------------------------------------------------------------------------------------

    def _start(self, node: str, name: str) -> None:
        program = f"{node}.{name}"
        try:
            self.daemon.call("startProcess", program, False)
            until(lambda: self._has_become(program), _EXEC_TIMEOUT_S, f"{name} on {node} to start")
        except (xmlrpc.client.Fault, LocalEngineError) as error:
            cause = error.faultString if isinstance(error, xmlrpc.client.Fault) else error.message
            raise LocalEngineError(
                f"{name} on {node} could not be started: {cause}",
                hint=f"tail {self._state.alias}/state/logs/{node}/{name}.out",
            ) from error

    def _has_become(self, program: str) -> bool:
        """Whether the unit's own program runs in place of unit_exec.py, or has died already."""
        info = self.daemon.call("getProcessInfo", program)
        process = read_process(info["pid"]) if info["pid"] else None
        return info["statename"] != "STARTING" or (process is not None and not _is_becoming(process))

    def _is_stopped(self, program: str) -> bool:
        """Ask for a stop where that is due; EXITED is no end, supervisor is about to start it again."""
        state = self.daemon.call("getProcessInfo", program)["statename"]
        if state in ("RUNNING", "STARTING", "BACKOFF"):
            self.daemon.call_unless(NOT_RUNNING, "stopProcess", program, False)
        return state in ("STOPPED", "FATAL")

    def _end_marked(self, matches: Callable[[str], bool]) -> None:
        def find() -> list[Process]:
            return [
                process
                for process in own_processes()
                if (mark := self._mark_of(process)) is not None and matches(mark)
            ]

        left = end_processes(find, grace_s=_ORPHAN_GRACE_S, deadline_s=_ORPHAN_GRACE_S + _KILL_DEADLINE_S)
        if left:
            names = ", ".join(f"pid {process.pid} ({self._mark_of(process)})" for process in left)
            raise LocalEngineError(
                f"these processes do not end, even by SIGKILL: {names}", hint="look at: dmesg | tail"
            )

    def _mark(self, node: str, unit: str) -> str:
        return f"{self._cluster_id}/{node}/{unit}"

    def _mark_of(self, process: Process) -> str | None:
        """Return `CLUSTER_ID/NODE/UNIT` that a process belongs to, None for everything that is not ours.

        A NodeManager clears the environment of its containers; those are known by the directories that
        YARN gives them.
        """
        if process.unit is not None and process.unit.startswith(f"{self._cluster_id}/"):
            return process.unit
        data = self._data("")
        given = process.environment.get("LOCAL_DIRS", "") if "CONTAINER_ID" in process.environment else ""
        scripts = [word for word in process.argv if word.endswith(("_executor.sh", "launch_container.sh"))]
        for path in (given, *scripts):
            if path.startswith(data):
                return self._mark(path.removeprefix(data).partition("/")[0], "nodemanager")
        return None

    # -- what is known of units ------------------------------------------------------------------------

    def _data(self, node: str) -> str:
        return f"{self._state.alias}/state/data/{node}/".replace("//", "/")

    def _known(self) -> dict[str, dict[str, Any]]:
        return {path.stem: json.loads(path.read_text()) for path in sorted(self._units.glob("*.json"))}

    def _define(self, unit: Unit, config_hash: str, runtime: str) -> None:
        program = f"{unit.node}.{unit.name}"
        self._log_folder(unit.node)
        document = {
            "node": unit.node,
            "unit": unit.name,
            "after": list(unit.after),
            "stop_timeout_s": unit.stop_timeout_s,
            "argv": list(unit.argv),
            "containers": self._data(unit.node) if unit.name == "nodemanager" else "",
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
            units=f"{self._state.alias}/state/supervisor/units",
            node=unit.node,
            unit=unit.name,
            settled=_SETTLED_S,
            stop_timeout=unit.stop_timeout_s,
        )
        path = self._units / f"{program}.ini"
        write_file(self._units / f"{program}.json", json.dumps(document, indent=1).encode(), 0o600)
        if not path.exists() or path.read_text() != ini:
            write_file(path, ini.encode(), 0o600)
            # Forgotten here, the program is added again with its new settings.
            self.daemon.call_unless(BAD_NAME, "removeProcessGroup", program)

    def _log_folder(self, node: str) -> None:
        (self._state.directory / "logs" / node).mkdir(mode=0o700, parents=True, exist_ok=True)

    def _waves(self) -> list[set[str]]:
        """Return the known units in groups, each group behind those that its members are started after."""
        waiting = self._known()
        waves: list[set[str]] = []
        while waiting:
            names = {unit["unit"] for unit in waiting.values()}
            ready = {
                program
                for program, unit in waiting.items()
                if not set(unit["after"]) & (names - {unit["unit"]})
            }
            waves.append(ready or set(waiting))  # a circle cannot come from a plan; stop it all at once
            waiting = {program: unit for program, unit in waiting.items() if program not in waves[-1]}
        return waves


def _split(program: str) -> tuple[str, str]:
    node, _, unit = program.partition(".")
    return node, unit


def _ambient() -> Mapping[str, str]:
    """Return what every program expects to find; C.UTF-8, or Java cannot open files with non-ASCII names."""
    keep = ("HOME", "USER", "LOGNAME", "PATH", "TZ")
    return {"LANG": "C.UTF-8", "PATH": os.defpath} | {
        name: os.environ[name] for name in keep if name in os.environ
    }


def _unsupervised(unit: dict[str, Any], runs: bool) -> UnitStatus:
    recorded = unit["environment"][HASH_VARIABLE]
    detail = "runs without a supervisor" if runs else "not started"
    return UnitStatus(unit["node"], unit["unit"], "failed" if runs else "stopped", None, recorded, "", detail)


def _status(unit: dict[str, Any], info: dict[str, Any] | None) -> UnitStatus:
    if info is None:
        return _unsupervised(unit, runs=False)
    state, pid = _STATES[info["statename"]], info["pid"] or None
    process = read_process(pid) if pid else None
    recorded = unit["environment"]
    # What the process itself was started with is the truth; its file may have been written since.
    actual = recorded if process is None or _is_becoming(process) else process.environment
    return UnitStatus(
        unit["node"],
        unit["unit"],
        state,
        pid,
        actual.get(HASH_VARIABLE, ""),
        actual.get(RUNTIME_VARIABLE, ""),
        info["description"] or info["spawnerr"],
    )


def _is_becoming(process: Process) -> bool:
    """Whether supervisor's child has not yet turned into the unit: forked, or still unit_exec.py."""
    scripts = any(Path(word).name in ("unit_exec.py", "supervisord_locked.py") for word in process.argv)
    return scripts or not process.argv or UNIT_VARIABLE not in process.environment
