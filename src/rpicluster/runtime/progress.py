"""What a long fetch says while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["fetch", "verify", "unpack", "store"]


@dataclass(frozen=True)
class Progress:
    """How far one piece of work has come; `total_bytes` is 0 while it only waits."""

    what: str
    done_bytes: int
    total_bytes: int
    phase: Phase


Report = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Say nothing: for callers that have nobody to tell."""
