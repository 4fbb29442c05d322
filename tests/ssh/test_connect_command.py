"""`connect` and `disconnect` as a user types them, through a real sshd; its doors lead nowhere."""

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rpicluster.cli.main import run
from rpicluster.design import layout
from rpicluster.model.facts import NodePaths, NodePlacement, Placement
from rpicluster.nodes.local.listeners import listeners
from rpicluster.nodes.remote.state import RemoteState, open_remote_state

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ADDRESSES, USER, Sshd, processes_naming

NAMES = ("namenode_http", "rm_http", "spark_ui", "connect")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_range(count: int) -> int:
    """Return the first of so many free ports in a row."""
    taken = {listener.port for listener in listeners()}
    return next(first for first in range(23000, 32000) if not taken & {*range(first, first + count)})


@pytest.fixture
def shelf(
    sshd: Sshd, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RemoteState, dict[str, int]]]:
    """A cluster that was brought up, by its state alone; its manager is the test's sshd."""
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    monkeypatch.setattr(layout, "TUNNEL_USER", USER)
    monkeypatch.chdir(tmp_path)
    key = (sshd.folder / "host.pub").read_text()
    sshd.known_hosts.write_text(f"[{sshd.target().host}]:{sshd.port} {key}")
    ssh = f"ssh: {{host: {ADDRESSES[0]}, port: {sshd.port}, config: {sshd.folder}/config}}"
    node_line = f"  - {{name: pi1, hardware: {{memory: 4G}}, {ssh}}}\n"  # so that nobody looks at it
    spec = f"name: shelf\nusers: [ana]\nhdfs: {{replication: 1}}\nnodes:\n{node_line}"
    ports = {name: free_port() for name in NAMES}
    paths = NodePaths(conf="/e", data="/d", logs="/l", run="/r", runtime="/o", per_unit=True)
    node = NodePlacement(address="127.0.0.1", paths=paths, java_home="/j", python="python3", ports=ports)
    state = open_remote_state("shelf")
    state.remember(
        users=["ana"],
        placement=Placement(cluster_id="c", nodes={"pi1": node}, login="ana").model_dump(),
    )
    for folder in (tmp_path, state.directory):
        (folder / "cluster.yml").write_text(spec)
    state.tunnel_key.write_bytes((sshd.folder / "user").read_bytes())
    state.tunnel_key.chmod(0o600)
    state.token_file("ana").write_text("a-token\n")
    document = {
        "schema": 1,
        "cluster": "shelf",
        "connect_port": ports["connect"],
        "token_file": str(state.token_file("ana")),
        "proto_path": "/none",
        "user": "ana",
        "webhdfs": f"http://127.0.0.1:{ports['namenode_http']}",
        "webhdfs_user": "ana",
        "tunnelled": True,
    }
    (state.directory / "connection.json").write_text(json.dumps(document))
    yield state, ports
    run(["disconnect"])
    assert not processes_naming(str(tmp_path))


def asked(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert run(list(arguments)) == code, capsys.readouterr().err
    return capsys.readouterr()


def test_connect_opens_status_tells_and_disconnect_closes(
    shelf: tuple[RemoteState, dict[str, int]], sshd: Sshd, capsys: pytest.CaptureFixture[str]
) -> None:
    _, ports = shelf
    assert json.loads(asked(capsys, "connect", "--status", "--json").out)["open"] is False
    # The proxy and the pages need nothing behind the doors.
    opened = json.loads(asked(capsys, "connect", "--pages", "--json").out)
    told = json.loads(asked(capsys, "connect", "--status", "--json").out)
    assert told["kept"] and told["open"] and told["state"] == "open"
    assert {way["port"] for way in told["ways"]} == {*ports.values(), int(opened["proxy"].split(":")[-1])}
    text = asked(capsys, "connect", "--status")
    assert f"127.0.0.1:{ports['connect']}" in text.out and "open for" in text.err
    asked(capsys, "connect", "--pages")
    assert sshd.logins() == 1
    assert "is closed" in asked(capsys, "disconnect").err
    assert "no tunnel to shelf is open" in asked(capsys, "disconnect").err
    assert json.loads(asked(capsys, "connect", "--status", "--json").out)["kept"] is False


def test_sparklyrs_range_is_opened_when_the_document_names_it(
    shelf: tuple[RemoteState, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = shelf
    document = json.loads((state.directory / "connection.json").read_text())
    first = free_range(20)
    last = first + 19
    document["sparklyr"] = {
        "host": "127.0.0.1", "port": first, "last_port": last, "session": 42, "version": "1.9.5"
    }  # fmt: skip
    (state.directory / "connection.json").write_text(json.dumps(document))
    asked(capsys, "connect", "--pages")
    table = asked(capsys, "connect", "--status").out
    assert f"127.0.0.1:{first} " in table and f"127.0.0.1:{first + 1}-{last}" in table
    words = asked(capsys, "connect", "--print-command").out.split()
    assert {f"127.0.0.1:{port}:127.0.0.1:{port}" for port in range(first, last + 1)} <= set(words)


def test_a_taken_number_is_exit_4_and_names_who_has_it(
    shelf: tuple[RemoteState, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    _, ports = shelf
    with closing(socket.create_server(("127.0.0.1", ports["connect"]))):
        said = asked(capsys, "connect", code=4).err
    assert f"needs port {ports['connect']} on 127.0.0.1" in said and "pid " in said and "hint" in said
    assert json.loads(asked(capsys, "connect", "--status", "--json").out)["kept"] is False


def test_while_it_is_lost_status_says_why_with_exit_4(
    shelf: tuple[RemoteState, dict[str, int]], sshd: Sshd, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(capsys, "connect", "--pages")
    sshd.stop()
    done = threading.Event()
    for _ in range(600):
        if run(["connect", "--status"]) == 4 and "connection refused" in capsys.readouterr().err:
            break
        done.wait(0.1)
    else:
        pytest.fail("the loss was never told")
    asked(capsys, "connect", "--pages", code=4)


def test_nothing_secret_is_in_arguments_or_files_of_the_tunnel(
    shelf: tuple[RemoteState, dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    state, _ = shelf
    asked(capsys, "connect", "--pages")
    secrets = [b"a-token", b"PRIVATE KEY", state.tunnel_key.read_bytes().splitlines()[2]]
    told = json.loads(asked(capsys, "connect", "--status", "--json").out)
    line = asked(capsys, "connect", "--print-command").out.encode()
    texts = [line, *(Path(f"/proc/{told[pid]}/cmdline").read_bytes() for pid in ("keeper_pid", "ssh_pid"))]
    files = [path for path in state.directory.iterdir() if path.name.startswith(("kept", "tunnel."))]
    assert len(files) > 3
    for path in files:
        assert path.stat().st_mode & 0o077 == 0 or not path.read_bytes(), path
        texts.append(path.read_bytes())
    assert not [text for text in texts for secret in secrets if secret in text]


@pytest.mark.parametrize("words", [["connect", "--status"], ["connect", "--print-command"], ["disconnect"]])
def test_a_cluster_on_this_machine_has_no_tunnel(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yml").write_text("name: here\nnodes:\n  - {name: n, local: {memory: 3G}}\n")
    assert "there is no tunnel" in asked(capsys, *words, code=2).err


def test_a_cluster_that_was_never_up_has_no_doors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yml").write_text("name: new\nnodes:\n  - {name: pi1, ssh: {host: 192.0.2.1}}\n")
    assert "was never brought up" in asked(capsys, "connect", code=2).err
    assert "was never brought up" in asked(capsys, "disconnect", code=2).err
