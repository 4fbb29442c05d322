"""What comes home from a run: all of it or nothing, and nothing anywhere else."""

import io
import tarfile

import pytest

from rpicluster.errors import TransferError, UsageError
from rpicluster.nodes.runs.results import bring_home, files_of, pack


def archive(*members: tuple[str, bytes | str]) -> io.BytesIO:
    """Return an archive; text is where a link leads."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    made.seek(0)
    return made


def test_files_come_home_with_their_folders(tmp_path):
    brought = bring_home(archive(("a.txt", b"one"), ("b/ü %d.bin", b"\0two")), tmp_path / "results" / "run")
    assert (brought.files, brought.bytes, brought.left) == (2, 7, ())
    assert (tmp_path / "results" / "run" / "b" / "ü %d.bin").read_bytes() == b"\0two"


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out", "a\\..\\out", ".."])
def test_a_name_that_leads_outside_brings_nothing_home(tmp_path, name):
    with pytest.raises(TransferError, match="outside"):
        bring_home(archive(("fine", b"x"), (name, b"y")), tmp_path / "results")
    assert list(tmp_path.iterdir()) == []


def test_links_are_left_and_named_and_never_written_through(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    brought = bring_home(
        archive(("kept", b"x"), ("link", str(outside)), ("other", "../outside")), tmp_path / "home"
    )
    assert brought.left == ("link", "other")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["kept"]


def test_a_file_below_a_link_lands_in_a_plain_folder(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    bring_home(archive(("link", str(outside)), ("link/x", b"y")), tmp_path / "home")
    assert list(outside.iterdir()) == []
    assert (tmp_path / "home" / "link" / "x").read_bytes() == b"y"


def test_an_archive_that_is_cut_brings_nothing_home(tmp_path):
    whole = archive(("a", b"x" * 100_000)).getvalue()
    with pytest.raises(TransferError, match="damaged"):
        bring_home(io.BytesIO(whole[:50_000]), tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    with pytest.raises(UsageError, match="there already"):
        bring_home(archive(("a", b"x")), tmp_path / "home")


def test_files_keep_their_place_beside_the_script_and_others_lose_theirs(tmp_path):
    project, elsewhere = tmp_path / "p", tmp_path / "e"
    for path in (project / "data" / "deep", elsewhere):
        path.mkdir(parents=True)
    script, other = project / "a.R", elsewhere / "h.R"
    table = project / "data" / "deep" / "t.csv"
    for path in (script, table, other):
        path.write_text("1")
    found = files_of(script, (project / "data", other))
    assert found == {"a.R": script, "data/deep/t.csv": table, "h.R": other}


def test_two_files_of_one_name_and_one_that_is_missing_are_refused(tmp_path):
    for name in ("a.R", "x/h.R", "y/h.R"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("1")
    script = tmp_path / "p" / "a.R"
    script.parent.mkdir()
    script.write_text("1")
    with pytest.raises(UsageError, match=r"would both be h\.R"):
        files_of(script, (tmp_path / "x" / "h.R", tmp_path / "y" / "h.R"))
    with pytest.raises(UsageError, match="does not exist; nothing was started"):
        files_of(script, (tmp_path / "gone",))


def test_what_is_packed_is_what_comes_out(tmp_path):
    path = tmp_path / "a.R"
    path.write_text("x <- 1")
    packed = io.BytesIO()
    pack(packed, {"files/a.R": path}, {"run.json": b"{}"})
    packed.seek(0)
    bring_home(packed, tmp_path / "out")
    assert (tmp_path / "out" / "files" / "a.R").read_text() == "x <- 1"
    assert (tmp_path / "out" / "run.json").read_bytes() == b"{}"
