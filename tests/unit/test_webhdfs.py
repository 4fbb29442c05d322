"""Files, the trash and whole transfers over WebHDFS, against an HDFS in a dictionary."""

import hashlib
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from fake_hdfs import FakeHdfs

from rpicluster.errors import RemoteError, RpiclusterError, ServiceError, TransferError, UsageError
from rpicluster.services.filechecksum import ChecksumOfBytes, crc32c, parse_checksum
from rpicluster.services.transfer import SUFFIX, is_abandoned, temporary_name

HOME = "/user/ada"


@pytest.fixture
def hdfs() -> FakeHdfs:
    return FakeHdfs()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_bytes(os.urandom(3 * 4096 + 100))
    return path


# --- checksums: the expected values were recorded from Hadoop 3.5.0, dfs.checksum.type=CRC32 ------
def patterned(length: int) -> bytes:
    return (hashlib.sha256(b"rpicluster").digest() * (length // 32 + 1))[:length]


@pytest.mark.parametrize(
    ("data", "block_size", "md5"),
    [
        (b"", 1 << 26, "70bc8f4b72a86921468bf8e8441dce51"),
        (b"a", 1 << 26, "91ea74bb435dd9f10a2085f33fabc0ff"),
        (patterned(5000), 4096, "1b214abb3ffbdc1cdaa0876a109171ee"),
        (patterned(20480), 4096, "646a3a2bfe2eb49cd29eb8811bf6daad"),
    ],
)
def test_a_checksum_is_the_one_that_a_real_datanode_computed(data: bytes, block_size: int, md5: str) -> None:
    checksum = ChecksumOfBytes(block_size=block_size)
    checksum.update(data)
    assert checksum.hexdigest() == md5


@pytest.mark.parametrize("step", [1, 7, 511, 512, 513, 4096, 5000])
def test_a_checksum_does_not_depend_on_how_the_bytes_arrive(step: int) -> None:
    data = patterned(9999)
    whole, pieces = ChecksumOfBytes(block_size=4096), ChecksumOfBytes(block_size=4096)
    whole.update(data)
    for start in range(0, len(data), step):
        pieces.update(data[start : start + step])
    assert pieces.hexdigest() == whole.hexdigest()
    assert pieces.length == len(data)


def test_crc32c_gives_the_check_value_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    "document",
    [{}, None, {"FileChecksum": {"algorithm": "COMPOSITE-CRC32C", "bytes": "00" * 28}}, {"FileChecksum": 1}],
)
def test_an_unknown_checksum_is_an_error_that_shows_it(document: object) -> None:
    with pytest.raises(ServiceError):
        parse_checksum(document)


# --- looking -------------------------------------------------------------------------------------
def test_a_large_directory_is_listed_in_batches(hdfs: FakeHdfs) -> None:
    hdfs.directories.add("/d")
    hdfs.files = {f"/d/{n}": b"x" for n in range(7)}
    assert [entry.name for entry in hdfs.client().list("/d")] == [str(n) for n in range(7)]
    assert len(hdfs.requests) == 4


def test_a_status_tells_mode_owner_and_time(hdfs: FakeHdfs) -> None:
    hdfs.files["/f"] = b"abc"
    found = hdfs.client().status("/f")
    assert (found.mode_text, found.length, found.is_dir, found.modified_s) == ("-rw-r--r--", 3, False, 0.001)
    assert found.document()["name"] == "f"


def test_a_missing_path_is_none_to_find_and_an_error_to_status(hdfs: FakeHdfs) -> None:
    assert hdfs.client().find("/nope") is None
    with pytest.raises(RemoteError, match="NameNode at nn:9870 refused to look at /nope"):
        hdfs.client().status("/nope")


def test_room_is_told_after_replication(hdfs: FakeHdfs) -> None:
    space = hdfs.client().df()
    assert (space.remaining_bytes, space.replication, space.fits_bytes) == (60, 2, 30)


@pytest.mark.parametrize(
    "name", ["a b", "Ü", "50%", "%41", "it's", 'say "x"', "a+b", "a&b=c", "a?b", "a#b", "a;b", "日本", "a\\b"]
)
def test_any_name_that_hdfs_allows_arrives_as_it_is(hdfs: FakeHdfs, tmp_path: Path, name: str) -> None:
    local = tmp_path / "f"
    local.write_bytes(b"hello")
    client = hdfs.client()
    client.put(local, f"{name}/{name}")
    assert hdfs.names() == [f"{HOME}/{name}/{name}"]
    client.get(f"{name}/{name}", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"hello"
    kept_at = client.delete(f"{name}/{name}")
    assert kept_at == f"{HOME}/.Trash/Current{HOME}/{name}/{name}"


@pytest.mark.parametrize("path", ["a:b", "../x", "a/./b", "/x/..", "a\0b", "\udcff"])
def test_a_name_that_hdfs_cannot_hold_is_refused_here(hdfs: FakeHdfs, path: str) -> None:
    with pytest.raises(UsageError):
        hdfs.client().status(path)
    assert not hdfs.requests


# --- the trash -----------------------------------------------------------------------------------
def test_what_is_deleted_lies_in_the_trash_and_rename_brings_it_back(hdfs: FakeHdfs) -> None:
    hdfs.files["/data/f"] = b"x"
    client = hdfs.client()
    kept_at = client.delete("/data/f")
    assert kept_at == f"{HOME}/.Trash/Current/data/f"
    assert hdfs.names() == [kept_at]
    client.rename(kept_at, "/data/f")
    assert hdfs.names() == ["/data/f"]


def test_a_second_file_of_the_same_name_stands_beside_the_first_in_the_trash(hdfs: FakeHdfs) -> None:
    hdfs.files = {"/f": b"new", f"{HOME}/.Trash/Current/f": b"old"}
    assert hdfs.client().delete("/f") == f"{HOME}/.Trash/Current/f77"
    assert hdfs.files[f"{HOME}/.Trash/Current/f"] == b"old"


def test_a_file_in_the_trash_where_a_directory_is_needed_is_left_alone(hdfs: FakeHdfs) -> None:
    hdfs.files = {"/d/f": b"new", f"{HOME}/.Trash/Current/d": b"old"}
    assert hdfs.client().delete("/d/f") == f"{HOME}/.Trash/Current/d77/f"
    assert hdfs.files[f"{HOME}/.Trash/Current/d"] == b"old"


@pytest.mark.parametrize("path", ["/", "/user", HOME])
@pytest.mark.parametrize("skip_trash", [True, False])
def test_the_root_and_what_holds_the_trash_are_not_deleted(
    hdfs: FakeHdfs, path: str, skip_trash: bool
) -> None:
    hdfs.files[f"{HOME}/f"] = b"x"
    hdfs.directories |= {"/user", HOME}
    with pytest.raises(UsageError):
        hdfs.client().delete(path, recursive=True, skip_trash=skip_trash)
    assert hdfs.names() == [f"{HOME}/f"]


def test_a_directory_is_deleted_only_when_it_is_asked_for(hdfs: FakeHdfs) -> None:
    hdfs.directories.add("/d")
    with pytest.raises(UsageError) as error:
        hdfs.client().delete("/d")
    assert error.value.hint == "rpicluster rm -r /d"
    assert hdfs.client().delete("/d", recursive=True) == f"{HOME}/.Trash/Current/d"


def test_skip_trash_and_what_is_in_the_trash_are_deleted_for_good(hdfs: FakeHdfs) -> None:
    hdfs.files = {"/f": b"x", f"{HOME}/.Trash/Current/g": b"y"}
    assert hdfs.client().delete("/f", skip_trash=True) is None
    assert hdfs.client().delete(f"{HOME}/.Trash/Current/g") is None
    assert not hdfs.files


def test_without_a_trash_nothing_is_deleted_by_surprise(hdfs: FakeHdfs) -> None:
    hdfs.files["/f"] = b"x"
    hdfs.trash_interval = 0
    with pytest.raises(UsageError, match="keeps no trash"):
        hdfs.client().delete("/f")
    assert hdfs.names() == ["/f"]


# --- put -----------------------------------------------------------------------------------------
def test_put_and_get_give_back_the_same_bytes_and_tell_how_far_they_are(
    hdfs: FakeHdfs, source: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    done = hdfs.client().put(source, "/d/f", progress=lambda count, total: seen.append((count, total)))
    assert (done.path, done.bytes, done.files) == ("/d/f", 12388, 1)
    assert seen[0] == (0, 12388) and seen[-1] == (12388, 12388)
    hdfs.client().get("/d/f", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == source.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out"]


def test_an_empty_file_travels_too(hdfs: FakeHdfs, tmp_path: Path) -> None:
    (tmp_path / "e").touch()
    hdfs.client().put(tmp_path / "e", "/e")
    hdfs.client().get("/e", tmp_path / "e2")
    assert hdfs.files == {"/e": b""} and (tmp_path / "e2").read_bytes() == b""


def test_the_final_name_appears_only_after_all_bytes_are_there(hdfs: FakeHdfs, source: Path) -> None:
    written: list[str] = []
    hdfs.on_create = written.append
    hdfs.client().put(source, "/d/f")
    assert written[0].startswith("/d/f.") and written[0].endswith(SUFFIX)
    assert hdfs.names() == ["/d/f"]


def test_a_byte_that_flips_on_the_way_up_leaves_nothing(hdfs: FakeHdfs, source: Path) -> None:
    hdfs.flip = True
    with pytest.raises(TransferError, match="differ"):
        hdfs.client().put(source, "/d/f")
    assert not hdfs.files


def test_a_byte_that_flips_keeps_the_file_that_was_there(hdfs: FakeHdfs, source: Path) -> None:
    hdfs.files["/f"] = b"old"
    hdfs.flip = True
    with pytest.raises(TransferError):
        hdfs.client().put(source, "/f", overwrite=True)
    assert hdfs.files == {"/f": b"old"}


@pytest.mark.parametrize("change", ["grow", "touch", "replace", "shrink"])
def test_a_file_that_changes_while_it_is_read_leaves_nothing(
    hdfs: FakeHdfs, source: Path, change: str
) -> None:
    def meddle(_path: str) -> None:
        if change == "grow":
            with source.open("ab") as file:
                file.write(b"more")
        elif change == "touch":
            os.utime(source, ns=(1, 1))
        elif change == "replace":
            other = source.with_name("other")
            other.write_bytes(source.read_bytes())
            other.replace(source)
        else:
            os.truncate(source, 10)

    hdfs.on_create = meddle
    with pytest.raises(TransferError, match=r"changed while|became shorter"):
        hdfs.client().put(source, "/f")
    assert not hdfs.files


def test_ctrl_c_in_the_middle_leaves_nothing(hdfs: FakeHdfs, source: Path) -> None:
    def interrupt(_path: str) -> None:
        raise KeyboardInterrupt

    hdfs.on_create = interrupt
    with pytest.raises(KeyboardInterrupt):
        hdfs.client().put(source, "/f")
    assert not hdfs.files


def test_what_is_no_readable_file_is_refused_before_anything_is_asked(hdfs: FakeHdfs, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    client = hdfs.client()
    for path, message in (
        (tmp_path / "nope", "No such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "not a regular file"),
    ):
        with pytest.raises(TransferError, match=message):
            client.put(path, "/f")
    assert not hdfs.requests


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_named(hdfs: FakeHdfs, source: Path) -> None:
    source.chmod(0)
    with pytest.raises(TransferError, match="Permission denied"):
        hdfs.client().put(source, "/f")


def test_a_file_that_exists_is_kept_unless_overwriting_is_asked_for(hdfs: FakeHdfs, source: Path) -> None:
    hdfs.files["/f"] = b"old"
    with pytest.raises(TransferError, match="exists in HDFS"):
        hdfs.client().put(source, "/f")
    assert hdfs.files == {"/f": b"old"}
    hdfs.client().put(source, "/f", overwrite=True)
    assert hdfs.files == {"/f": source.read_bytes()}


def test_a_file_that_somebody_else_makes_meanwhile_is_kept(hdfs: FakeHdfs, source: Path) -> None:
    hdfs.on_create = lambda _path: hdfs.files.update({"/f": b"theirs"})
    with pytest.raises(TransferError, match="somebody else"):
        hdfs.client().put(source, "/f")
    assert hdfs.files == {"/f": b"theirs"}


def test_permission_denied_names_the_datanode_and_what_it_was_asked(hdfs: FakeHdfs, source: Path) -> None:
    hdfs.denied = "/"
    with pytest.raises(
        RemoteError, match=r"DataNode at dn:9864 refused to store .*Permission denied: user=ada"
    ) as error:
        hdfs.client().put(source, "/f")
    assert error.value.exception == "AccessControlException"


def test_a_cluster_that_writes_crc32c_is_verified_too(hdfs: FakeHdfs, source: Path, tmp_path: Path) -> None:
    hdfs.crc_type = "CRC32C"
    hdfs.client().put(source, "/f")
    hdfs.client().get("/f", tmp_path / "out")
    hdfs.flip = True
    with pytest.raises(TransferError):
        hdfs.client().put(source, "/g")
    assert hdfs.names() == ["/f"]


def test_a_later_put_removes_what_a_dead_put_of_the_same_name_left(hdfs: FakeHdfs, source: Path) -> None:
    dead = temporary_name("f").replace(f"-{os.getpid()}-", "-4194999-")
    mine_alive, of_another_name = temporary_name("f"), dead.replace("f.", "g.", 1)
    hdfs.directories.add("/d")
    hdfs.files = {f"/d/{name}": b"half" for name in (dead, mine_alive, of_another_name, "f-not-temporary")}
    hdfs.modified_ms = {f"/d/{mine_alive}": 2**50, f"/d/{of_another_name}": 2**50}
    hdfs.client().put(source, "/d/f")
    assert hdfs.names() == sorted(
        f"/d/{name}" for name in (mine_alive, of_another_name, "f-not-temporary", "f")
    )


def test_a_temporary_file_of_another_machine_is_kept_for_a_day() -> None:
    name = f"f.00000000-1-00000000{SUFFIX}"
    assert not is_abandoned(name, modified_s=0, now_s=86000)
    assert is_abandoned(name, modified_s=0, now_s=87000)
    assert not is_abandoned("f.csv", modified_s=0, now_s=1e9)


def test_a_name_as_long_as_hdfs_allows_still_gets_a_temporary_one() -> None:
    assert len(temporary_name("ü" * 127).encode()) <= 255


# --- directories ---------------------------------------------------------------------------------
def tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "folder"
    for number in range(9):
        path = root / f"part {number % 3}" / f"{number}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 700))
    (root / "empty").mkdir()
    return root


def test_a_directory_goes_up_and_comes_back_whole(hdfs: FakeHdfs, folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = hdfs.client().put_tree(folder, "/t", progress=lambda count, total: seen.append((count, total)))
    assert (done.files, done.bytes) == (9, sum(map(len, tree(folder).values())))
    assert seen[-1] == (done.bytes, done.bytes)
    assert "/t/empty" in hdfs.directories
    hdfs.client().get("/t", tmp_path / "back")
    assert tree(tmp_path / "back") == tree(folder)
    assert (tmp_path / "back/empty").is_dir()
    assert not [
        name
        for name in (*hdfs.files, *hdfs.directories, *(path.name for path in tmp_path.iterdir()))
        if SUFFIX in name
    ]


def test_one_bad_file_keeps_the_whole_directory_out(hdfs: FakeHdfs, folder: Path) -> None:
    def truncate_one(path: str) -> None:
        if path.endswith("/8.csv"):
            os.truncate(folder / "part 2" / "8.csv", 10)

    hdfs.on_create = truncate_one
    with pytest.raises(TransferError, match=r"8.csv"):
        hdfs.client().put_tree(folder, "/t")
    assert not hdfs.files and not [d for d in hdfs.directories if d.startswith("/t")]


def test_a_name_that_hdfs_cannot_hold_stops_a_directory_before_the_first_byte(
    hdfs: FakeHdfs, folder: Path
) -> None:
    (folder / "12:30.csv").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"12:30.csv"):
        hdfs.client().put_tree(folder, "/t")
    assert not hdfs.requests


def test_a_pipe_and_a_link_to_a_directory_stop_a_directory(hdfs: FakeHdfs, folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    with pytest.raises(TransferError, match="links to a directory"):
        hdfs.client().put_tree(folder, "/t")
    (folder / "loop").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(TransferError, match="not a regular file"):
        hdfs.client().put_tree(folder, "/t")
    assert not hdfs.requests


def test_a_directory_that_exists_goes_to_the_trash_when_it_is_replaced(hdfs: FakeHdfs, folder: Path) -> None:
    hdfs.files["/t/old"] = b"old"
    hdfs.directories.add("/t")
    with pytest.raises(TransferError, match="exists in HDFS"):
        hdfs.client().put_tree(folder, "/t")
    hdfs.client().put_tree(folder, "/t", overwrite=True)
    assert f"{HOME}/.Trash/Current/t/old" in hdfs.files and "/t/old" not in hdfs.files


# --- get -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", ["flip", "cut", "changes"])
def test_a_bad_download_keeps_the_file_that_was_there(hdfs: FakeHdfs, tmp_path: Path, fault: str) -> None:
    hdfs.files["/f"] = os.urandom(10000)
    (tmp_path / "f").write_bytes(b"old")
    if fault == "flip":
        hdfs.flip = True
    elif fault == "cut":
        hdfs.cut_open_at = 5000
    else:
        hdfs.on_open = lambda _path: hdfs.modified_ms.update({"/f": 99})
    with pytest.raises(TransferError):
        hdfs.client().get("/f", tmp_path / "f", overwrite=True)
    assert tree(tmp_path) == {"f": b"old"}


def test_ctrl_c_during_a_download_leaves_nothing(hdfs: FakeHdfs, tmp_path: Path) -> None:
    def interrupt(_path: str) -> None:
        raise KeyboardInterrupt

    hdfs.files["/f"] = b"x"
    hdfs.on_open = interrupt
    with pytest.raises(KeyboardInterrupt):
        hdfs.client().get("/f", tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_get_replaces_nothing_unasked_and_no_directory_by_a_file(hdfs: FakeHdfs, tmp_path: Path) -> None:
    hdfs.files["/f"] = b"x"
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / "d").mkdir()
    for target, overwrite in ((tmp_path / "f", False), (tmp_path / "d", True), (tmp_path / "no/where", True)):
        with pytest.raises(TransferError):
            hdfs.client().get("/f", target, overwrite=overwrite)
    assert tree(tmp_path) == {"f": b"old"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_get_never_takes_the_place_of_a_pipe_a_device_or_a_link(
    hdfs: FakeHdfs, tmp_path: Path, overwrite: bool
) -> None:
    hdfs.files["/f"] = b"x"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("pipe", "link"):
        with pytest.raises(TransferError, match="neither a file nor a directory"):
            hdfs.client().get("/f", tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_get_of_nothing_says_so(hdfs: FakeHdfs, tmp_path: Path) -> None:
    with pytest.raises(RpiclusterError, match="File does not exist: /nope"):
        hdfs.client().get("/nope", tmp_path / "f")
    assert not list(tmp_path.iterdir())


def test_a_listing_that_would_lead_out_of_the_target_is_refused(hdfs: FakeHdfs, tmp_path: Path) -> None:
    hdfs.directories.add("/t")
    hdfs.files["/t/x"] = b"x"
    hdfs._describe = lambda path, suffix: {  # type: ignore[method-assign]
        **FakeHdfs._describe(hdfs, path, suffix),
        "pathSuffix": "../../evil" if suffix else "",
    }
    with pytest.raises(ServiceError, match="cannot be a name"):
        hdfs.client().get("/t", tmp_path / "t")
    assert not list(tmp_path.iterdir())
