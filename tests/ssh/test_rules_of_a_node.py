"""The rules of a manager in a real sshd: a kept tunnel passes with its doors, and nothing else does."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rpicluster.design import layout, sshd_files
from rpicluster.nodes.ssh.forwards import Forward
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.tunnel import Tunnel

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from rendering_cases import load
from ssh_tools import greeting, serving

from conftest import SSHD, USER, Sshd


def greeter(stack: ExitStack, port: int) -> int | None:
    """Greet whoever connects to a port of 127.0.0.1; None where another program has it."""
    try:
        return stack.enter_context(serving(port=port))
    except OSError:
        return None


@pytest.fixture
def strict(short: Path, privilege_separation: None) -> Iterator[Sshd]:
    """An sshd with the rules of a manager, which hold for the login of the test."""
    if SSHD is None:
        pytest.fail("there is no sshd here; install openssh-server: make system")
    rules = sshd_files.sshd_rules(load("pi4-3x4g")).decode()
    rules = rules.replace(f"Match User {layout.TUNNEL_USER}", f"Match User {USER}")
    rules = rules.replace("/etc/rpicluster/tunnel-keys", f"{short}/user.pub")
    assert USER in rules and f"{short}/user.pub" in rules
    server = Sshd(short, more=rules)
    server.start()
    yield server
    server.stop()


def test_a_kept_tunnel_reaches_the_sessions_doors_and_no_other_port(
    strict: Sshd, short: Path, tmp_path: Path
) -> None:
    targets = sshd_files.tunnel_targets(load("pi4-3x4g"))
    doors = [int(target.rpartition(":")[2]) for target in targets if target.startswith("127.0.0.1:")]
    strict.known_hosts.write_text(
        f"[{strict.target().host}]:{strict.port} {(strict.folder / 'host.pub').read_text()}"
    )
    tunnel = Tunnel(OpenSsh(short / "c"), strict.target(), node="pi1", record=tmp_path / "tunnel.json")
    with ExitStack() as stack:
        stack.callback(tunnel.end)
        found = [greeter(stack, port) for port in doors]
        listed = [port for port in found if port is not None]
        if not listed:
            pytest.skip(f"other programs have all of {doors}")
        other = greeter(stack, 0)
        assert other is not None
        local = {}
        with ExitStack() as reserved:
            for port in (listed[0], listed[-1], other):
                probe = reserved.enter_context(socket.socket())
                probe.bind(("127.0.0.1", 0))
                local[port] = probe.getsockname()[1]
        told = tunnel.keep([Forward("door", here, "127.0.0.1", there) for there, here in local.items()])
        assert (told.state, told.missing) == ("open", ())
        assert greeting(local[listed[0]]) == greeting(local[listed[-1]]) == b"hello"
        assert greeting(local[other]) == b"", "not on the list"
    denied = [line for line in strict.log.read_text().splitlines() if "denied" in line]
    assert len(denied) == 1 and str(other) in denied[0], denied
