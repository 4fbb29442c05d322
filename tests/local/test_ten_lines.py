"""README's ten lines are true: each is read from the README, and run where it can run here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rpicluster import rpackage
from rpicluster.cli.main import run
from rpicluster.model.specfile import parse_spec

ROOT = Path(__file__).parents[2]


def blocks() -> list[list[str]]:
    """Return the lines of both blocks of the README's section: what is typed, what is shown."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Ten lines\n")[2].partition("\n## ")[0]
    return [block.strip("\n").splitlines() for block in re.findall(r"```\n(.*?)```", section, re.DOTALL)]


TYPED, SHOWN = blocks()


def line(beginning: str) -> str:
    (found,) = [typed for typed in TYPED if typed.startswith(beginning)]
    return found


def test_they_are_ten_and_begin_with_an_empty_laptop():
    assert len(TYPED) == 10
    assert [typed.split()[0] for typed in TYPED[:3]] == ["sudo", "git", "pipx"]


def test_apt_brings_an_empty_debian_all_that_r_and_the_tool_need():
    if not shutil.which("apt-get") or not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        pytest.skip("there is no apt here, or it has no lists: sudo apt-get update")
    argv = line("sudo apt-get ").split()[1:]
    nothing_installed = ["-s", "-y", "-o", "Dir::State::status=/dev/null"]
    done = subprocess.run(
        [argv[0], *nothing_installed, *argv[1:]], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    brought = set(re.findall(r"^Inst (\S+)", done.stdout, re.MULTILINE))
    wanted = {f"r-cran-{name.lower()}" for name in rpackage.NEEDED} | {
        "openssh-client",
        "git",
        "pipx",
        "r-base-core",
    }
    assert wanted <= brought
    # R loads Python as a library
    assert any(re.fullmatch(r"libpython3\.\d+(t64)?", name) for name in brought)
    assert not any("jre" in name or "jdk" in name for name in brought), "the laptop needs no Java"


def test_pipx_installs_the_folder_that_git_makes():
    folder = line("git clone ").split()[-1]
    assert f"pipx install ./{folder} " in line("pipx ")
    assert "[project.scripts]\nrpicluster = " in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_init_writes_a_cluster_of_three_nodes(tmp_path, monkeypatch):
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert run(line("rpicluster init").split()[1:]) == 0
    spec = parse_spec(Path("cluster.yml").read_text(encoding="utf-8"), "cluster.yml")
    assert [node.ssh.host for node in spec.nodes] == ["192.168.1.11", "192.168.1.12", "192.168.1.13"]


@pytest.mark.cluster
@pytest.mark.r
@pytest.mark.skipif(not shutil.which("Rscript"), reason="R is not installed")
def test_from_up_to_the_answer_they_run_as_they_stand(cluster, tmp_path):
    """On this machine's cluster; `up` cannot ask here, so it gets --yes."""
    if missing := rpackage.missing_packages():
        pytest.skip(f"R lacks {', '.join(missing)}")
    home = tmp_path / "home"
    program = home / ".local" / "bin" / "rpicluster"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!{sys.executable}\nfrom rpicluster.__main__ import main\nmain()\n")
    program.chmod(0o755)
    lines = TYPED[TYPED.index("rpicluster up") :]
    script = "\n".join(["set -e", line("pipx ").split(" && ")[1], *lines]).replace(
        "rpicluster up", "rpicluster up --yes"
    )
    kept = {key: value for key, value in os.environ.items() if key not in ("R_LIBS", "RPICLUSTER_CLUSTER")}
    caches = {"XDG_CACHE_HOME": kept.get("XDG_CACHE_HOME", str(Path("~/.cache").expanduser()))}
    shutil.copy(cluster.spec_path, tmp_path / "cluster.yml")  # as `init` leaves one
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**kept, **caches, "HOME": str(home)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    # R pads numbers to the longest of the sixteen rows
    said = [answer.split() for answer in done.stdout.splitlines()]
    for shown in SHOWN:
        assert shown.split() in said, f"{shown!r} is not in\n{done.stdout}"
