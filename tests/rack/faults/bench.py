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

RACK = "faults"
NODES = ("pi1", "pi2", "pi3")
# The first three become a cluster. The others stay fresh: while it comes up, faults are made on them; the
# last has too little memory, and is a member in one fault only.
SIZES = "4G,2G,2G,4G,2G,2G,300M"


@dataclass
class Bench:
    """Some nodes of a rack, and what cluster.yml says of them; `real` has their names in the rack."""

    rack: RackUnderTest
    name: str
    real: dict[str, str]
    addresses: dict[str, str] = field(default_factory=dict)

    def prepare(self) -> None:
        """Give the nodes the names of this bench and write the cluster.yml."""
        status = self.rack.status()
        self.addresses = {name: status[real]["address"] for name, real in self.real.items()}
        for node in self.real:
            self.give_name(node)
        self.write()

    def give_name(self, node: str) -> None:
        if node != self.real[node]:
            line = rf"s/^127\.0\.1\.1.*/127.0.1.1\t{node}/"
            self.root(node, f"echo {node} >/etc/hostname; hostname {node}; sed -i '{line}' /etc/hosts")

    def of_rack(self, *words: str) -> None:
        """Run a command of the rack; nodes are named as here."""
        self.rack.run(*(self.real.get(word, word) for word in words))
        if words[0] in ("boot", "reboot"):
            self.give_name(words[1])

    @property
    def spec(self) -> Path:
        return Path(self.rack.environment["RPICLUSTER_STATE_DIR"]) / f"{self.name}.yml"

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
        self.spec.write_text(json.dumps({"name": self.name, "users": ["pi"], "nodes": described}))

    def root(self, node: str, script: str, *, timeout: float = 60) -> str:
        """Run a script as root on a node, from outside: it needs neither ssh nor sudo there."""
        folder = self.rack.directory / "nodes" / self.real[node]
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

    def start_up(self, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "rpicluster", "up", "--yes", "--json", "--cluster", str(self.spec)],
                env=self.rack.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

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

    def know(self, text: str) -> None:
        """Write known_hosts at once: others read it meanwhile."""
        fresh = self.known_hosts.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.known_hosts)

    def forget_key(self, node: str) -> str:
        """Take a node out of known_hosts; return what was in it before."""
        before = self.known_hosts.read_text()
        lines = before.splitlines(keepends=True)
        self.know("".join(line for line in lines if not line.startswith(f"{self.real[node]},")))
        return before

    def know_as(self, node: str, other: str, address: str = "") -> str:
        """Write down the keys of `other` for `node` or for an address; return what stood there before."""
        before = self.known_hosts.read_text() if address else self.forget_key(node)
        text = self.known_hosts.read_text()
        found = re.findall(rf"^{self.real[other]},\S+ (\S+ \S+)$", text, re.M)
        names = address or f"{self.real[node]},{self.addresses[node]}"
        self.know(text + "".join(f"{names} {key}\n" for key in found))
        return before


def benches(rack: RackUnderTest) -> tuple[Bench, Bench]:
    """Boot a rack; return the nodes that become a cluster, and those that stay fresh."""
    rack.run("up", "--nodes", SIZES, "--disk", "6G")
    cluster = Bench(rack, "faults", {node: node for node in NODES})
    fresh = Bench(rack, "fresh", {f"pi{number}": f"pi{number + 3}" for number in range(1, 5)})
    for bench in (cluster, fresh):
        bench.prepare()
    # As many do it for Hadoop: pi2's own name leads to its address, those of the others to 127.0.1.1.
    fresh.root("pi2", f"sed -i 's/^127.0.1.1.*/{fresh.addresses['pi2']} pi2/' /etc/hosts")
    return cluster, fresh


def quoted(text: str) -> str:
    return shlex.quote(text)
