"""Runs behind a real sshd: as another login, started by root, with a sudo password, over broken connections.

sudo and systemd-run are stand-ins here, because this machine need not have them; the rack has the real ones.
"""

import os
import pwd
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rpicluster.errors import UsageError
from rpicluster.nodes.remote.commands import Nodes
from rpicluster.nodes.runs.remote import RemoteMachine
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.sites.batch import Runs

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from batch_here import silent, start
from rendering_cases import load
from test_sudo_real import _SUDO

from conftest import Sshd

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can have runs of another login"),
]
OTHER = "nobody"
NODE = "pi1"
PASSWORD = "correct horse; touch $TOUCHED"
# Starts what the real one would, as the login that it is told; keeps what it was told.
_SYSTEMD_RUN = """#!/bin/sh
printf '%s\\n' "$@" > "$TOLD"
user=
while [ "$1" != -- ]; do
  case "$1" in User=*) user=${1#User=} ;; esac
  shift
done
shift
setsid runuser -u "$user" -- "$@" < /dev/null > /dev/null 2>&1 &
"""
COUNT = """
import getpass, time
print(getpass.getuser(), flush=True)
for number in range(30):
    print("line", number, flush=True)
    time.sleep(0.2)
open("results/x", "w").write("y")
raise SystemExit(7)
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder into which another login may look."""
    folder = Path(tempfile.mkdtemp(prefix="rpi-runs-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "bin").mkdir()
    scripts = {
        "sudo": _SUDO,
        "systemd-run": _SYSTEMD_RUN,
        "systemctl": "#!/bin/sh\ncat $BUSY 2>/dev/null; exit 0\n",
    }
    for name, text in scripts.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    yield folder
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and str(folder).encode() in _command(process):
            os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder)


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def runs(sshd: Sshd, ssh: OpenSsh, place: Path) -> Runs:
    sshd.stop()
    sshd.environment = {
        "PATH": f"{place}/bin:/usr/sbin:/usr/bin:/bin",
        "NEEDS": "yes",
        "TOUCHED": str(place / "touched"),
        "TOLD": str(place / "told"),
        "BUSY": str(place / "busy"),
    }
    sshd.start()
    ssh.run(sshd.target(), ["true"], node=NODE, deadline_s=20, first_contact=True)
    password = PASSWORD.replace("$TOUCHED", str(place / "touched"))
    case = load("pi4-3x4g")
    return Runs(
        RemoteMachine(Nodes({NODE: sshd.target()}, ssh, {NODE: password}), NODE, OTHER),
        user=OTHER,
        root=str(place / f"runs-{OTHER}"),
        state=place / "state",
        inputs=lambda: replace(case, sizes=replace(case.sizes, sessions_max=2)),
        is_local=False,
    )


def test_a_run_belongs_to_its_login_and_comes_home(runs: Runs, place: Path) -> None:
    run = start(runs, place, COUNT)
    said: list[bytes] = []
    record = runs.follow(run, show=said.append, say=silent)
    assert b"".join(said).decode().split("\n")[:2] == [OTHER, "line 0"]
    assert (record.exit_code, record.result_files) == (7, 1)
    assert (runs.fetch(run, place / "home").folder / "x").read_text() == "y"
    assert Path(runs._root).stat().st_mode & 0o777 == 0o700
    uid = pwd.getpwnam(OTHER).pw_uid
    assert {path.stat().st_uid for path in Path(runs._root).rglob("*")} == {uid}
    told = (place / "told").read_text().splitlines()
    assert told[:4] == ["--quiet", "--collect", "--unit", f"rpicluster-{run}.service"]
    assert f"User={OTHER}" in told
    assert told[told.index("--") + 1 :] == [
        "/usr/bin/python3",
        f"{runs._root}/{run}/program/run.py",
        f"{runs._root}/{run}",
    ]
    assert not (place / "touched").exists(), "the password reached no shell"


def test_runs_of_other_logins_are_counted(runs: Runs, place: Path) -> None:
    (place / "busy").write_text(
        "rpicluster-run-20251123-152233.service loaded active running x\n"
        "rpicluster-run-20251123-152244.service loaded failed failed x\n"
    )
    with pytest.raises(UsageError) as refused:
        start(runs, place, COUNT)
    assert "1 for run-20251123-152233 = 2, and this run would be number 3" in refused.value.message
    assert runs.all() == [], "what was sent is gone"


def test_connections_that_are_cut_cost_no_line(runs: Runs, place: Path, sshd: Sshd) -> None:
    run = start(runs, place, COUNT)
    said: list[bytes] = []
    talk: list[str] = []

    def cut() -> None:
        for _ in range(2):
            time.sleep(1.5)
            for pid in sshd.children():
                if b"sshd" in _command(Path(f"/proc/{pid}")):
                    os.kill(pid, signal.SIGKILL)

    cutting = threading.Thread(target=cut)
    cutting.start()
    record = runs.follow(run, show=said.append, say=talk.append)
    cutting.join()
    lines = b"".join(said).decode().splitlines()
    assert lines == [OTHER, *(f"line {number}" for number in range(30))]
    assert record.exit_code == 7
    assert any(f"{run} goes on there, trying again" in words for words in talk), talk
    assert "the connection is back" in talk


def test_a_run_is_killed_over_ssh(runs: Runs, place: Path) -> None:
    run = start(runs, place, "import time\nprint('here', flush=True)\ntime.sleep(300)\n")
    assert runs.kill(run).state == "killed"
    assert runs.one(run).is_final
