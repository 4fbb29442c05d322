"""Waiting, with a deadline and a word for what is waited for."""

import time
from collections.abc import Callable

from rpicluster.errors import RpiclusterError, Unhealthy

POLL_S = 0.2


def wait_for(
    what: str,
    missing: Callable[[], str | None],
    *,
    timeout_s: float,
    report: Callable[[str], None],
    hint: str | None = None,
    poll_s: float = POLL_S,
) -> float:
    """Ask `missing` until it returns None; return the seconds that took.

    `missing` returns what is still missing, in words; a RpiclusterError that it raises counts as that.
    Raises Unhealthy, with the last answer, when `timeout_s` has passed.
    """
    started = time.monotonic()
    while True:
        try:
            lacking = missing()
        except RpiclusterError as error:
            lacking = error.message.splitlines()[0]
        waited = time.monotonic() - started
        if lacking is None:
            return waited
        if waited > timeout_s:
            raise Unhealthy(f"waited {waited:.0f} s for {what}, in vain: {lacking}", hint=hint)
        report(lacking)
        time.sleep(poll_s)
