"""The state folder, its alias, and files that are whole or not there."""

import fcntl
import os
import shutil
import stat
from pathlib import Path

import pytest

from rpicluster.errors import LocalEngineError
from rpicluster.nodes.local import state as local_state
from rpicluster.nodes.local.state import ClusterState, cluster_names, open_state, state_root, write_file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir(mode=0o700)
    return folder


def test_the_state_root_follows_its_variable_and_else_the_users_state_folder():
    assert state_root({"RPICLUSTER_STATE_DIR": "/x/y"}) == Path("/x/y")
    assert state_root({}).name == "rpicluster"


def test_state_and_alias_are_private_and_the_alias_leads_to_the_state(tmp_path, base):
    state = open_state("demo", root=tmp_path / "Ünï cødé %d home", bases=[base])
    for folder in (state.directory, state.alias, state.alias.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (state.alias / "state").resolve() == state.directory
    assert state.alias.parent == base / f"rpicluster-{os.getuid()}"
    assert len(str(state.socket)) - len(str(base)) < 50


def test_the_alias_is_chosen_once_and_found_again(tmp_path, base):
    first = open_state("demo", root=tmp_path, bases=[base])
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    assert open_state("demo", root=tmp_path, bases=[other]).alias == first.alias


def test_a_base_where_others_can_rename_our_directory_is_passed_over(tmp_path, base):
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    assert open_state("a", root=tmp_path, bases=[loose, base]).alias.parent.parent == base
    loose.chmod(0o1777)
    assert open_state("b", root=tmp_path, bases=[loose, base]).alias.parent.parent == loose


def test_no_safe_base_is_an_error_that_says_what_to_type(tmp_path):
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    with pytest.raises(LocalEngineError, match="private directory") as caught:
        open_state("a", root=tmp_path, bases=[loose, tmp_path / "missing"])
    assert caught.value.hint == f"sudo chmod 1777 {loose}"


@pytest.mark.parametrize("what", ["link", "file", "somebody else's directory"])
def test_a_name_that_somebody_else_took_first_is_never_used(tmp_path, base, what, monkeypatch):
    squatted = base / f"rpicluster-{os.getuid()}"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "link":
        squatted.symlink_to(elsewhere)
    elif what == "file":
        squatted.write_text("")
    else:
        squatted.mkdir()
        mine = os.getuid()
        monkeypatch.setattr(local_state, "_safe_base", lambda bases: base)
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        squatted.rename(base / f"rpicluster-{mine + 1}")
    with pytest.raises(LocalEngineError, match="does not use what others put there"):
        open_state("demo", root=tmp_path, bases=[base])
    assert list(elsewhere.iterdir()) == []


def test_a_copied_state_folder_does_not_take_over_the_alias_of_the_original(tmp_path, base):
    original = open_state("demo", root=tmp_path / "one", bases=[base])
    copy = tmp_path / "two" / "clusters" / "demo"
    copy.mkdir(parents=True)
    (copy / "alias").write_text(str(original.alias))
    with pytest.raises(LocalEngineError, match="is a copy of"):
        open_state("demo", root=tmp_path / "two", bases=[base])
    assert (original.alias / "state").resolve() == original.directory


def test_an_alias_whose_state_was_deleted_by_hand_is_cleared_away_unless_a_supervisor_holds_it(
    tmp_path, base
):
    gone, held = (open_state(name, root=tmp_path, bases=[base]) for name in ("gone", "held"))
    for state in (gone, held):
        shutil.rmtree(state.directory)
    descriptor = os.open(held.alias, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    open_state("new", root=tmp_path, bases=[base])
    assert not gone.alias.exists()
    assert held.alias.exists()
    os.close(descriptor)
    open_state("newer", root=tmp_path, bases=[base])
    assert not held.alias.exists()


def test_a_moved_state_folder_is_followed(tmp_path, base):
    first = open_state("demo", root=tmp_path / "one", bases=[base])
    (tmp_path / "one").rename(tmp_path / "two")
    moved = open_state("demo", root=tmp_path / "two", bases=[base])
    assert moved.alias == first.alias
    assert (moved.alias / "state").resolve() == moved.directory


def test_configuration_stands_in_a_plain_path_when_the_home_is_not_plain(tmp_path, base):
    plain = open_state("a", root=tmp_path, bases=[base])
    assert (plain.alias / "conf").resolve() == plain.conf
    odd = open_state("b", root=tmp_path / "Ünï cødé %d", bases=[base])
    write_file(odd.conf / "n0" / "x.xml", b"1", 0o600)
    write_file(odd.conf / "n0" / "y.xml", b"2", 0o644)
    odd.ensure_alias()
    mirrored = odd.alias / "conf" / "n0" / "x.xml"
    assert mirrored.resolve() == mirrored
    assert mirrored.read_bytes() == b"1"
    assert stat.S_IMODE(mirrored.stat().st_mode) == 0o600
    (odd.conf / "n0" / "y.xml").unlink()
    odd.ensure_alias()
    assert not (odd.alias / "conf" / "n0" / "y.xml").exists()


def test_the_runtime_link_survives_the_loss_of_the_alias(tmp_path, base):
    state = open_state("demo", root=tmp_path, bases=[base])
    assert state.runtime() is None
    runtime = tmp_path / "r1"
    runtime.mkdir()
    state.set_runtime(runtime)
    (state.alias / "runtime").unlink()
    state.ensure_alias()
    assert (state.alias / "runtime").resolve() == runtime


def test_an_unwritable_state_folder_is_named_with_the_variable_that_moves_it(tmp_path):
    (tmp_path / "clusters").write_text("a file in the way")
    with pytest.raises(LocalEngineError, match="cannot keep the state") as caught:
        open_state("demo", root=tmp_path)
    assert "RPICLUSTER_STATE_DIR" in (caught.value.hint or "")


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    target = tmp_path / "f"
    write_file(target, b"old", 0o600)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_file(target, b"new", 0o600)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_secret_file_is_never_readable_by_others_not_even_for_a_moment(tmp_path, monkeypatch):
    seen: list[int] = []
    rename = Path.replace

    def look(self: Path, target: Path) -> Path:
        seen.append(stat.S_IMODE(self.stat().st_mode))
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", look)
    write_file(tmp_path / "token", b"s", 0o600)
    assert seen == [0o600]


def test_remove_takes_the_record_of_the_cluster_last(tmp_path, base, monkeypatch):
    state: ClusterState = open_state("demo", root=tmp_path, bases=[base])
    write_file(state.directory / "placement.json", b"{}", 0o600)
    write_file(state.directory / "data" / "n0" / "block", b"x", 0o600)
    rmtree = shutil.rmtree

    def die_at_the_alias(path: Path) -> None:
        if path == state.alias:
            raise OSError("killed here")
        rmtree(path)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed here"):
        patch.setattr(shutil, "rmtree", die_at_the_alias)
        state.remove()
    assert (state.directory / "placement.json").exists()
    assert not (state.directory / "data").exists()
    state.remove()
    assert not state.directory.exists()
    assert not state.alias.exists()


def test_a_cluster_that_was_only_planned_is_not_counted(tmp_path, base):
    open_state("planned", root=tmp_path, bases=[base])
    state = open_state("applied", root=tmp_path, bases=[base])
    (state.directory / "cluster.yml").write_text("name: applied")
    assert cluster_names(tmp_path) == ["applied"]
