"""A session whose driver has ended because nobody used it: the knock that wakes it, and the wait."""

import socket
from collections.abc import Callable
from typing import Any

from rpicluster.health.readiness import wait_for

KNOCK_TIMEOUT_S = 2.0
# A Pi that starts everything at once needs minutes; the keeper gives a driver 300 s.
WAKE_TIMEOUT_S = 330.0


def wake(
    host: str,
    port: int,
    session_report: Callable[[], dict[str, Any] | None],
    *,
    tell: Callable[[str], None],
    timeout_s: float = WAKE_TIMEOUT_S,
) -> None:
    """Knock at the door of Spark Connect; if the session was asleep, wait until it is awake.

    A door that is shut for another reason is left to the client, whose error says more. Raises Unhealthy.
    """
    if not _hangs_up(host, port) or _sleeps(host, port, session_report) is None:
        return
    tell("the session was asleep, as nobody used it; it starts now …")
    wait_for(
        "the session to wake",
        lambda: _sleeps(host, port, session_report),
        timeout_s=timeout_s,
        report=lambda words: None,
        hint="rpicluster status",
    )


def _sleeps(host: str, port: int, session_report: Callable[[], dict[str, Any] | None]) -> str | None:
    """Return what a session that is asleep, or is being woken, still lacks; None when it is neither."""
    found = session_report() or {}
    if found.get("state") in ("ending", "asleep"):
        _hangs_up(host, port)  # a knock while the driver was still ending woke nobody
    elif not found.get("is_waking"):
        return None
    return str(found.get("waiting_for") or "its keeper has not noticed yet")


def _hangs_up(host: str, port: int) -> bool:
    """Whether nobody serves the door. A server of Spark Connect speaks first, and a frozen one is silent."""
    try:
        with socket.create_connection((host, port), timeout=KNOCK_TIMEOUT_S) as knock:
            return not knock.recv(1)
    except TimeoutError:
        return False
    except OSError:
        return True
