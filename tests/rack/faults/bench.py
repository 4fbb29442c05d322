"""A rack on which faults are made: root on a node without ssh, its own cluster.yml, and doctor."""

import json
import re
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from judging import Report, read_report
from rack_tools import RackUnderTest

from rpicluster.model.spec import SshTarget
from rpicluster.nodes.rack import machine
from rpicluster.nodes.ssh.openssh import OpenSsh

NAME = "faults"
NODES = ("pi1", "pi2", "pi3")
SMALL = "pi4"  # has too little memory; no member, but in one fault
SIZES = "4G,2G,2G,300M"


@dataclass
class Bench:
    """A rack, and what its owner says of it in cluster.yml."""

    rack: RackUnderTest
    addresses: dict[str, str] = field(default_factory=dict)

    def boot(self) -> None:
        self.rack.run("up", "--nodes", SIZES, "--disk", "6G")
        self.addresses = {name: node["address"] for name, node in self.rack.status().items()}
        # As many do it for Hadoop: pi2's own name leads to its address, those of the others to 127.0.1.1.
        self.root("pi2", f"sed -i 's/^127.0.1.1.*/{self.addresses['pi2']} pi2/' /etc/hosts")
        self.write()

    @property
    def spec(self) -> Path:
        return Path(self.rack.environment["RPICLUSTER_STATE_DIR"]) / "faults.yml"

    def write(
        self,
        nodes: tuple[str, ...] = NODES,
        *,
        users: dict[str, str] | None = None,
        hosts: dict[str, str] | None = None,
    ) -> None:
        """Write the cluster.yml; a node `pi9=pi3` is called pi9 and is pi3."""
        described = []
        for node in nodes:
            name, _, real = node.partition("=")
            host = (hosts or {}).get(name, self.addresses[real or name])
            config = str(self.rack.directory / "ssh_config")
            described.append(
                {"name": name, "ssh": {"host": host, "user": (users or {}).get(name, "pi"), "config": config}}
            )
        self.spec.write_text(json.dumps({"name": NAME, "users": ["pi"], "nodes": described}))

    def root(self, node: str, script: str, *, timeout: float = 60) -> str:
        """Run a script as root on a node, from outside: it needs neither ssh nor sudo there."""
        folder = self.rack.directory / "nodes" / node
        init = machine.running([folder])[folder].init
        assert init is not None, f"{node} is off"
        done = subprocess.run(
            ["nsenter", "-t", str(init), "-m", "-u", "-i", "-n", "-p", "--", "sh", "-euc", script],
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{node}: {script}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def rpicluster(self, *words: str, timeout: float = 600) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "rpicluster", *words, "--cluster", str(self.spec)],
            env=self.rack.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def up(self) -> None:
        done = self.rpicluster("up", "--yes", "--json", timeout=900)
        assert done.returncode == 0, f"up: {done.returncode}\n{done.stdout}\n{done.stderr}"

    def doctor(self) -> Report:
        done = self.rpicluster("doctor", "--json", timeout=120)
        return read_report(done.returncode, done.stdout, done.stderr)

    def close_connections(self) -> None:
        """End the connections that are kept open to the nodes: the next command makes new ones."""
        ssh, config = OpenSsh(), str(self.rack.directory / "ssh_config")
        for node in NODES:
            ssh.close(SshTarget(host=self.addresses[node], user="pi", config=config))

    def settled(self, before: Report, timeout_s: float) -> Report:
        """Look again until doctor says what it said before, or the time is over; return its last report."""
        deadline = time.monotonic() + timeout_s
        while True:
            report = self.doctor()
            if report.keys() == before.keys() or time.monotonic() > deadline:
                return report
            time.sleep(1)

    # -- what this machine knows of the nodes' keys ----------------------------------------------------

    @property
    def known_hosts(self) -> Path:
        return self.rack.directory / "known_hosts"

    def forget_key(self, node: str) -> str:
        """Take a node out of known_hosts; return what was in it before."""
        before = self.known_hosts.read_text()
        lines = before.splitlines(keepends=True)
        self.known_hosts.write_text("".join(x for x in lines if not x.startswith(f"{node},")))
        return before

    def know_as(self, node: str, other: str, address: str = "") -> str:
        """Write down the keys of `other` for `node` or for an address; return what stood there before."""
        before = self.known_hosts.read_text() if address else self.forget_key(node)
        text = self.known_hosts.read_text()
        found = re.findall(rf"^{other},\S+ (\S+ \S+)$", text, re.M)
        names = address or f"{node},{self.addresses[node]}"
        self.known_hosts.write_text(text + "".join(f"{names} {key}\n" for key in found))
        return before


def quoted(text: str) -> str:
    return shlex.quote(text)
