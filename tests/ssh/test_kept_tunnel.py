"""A tunnel that is kept, against a real sshd: what is lost comes back, what is closed leaves nothing."""

import os
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rpicluster.errors import HostKeyRefused, NodeUnreachable, Unreachable
from rpicluster.nodes.ssh import kept
from rpicluster.nodes.ssh.forwards import Forward
from rpicluster.nodes.ssh.keeping import Kept
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.tunnel import Tunnel

sys.path.insert(0, str(Path(__file__).parent))
from ssh_tools import echo, serving, until

from conftest import make_key, processes_naming


@pytest.fixture
def page() -> Iterator[int]:
    """A port on 127.0.0.1 that answers each line with the same line."""
    with serving(echo) as port:
        yield port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def tunnel(ssh: OpenSsh, sshd: Any, folder: Path) -> Iterator[Tunnel]:
    key = (sshd.folder / "host.pub").read_text()
    sshd.known_hosts.write_text(f"[{sshd.target().host}]:{sshd.port} {key}")
    made = Tunnel(ssh, sshd.target(), node="pi1", record=folder / "tunnel.json")
    yield made
    made.end()
    assert not left_of(folder, made)


def left_of(folder: Path, tunnel: Tunnel) -> list[int]:
    return [*processes_naming(str(folder)), *processes_naming(f"ControlPath={tunnel._socket}")]


def free_local() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def door(page: int) -> Forward:
    return Forward("Spark Connect", free_local(), "127.0.0.1", page, required=True)


