"""A kept tunnel over a network that fails: the sshd is in a network namespace of its own, behind a cable."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rpicluster.errors import NodeUnreachable
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.forwards import Forward
from rpicluster.nodes.ssh.keeping import Kept
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.tunnel import Tunnel

sys.path.insert(0, str(Path(__file__).parent))
from ssh_tools import until

from conftest import SSHD, USER, Sshd, processes_naming

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None or shutil.which("ip") is None, reason="no nft or ip here"),
    pytest.mark.timeout(900),
]
DOOR = 7000
# As on a node: design.sshd_files.
AS_ON_A_NODE = "ClientAliveInterval 30\nClientAliveCountMax 3"
ECHO = f"""
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while line := self.request.recv(100):
            self.request.sendall(line)
socketserver.ThreadingTCPServer.daemon_threads = True
with socketserver.ThreadingTCPServer(("127.0.0.1", {DOOR}), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""


def tool(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{argv}: {done.stderr}"
    return done.stdout


@dataclass
class Far:
    """A machine behind a cable; `name` is the namespace's, and the cable's on this side."""

    name: str
    address: str
    sshd: Sshd

    def inside(self, *argv: str) -> str:
        return tool("ip", "netns", "exec", self.name, *argv)

    def cable(self, state: str) -> None:
        tool("ip", "link", "set", self.name, state)

    def swallow(self, what: str) -> None:
        """Drop packets without a word, here those that nft's `what` says."""
        self.inside("nft", f"add rule inet hole in {what} drop; add rule inet hole out {what} drop")

    def let_through(self) -> None:
        self.inside("nft", "flush table inet hole")

    def connections(self) -> set[int]:
        """Return the ports on this side of the connections that sshd has."""
        table = self.inside("ss", "-Htn", "state", "established", "sport", "=", f":{self.sshd.port}")
        return {int(line.split()[3].rpartition(":")[2]) for line in table.splitlines()}


@pytest.fixture
def far(short: Path, privilege_separation: None, request: pytest.FixtureRequest) -> Iterator[Far]:
    if SSHD is None:
        pytest.fail("there is no sshd here; install openssh-server: make system")
    name, number = f"rpit{os.getpid() % 100000}", 4 * (os.getpid() % 16384)
    network, here, there = (f"10.96.{(number + n) >> 8}.{(number + n) & 255}" for n in range(3))
    tool("ip", "netns", "add", name)
    try:
        tool("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        tool("ip", "address", "add", f"{here}/30", "dev", name)
        tool("ip", "link", "set", name, "up")
        # With the cable out nothing of this may take the machine's own way out.
        tool("ip", "route", "add", "unreachable", f"{network}/30", "metric", "4000")
        tool("ip", "-netns", name, "address", "add", f"{there}/30", "dev", "eth0")
        for link in ("eth0", "lo"):
            tool("ip", "-netns", name, "link", "set", link, "up")
        inside = ("ip", "netns", "exec", name)
        tool(*inside, "nft", "add table inet hole")
        for hook in ("input", "output"):
            chain = f"{hook.removesuffix('put')} {{ type filter hook {hook} priority 0; }}"
            tool(*inside, "nft", f"add chain inet hole {chain}")
        server = Sshd(short, addresses=(there,), inside=inside, more=getattr(request, "param", AS_ON_A_NODE))
        server.start()
        door = subprocess.Popen([*inside, sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True)
        assert door.stdout is not None
        assert door.stdout.readline() == "ready\n"
        yield Far(name, there, server)
        door.kill()
        door.wait(10)
        server.stop()
    finally:
        tool("ip", "route", "flush", "type", "unreachable", "root", f"{network}/30")
        # By itself the cable would stay as long as the kernel has packets to send again over there.
        subprocess.run(["ip", "link", "delete", name], capture_output=True, check=False)
        tool("ip", "netns", "delete", name)


@pytest.fixture
def tunnel(far: Far, short: Path, tmp_path: Path) -> Iterator[Tunnel]:
    sshd = far.sshd
    sshd.known_hosts.write_text(f"[{far.address}]:{sshd.port} {(sshd.folder / 'host.pub').read_text()}")
    target = SshTarget(host=far.address, port=sshd.port, user=USER, config=str(sshd.folder / "config"))
    made = Tunnel(OpenSsh(short / "c"), target, node="pi1", record=tmp_path / "tunnel.json")
    yield made
    made.end()
    assert not [*processes_naming(str(tmp_path)), *processes_naming(f"ControlPath={made._socket}")]


@dataclass
class Open:
    """A tunnel that is open, with its door's number here, and a client that talks to the door."""

    tunnel: Tunnel
    local: int
    told: Kept
    client: socket.socket

    def client_is_answered(self, timeout_s: float = 20.0) -> bool:
        self.client.settimeout(timeout_s)
        try:
            self.client.sendall(b"hello")
            return self.client.recv(5) == b"hello"
        except OSError:
            return False

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.local), 1) as wire:
                wire.sendall(b"hello")
                return wire.recv(5) == b"hello"
        except OSError:
            return False

    def is_another(self) -> bool:
        told = self.tunnel.told()
        return told is not None and told.state == "open" and told.opened > self.told.opened

    def state(self) -> str:
        told = self.tunnel.told()
        return told.state if told else "nobody keeps it"


@pytest.fixture
def opened(tunnel: Tunnel) -> Iterator[Open]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        local = int(probe.getsockname()[1])
    told = tunnel.keep([Forward("Spark Connect", local, "127.0.0.1", DOOR, required=True)])
    with socket.create_connection(("127.0.0.1", local), 5) as client:
        found = Open(tunnel, local, told, client)
        assert found.client_is_answered()
        yield found


def measured(what: str, took_s: float) -> None:
    print(f"MEASURED {what}: {took_s:.1f} s, load {os.getloadavg()[0]:.0f}")


def test_a_cable_that_is_out_for_five_seconds_ends_nothing(opened: Open, far: Far) -> None:
    far.cable("down")
    time.sleep(5)
    far.cable("up")
    took = until(opened.answers)
    assert not opened.is_another(), opened.tunnel.told()
    assert opened.client_is_answered(), "the connection from before"
    measured("cable out 5 s, until answered", took)


def test_a_half_open_connection_is_noticed_and_replaced(opened: Open, far: Far) -> None:
    (port,) = far.connections()
    # As a router that has forgotten this one connection: no answer, no reset; others pass.
    far.swallow(f"tcp sport {port}")
    far.swallow(f"tcp dport {port}")
    took = until(lambda: opened.is_another() and opened.answers())
    measured("half-open, from the loss until answered", took)
    opened.client.settimeout(5)
    assert opened.client.recv(5) == b"", "a client of the lost connection is told its end"


def test_a_network_that_swallows_everything_is_noticed_and_comes_back(opened: Open, far: Far) -> None:
    far.swallow("meta l4proto tcp")
    took = until(lambda: opened.state() == "waiting")
    measured("black hole, until noticed", took)
    time.sleep(3)
    far.let_through()
    took = until(lambda: opened.is_another() and opened.answers())
    measured("black hole, from its end until answered", took)


def test_a_node_that_loses_its_power_and_boots_is_found_again(opened: Open, far: Far) -> None:
    far.swallow("meta l4proto tcp")  # as if it was off: nobody is told anything
    far.sshd.stop()
    far.let_through()
    far.sshd.start()
    took = until(lambda: opened.is_another() and opened.answers())
    measured("power cut, from the boot until answered", took)


@pytest.mark.parametrize(
    ("far", "asleep_s"),
    [
        pytest.param("ClientAliveInterval 2\nClientAliveCountMax 1", 10.0, id="short"),
        pytest.param(AS_ON_A_NODE, 420.0, id="as on a node", marks=pytest.mark.long),
    ],
    indirect=["far"],
)
def test_a_laptop_that_slept_longer_than_the_node_waits_is_connected_again(
    opened: Open, far: Far, asleep_s: float
) -> None:
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in (opened.told.pid, opened.told.ssh_pid):
            os.kill(pid, number)
        if number is signal.SIGSTOP:
            time.sleep(asleep_s)
            assert not far.connections(), "the node has given up"
    took = until(lambda: opened.is_another() and opened.answers())
    measured(f"asleep for {asleep_s:.0f} s, from waking until answered", took)


@pytest.mark.long
def test_a_cable_that_is_out_for_five_minutes_costs_seconds_when_it_is_back(opened: Open, far: Far) -> None:
    far.cable("down")
    time.sleep(300)
    assert opened.state() == "waiting"
    far.cable("up")
    took = until(lambda: opened.is_another() and opened.answers())
    measured("cable out 5 min, until answered", took)


def test_a_try_without_a_network_says_why_and_leaves_nothing(tunnel: Tunnel, far: Far) -> None:
    far.cable("down")
    with pytest.raises(NodeUnreachable, match=r"pi1 \(.*\): unreachable: No route to host"):
        tunnel.keep([Forward("Spark Connect", 1, "127.0.0.1", DOOR)])
    assert tunnel.told() is None


def test_closing_takes_no_network(opened: Open, far: Any) -> None:
    far.swallow("meta l4proto tcp")
    begun = time.monotonic()
    assert opened.tunnel.end()
    measured("closed over a dead network", time.monotonic() - begun)
    assert not opened.answers()
