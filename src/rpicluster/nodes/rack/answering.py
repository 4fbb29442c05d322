"""Waiting until nodes let somebody in, with a deadline and with their last words when they do not."""

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from rpicluster.errors import RackError, Unreachable
from rpicluster.nodes.rack.commands import environment
from rpicluster.nodes.rack.machine import last_words, running
from rpicluster.nodes.rack.state import RackState

_CONNECT_S = 0.2
_POLL_S = 0.05
_GRACE_S = 2.0  # a loop that was just started is not in /proc yet, and between two boots there is no nspawn

Report = Callable[[str, str, float], None]


def ssh_argv(state: RackState, node: str, *command: str) -> list[str]:
    """Return the OpenSSH command that reaches a node without touching the user's ~/.ssh."""
    return ["ssh", "-F", str(state.ssh_config), node, *command]


def shows_banner(address: IPv4Address, timeout_s: float = _CONNECT_S) -> bool:
    """Return whether an SSH server answers at once."""
    try:
        with socket.create_connection((str(address), 22), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            # With a greeting of ours, leaving is no error in the node's log.
            connection.sendall(b"SSH-2.0-rpicluster\r\n")
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


@dataclass
class _Visitor:
    """One node that is waited for: first its banner, then a login (systemd may still forbid logins)."""

    node: str
    login: "subprocess.Popen[str] | None" = None
    said: str = ""

    def has_come_in(self, state: RackState) -> bool:
        if self.login is None:
            if shows_banner(state.addresses(self.node).v4):
                self.login = subprocess.Popen(
                    [*ssh_argv(state, self.node)[:-1], "-o", "BatchMode=yes", self.node, "true"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    env=environment(),
                )
            return False
        code = self.login.poll()
        if code is None:
            return False
        if code == 0:
            return True
        assert self.login.stderr is not None  # noqa: S101  PIPE was asked for
        self.said = self.login.stderr.read().strip()
        self.login = None
        return False

    def end(self) -> None:
        if self.login:
            self.login.kill()
            self.login.wait()


def wait_until_answering(
    state: RackState, nodes: Sequence[str], *, timeout_s: float, report: Report
) -> dict[str, float]:
    """Wait until each node lets `pi` in; return the seconds each took.

    Raises RackError with the node's last words if it died, Unreachable if the time is over.
    """
    begun = time.monotonic()
    waiting = {node: _Visitor(node) for node in nodes}
    took: dict[str, float] = {}
    alive_seen = begun
    try:
        while waiting:
            for node, visitor in list(waiting.items()):
                if visitor.has_come_in(state):
                    took[node] = time.monotonic() - begun
                    del waiting[node]
                    report(node, f"answers at {state.addresses(node).v4}", 1.0)
            now = time.monotonic()
            if now - alive_seen > _GRACE_S:
                alive_seen = now
                _check_alive(state, list(waiting))
            if waiting and now - begun > timeout_s:
                said = "; ".join(visitor.said for visitor in waiting.values() if visitor.said)
                raise Unreachable(
                    f"no login on {', '.join(waiting)} within {timeout_s:.0f} s{': ' + said if said else ''}",
                    hint=f"look at: {state.folder(next(iter(waiting))) / 'console.log'}",
                )
            time.sleep(_POLL_S)
    finally:
        for visitor in waiting.values():
            visitor.end()
    return took


def _check_alive(state: RackState, nodes: Sequence[str]) -> None:
    found = running(state.folder(node) for node in nodes)
    for node in nodes:
        if not found[state.folder(node)].loop:
            folder = state.folder(node)
            raise RackError(
                f"{node} did not stay up; its last words: {last_words(folder)}",
                hint=f"the whole story: {folder / 'console.log'} and {folder / 'loop.log'}",
            )
