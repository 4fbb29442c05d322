"""What keeping a tunnel open means, as values: the job, what is told of it, and when to try again."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from rpicluster.nodes.ssh.failures import Cause
from rpicluster.nodes.ssh.forwards import Forward

SCHEMA = 1
# After a lost link: at once, then more slowly. A cable that was out for minutes costs 5 s more; a laptop
# that is away for a day starts ssh twice a minute.
_FIRST_PAUSES_S = (0.0, 0.5, 1.0, 2.0)
_PAUSE_S, _LONG_PAUSE_S, _LONG_AFTER_S = 5.0, 30.0, 900.0
# The manager's sshd ends the connection of a silent client, told to do so after 120 s (design.sshd_files);
# OpenSSH 9.2 takes twice that. After a longer sleep nobody need wait until ssh here has noticed.
FORGOTTEN_AFTER_S = 600.0
# ssh answers its control socket at once. One that a signal has stopped is not waited for; one on a machine
# that is busy is, longer than its own patience with a silent node.
_STOPPED_PATIENCE_S, _BUSY_PATIENCE_S = 3.0, 30.0
_FOREIGN = frozenset({Cause.HOST_KEY_CHANGED, Cause.HOST_KEY_UNKNOWN})
_NOT_LET_IN = frozenset({Cause.DENIED, Cause.KEY_FILE, Cause.WRONG_USER, Cause.PASSWORD_EXPIRED})
_REFUSALS_MAX = 3
_AWAKE_WITHOUT_S = 86400.0


@dataclass(frozen=True)
class Job:
    """What a keeper does: which ssh to start, its control socket, and the forwards to hold."""

    cluster: str
    node: str
    ssh: tuple[str, ...]
    socket: str
    forwards: tuple[Forward, ...]

    def text(self) -> str:
        """Return it as a document."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)

    @property
    def digest(self) -> str:
        """By what it is told from another job."""
        return hashlib.sha256(self.text().encode()).hexdigest()[:16]

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a document; raises ValueError for what is none."""
        document = _read(text)
        try:
            return cls(
                cluster=str(document["cluster"]),
                node=str(document["node"]),
                ssh=tuple(document["ssh"]),
                socket=str(document["socket"]),
                forwards=tuple(Forward(**each) for each in document["forwards"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no job of a tunnel: {error!r}") from error


@dataclass(frozen=True)
class Kept:
    """What a keeper tells: `state` is opening, open, waiting (to try again), refused (given up) or closed.

    `since` is when the state began (seconds of the epoch), `said` what ssh said last. `lost_s` is how long
    the last outage was, from when it was noticed; `missing` are forwards whose number is taken.
    """

    state: str
    since: float
    pid: int = 0
    ssh_pid: int = 0
    job: str = ""  # the digest of the job that is done
    tries: int = 0  # that failed, in all
    opened: int = 0
    lost_s: float | None = None
    why: str = ""
    said: str = ""
    missing: tuple[int, ...] = field(default=())

    def text(self) -> str:
        """Return it as a document."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)

    @classmethod
    def read(cls, text: str) -> Self:
        """Read a document; raises ValueError for what is none."""
        document = _read(text)
        try:
            return cls(**{**document, "missing": tuple(document.get("missing", ()))})
        except TypeError as error:
            raise ValueError(f"nothing that a keeper tells: {error}") from error


def _read(text: str) -> dict[str, Any]:
    document = json.loads(text)
    if not isinstance(document, dict) or document.pop("schema", None) != SCHEMA:
        raise ValueError("it is of another version of rpicluster")
    return document


def pause_s(tries: int, lost_for_s: float) -> float:
    """Return how long to wait before the next try, after `tries` that failed since the link was lost."""
    if tries < len(_FIRST_PAUSES_S):
        return _FIRST_PAUSES_S[tries]
    return _PAUSE_S if lost_for_s < _LONG_AFTER_S else _LONG_PAUSE_S


def gives_up(causes: Sequence[Cause]) -> bool:
    """Return whether to try no more, after failures with these causes, the last one last.

    Another host key is a hard stop. A node that does not let us in may be starting; three times in a row
    it means it.
    """
    if not causes:
        return False
    last = causes[-_REFUSALS_MAX:]
    return causes[-1] in _FOREIGN or (
        len(last) == _REFUSALS_MAX and all(cause in _NOT_LET_IN for cause in last)
    )


def is_hopeless(lost_for_s: float) -> bool:
    """Return whether a node has been away for a whole day of this machine's waking time: it may be gone."""
    return lost_for_s > _AWAKE_WITHOUT_S


def was_forgotten(slept_s: float) -> bool:
    """Return whether the manager has certainly ended the connection while this machine slept."""
    return slept_s > FORGOTTEN_AFTER_S


def is_frozen(silent_s: float, *, stopped: bool) -> bool:
    """Return whether an ssh that has not answered for `silent_s` is to be replaced."""
    return silent_s > (_STOPPED_PATIENCE_S if stopped else _BUSY_PATIENCE_S)
