"""The clients of the daemons against real ones: bytes up and down, the trash, YARN and the NameNode."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rpicluster.errors import RemoteError, TransferError, UsageError
from rpicluster.services.transfer import SUFFIX
from rpicluster.services.webhdfs import WebHdfs

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster

pytestmark = pytest.mark.cluster
MIB = 1 << 20


@pytest.fixture
def hdfs(cluster: "Cluster") -> WebHdfs:
    return cluster.webhdfs


@pytest.fixture
def room(hdfs: WebHdfs) -> Iterator[str]:
    """A directory of HDFS for one test."""
    path = f"/tmp/services-{os.getpid()}-{time.time_ns()}"
    hdfs.mkdirs(path)
    yield path
    hdfs.delete(path, recursive=True, skip_trash=True)


def random_file(path: Path, length: int) -> Path:
    with path.open("wb") as file:
        for start in range(0, length, MIB):
            file.write(os.urandom(min(MIB, length - start)))
    return path


def names(hdfs: WebHdfs, path: str) -> list[str]:
    return [entry.name for entry in hdfs.list(path)]


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 64 * MIB, 64 * MIB + 1, 150 * MIB + 7])
def test_what_comes_back_is_what_went_up(hdfs: WebHdfs, room: str, tmp_path: Path, length: int) -> None:
    source = random_file(tmp_path / "in", length)
    hdfs.put(source, f"{room}/f")
    hdfs.get(f"{room}/f", tmp_path / "out")
    assert subprocess.run(["cmp", source, tmp_path / "out"], check=False).returncode == 0
    assert names(hdfs, room) == ["f"]


def test_the_daemons_answer_with_a_checksum_that_runs_fast_here(
    hdfs: WebHdfs, room: str, tmp_path: Path
) -> None:
    hdfs.put(random_file(tmp_path / "in", 1000), f"{room}/f")
    assert hdfs.checksum(f"{room}/f").crc_type == "CRC32", "dfs.checksum.type is not rendered as CRC32"


@pytest.mark.parametrize(
    "name", ["a b", "Ü日本", "50% %41", 'it\'s "x"', "a+b&c=d?e#f;g", "back\\slash", "[x]{y}*"]
)
def test_any_name_works_on_the_real_wire(hdfs: WebHdfs, room: str, tmp_path: Path, name: str) -> None:
    source = random_file(tmp_path / "in", 3000)
    hdfs.put(source, f"{room}/{name}/{name}")
    assert names(hdfs, f"{room}/{name}") == [name]
    hdfs.get(f"{room}/{name}/{name}", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    kept_at = hdfs.delete(f"{room}/{name}/{name}")
    assert kept_at is not None
    hdfs.rename(kept_at, f"{room}/back")
    assert hdfs.read(f"{room}/back") == source.read_bytes()


def test_two_files_of_one_name_both_stay_in_the_trash(hdfs: WebHdfs, room: str, tmp_path: Path) -> None:
    kept = []
    for number in range(2):
        (tmp_path / "in").write_text(str(number))
        hdfs.put(tmp_path / "in", f"{room}/f")
        kept.append(hdfs.delete(f"{room}/f") or "")
    assert kept[0] != kept[1]
    assert [hdfs.read(path) for path in kept] == [b"0", b"1"]


def test_a_file_in_the_trash_does_not_stop_a_directory_of_its_name(
    hdfs: WebHdfs, room: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("x")
    hdfs.put(tmp_path / "in", f"{room}/d")
    hdfs.delete(f"{room}/d")
    hdfs.put(tmp_path / "in", f"{room}/d/f")
    kept_at = hdfs.delete(f"{room}/d/f")
    assert kept_at is not None and hdfs.read(kept_at) == b"x"


def test_the_root_and_the_home_that_holds_the_trash_stay(hdfs: WebHdfs) -> None:
    for path in ("/", f"/user/{hdfs.user}"):
        hdfs.mkdirs(path)
        with pytest.raises(UsageError):
            hdfs.delete(path, recursive=True)


def test_a_directory_of_many_files_is_listed_whole(hdfs: WebHdfs, room: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(40):
        random_file(tmp_path / "in" / f"{number:02}", number * 1000)
    (tmp_path / "in" / "empty").mkdir()
    done = hdfs.put_tree(tmp_path / "in", f"{room}/tree")
    assert (done.files, done.bytes) == (40, hdfs.content_summary(f"{room}/tree").length_bytes)
    hdfs.get(f"{room}/tree", tmp_path / "out")
    assert subprocess.run(["diff", "-r", tmp_path / "in", tmp_path / "out"], check=False).returncode == 0


def test_a_put_that_is_refused_early_says_why_and_not_broken_pipe(
    hdfs: WebHdfs, room: str, tmp_path: Path
) -> None:
    hdfs.mkdirs(f"{room}/private", permission="700")
    stranger = WebHdfs(hdfs.transport, hdfs.namenode.base_url, "stranger")
    with pytest.raises(RemoteError, match="Permission denied: user=stranger"):
        stranger.put(random_file(tmp_path / "in", 50 * MIB), f"{room}/private/f")
    with pytest.raises(RemoteError, match="Permission denied: user=stranger"):
        stranger.put(random_file(tmp_path / "in", 50 * MIB), f"{room}/f")
    assert names(hdfs, room) == ["private"]


def test_a_file_that_grows_during_the_upload_leaves_nothing(hdfs: WebHdfs, room: str, tmp_path: Path) -> None:
    source = random_file(tmp_path / "in", 20 * MIB)

    def grow(done: int, total: int) -> None:
        with source.open("ab") as file:
            file.write(b"more")

    with pytest.raises(TransferError, match="changed while"):
        hdfs.put(source, f"{room}/f", progress=grow)
    assert names(hdfs, room) == []


CHILD = """
import sys
from pathlib import Path
from rpicluster.services.transport import Transport
from rpicluster.services.webhdfs import WebHdfs

