"""The right to change a cluster, held on its manager so that a second laptop sees who has it."""

import getpass
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rpicluster.errors import LockHeld, RpiclusterError
from rpicluster.nodes.remote.commands import Nodes, node_script

PATH = "/run/rpicluster-lock.json"  # a reboot of the manager frees it
LASTS_S = 180
_RENEW_S = 45.0


@contextmanager
def lease(
    nodes: Nodes,
    manager: str,
    *,
    cluster: str,
    command: str,
    laptop: str,
    when_lost: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Hold the right to change the cluster while the block runs; it is renewed, and ends with this process.

    `laptop` names the state folder whose lock the caller holds: a lease of the same name is one that a killed
    command has left, and is taken over at once. `when_lost` is called when somebody else has taken it because
    the manager did not hear of us for too long. Raises LockHeld, which names the holder; at the block's end,
    if it was lost.
    """
    holder = {
        "id": laptop,
        "host": socket.gethostname(),
        "user": getpass.getuser(),
        "pid": os.getpid(),
        "command": command,
        "since": time.strftime("%H:%M:%S"),
    }

    def ask(do: str) -> dict[str, object]:
        wanted = {"path": PATH, "do": do, "holder": holder, "lasts_s": LASTS_S}
        answer: dict[str, object] = json.loads(
            nodes.python(manager, node_script("lease.py"), json.dumps(wanted).encode())
        )
        return answer

    answer = ask("take")
    if not answer["held"]:
        raise held(answer, cluster)
    ended = threading.Event()
    lost: list[LockHeld] = []

    def renew() -> None:
        while not ended.wait(_RENEW_S):
            try:
                answer = ask("take")
            except RpiclusterError:  # the manager may be rebooting: the work itself says what is wrong
                continue
            if not answer["held"]:
                lost.append(held(answer, cluster))
                when_lost()
                return

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        try:
            ask("give")
        except RpiclusterError:  # it ends by itself
            ended.set()
    if lost:
        raise lost[0]


def held(answer: dict[str, object], cluster: str) -> LockHeld:
    """Return the error that names who holds it."""
    by = answer.get("by")
    by = by if isinstance(by, dict) else {}
    return LockHeld(
        f"`{by.get('command')}` of {by.get('user')} on {by.get('host')} (pid {by.get('pid')}, since "
        f"{by.get('since')}) is changing cluster {cluster}",
        hint=f"wait until it has ended; if that machine died, it is free in {answer.get('ends_in_s')} s",
    )
