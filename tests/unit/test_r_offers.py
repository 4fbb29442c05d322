"""What a node says of its apt: versions that are installed or could be, from lists that are fresh."""

import importlib.util
import os
import time
from pathlib import Path
from types import ModuleType

import pytest

from rpicluster.nodes.remote import commands

PROGRAM = Path(commands.__file__).parent / "on_node" / "r_offers.py"
POLICY = """\
r-base-core:
  Installed: 4.2.2-2
  Candidate: 4.2.2-3
  Version table:
     4.2.2-3 500
r-cran-digest:
  Installed: (none)
  Candidate: 0.6.31-1+b1
r-cran-dplyr:
  Installed: 1.0.9-1
  Candidate: 1.0.10-1
r-cran-gone:
  Installed: (none)
  Candidate: (none)
"""


@pytest.fixture
def offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, with an apt that says what the test wants, and its lists in a temporary place."""
    spec = importlib.util.spec_from_file_location("r_offers", PROGRAM)
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    (tmp_path / "lists").mkdir()
    (tmp_path / "policy").write_text(POLICY)
    tool(
        tmp_path,
        "apt-cache",
        f'[ "$1" = policy ] && cat {tmp_path}/policy || echo r-cran-digest r-cran-dplyr',
    )
    tool(tmp_path, "apt-get", f"echo fetched >> {tmp_path}/fetched; touch {tmp_path}/lists/x_Packages")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(program, "LISTS", str(tmp_path / "lists"))
    monkeypatch.setattr(program, "PAUSE_S", 0)
    return program


def tool(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_what_is_installed_counts_before_what_could_be_and_what_cannot_be_is_left_out(
    offers: ModuleType,
) -> None:
    assert offers.main() == {
        "r-base-core": "4.2.2-2",
        "r-cran-digest": "0.6.31-1+b1",
        "r-cran-dplyr": "1.0.9-1",
    }


def test_lists_are_fetched_where_there_are_none_or_old_ones_and_not_twice(
    offers: ModuleType, tmp_path: Path
) -> None:
    offers.main()
    offers.main()
    assert (tmp_path / "fetched").read_text() == "fetched\n"
    old = time.time() - 7200
    os.utime(tmp_path / "lists", (old, old))
    offers.main()
    assert (tmp_path / "fetched").read_text() == "fetched\n" * 2


def test_another_apt_at_work_is_waited_for(offers: ModuleType, tmp_path: Path) -> None:
    tool(
        tmp_path,
        "apt-get",
        f"echo x >> {tmp_path}/tried; [ $(wc -l < {tmp_path}/tried) -gt 2 ] || "
        "{ echo 'E: Could not get lock /var/lib/apt/lists/lock'; exit 100; }",
    )
    offers.main()
    assert (tmp_path / "tried").read_text() == "x\n" * 3


def test_lists_that_cannot_be_fetched_are_said_with_apts_words(offers: ModuleType, tmp_path: Path) -> None:
    tool(tmp_path, "apt-get", 'echo "E: Failed to fetch http://deb.example.org"; exit 100')
    with pytest.raises(SystemExit, match="apt-get update: E: Failed to fetch"):
        offers.main()
