"""The plan: rendered minus observed."""

import base64
import difflib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from rpicluster.design.units import Rendered, Unit, needs_reload_only, unit_hash

SCHEMA = 1


@dataclass(frozen=True)
class ObservedFile:
    """A file that stands on a node; `text` is carried for text files so that a plan can show a diff."""

    sha256: str
    mode: int
    owner: str = ""
    text: str | None = None


@dataclass(frozen=True)
class ObservedUnit:
    """A process as its supervisor sees it."""

    state: Literal["running", "stopped", "failed"]
    config_hash: str


@dataclass(frozen=True)
class Observed:
    """What is there now: `files[node][path]`, `units[node][name]`, and what only the edge can know.

    `runtime[node]` is the content hash of the deployed runtime ("" for none). `namenode` says whether
    the NameNode's directory holds nothing, this cluster's image, or somebody else's.
    """

    files: dict[str, dict[str, ObservedFile]] = field(default_factory=dict)
    units: dict[str, dict[str, ObservedUnit]] = field(default_factory=dict)
    runtime: dict[str, str] = field(default_factory=dict)
    namenode: Literal["empty", "formatted", "foreign"] = "empty"
    unreachable: dict[str, str] = field(default_factory=dict)  # node -> cause


class Action(StrEnum):
    """What a step does, in the order in which kinds of steps run."""

    MOVE = "move"  # the node has another address; what follows from it are steps of their own
    STOP = "stop"
    PREPARE = "prepare"  # logins, directories, packages of a real node
    INSTALL_RUNTIME = "install-runtime"
    WRITE = "write"
    REMOVE = "remove"
    FORMAT_DISK = "format-disk"  # a new file system: what was on the disk is lost
    FORMAT = "format"
    START = "start"
    RESTART = "restart"
    RELOAD = "reload"
    LEAVE = "leave"  # blocks are copied away, containers end
    CLEAR = "clear"  # everything of the cluster is taken away from a node


SYMBOLS = {
    Action.MOVE: "~",
    Action.STOP: "!",
    Action.PREPARE: "+",
    Action.INSTALL_RUNTIME: "+",
    Action.WRITE: "+",  # or "~" when the file is there already
    Action.REMOVE: "-",
    Action.FORMAT_DISK: "!",
    Action.FORMAT: "+",
    Action.START: "!",
    Action.RESTART: "!",
    Action.RELOAD: "!",
    Action.LEAVE: "-",
    Action.CLEAR: "-",
}


_VERBS = {
    Action.START: "starts",
    Action.RESTART: "restarts",
    Action.RELOAD: "reloads",
    Action.STOP: "stops",
    Action.FORMAT_DISK: "formats",
}


@dataclass(frozen=True)
class Step:
    """One change to one node. `target` is a path (files), a unit's name, or a runtime hash.

    `content` and `mode` are set for WRITE, `unit` for START, RESTART and RELOAD; `before` is the observed
    SHA-256 of a file that is changed or removed, "" for a new one.
    """

    action: Action
    node: str
    target: str
    reason: str
    content: bytes | None = None
    mode: int = 0o644
    before: str = ""
    before_text: str | None = None
    unit: Unit | None = None

    @property
    def symbol(self) -> str:
        """`+` create, `~` change, `-` remove, `!` start, restart, reload, stop, format a disk."""
        return "~" if self.action is Action.WRITE and self.before else SYMBOLS[self.action]


