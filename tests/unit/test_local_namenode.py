"""Formatting exactly once, with a small program in place of the NameNode."""

import sys
from pathlib import Path

import pytest

from rpicluster.design.units import Unit
from rpicluster.errors import LocalEngineError
from rpicluster.model.facts import NodePaths
from rpicluster.nodes.local.namenode import format_namenode, namenode_state

OURS = "rpicluster-abc"
# Writes as Hadoop does, VERSION first; stops in the middle when told.
PROGRAM = """
import sys, pathlib
option = next(word for word in sys.argv if word.startswith("-Ddfs.namenode.name.dir=file://"))
directory = pathlib.Path(option.partition("file://")[2])
how = pathlib.Path("how").read_text()
assert sys.argv[-4:] == ["-format", "-nonInteractive", "-clusterid", sys.argv[-1]]
assert not directory.exists()
(directory / "current").mkdir(parents=True)
(directory / "current" / "VERSION").write_text(f"#now\\nclusterID={sys.argv[-1]}\\n")
if how == "dies":
    print("java.io.IOException: No space left on device")
    sys.exit(1)
(directory / "current" / "fsimage_0").write_text("image of run " + how)
"""


@pytest.fixture
def paths(tmp_path: Path) -> NodePaths:
    return NodePaths(
        conf=str(tmp_path / "conf"),
        data=str(tmp_path / "data"),
        logs=str(tmp_path / "logs"),
        run=str(tmp_path / "run"),
        runtime=str(tmp_path / "runtime"),
    )


@pytest.fixture
def unit(tmp_path: Path) -> Unit:
    (tmp_path / "nn.py").write_text(PROGRAM)
    main = "org.apache.hadoop.hdfs.server.namenode.NameNode"
    return Unit(
        name="namenode",
        node="n0",
        argv=(sys.executable, str(tmp_path / "nn.py"), main),
        environment=(),
        reads=(),
        directory=str(tmp_path),
    )


def told(tmp_path: Path, how: str) -> None:
    (tmp_path / "how").write_text(how)


def image(paths: NodePaths) -> str:
    return (Path(paths.data) / "namenode" / "name" / "current" / "fsimage_0").read_text()


def test_an_empty_directory_is_formatted_and_belongs_to_the_cluster(tmp_path, paths, unit):
    told(tmp_path, "1")
    assert namenode_state(paths, OURS) == "empty"
    format_namenode(unit, paths, OURS)
    assert namenode_state(paths, OURS) == "formatted"
    assert namenode_state(paths, "rpicluster-other") == "foreign"


def test_a_file_system_is_never_formatted_again(tmp_path, paths, unit):
    told(tmp_path, "1")
    format_namenode(unit, paths, OURS)
    told(tmp_path, "2")
    format_namenode(unit, paths, OURS)
    assert image(paths) == "image of run 1"


def test_a_format_that_died_in_the_middle_leaves_nothing_under_the_final_name(tmp_path, paths, unit):
    told(tmp_path, "dies")
    with pytest.raises(LocalEngineError, match="No space left on device"):
        format_namenode(unit, paths, OURS)
    assert (Path(paths.data) / "namenode" / "name.formatting" / "current" / "VERSION").exists()
    assert namenode_state(paths, OURS) == "empty"
    told(tmp_path, "2")
    format_namenode(unit, paths, OURS)
    assert image(paths) == "image of run 2"


@pytest.mark.parametrize("what", ["another cluster's", "an image without VERSION", "any file"])
def test_what_is_not_ours_is_called_foreign_and_not_touched(tmp_path, paths, unit, what):
    told(tmp_path, "1")
    directory = Path(paths.data) / "namenode" / "name"
    (directory / "current").mkdir(parents=True)
    if what == "another cluster's":
        (directory / "current" / "VERSION").write_text("clusterID=CID-1\n")
    elif what == "any file":
        (directory / "notes.txt").write_text("mine")
    before = sorted(directory.rglob("*"))
    assert namenode_state(paths, OURS) == "foreign"
    with pytest.raises(LocalEngineError, match="never formatted over") as caught:
        format_namenode(unit, paths, OURS)
    assert (caught.value.hint or "").startswith("move it away: mv ")
    assert sorted(directory.rglob("*")) == before


def test_a_directory_that_fills_between_look_and_rename_is_not_replaced(tmp_path, paths, unit, monkeypatch):
    told(tmp_path, "1")
    directory = Path(paths.data) / "namenode" / "name"
    answers = iter(["empty"])
    monkeypatch.setattr("rpicluster.nodes.local.namenode.namenode_state", lambda *_: next(answers))
    (directory / "current").mkdir(parents=True)
    (directory / "current" / "VERSION").write_text("clusterID=CID-1\n")
    with pytest.raises(OSError, match="not empty"):
        format_namenode(unit, paths, OURS)
    assert (directory / "current" / "VERSION").read_text() == "clusterID=CID-1\n"
