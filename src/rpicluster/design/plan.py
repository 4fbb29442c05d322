"""The plan: rendered minus observed."""

import difflib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

from rpicluster.design.units import Rendered, Unit, unit_hash

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

    STOP = "stop"
    INSTALL_RUNTIME = "install-runtime"
    WRITE = "write"
    REMOVE = "remove"
    FORMAT = "format"
    START = "start"
    RESTART = "restart"


SYMBOLS = {
    Action.STOP: "!",
    Action.INSTALL_RUNTIME: "+",
    Action.WRITE: "+",  # or "~" when the file is there already
    Action.REMOVE: "-",
    Action.FORMAT: "+",
    Action.START: "!",
    Action.RESTART: "!",
}


@dataclass(frozen=True)
class Step:
    """One change to one node. `target` is a path (files), a unit's name, or a runtime hash.

    `content` and `mode` are set for WRITE, `unit` for START and RESTART; `before` is the observed
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
        """`+` create, `~` change, `-` remove, `!` restart or stop."""
        return "~" if self.action is Action.WRITE and self.before else SYMBOLS[self.action]


@dataclass(frozen=True)
class Plan:
    """Ordered steps; `refusals` are reasons why nothing may be applied; `warnings` are worth reading first."""

    cluster: str
    steps: tuple[Step, ...]
    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unreachable: dict[str, str] = field(default_factory=dict)