@dataclass(frozen=True)
class Plan:
    """Ordered steps; `refusals` say why nothing may be applied; `warnings` are worth reading first."""

    cluster: str
    steps: tuple[Step, ...]
    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unreachable: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.steps and not self.refusals

    @property
    def hash(self) -> str:
        """SHA-256 of the plan's JSON; equal plans have equal hashes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def summary(self) -> str:
        """Return one line: `Plan: 3 to create, 1 to change, 0 to remove; restarts namenode on pi1`."""
        counts = {symbol: sum(step.symbol == symbol for step in self.steps) for symbol in "+~-"}
        text = f"Plan: {counts['+']} to create, {counts['~']} to change, {counts['-']} to remove"
        for action, verb in _VERBS.items():
            units = [f"{step.target} on {step.node}" for step in self.steps if step.action is action]
            if units:
                text += f"; {verb} {', '.join(units)}"
        return text

    def to_json(self) -> str:
        """Return the plan as JSON that `from_json` reads back to an equal plan."""
        steps = []
        for step in self.steps:
            fields = asdict(step)
            fields["action"] = step.action.value
            fields["content"] = None if step.content is None else base64.b64encode(step.content).decode()
            steps.append(fields)
        document = {
            "schema": SCHEMA,
            "cluster": self.cluster,
            "steps": steps,
            "refusals": list(self.refusals),
            "warnings": list(self.warnings),
            "unreachable": self.unreachable,
        }
        return json.dumps(document, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Return the plan that `to_json` wrote; raises ValueError for anything else."""
        try:
            document = json.loads(text)
            if document["schema"] != SCHEMA:
                raise ValueError(f"plan schema {document['schema']} is not {SCHEMA}")
            return cls(
                cluster=document["cluster"],
                steps=tuple(_step_from(fields) for fields in document["steps"]),
                refusals=tuple(document["refusals"]),
                warnings=tuple(document["warnings"]),
                unreachable=document["unreachable"],
            )
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a saved plan: {error}") from error


def _step_from(fields: dict[str, Any]) -> Step:
    unit = fields.pop("unit")
    if unit is not None:
        unit = Unit(
            **{
                **unit,
                "argv": tuple(unit["argv"]),
                "environment": tuple((name, value) for name, value in unit["environment"]),
                "reads": tuple(unit["reads"]),
                "after": tuple(unit["after"]),
                "rereads": tuple(unit["rereads"]),
                "reload": tuple(unit["reload"]),
            }
        )
    content = fields.pop("content")
    return Step(
        **{
            **fields,
            "action": Action(fields["action"]),
            "content": None if content is None else base64.b64decode(content),
            "unit": unit,
        }
    )


def make_plan(
    cluster: str, rendered: Rendered, observed: Observed, *, warnings: tuple[str, ...] = ()
) -> Plan:
    """Return what must be done so that `observed` becomes `rendered`.

    Order: stop what should not run, install the runtime, remove and write files, format an empty
    NameNode, then start, restart and reload units, each after those it names in `after`. Nodes that could not
    be observed get no steps and are listed in `unreachable`.
    """
    nodes = [node for node in rendered.files if node not in observed.unreachable]
    refusals = []
    if observed.namenode == "foreign":
        refusals.append(
            "the NameNode's directory holds another cluster's file system; it is never formatted over. "
            "Move it away, or give the cluster another name"
        )
    stale = {node for node in nodes if observed.runtime.get(node, "") != rendered.runtime_hash}
    steps = [
        *_stops(nodes, rendered, observed),
        *(
            Step(
                Action.INSTALL_RUNTIME,
                node,
                rendered.runtime_hash,
                _runtime_reason(observed.runtime.get(node)),
            )
            for node in nodes
            if node in stale
        ),
        *_file_changes(nodes, rendered, observed),
        *_format(rendered, observed),
        *_starts(stale, rendered, observed),
    ]
    return Plan(
        cluster=cluster,
        steps=tuple(steps),
        refusals=tuple(refusals),
        warnings=warnings,
        unreachable=dict(observed.unreachable),
    )


def _runtime_reason(deployed: str | None) -> str:
    return "another version is there" if deployed else "not there yet"


def _stops(nodes: list[str], rendered: Rendered, observed: Observed) -> list[Step]:
    wanted = {(unit.node, unit.name) for unit in rendered.units}
    known = [node for node in {**dict.fromkeys(nodes), **observed.units} if node not in observed.unreachable]
    return [
        Step(Action.STOP, node, name, "no longer part of this node")
        for node in known
        for name in sorted(observed.units.get(node, {}))
        if (node, name) not in wanted
    ]


