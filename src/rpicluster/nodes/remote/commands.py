"""Short commands as root on several nodes at once: our scripts, and systemctl."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from rpicluster.design import layout
from rpicluster.errors import RpiclusterError
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.openssh import OpenSsh

PYTHON = "/usr/bin/python3"
DEADLINE_S = 20.0
_AT_ONCE = 64
T = TypeVar("T")


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster, and how root commands get there; `passwords` are sudo's, where it wants one."""

    targets: Mapping[str, SshTarget]
    ssh: OpenSsh
    passwords: Mapping[str, str]

    def root(
        self, node: str, argv: Sequence[str], *, stdin: bytes = b"", deadline_s: float = DEADLINE_S
    ) -> bytes:
        """Run `argv` as root on one node and return its stdout; raises what OpenSsh.check raises."""
        return self.ssh.check(
            self.targets[node],
            argv,
            node=node,
            deadline_s=deadline_s,
            stdin=stdin,
            sudo=True,
            sudo_password=self.passwords.get(node),
        )

    def python(self, node: str, script: str, stdin: bytes, *, deadline_s: float = DEADLINE_S) -> bytes:
        """Run a Python program as root on one node; it is no secret, what goes over stdin may be."""
        return self.root(node, [PYTHON, "-c", script], stdin=stdin, deadline_s=deadline_s)

    def systemctl(self, node: str, verb: str, units: Sequence[str], *, deadline_s: float = 120.0) -> None:
        """Do something to units, by rpicluster's names; nothing where there are none."""
        if units:
            names = [layout.systemd_unit(unit) for unit in units]
            self.root(node, ["systemctl", verb, *names], deadline_s=deadline_s)

    def each(
        self, do: Callable[[str], T], names: Iterable[str] | None = None
    ) -> tuple[dict[str, T], dict[str, RpiclusterError]]:
        """Do something for every node at the same time; return results and errors by node."""
        wanted = list(self.targets if names is None else names)
        if not wanted:
            return {}, {}
        done: dict[str, T] = {}
        failed: dict[str, RpiclusterError] = {}

        def one(node: str) -> None:
            try:
                done[node] = do(node)
            except RpiclusterError as error:
                failed[node] = error

        with ThreadPoolExecutor(min(_AT_ONCE, len(wanted)), thread_name_prefix="nodes") as pool:
            for _ in pool.map(one, wanted):
                pass
        return done, failed


@cache
def node_script(name: str) -> str:
    """Return a program of ours that runs on nodes."""
    return (Path(__file__).parent / "on_node" / name).read_text(encoding="utf-8")


@cache
def role_script(role: str, name: str) -> str:
    """Return a program that a role runs on nodes."""
    return (files("rpicluster") / "ansible" / "roles" / role / "files" / name).read_text(encoding="utf-8")
