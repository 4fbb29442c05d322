"""The right to change a cluster, held on its manager so that a second laptop sees who has it."""

import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rpicluster.errors import LockHeld, RpiclusterError
from rpicluster.nodes.remote.commands import Nodes, node_script

PATH = "/run/rpicluster-lock.json"  # a reboot of the manager frees it
LASTS_S = 180
_RENEW_S = 45.0


@contextmanager
def lease(nodes: Nodes, manager: str, *, cluster: str, command: str) -> Iterator[None]:
    """Hold the right to change the cluster while the block runs; it is renewed, and ends with this process.

    Raises LockHeld, which names the holder.
    """
    holder = {
        "id": secrets.token_hex(8),
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

    def renew() -> None:
        while not ended.wait(_RENEW_S):
            try:
                ask("take")
            except RpiclusterError:  # the manager may be rebooting: the work itself says what is wrong
                continue

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


def held(answer: dict[str, object], cluster: str) -> LockHeld:
    """Return the error that names who holds it."""
    by = answer.get("by")
    by = by if isinstance(by, dict) else {}
    return LockHeld(
        f"`{by.get('command')}` of {by.get('user')} on {by.get('host')} (pid {by.get('pid')}, since "
        f"{by.get('since')}) is changing cluster {cluster}",
        hint=f"wait until it has ended; if that machine died, it is free in {answer.get('ends_in_s')} s",
    )