def _file_changes(nodes: list[str], rendered: Rendered, observed: Observed) -> list[Step]:
    steps = []
    for node in nodes:
        there, wanted = observed.files.get(node, {}), rendered.files[node]
        for path in sorted(set(there) - set(wanted)):
            old = there[path]
            steps.append(
                Step(Action.REMOVE, node, path, "no longer needed", before=old.sha256, before_text=old.text)
            )
        for path, file in sorted(wanted.items()):
            known = there.get(path)
            if known is None:
                reason = "not there yet"
            elif known.sha256 != hashlib.sha256(file.content).hexdigest():
                reason = "content differs"
            elif known.mode != file.mode:
                reason = f"mode is {known.mode:o}, should be {file.mode:o}"
            else:
                continue
            steps.append(
                Step(
                    Action.WRITE,
                    node,
                    path,
                    reason,
                    content=file.content,
                    mode=file.mode,
                    before=known.sha256 if known else "",
                    before_text=known.text if known else None,
                )
            )
    return steps


def _format(rendered: Rendered, observed: Observed) -> list[Step]:
    namenodes = [
        unit for unit in rendered.units if unit.name == "namenode" and unit.node not in observed.unreachable
    ]
    if observed.namenode != "empty":
        return []
    return [
        Step(Action.FORMAT, unit.node, unit.name, "its directory is empty", unit=unit) for unit in namenodes
    ]


def _starts(stale: set[str], rendered: Rendered, observed: Observed) -> list[Step]:
    steps = []
    for unit in _in_start_order(rendered.units):
        if unit.node in observed.unreachable:
            continue
        known = observed.units.get(unit.node, {}).get(unit.name)
        wanted = unit_hash(unit, rendered.files[unit.node])
        if known is None or known.state != "running":
            reason = "not running" if known is None or known.state == "stopped" else "failed"
            steps.append(Step(Action.START, unit.node, unit.name, reason, unit=unit))
        elif needs_reload_only(known.config_hash, wanted):
            kind = Action.RESTART if unit.node in stale else Action.RELOAD
            steps.append(Step(kind, unit.node, unit.name, "its list of nodes changed", unit=unit))
        elif known.config_hash != wanted:
            steps.append(Step(Action.RESTART, unit.node, unit.name, "its configuration changed", unit=unit))
        elif unit.node in stale:
            steps.append(Step(Action.RESTART, unit.node, unit.name, "its runtime changed", unit=unit))
    return steps


def _in_start_order(units: tuple[Unit, ...]) -> list[Unit]:
    """Return the units, each behind those it names in `after`, otherwise in the given order."""
    done: list[Unit] = []
    waiting = list(units)
    names = {unit.name for unit in units}
    while waiting:
        started = {unit.name for unit in done} - {unit.name for unit in waiting}
        ready = [unit for unit in waiting if set(unit.after) & names <= started | {unit.name}]
        if not ready:
            raise ValueError(f"units wait for each other in a circle: {', '.join(u.name for u in waiting)}")
        done += ready
        gone = {(unit.node, unit.name) for unit in ready}
        waiting = [unit for unit in waiting if (unit.node, unit.name) not in gone]
    return done


def diff(step: Step) -> str:
    """Return a unified diff of what `step` does to a text file; "" for steps that change no file."""
    if step.action not in (Action.WRITE, Action.REMOVE):
        return ""
    try:
        after = "" if step.content is None else step.content.decode()
    except UnicodeDecodeError:
        return f"binary file {step.target} changes\n"
    name = f"{step.node}:{step.target}"
    return "".join(
        difflib.unified_diff(
            (step.before_text or "").splitlines(keepends=True),
            after.splitlines(keepends=True),
            fromfile=name if step.before else "/dev/null",
            tofile="/dev/null" if step.action is Action.REMOVE else name,
        )
    )