def answers(port: int, timeout_s: float = 1.0) -> bool:
    """Whether a request is answered: a port that takes the connection proves nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout_s) as wire:
            wire.sendall(b"hello")
            return wire.recv(5) == b"hello"
    except OSError:
        return False


def reopened(tunnel: Tunnel, before: Kept) -> bool:
    told = tunnel.told()
    return told is not None and told.state == "open" and told.opened > before.opened


def test_a_kept_tunnel_has_doors_of_equal_numbers_and_a_proxy_over_one_login(
    tunnel: Tunnel, sshd: Any, page: int
) -> None:
    wanted = door(page)
    told = tunnel.keep([wanted])
    assert answers(wanted.local)
    assert (told.state, told.missing) == ("open", ())
    proxy = tunnel.socks_port()
    with socket.create_connection(("127.0.0.1", proxy), 5) as wire:
        wire.sendall(b"\5\1\0")
        assert wire.recv(2) == b"\5\0"
        wire.sendall(b"\5\1\0\1" + socket.inet_aton("127.0.0.1") + struct.pack(">H", page))
        assert wire.recv(10)[1] == 0
        wire.sendall(b"hello")
        assert wire.recv(5) == b"hello"
    assert sshd.logins() == 1


def test_asking_again_starts_nothing(tunnel: Tunnel, sshd: Any, page: int) -> None:
    wanted = door(page)
    first = tunnel.keep([wanted])
    assert tunnel.keep([wanted]) == first
    assert sshd.logins() == 1


def test_what_a_keeper_holds_costs_no_process(
    tunnel: Tunnel, ssh: OpenSsh, sshd: Any, folder: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = door(page)
    tunnel.keep([wanted])
    fresh = Tunnel(ssh, sshd.target(), node="pi1", record=folder / "tunnel.json")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a process"))
    begun = time.monotonic()
    assert fresh.local_port("127.0.0.1", page, wanted=wanted.local) == wanted.local
    assert fresh.socks_port() == tunnel.socks_port()
    fresh.keep([wanted])
    print(f"MEASURED what is held, asked thrice: {time.monotonic() - begun:.4f} s")


def test_a_proxy_whose_number_was_taken_meanwhile_gets_another(
    tunnel: Tunnel, folder: Path, page: int
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mine:
        (folder / "tunnel.json").write_text(f'{{"socks:0": {mine.getsockname()[1]}}}')
        assert tunnel.keep([door(page)]).missing == ()
        assert tunnel.socks_port() != mine.getsockname()[1]


def test_it_is_a_session_of_its_own_and_listens_on_this_machine_alone(
    tunnel: Tunnel, folder: Path, page: int
) -> None:
    wanted = door(page)
    told = tunnel.keep([wanted])
    assert os.getsid(told.pid) == told.pid != os.getsid(0), "a terminal's end does not reach it"
    table = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    own = [line.split()[3] for line in table.splitlines() if f"pid={told.ssh_pid}," in line]
    assert len(own) == 2, "the door and the proxy"
    assert all(address.startswith("127.0.0.1:") for address in own)


def test_a_killed_ssh_comes_back_with_all_doors(tunnel: Tunnel, sshd: Any, page: int) -> None:
    wanted = door(page)
    before = tunnel.keep([wanted])
    asked_for = tunnel.local_port("127.0.0.1", page)  # by another command, without a number of its own
    os.kill(before.ssh_pid, signal.SIGKILL)
    took = until(lambda: reopened(tunnel, before) and answers(wanted.local) and answers(asked_for))
    print(f"MEASURED killed ssh: {took:.2f} s, load {os.getloadavg()[0]:.0f}")
    told = tunnel.told()
    assert told is not None and told.ssh_pid != before.ssh_pid
    assert sshd.logins() == 2


def test_a_frozen_ssh_is_replaced(tunnel: Tunnel, page: int) -> None:
    wanted = door(page)
    before = tunnel.keep([wanted])
    os.kill(before.ssh_pid, signal.SIGSTOP)
    took = until(lambda: reopened(tunnel, before) and answers(wanted.local))
    print(f"MEASURED frozen ssh: {took:.2f} s, load {os.getloadavg()[0]:.0f}")


def test_end_leaves_no_process_no_port_and_no_file(tunnel: Tunnel, folder: Path, page: int) -> None:
    wanted = door(page)
    tunnel.keep([wanted])
    assert tunnel.end()
    assert not left_of(folder, tunnel)
    assert not tunnel._socket.exists()
    assert not answers(wanted.local)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(("kept", "tunnel"))) == [
        "kept-start.lock",
        "kept.lock",
        "tunnel.lock",
    ]
    assert not tunnel.end(), "nothing was open"


@pytest.mark.parametrize("frozen", ["ssh", "keeper", "both"])
def test_end_ends_what_is_frozen(tunnel: Tunnel, folder: Path, page: int, frozen: str) -> None:
    told = tunnel.keep([door(page)])
    if frozen in ("keeper", "both"):
        os.kill(told.pid, signal.SIGSTOP)
    if frozen in ("ssh", "both"):
        os.kill(told.ssh_pid, signal.SIGSTOP)
    tunnel.end()
    assert not left_of(folder, tunnel)


def test_a_control_socket_that_somebody_removed_is_made_anew(tunnel: Tunnel, page: int) -> None:
    wanted = door(page)
    before = tunnel.keep([wanted])
    tunnel._socket.unlink()
    until(lambda: reopened(tunnel, before) and answers(wanted.local))
    assert tunnel.is_open


def test_a_killed_keeper_leaves_no_orphan_and_the_next_one_begins_anew(
    tunnel: Tunnel, folder: Path, page: int
) -> None:
    wanted = door(page)
    before = tunnel.keep([wanted])
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: not left_of(folder, tunnel))
    assert tunnel.told() is None, "nobody keeps it"
    told = tunnel.keep([wanted])
    assert told.pid != before.pid
    assert answers(wanted.local)


def test_a_keeper_whose_cluster_is_removed_ends(tunnel: Tunnel, folder: Path, page: int) -> None:
    tunnel.keep([door(page)])
    for path in folder.iterdir():
        path.unlink()
    until(lambda: not left_of(folder, tunnel))


def test_a_connection_that_a_command_has_opened_is_taken_over(tunnel: Tunnel, sshd: Any, page: int) -> None:
    asked_for = tunnel.local_port("127.0.0.1", page)
    wanted = door(page)
    told = tunnel.keep([wanted])
    assert answers(wanted.local) and answers(asked_for)
    assert sshd.logins() == 1
    os.kill(told.ssh_pid, signal.SIGKILL)
    until(lambda: reopened(tunnel, told) and answers(wanted.local) and answers(asked_for))


def test_a_taken_number_is_named_with_its_owner(tunnel: Tunnel, page: int) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as mine:
        port = mine.getsockname()[1]
        with pytest.raises(
            Unreachable, match=rf"needs port {port} .* Spark Connect.*pid {os.getpid()}, user"
        ):
            tunnel.keep([Forward("Spark Connect", port, "127.0.0.1", page, required=True)])
    assert tunnel.told() is None


def test_a_number_of_another_cluster_is_named_with_that_cluster(
    ssh: OpenSsh, sshd: Any, tunnel: Tunnel, folder: Path, page: int
) -> None:
    other = folder.parent / "attic"
    other.mkdir()
    second = Tunnel(ssh, sshd.target(), node="pi1", record=other / "tunnel.json")
    wanted = door(page)
    tunnel.keep([wanted])
    with pytest.raises(Unreachable) as caught:
        second.keep([wanted])
    name = folder.name
    assert (
        caught.value.hint == f"that is the tunnel of cluster {name}: rpicluster disconnect --cluster {name}"
    )
    assert not second.end()


def test_it_outlives_the_terminal_that_it_was_opened_on(
    ssh: OpenSsh, sshd: Any, tunnel: Tunnel, folder: Path, page: int
) -> None:
    if shutil.which("script") is None:
        pytest.skip("util-linux's script is not here")
    wanted = door(page)
    program = f"""
