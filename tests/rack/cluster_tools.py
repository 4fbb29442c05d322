"""A cluster on a rack as its user sees it: the command line, ssh, and the inventories of its nodes."""

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rack_tools import RackUnderTest

from rpicluster.nodes.remote.commands import node_script
from rpicluster.nodes.remote.state import Inventory

# Prints "in" where a port lets it in.
CONNECT = "import socket; socket.create_connection(({address!r}, {port}), 2).close(); print('in')"


@dataclass
class ClusterUnderTest:
    """A cluster on a rack, by the command line and by ssh."""

    rack: RackUnderTest
    before: dict[str, Inventory]
    units: dict[str, tuple[str, ...]]  # by node

    def rpicluster(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "rpicluster",
                *arguments,
                "--cluster",
                str(self.rack.directory / "cluster.yml"),
            ],
            env=self.rack.environment,
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=800,
        )
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @property
    def spec_path(self) -> Path:
        return self.rack.directory / "cluster.yml"

    def sql(self, statement: str) -> list[list[Any]]:
        """Return the rows of a statement, through the Connect door."""
        rows: list[list[Any]] = json.loads(self.rpicluster("sql", "--json", statement))["rows"]
        return rows

    def asked(self, expression: str) -> Any:
        """Return what the facade `c` of this cluster answers, as JSON."""
        script = (
            "import json; from pathlib import Path; from rpicluster.cluster import Cluster; "
            f"c = Cluster.from_file(Path({str(self.spec_path)!r})); print(json.dumps({expression}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=self.rack.environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        return json.loads(done.stdout)

    def on(self, node: str, *argv: str, code: int = 0, stdin: str = "", timeout: float = 60) -> str:
        return on(self.rack, node, *argv, code=code, stdin=stdin, timeout=timeout)

    def pids(self) -> dict[str, str]:
        return {
            f"{unit} on {node}": self.on(
                node, "systemctl", "show", "-p", "MainPID", "--value", f"rpicluster-{unit}"
            )
            for node, units in self.units.items()
            for unit in units
        }

    def manifests(self) -> dict[str, str]:
        return {
            node: self.on(node, "stat", "-c", "%y", "/var/lib/rpicluster/manifest.json")
            for node in self.units
        }


def on(
    rack: RackUnderTest, node: str, *argv: str, code: int = 0, stdin: str = "", timeout: float = 60
) -> str:
    done = subprocess.run(
        [
            "ssh",
            "-F",
            str(rack.directory / "ssh_config"),
            node,
            shlex.join(argv) if len(argv) > 1 else argv[0],
        ],
        input=stdin,
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == code, f"{node}: {argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def inventories(rack: RackUnderTest, nodes: Iterable[str]) -> dict[str, Inventory]:
    """Return what is on nodes, as `destroy` looks at it."""
    return {
        node: json.loads(on(rack, node, "sudo", "python3", "-", stdin=node_script("inventory.py")))
        for node in nodes
    }


def not_of_packages(lines: list[str]) -> list[str]:
    """Leave out what Debian packages brought: `destroy` keeps them."""
    packages = (
        "/etc/java",
        "/etc/ca-certificates",
        "/etc/default",
        "/etc/fonts",
        "/etc/nftables",
        "/usr/local/share/fonts",
        "/var/lib/",
        "/tmp/",
        "/var/tmp/systemd-private-",  # named by the boot
    )
    return [line for line in lines if "rpi" in line or not line.partition(": ")[2].startswith(packages)]
