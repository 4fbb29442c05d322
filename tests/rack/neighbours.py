"""Machines beside a rack: network namespaces on its bridge, with addresses of the same subnets."""

import ipaddress
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rack_tools import tool, wait_for


@dataclass
class Neighbour:
    """A namespace on the bridge of a rack; who runs in it is on the same cable as the nodes."""

    name: str
    v4: str
    v6: str
    bridge: str
    started: list["subprocess.Popen[Any]"] = field(default_factory=list)

    @classmethod
    def beside(cls, bridge: str, name: str, number: int) -> "Neighbour":
        """Make one whose addresses end in `number`, in the subnets that the bridge has."""
        known = json.loads(tool("ip", "-json", "address", "show", "dev", bridge))[0]["addr_info"]
        four, six = (
            next(
                ipaddress.ip_interface(f"{entry['local']}/{entry['prefixlen']}").network
                for entry in known
                if entry["family"] == family and entry["scope"] == "global"
            )
            for family in ("inet", "inet6")
        )
        made = cls(name, str(four[number]), str(six[number]), bridge)
        tool("ip", "netns", "add", name)
        cable = ("ip", "link", "add", f"vb-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        tool(*cable)
        tool("ip", "link", "set", f"vb-{name}", "master", bridge, "addrgenmode", "none", "up")
        inside = ("ip", "-netns", name)
        tool(*inside, "link", "set", "lo", "up")
        tool(*inside, "link", "set", "eth0", "up")
        tool(*inside, "address", "add", f"{made.v4}/{four.prefixlen}", "dev", "eth0")
        tool(*inside, "address", "add", f"{made.v6}/{six.prefixlen}", "dev", "eth0", "nodad")
        return made

    def run(
        self, *argv: str, timeout_s: float = 120.0, environment: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in the namespace to its end."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *argv],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )

    def start(self, argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        """Start a program in the namespace; it ends with the namespace at the latest."""
        with log.open("ab") as out:
            self.started.append(
                subprocess.Popen(
                    ["ip", "netns", "exec", self.name, *argv],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env={**os.environ, **(environment or {})},
                )
            )

    def end(self) -> None:
        """End everything that runs in the namespace, and remove it."""

        def is_empty() -> bool:
            pids = tool("ip", "netns", "pids", self.name).split()
            if pids:
                tool("kill", "-KILL", *pids, check=False)
            return not pids

        wait_for(f"the end of what runs in {self.name}", is_empty, 20)
        for process in self.started:
            process.wait(20)
        tool("ip", "netns", "delete", self.name)
        cable = Path(f"/sys/class/net/vb-{self.name}")
        wait_for("the cable's end", lambda: not cable.exists(), 20)
