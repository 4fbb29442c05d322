"""The runtime's stream, with the real receivers on loopback: whole or not at all, passed on, checked."""

import grp
import json
import os
import pwd
import subprocess
import sys
import threading
import time
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

import pytest

from rpicluster.nodes.fanout import send
from rpicluster.nodes.fanout.send import MANIFEST, Package
from rpicluster.nodes.remote.commands import role_script

RECEIVER = Path(send.__file__).parent / "on_node" / "receive.py"


def make_runtime(folder: Path) -> Path:
    files: dict[str, dict[str, Any]] = {}
    for name, size in (("jars/a.jar", 3_000_000), ("jars/b.jar", 10), ("bin/run", 20)):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = os.urandom(size)
        path.write_bytes(content)
        path.chmod(0o755 if name.startswith("bin") else 0o644)
        files[name] = {
            "sha256": sha256(content).hexdigest(),
            "size_bytes": size,
            "mode": path.stat().st_mode & 0o777,
            "same_as": None,
        }
    os.link(folder / "jars/a.jar", folder / "a-again.jar")
    files["a-again.jar"] = {**files["jars/a.jar"], "same_as": "jars/a.jar"}
    (folder / MANIFEST).write_text(json.dumps({"size_bytes": 3_000_030, "files": files}))
    return folder


