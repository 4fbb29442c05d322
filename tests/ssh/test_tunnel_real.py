"""The one connection that carries ports, against a real sshd."""

import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rpicluster.errors import Unreachable
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.tunnel import Tunnel

sys.path.insert(0, str(Path(__file__).parent))
from ssh_tools import greeting, serving


@pytest.fixture
def page() -> Iterator[int]:
    with serving() as port:
        yield port


@pytest.fixture
def tunnel(ssh: OpenSsh, sshd: Any, tmp_path: Path) -> Iterator[Tunnel]:
    key = (sshd.folder / "host.pub").read_text()
    sshd.known_hosts.write_text(f"[{sshd.target().host}]:{sshd.port} {key}")
    made = Tunnel(ssh, sshd.target(), node="pi1", record=tmp_path / "tunnel.json")
    yield made
    made.close()


def greeting_by_socks(proxy: int, port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", proxy), 5) as wire:
        wire.sendall(b"\5\1\0")
        assert wire.recv(2) == b"\5\0"
        wire.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + struct.pack(">H", port))
        assert wire.recv(10)[1] == 0
        return wire.recv(5)


def test_a_forward_and_the_socks_proxy_go_through_one_connection(
    tunnel: Tunnel, sshd: Any, page: int
) -> None:
    assert greeting(tunnel.local_port("127.0.0.1", page)) == b"hello"
    proxy = tunnel.socks_port()
    assert greeting_by_socks(proxy, page) == b"hello"
    assert sshd.logins() == 1
    assert tunnel.is_open


def test_another_command_gets_the_same_ports_from_the_connection_that_stands(
    tunnel: Tunnel, ssh: OpenSsh, sshd: Any, page: int, tmp_path: Path
) -> None:
    first = tunnel.local_port("127.0.0.1", page), tunnel.socks_port()
    other = Tunnel(ssh, sshd.target(), node="pi1", record=tmp_path / "tunnel.json")
    assert (other.local_port("127.0.0.1", page), other.socks_port()) == first
    assert greeting_by_socks(first[1], page) == b"hello"
    assert sshd.logins() == 1


def test_the_proxy_listens_on_this_machine_alone_and_ends_with_the_tunnel(tunnel: Tunnel, page: int) -> None:
    proxy = tunnel.socks_port()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", proxy), 2)
    tunnel.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", proxy), 2)


def test_a_taken_number_is_named(tunnel: Tunnel, page: int) -> None:
    with pytest.raises(Unreachable, match=f"needs port {page}"):
        tunnel.local_port("127.0.0.1", page, wanted=page)
