"""The ssh that stands behind a control socket: found and ended, whoever started it."""

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from rpicluster.model.ports import LOOPBACK
from rpicluster.nodes.local.processes import Process, end_processes, own_processes
from rpicluster.nodes.ssh.mux import Link

ANSWER_S = 3.0
_END_S = 3.0


def end_ssh_at(path: Path) -> None:
    """End the ssh behind a control socket, whoever started it and whatever state it is in."""
    try:
        with Link(path, patience_s=ANSWER_S) as link:
            with contextlib.suppress(ProcessLookupError):
                os.kill(link.pid, signal.SIGTERM)
            until = time.monotonic() + _END_S
            while select.select([link], [], [], max(0.0, until - time.monotonic()))[0] and link.hear():
                pass
    except FileNotFoundError:
        return
    except OSError:  # it does not answer, or has ended without removing its socket
        pass
    end_ssh_of(path)
    path.unlink(missing_ok=True)


def end_ssh_of(socket_path: Path) -> bool:
    """End every ssh of this user that carries a tunnel's connection, frozen ones too; True when none is left.

    It is known by its control socket in its arguments.
    """
    if not Path("/proc/self").exists():  # then only those that answer can be ended
        return True
    own = f"ControlPath={socket_path}"

    def of_ours() -> Iterator[Process]:
        return (process for process in own_processes() if own in process.argv)

    return not end_processes(of_ours, grace_s=1.0, deadline_s=5.0)


def is_free(port: int) -> bool:
    """Return whether a server could take a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