class Node:
    """A receiver that runs here, with a folder of its own."""

    def __init__(
        self,
        parent: Path,
        name: str,
        manifest: str,
        following: dict[str, object] | None,
        first: bool,
        kept: frozenset[str] = frozenset(),
        or_stdin: bool = False,
    ) -> None:
        self.folder = parent / name / "runtimes" / "abc"
        token = name.ljust(64, "x")
        self.process = subprocess.Popen(
            [sys.executable, str(RECEIVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        order = {
            "folder": str(self.folder), "manifest_sha256": manifest,
            "manifest_bytes": (parent / "source" / MANIFEST).stat().st_size,
            "address": "127.0.0.1",
            "listen": None if first else {"token": token, "or_stdin": or_stdin},
            "next": following, "kept": sorted(kept),
        }  # fmt: skip
        self.stdin.write(json.dumps(order).encode() + b"\n")
        self.stdin.flush()
        self.me: dict[str, object] = {}
        if not first:
            assert self.process.stdout is not None
            word, port = self.process.stdout.readline().split()
            assert word == b"port"
            self.me = {"address": "127.0.0.1", "port": int(port), "token": token}

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.decode(), err.decode()


def chain(
    parent: Path, manifest: str, names: tuple[str, ...], kept: frozenset[str] = frozenset()
) -> list[Node]:
    nodes: list[Node] = []
    following: dict[str, object] | None = None
    for name in reversed(names):
        node = Node(parent, name, manifest, following, name == names[0], kept)
        following = node.me
        nodes.insert(0, node)
    return nodes


def beginning(package: Package) -> bytes:
    """Return a stream that breaks off within jars/a.jar; bin/run is whole."""
    return b"".join(bytes(chunk) for chunk in send._stream(package))[:2_000_000]


def pour(package: Package, node: Node, kept: frozenset[str] = frozenset()) -> None:
    send._send(package, node.stdin, threading.Event(), kept)
    node.process.stdin = None  # closed


def test_a_chain_of_three_holds_the_same_bytes_modes_and_links(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    nodes = chain(tmp_path, package.manifest_sha256, ("pi1", "pi2", "pi3"))
    pour(package, nodes[0])
    for node in nodes:
        status, out, err = node.end()
        assert (status, err) == (0, "")
        assert out.splitlines()[-1] == "done"
        for path in package.source.rglob("*"):
            there = node.folder / path.relative_to(package.source)
            if path.is_file():
                assert there.read_bytes() == path.read_bytes()
                assert there.stat().st_mode == path.stat().st_mode
        assert (node.folder / "a-again.jar").samefile(node.folder / "jars/a.jar")
        assert [p.name for p in node.folder.parent.iterdir()] == ["abc"]


def test_a_flipped_byte_installs_nothing_and_names_the_file(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    manifest = package.manifest_sha256
    content = bytearray((package.source / "jars/b.jar").read_bytes())
    content[3] ^= 1
    (package.source / "jars/b.jar").write_bytes(content)
    (node,) = chain(tmp_path, manifest, ("pi1",))
    pour(package, node)
    status, _, err = node.end()
    assert status != 0
    assert "jars/b.jar did not arrive as it was sent" in err
    assert not node.folder.exists()


def test_another_manifest_than_the_one_that_came_over_ssh_is_refused(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    (node,) = chain(tmp_path, "0" * 64, ("pi1",))
    pour(package, node)
    status, _, err = node.end()
    assert status != 0
    assert "Traceback" not in err
    assert "the manifest that arrived is not the one that was sent" in err
    assert not node.folder.exists()


def test_a_stream_that_breaks_off_installs_nothing_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    (node,) = chain(tmp_path, package.manifest_sha256, ("pi1",))
    node.stdin.write(beginning(package))
    node.stdin.close()
    node.process.stdin = None
    status, _, err = node.end()
    assert status != 0
    assert err == "the stream: it ended too early\n"
    assert not node.folder.exists()
    assert [p.name for p in node.folder.parent.iterdir()] == [".new-abc"]
    (again,) = chain(tmp_path, package.manifest_sha256, ("pi1",))
    pour(package, again)
    assert again.end()[0] == 0
    assert [p.name for p in node.folder.parent.iterdir()] == ["abc"]


def whole_files(node: Node, manifest: str) -> frozenset[str]:
    """Ask kept.py, as the control machine does."""
    done = subprocess.run(
        [sys.executable, "-c", send._program("kept.py")],
        input=json.dumps({"folder": str(node.folder), "manifest_sha256": manifest}),
        check=True,
        capture_output=True,
        text=True,
    )
    return frozenset(json.loads(done.stdout))


def test_what_a_broken_stream_brought_whole_is_not_sent_again(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    manifest = package.manifest_sha256
    (node,) = chain(tmp_path, manifest, ("pi1",))
    node.stdin.write(beginning(package))
    node.stdin.close()
    node.process.stdin = None
    assert node.end()[0] != 0
    fresh = node.folder.parent / ".new-abc"
    assert (fresh / "jars/a.jar").exists(), "half of it"
    kept = whole_files(node, manifest)
    assert kept == {"bin/run"}
    inode = (fresh / "bin/run").stat().st_ino
    (fresh / "stray").write_text("of nobody")

    (again,) = chain(tmp_path, manifest, ("pi1",), kept)
    pour(package, again, kept)
    status, _, err = again.end()
    assert (status, err) == (0, "")
    assert (node.folder / "bin/run").stat().st_ino == inode
    assert not (node.folder / "stray").exists()
    for path in package.source.rglob("*"):
        if path.is_file():
            assert (node.folder / path.relative_to(package.source)).read_bytes() == path.read_bytes()
    assert (node.folder / "a-again.jar").samefile(node.folder / "jars/a.jar")


def test_a_file_that_changed_on_the_disk_since_is_sent_again(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    (node,) = chain(tmp_path, package.manifest_sha256, ("pi1",))
    node.stdin.close()
    node.process.stdin = None
    node.end()
    fresh = node.folder.parent / ".new-abc"
    for name in (MANIFEST, "bin/run", "jars/b.jar"):
        (fresh / name).parent.mkdir(exist_ok=True)
        (fresh / name).write_bytes((package.source / name).read_bytes())
    (fresh / "bin/run").write_text("worn")
    assert whole_files(node, package.manifest_sha256) == {"jars/b.jar"}
    assert whole_files(node, "0" * 64) == frozenset(), "another runtime's"


def test_names_of_one_file_are_kept_together_or_not_at_all(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    both = frozenset({"jars/a.jar", "a-again.jar", "bin/run"})
    assert package.without_half_links(both) == both
    for half in ("jars/a.jar", "a-again.jar"):
        assert package.without_half_links(frozenset({half, "bin/run"})) == {"bin/run"}


def test_a_second_receiver_waits_for_one_that_a_broken_up_has_left(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    (old,) = chain(tmp_path, package.manifest_sha256, ("pi1",))
    parent = old.folder.parent
    deadline = time.monotonic() + 20
    while not (parent / ".new-abc").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (new,) = chain(tmp_path, package.manifest_sha256, ("pi1",))
    time.sleep(0.5)
    old.stdin.close()  # its control machine is gone
    old.process.stdin = None
    assert old.end()[0] != 0
    pour(package, new)
    assert new.end()[0] == 0
    assert [p.name for p in parent.iterdir()] == ["abc"]


def test_a_node_goes_on_alone_when_the_next_one_dies(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    first, second = chain(tmp_path, package.manifest_sha256, ("pi1", "pi2"))
    second.process.kill()
    second.process.wait()
    pour(package, first)
    status, out, err = first.end()
    assert (status, err) == (0, "")
    assert "next-failed" in out
    assert first.folder.is_dir()


def test_who_does_not_know_the_token_is_not_let_in(tmp_path: Path) -> None:
    import socket

    package = Package(make_runtime(tmp_path / "source"), "unused")
    first, second = chain(tmp_path, package.manifest_sha256, ("pi1", "pi2"))
    with socket.create_connection(("127.0.0.1", int(str(second.me["port"]))), 5) as stranger:
        stranger.sendall(b"y" * 64)
        assert stranger.recv(1) == b""
    pour(package, first)
    assert first.end()[0] == 0
    assert second.end()[0] == 0


def test_the_control_machine_sends_past_ssh_where_it_reaches_the_node(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    node = Node(tmp_path, "pi1", package.manifest_sha256, None, first=False, or_stdin=True)
    way = send._reach("127.0.0.1", int(str(node.me["port"])), str(node.me["token"]))
    assert way is not None
    node.stdin.close()
    node.process.stdin = None
    send._send(package, way, threading.Event())
    assert node.end()[0] == 0
    assert (node.folder / "jars/a.jar").read_bytes() == (package.source / "jars/a.jar").read_bytes()


def test_where_it_does_not_reach_the_node_the_stream_comes_through_ssh(tmp_path: Path) -> None:
    package = Package(make_runtime(tmp_path / "source"), "unused")
    node = Node(tmp_path, "pi1", package.manifest_sha256, None, first=False, or_stdin=True)
    pour(package, node)
    assert node.end()[0] == 0
    assert (node.folder / "bin/run").is_file()


def test_another_machine_at_the_nodes_address_gets_nothing(tmp_path: Path) -> None:
    import socket

    got = []
    with socket.create_server(("127.0.0.1", 0)) as stranger:

        def answer() -> None:
            connection, _ = stranger.accept()
            with connection:
                got.append(connection.recv(64, socket.MSG_WAITALL))
                connection.sendall(b"z" * 64)
                got.append(connection.recv(64))

        thread = threading.Thread(target=answer)
        thread.start()
        assert send._reach("127.0.0.1", stranger.getsockname()[1], "t" * 64) is None
        thread.join(10)
    assert got == [b"t" * 64, b""]


# -- place.py ------------------------------------------------------------------------------------------


def place(document: dict[str, object]) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, "-c", role_script("base", "place.py")],
        input=json.dumps(
            {"directories": [], "files": [], "remove": [], "keep": [], "reread": "/nowhere", **document}
        ),
        check=False,
        capture_output=True,
        text=True,
    )
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else {}, done.stderr


def entry(path: Path, text: str, mode: str = "0640") -> dict[str, str]:
    import base64

    me = pwd.getpwuid(os.getuid())
    return {
        "path": str(path), "mode": mode, "owner": me.pw_name, "group": grp.getgrgid(me.pw_gid).gr_name,
        "content": base64.b64encode(text.encode()).decode(),
    }  # fmt: skip


def test_a_file_is_written_once_and_not_touched_again(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "a.xml"
    assert place({"files": [entry(path, "x")]})[1]["changed"] == [str(path)]
    before = path.stat()
    assert before.st_mode & 0o777 == 0o640
    assert place({"files": [entry(path, "x")]})[1]["changed"] == []
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    path.chmod(0o600)
    assert place({"files": [entry(path, "x")]})[1]["changed"] == [str(path)]
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in path.parent.iterdir()] == ["a.xml"]


def test_a_link_in_a_files_place_is_replaced_and_what_it_points_at_stays(tmp_path: Path) -> None:
    target = tmp_path / "shadow"
    target.write_text("secret")
    link = tmp_path / "a.xml"
    link.symlink_to(target)
    assert place({"files": [entry(link, "x")]})[0] == 0
    assert not link.is_symlink()
    assert target.read_text() == "secret"


def test_a_directory_in_a_files_place_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.xml").mkdir()
    status, _, said = place({"files": [entry(tmp_path / "a.xml", "x")]})
    assert status != 0
    assert "a.xml is there and is a directory" in said


def test_an_owner_that_the_node_lacks_is_named_and_nothing_half_is_left(tmp_path: Path) -> None:
    wrong = {**entry(tmp_path / "a.xml", "x"), "owner": "nobody-of-that-name"}
    status, _, said = place({"files": [wrong]})
    assert status != 0
    assert "nobody-of-that-name" in said
    assert list(tmp_path.iterdir()) == []


def test_removing_takes_empty_directories_along_up_to_the_one_that_stays(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "session" / "keeper" / "a.py"
    place({"files": [entry(path, "x")]})
    place({"remove": [str(path)], "keep": [str(tmp_path / "conf")]})
    assert list((tmp_path / "conf").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "reader"),
    [
        ("etc/systemd/system/x.service", "systemd"),
        ("etc/ssh/sshd_config.d/x.conf", "sshd"),
        ("etc/rpicluster/x", ""),
    ],
)
def test_who_must_read_a_changed_file_again_is_told(path: str, reader: str) -> None:
    scope: dict[str, Any] = {"__name__": "place"}
    exec(compile(role_script("base", "place.py"), "place.py", "exec"), scope)
    found = {reader for top, reader in scope["READERS"].items() if f"/{path}".startswith(top)}
    assert found == ({reader} if reader else set())