def slow(done, total):
    print(done, flush=True)
    if done:
        sys.stdin.readline()

WebHdfs(Transport(), sys.argv[1], sys.argv[2]).put(Path(sys.argv[3]), sys.argv[4], progress=slow)
"""


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_a_put_that_is_ended_in_the_middle_never_shows_its_name(
    hdfs: WebHdfs, room: str, tmp_path: Path, signal_number: signal.Signals
) -> None:
    source = random_file(tmp_path / "in", 20 * MIB)
    argv = [sys.executable, "-c", CHILD, hdfs.namenode.base_url, hdfs.user, str(source), f"{room}/f"]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdin and child.stdout
        for line in child.stdout:
            if int(line) >= 3 * MIB:
                break
            if int(line):
                child.stdin.write(b"\n")
                child.stdin.flush()
        # What was sent may still stand in socket buffers: the DataNode creates the file when it gets to it.
        deadline = time.monotonic() + 30
        while not (found := names(hdfs, room)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(found) == 1 and found[0].endswith(SUFFIX)
        child.send_signal(signal_number)
    assert "f" not in names(hdfs, room)
    if signal_number == signal.SIGINT:
        assert names(hdfs, room) == []
    hdfs.put(source, f"{room}/f")
    assert names(hdfs, room) == ["f"], "the next put removes what a killed one left"


def test_yarn_shows_its_nodes_running(cluster: "Cluster") -> None:
    assert cluster.yarn.info().state == "STARTED"
    nodes = cluster.yarn.nodes()
    assert len(nodes) == len(cluster.spec.workers)
    assert all(node.is_running and node.memory_total_mib > 0 for node in nodes)
    assert isinstance(cluster.yarn.applications(), list)
    with pytest.raises(RemoteError):
        cluster.yarn.application("application_1_0001")


def test_the_namenode_shows_its_datanodes_alive(cluster: "Cluster") -> None:
    report = cluster.namenode.report()
    assert report.safe_mode == ""
    assert len(report.live) == len(cluster.spec.workers) and not report.dead
    assert report.missing_blocks == 0


def test_room_is_told_after_replication(hdfs: WebHdfs) -> None:
    space = hdfs.df()
    assert 0 < space.fits_bytes <= space.remaining_bytes <= space.capacity_bytes