import os
from pathlib import Path, PosixPath
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.forwards import Forward
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.tunnel import Tunnel
assert os.isatty(0)
target = SshTarget.model_validate({sshd.target().model_dump()!r})
Tunnel(OpenSsh({ssh.control!r}), target, node="pi1", record={folder / "tunnel.json"!r}).keep([{wanted!r}])
"""
    line = shlex.join([sys.executable, "-c", program])
    subprocess.run(["script", "-qec", line, "/dev/null"], check=True, stdin=subprocess.DEVNULL, timeout=90)
    time.sleep(1)
    assert answers(wanted.local)
    told = tunnel.told()
    assert told is not None and told.state == "open"


def test_a_page_whose_number_is_taken_is_told_and_opened_when_it_is_free(tunnel: Tunnel, page: int) -> None:
    wanted = door(page)
    with closing(socket.create_server(("127.0.0.1", 0))) as mine:
        port = mine.getsockname()[1]
        told = tunnel.keep([wanted, Forward("YARN", port, "127.0.0.1", page)])
        assert told.missing == (port,)
        assert answers(wanted.local)
    until(lambda: answers(port))
    until(lambda: (found := tunnel.told()) is not None and found.missing == () and found.opened == 1)


def test_doors_that_come_later_are_added_to_the_connection_that_stands(
    tunnel: Tunnel, sshd: Any, page: int
) -> None:
    first, more = door(page), door(page)
    tunnel.keep([first])
    told = tunnel.keep([first, more])
    assert answers(first.local) and answers(more.local)
    assert (sshd.logins(), told.opened) == (1, 1)


def test_doors_that_go_are_closed(tunnel: Tunnel, page: int) -> None:
    first, gone = door(page), door(page)
    tunnel.keep([first, gone])
    tunnel.keep([first])
    assert answers(first.local)
    assert not answers(gone.local)


def test_a_node_that_is_not_there_is_an_error_at_once_and_leaves_nothing(
    tunnel: Tunnel, sshd: Any, folder: Path, page: int
) -> None:
    sshd.stop()
    with pytest.raises(NodeUnreachable, match="connection refused"):
        tunnel.keep([door(page)])
    assert not left_of(folder, tunnel)


def test_it_comes_back_when_the_node_does_and_says_meanwhile_why_not(
    tunnel: Tunnel, sshd: Any, page: int
) -> None:
    wanted = door(page)
    before = tunnel.keep([wanted])
    sshd.stop()
    until(lambda: (told := tunnel.told()) is not None and told.why == "connection refused")
    sshd.start()
    took = until(lambda: reopened(tunnel, before) and answers(wanted.local))
    print(f"MEASURED sshd back: {took:.2f} s, load {os.getloadavg()[0]:.0f}")


def test_another_host_key_is_a_hard_stop(tunnel: Tunnel, sshd: Any, folder: Path, page: int) -> None:
    wanted = door(page)
    tunnel.keep([wanted])
    make_key(sshd.folder / "other")
    sshd.stop()
    sshd.start(host_key="other")
    until(lambda: not left_of(folder, tunnel))
    told = kept.told(folder)
    assert told is not None and (told.state, told.why) == ("refused", "host key changed")
    assert isinstance(tunnel.refusal(), HostKeyRefused)
    with pytest.raises(HostKeyRefused):
        tunnel.keep([wanted])
    assert tunnel.refusal() is None, "it is told once more, and then nothing is kept"


def test_two_commands_at_once_make_one_keeper(tunnel: Tunnel, sshd: Any, page: int) -> None:
    wanted = door(page)
    found: list[Kept] = []
    threads = [threading.Thread(target=lambda: found.append(tunnel.keep([wanted]))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6
    assert len({each.pid for each in found}) == 1
    assert sshd.logins() == 1


def test_the_raw_line_opens_the_same(tunnel: Tunnel, page: int) -> None:
    wanted = door(page)
    process = subprocess.Popen(
        tunnel.command([wanted]), shell=True, stdin=subprocess.DEVNULL, start_new_session=True
    )
    try:
        until(lambda: answers(wanted.local))
        with pytest.raises(Unreachable, match=r"pid \d+, user .*: ssh -N"):
            tunnel.keep([wanted])
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)


def test_a_log_that_grows_is_emptied_and_ssh_goes_on(tunnel: Tunnel, folder: Path, page: int) -> None:
    wanted = door(page)
    before = tunnel.keep([wanted])
    with (folder / "tunnel.log").open("a") as log:
        log.write("x" * (1 << 21))
    until(lambda: (folder / "tunnel.log").stat().st_size == 0)
    assert answers(wanted.local)
    assert tunnel.told() == before
