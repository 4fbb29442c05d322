"""LocalPlace: a cluster on this machine, looked at and changed through the Protocol of a place."""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rpicluster.design import layout
from rpicluster.design.plan import Action, Observed, ObservedFile, ObservedUnit, Step
from rpicluster.design.units import RenderedFile, Unit, unit_hash
from rpicluster.errors import LocalEngineError
from rpicluster.model.facts import Placement
from rpicluster.nodes.local.listeners import listeners
from rpicluster.nodes.local.namenode import (
    format_namenode,
    hdfs_cluster_id,
    namenode_state,
    private_directory_tree,
)
from rpicluster.nodes.local.placement import check_ports
from rpicluster.nodes.local.state import TEMPORARY_PREFIX, ClusterState, write_file
from rpicluster.nodes.local.supervision import Supervisor, UnitStatus

RUNTIME_HASH_FILE = ".rpicluster-hash"


class LocalPlace:
    """All virtual nodes of one cluster. Whoever changes anything through it holds the cluster's lock."""

    def __init__(self, state: ClusterState, placement: Placement, runtime: Path | None = None) -> None:
        """Stand for the cluster in `state`; `runtime` is the folder that INSTALL_RUNTIME makes nodes use."""
        self._state = state
        self._placement = placement
        self._runtime = runtime
        self._supervisor = Supervisor(state, placement.cluster_id)

    # -- the Protocol ----------------------------------------------------------------------------------

    def observe(self) -> Observed:
        """Return files, units, runtime and the NameNode's state as they are now."""
        nodes = list(self._placement.nodes)
        deployed = self._deployed_runtime()
        units: dict[str, dict[str, ObservedUnit]] = {node: {} for node in nodes}
        for status in self._supervisor.statuses():
            # A process that still runs from an older runtime must be restarted, whatever its files say.
            stale = status.state == "running" and status.runtime != deployed
            units.setdefault(status.node, {})[status.unit] = ObservedUnit(
                status.state, f"runtime {status.runtime}" if stale else status.config_hash
            )
        return Observed(
            files={node: self._files(node) for node in nodes},
            units=units,
            runtime=dict.fromkeys(nodes, deployed),
            namenode=self._namenode(),
        )

    def apply(self, step: Step) -> None:
        """Carry out one step; safe to repeat, also after a kill in the middle. Raises LocalEngineError."""
        self._state.ensure_alias()
        carry_out: dict[Action, Callable[[Step], None]] = {
            Action.STOP: self._stop,
            Action.INSTALL_RUNTIME: self._install_runtime,
            Action.WRITE: self._write,
            Action.REMOVE: self._remove,
            Action.FORMAT: self._format,
            Action.START: self._start,
            Action.RESTART: self._start,
        }
        try:
            carry_out[step.action](step)
        except OSError as error:
            raise LocalEngineError(
                f"{step.action.value} {step.target} on {step.node}: {error.strerror}: {error.filename}",
                hint="rpicluster up continues where this stopped",
            ) from error

    # -- the whole cluster -----------------------------------------------------------------------------

    def start_all(self) -> list[UnitStatus]:
        """Start every unit that was stopped or has failed, as it was last applied; return what runs then."""
        self._supervisor.ensure_up()
        states = {(status.node, status.unit): status for status in self._supervisor.statuses()}
        for node, unit in self._supervisor.start_order():
            if states[node, unit].state != "running":
                self._supervisor.stop(node, unit)
                check_ports(self._placement, node, unit)
                self._supervisor.restart_known(node, unit)
        return self._supervisor.statuses()

    def stop_all(self) -> None:
        """Stop every unit, what they started, and the supervisor; nothing of the cluster runs afterwards."""
        self._supervisor.stop_all()

    def statuses(self) -> list[UnitStatus]:
        """Return each unit with pid and state, within 2 s whatever is dead."""
        return self._supervisor.statuses()

    def destroy(self) -> None:
        """Stop everything and remove every file, even if the supervisor is frozen; safe to repeat."""
        try:
            self._supervisor.stop_all()
        except LocalEngineError:
            self._supervisor.daemon.kill()
            self._supervisor.end_orphans()
        self._state.remove()

    def leftovers(self) -> list[str]:
        """Return every process, listening port and file of this cluster that still exists, in plain words."""
        found = [
            f"process {process.pid}: {' '.join(process.argv)[:100]}"
            for process in self._supervisor.processes()
        ]
        networks = {placed.address.rpartition(".")[0] for placed in self._placement.nodes.values()}
        found += [
            f"port {listener.address}:{listener.port}: {listener.describe()}"
            for listener in listeners()
            if listener.address.rpartition(".")[0] in networks
        ]
        found += [
            f"files in {path}" for path in (self._state.directory, self._state.alias) if os.path.lexists(path)
        ]
        return found

    # -- steps -----------------------------------------------------------------------------------------

    def _stop(self, step: Step) -> None:
        self._supervisor.stop(step.node, step.target)
        self._supervisor.forget(step.node, step.target)

    def _install_runtime(self, step: Step) -> None:
        if self._runtime is None or _runtime_hash(self._runtime) != step.target:
            raise LocalEngineError(
                f"the plan wants runtime {step.target}, the folder given is {self._runtime}",
                hint="rpicluster plan",
            )
        self._state.set_runtime(self._runtime)

    def _write(self, step: Step) -> None:
        if step.content is None:
            raise LocalEngineError(f"the plan writes {step.target} on {step.node} and does not say what")
        for path in self._copies(step):
            write_file(path, step.content, step.mode)

    def _remove(self, step: Step) -> None:
        for path in self._copies(step):
            path.unlink(missing_ok=True)
            parent = path.parent
            while parent.name != "conf" and parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
                parent = parent.parent

    def _format(self, step: Step) -> None:
        unit = _unit_of(step)
        paths = self._placement.nodes[step.node].paths
        self._make_directories(unit)
        self._supervisor.stop(step.node, unit.name)  # also ends the format of an `up` that was killed
        format_namenode(unit, paths, hdfs_cluster_id(self._placement))

    def _start(self, step: Step) -> None:
        unit = _unit_of(step)
        self._make_directories(unit)
        if not os.access(unit.argv[0], os.X_OK):
            raise LocalEngineError(
                f"{unit.name} on {unit.node} needs {unit.argv[0]}, which is not there", hint="rpicluster up"
            )
        config_hash = unit_hash(unit, self._read_by(unit))
        runtime = self._deployed_runtime()
        for status in self._supervisor.statuses():
            same = (status.config_hash, status.runtime) == (config_hash, runtime)
            if (status.node, status.unit, status.state) == (unit.node, unit.name, "running") and same:
                return
        self._supervisor.ensure_up()
        self._supervisor.stop(unit.node, unit.name)
        check_ports(self._placement, unit.node, unit.name)
        self._supervisor.start(unit, config_hash=config_hash, runtime=runtime)

    def _read_by(self, unit: Unit) -> dict[str, RenderedFile]:
        folder = self._state.conf / unit.node
        try:
            return {path: RenderedFile((folder / path).read_bytes()) for path in unit.reads}
        except FileNotFoundError as error:
            raise LocalEngineError(
                f"{unit.name} on {unit.node} reads {error.filename}, which is missing", hint="rpicluster up"
            ) from error

    def _make_directories(self, unit: Unit) -> None:
        paths = self._placement.nodes[unit.node].paths
        for path in (
            paths.data,
            paths.logs,
            paths.run,
            layout.unit_directory(paths, unit.name),
            unit.directory,
        ):
            private_directory_tree(Path(path))

    # -- looking ---------------------------------------------------------------------------------------

    def _copies(self, step: Step) -> list[Path]:
        """Return where a file stands: in the state, and in the alias too where the state's path is unfit."""
        relative = Path(step.target)
        if relative.is_absolute() or ".." in relative.parts:
            raise LocalEngineError(
                f"the plan names the file {step.target}, which is outside of {step.node}'s configuration"
            )
        folders = [self._state.conf]
        if self._state.conf_is_mirrored:
            folders.append(self._state.alias / "conf")
        return [folder / step.node / relative for folder in folders]

    def _files(self, node: str) -> dict[str, ObservedFile]:
        folder = self._state.conf / node
        if not folder.is_dir():
            return {}
        observed = {}
        for path in sorted(folder.rglob("*")):
            if path.name.startswith(TEMPORARY_PREFIX) or not path.is_file():
                continue
            content, status = path.read_bytes(), path.stat()
            observed[str(path.relative_to(folder))] = ObservedFile(
                sha256=hashlib.sha256(content).hexdigest(),
                mode=stat.S_IMODE(status.st_mode),
                owner=path.owner(),
                text=_text(content),
            )
        return observed

    def _deployed_runtime(self) -> str:
        folder = self._state.runtime()
        return _runtime_hash(folder) if folder is not None and folder.is_dir() else ""

    def _namenode(self) -> Literal["empty", "formatted", "foreign"]:
        wanted = hdfs_cluster_id(self._placement)
        for placed in self._placement.nodes.values():
            if "namenode_rpc" in placed.ports:
                return namenode_state(placed.paths, wanted)
        return "empty"


def _unit_of(step: Step) -> Unit:
    if step.unit is None:
        raise LocalEngineError(
            f"the plan says {step.action.value} {step.target} on {step.node} and does not say how"
        )
    return step.unit


def _runtime_hash(folder: Path) -> str:
    record = folder / RUNTIME_HASH_FILE
    return record.read_text().strip() if record.is_file() else folder.resolve().name


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
