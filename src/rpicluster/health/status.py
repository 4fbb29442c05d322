"""Is it alive? Every part is asked at once, none may keep the answer waiting, the first dead hop is named."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rpicluster.errors import RpiclusterError

State = Literal["ok", "starting", "degraded", "frozen", "down", "silent"]

# `status` promises an answer in 2 s whatever is dead; what Python needs to start comes out of it too
DEADLINE_S = 1.3


@dataclass(frozen=True)
class Part:
    """One part of a cluster: `detail` says in plain words what was seen."""

    name: str
    where: str
    state: State
    detail: str


@dataclass(frozen=True)
class Probe:
    """How to ask one part: `ask` returns (state, detail), or raises RpiclusterError if it is down."""

    name: str
    where: str
    ask: Callable[[], tuple[State, str]]


@dataclass(frozen=True)
class Status:
    """What `rpicluster status` shows."""

    cluster: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether every part is fine."""
        return all(part.state == "ok" for part in self.parts)

    @property
    def cause(self) -> str | None:
        """The first part that is not fine: those behind it depend on it."""
        return next(
            (f"{p.name} on {p.where} is {p.state}: {p.detail}" for p in self.parts if p.state != "ok"), None
        )

    def document(self) -> dict[str, Any]:
        """Return the status as JSON-able values."""
        return {
            "cluster": self.cluster,
            "healthy": self.healthy,
            "cause": self.cause,
            "parts": [asdict(part) for part in self.parts],
            "notes": list(self.notes),
        }


def ask_all(probes: Sequence[Probe], *, deadline_s: float = DEADLINE_S) -> tuple[Part, ...]:
    """Ask all parts at once; those that have not answered by the deadline are `silent`.

    The threads are daemons: one that hangs in a frozen daemon's socket does not keep the program alive.
    """
    answers: queue.SimpleQueue[tuple[int, Part]] = queue.SimpleQueue()
    for number, probe in enumerate(probes):
        threading.Thread(target=_answer, args=(number, probe, answers), daemon=True).start()
    parts: dict[int, Part] = {}
    clock = threading.Event()
    timer = threading.Timer(deadline_s, clock.set)
    timer.daemon = True
    timer.start()
    while len(parts) < len(probes) and not clock.is_set():
        try:
            number, part = answers.get(timeout=0.05)
        except queue.Empty:
            continue
        parts[number] = part
    timer.cancel()
    silent = f"no answer within {deadline_s:g} s"
    return tuple(
        parts.get(number, Part(probe.name, probe.where, "silent", silent))
        for number, probe in enumerate(probes)
    )


def _answer(number: int, probe: Probe, answers: "queue.SimpleQueue[tuple[int, Part]]") -> None:
    try:
        state, detail = probe.ask()
    except RpiclusterError as error:
        state, detail = "down", error.message.splitlines()[0]
    answers.put((number, Part(probe.name, probe.where, state, detail)))
