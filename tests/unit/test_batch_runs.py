"""A run's whole life on this machine: the very programs that a manager runs, and no cluster."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import batch_here
from batch_here import runs_in, silent, start

from rpicluster.design import batch
from rpicluster.errors import RpiclusterError, Unreachable, UsageError

COUNT = """
import time
for number in range(12):
    print("line", number, flush=True)
    time.sleep(0.5)
open("results/sum.txt", "w").write("66")
raise SystemExit(5)
"""
WAIT = "import time\nprint('here', flush=True)\ntime.sleep(300)\n"


@pytest.fixture
def runs(tmp_path):
    found = runs_in(tmp_path)
    yield found
    for record in found.all() if Path(found._root).exists() else []:
        if not record.is_final:
            found.kill(record.id)


def watched(runs, run, **more) -> tuple[str, object]:
    said: list[bytes] = []
    record = runs.follow(run, show=said.append, say=silent, **more)
    return b"".join(said).decode(), record


def until(true, what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.05)


def state_of(runs, run: str) -> dict:
    return json.loads((Path(runs._root) / run / "state.json").read_text())


def test_a_script_gets_its_arguments_and_its_output_results_and_exit_code_come_home(runs, tmp_path):
    source = (
        "import sys, os\nprint(sys.argv[1:], os.listdir('.'))\nprint('ü', file=sys.stderr)\n"
        "open('results/ü.txt', 'w').write('x')\nsys.exit(3)\n"
    )
    run = start(runs, tmp_path, source, "--year", "2013", "a b;$(id)")
    said, record = watched(runs, run)
    assert "['--year', '2013', 'a b;$(id)']" in said
    assert "ü" in said
    assert (record.state, record.exit_code, record.result_files) == ("ended", 3, 1)
    brought = runs.fetch(run, tmp_path / "home")
    assert (brought.folder / "ü.txt").read_text() == "x"


def test_a_client_killed_in_the_middle_costs_nothing(tmp_path, runs):
    client = subprocess.Popen(
        [sys.executable, batch_here.__file__, str(tmp_path), COUNT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        start_new_session=True,
    )
    seen = b"".join(client.stdout.readline() for _ in range(3)).decode()
    os.killpg(client.pid, signal.SIGKILL)
    rest = client.stdout.read().decode()
    client.wait()
    (record,) = runs.all()
    assert record.state == "running"
    said, record = watched(runs, record.id)
    assert (record.state, record.exit_code) == ("ended", 5)
    wanted = [f"line {number}" for number in range(12)]
    lines = (seen + rest).splitlines() + said.splitlines()
    assert list(dict.fromkeys(lines)) == wanted, "nothing is lost"
    assert len(lines) <= len(wanted) + 1, "and at most the piece that was shown and not yet noted comes twice"
    assert (runs.fetch(record.id, tmp_path / "home").folder / "sum.txt").read_text() == "66"


def test_the_script_outlives_sighup_and_has_no_terminal(runs, tmp_path):
    source = "import os, signal\nos.kill(os.getppid(), signal.SIGHUP)\nprint(os.isatty(0), os.isatty(1))\n"
    said, record = watched(runs, start(runs, tmp_path, source))
    assert (said, record.exit_code) == ("False False\n", 0)


def test_a_second_attach_goes_on_behind_the_last_line_and_can_begin_anew(runs, tmp_path):
    run = start(runs, tmp_path, "print('once')")
    assert watched(runs, run)[0] == "once\n"
    assert watched(runs, run)[0] == ""
    assert watched(runs, run, from_start=True)[0] == "once\n"
    assert runs.log(run) == b"once\n"


def test_a_run_is_killed_with_all_that_it_started(runs, tmp_path):
    source = (
        "import subprocess, time\nchild = subprocess.Popen(['sleep', '300'])\n"
        "print(child.pid, flush=True)\ntime.sleep(300)\n"
    )
    run = start(runs, tmp_path, source)
    until(lambda: runs.log(run).strip(), "the script's first line")
    child = int(runs.log(run))
    record = runs.kill(run)
    assert (record.state, record.exit_code) == ("killed", None)
    assert "jobs kill" in record.reason
    until(lambda: not Path(f"/proc/{child}").exists() or b"sleep" not in _command(child), "its child to end")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_script_that_a_signal_ends_says_which(runs, tmp_path):
    _, record = watched(runs, start(runs, tmp_path, "import os\nos.kill(os.getpid(), 9)"))
    assert (record.state, record.exit_code) == ("ended", 137)
    assert "SIGKILL" in record.reason
    assert "memory" in record.reason


def test_a_manager_that_was_started_again_meanwhile_is_said_so(runs, tmp_path):
    run = start(runs, tmp_path, WAIT)
    until(lambda: runs.log(run) == b"here\n", "the script")
    os.kill(state_of(runs, run)["pid"], signal.SIGKILL)
    until(lambda: runs.one(run).is_final, "the record")
    assert "was killed; with the script" in runs.one(run).reason
    path = Path(runs._root) / run / "state.json"
    path.write_text(json.dumps({**state_of(runs, run), "boot_id": "another"}))
    said, record = watched(runs, run)
    assert (said, record.state, record.exit_code) == ("here\n", "lost", None)
    assert record.reason == "the manager was started again while the script ran"


def test_two_at_once_take_two_places_and_the_third_is_told_the_arithmetic(runs, tmp_path):
    first, second = (start(runs, tmp_path, WAIT) for _ in range(2))
    assert first != second
    with pytest.raises(UsageError) as refused:
        start(runs, tmp_path, WAIT)
    words = refused.value.message
    assert (
        "manager holds 3 drivers of 1056 MiB (sessions.max): 1 for the warm session of ana + 2 for" in words
    )
    assert f"{first}, {second} = 3, and this run would be number 4; nothing was started" in words
    assert f"rpicluster jobs attach {second}" in refused.value.hint
    assert "sessions: {max: 4}" in refused.value.hint
    assert len(runs.all()) == 2
    runs.kill(first)
    assert start(runs, tmp_path, "print(1)") not in (first, second)


def test_the_last_place_is_given_once_however_many_ask_at_the_same_moment(tmp_path, runs):
    program = (
        "import sys, batch_here\nfrom pathlib import Path\nhere = Path(sys.argv[1])\n"
        "print(batch_here.start(batch_here.runs_in(here), Path(sys.argv[2]), sys.argv[3]))\n"
    )
    clients = []
    for number in range(4):
        folder = tmp_path / f"client{number}"
        folder.mkdir()
        clients.append(
            subprocess.Popen(
                [sys.executable, "-c", program, str(tmp_path), str(folder), WAIT],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                text=True,
            )
        )
    answers = [client.communicate(timeout=200) for client in clients]
    given = [said.strip() for said, _ in answers if said]
    assert len(set(given)) == len(given) == 2, answers
    assert all("nothing was started" in words for said, words in answers if not said)
    assert sorted(record.id for record in runs.all()) == sorted(given), "what was refused is gone"


def test_a_missing_module_is_named_before_anything_is_sent(runs, tmp_path):
    with pytest.raises(UsageError, match="needs the Python module no_such_thing, and this machine does not"):
        start(runs, tmp_path, "import os, no_such_thing\n")
    assert runs.all() == []


def test_a_missing_r_package_is_named_with_the_line_that_brings_it(runs, tmp_path):
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    script = tmp_path / "a.R"
    script.write_text("library(noSuchThing)\n")
    with pytest.raises(UsageError) as refused:
        runs.start(batch_here.read_script(script), (), say=silent)
    assert "a.R needs the R package noSuchThing, and this machine does not have it" in refused.value.message
    assert refused.value.hint == """Rscript -e 'install.packages(c("noSuchThing"))'"""
    assert runs.all() == []


def test_an_r_script_that_needs_no_spark_runs_as_it_is(runs, tmp_path):
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    script = tmp_path / "a script.R"
    script.write_text("cat(commandArgs(TRUE), basename(getwd()), '\\n')\nquit(status = 9)\n")
    run = runs.start(batch_here.read_script(script), ("a", "b c"), say=silent)
    said, record = watched(runs, run)
    assert (said, record.exit_code) == ("a b c files \n", 9)


def test_what_a_script_floods_the_log_with_is_cut_and_said(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "LOG_LIMIT_BYTES", 100_000)
    said, record = watched(runs, start(runs, tmp_path, "for _ in range(20000): print('x' * 99)"))
    assert record.log_cut
    assert record.exit_code == 0
    assert 100_000 <= len(said) < 200_000


def test_the_exit_code_is_kept_on_a_disk_that_the_script_has_filled(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96m", "none", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can make a small disk")
    try:
        runs = runs_in(small)
        source = (
            "import sys\nfile = open('fill', 'wb', buffering=0)\n"
            "try:\n    while True: file.write(b'x' * 65536)\nexcept OSError as error: print(error)\n"
            "sys.exit(6)\n"
        )
        _, record = watched(runs, start(runs, tmp_path, source))
        assert (record.state, record.exit_code, record.log_cut) == ("ended", 6, True)
        with pytest.raises(RpiclusterError, match="MiB free, and the files of this run take"):
            start(runs, tmp_path, "print(1)")
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_run_that_ended_with_its_manager_says_so_and_before_the_next_boot_too(runs, tmp_path):
    run = start(runs, tmp_path, WAIT)
    until(lambda: runs.one(run).state == "running", "the script")
    os.kill(state_of(runs, run)["pid"], signal.SIGTERM)  # as systemd does
    until(lambda: runs.one(run).is_final, "its end")
    assert (runs.one(run).state, runs.one(run).exit_code) == ("killed", None)
    assert "the manager was shut down" in runs.one(run).reason
    path = Path(runs._root) / run / "state.json"
    path.write_text(json.dumps({**state_of(runs, run), "boot_id": "another"}))
    assert runs.one(run).state == "lost"
    assert runs.one(run).reason == "the manager was started again while the script ran"


def test_old_runs_are_removed_by_number_and_by_age(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "KEEP_NUMBER", 2)
    made = []
    for _ in range(3):
        made.append(start(runs, tmp_path, "print(1)"))
        watched(runs, made[-1])
    assert [record.id for record in runs.all()] == [made[2], made[1]]
    monkeypatch.setattr(batch, "KEEP_S", 0)
    time.sleep(1)  # a run is named by its second, and the name of one that is removed is free
    last = start(runs, tmp_path, "print(1)")
    assert [record.id for record in runs.all()] == [last]
    with pytest.raises(RpiclusterError, match=r"there is no run .* here; old ones are removed"):
        runs.one(made[2])


def test_results_replaced_by_a_link_are_not_followed(runs, tmp_path):
    source = "import os\nos.rmdir('results')\nos.symlink('/etc', 'results')\n"
    run = start(runs, tmp_path, source)
    watched(runs, run)
    with pytest.raises(RpiclusterError, match="replaced its folder `results`"):
        runs.fetch(run, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_client_that_was_put_to_sleep_shows_all_of_it_when_it_wakes(tmp_path, runs):
    client = subprocess.Popen(
        [sys.executable, batch_here.__file__, str(tmp_path), COUNT],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    first = client.stdout.readline()
    client.send_signal(signal.SIGSTOP)
    until(lambda: runs.all()[0].is_final, "the script's end")
    client.send_signal(signal.SIGCONT)
    rest, _ = client.communicate(timeout=60)
    assert (first + rest).decode().splitlines() == [f"line {number}" for number in range(12)]


class Breaking:
    """A machine whose connection breaks again and again, in the middle of an answer too."""

    def __init__(self, machine, broken: int) -> None:
        self.name, self._machine, self.broken = machine.name, machine, broken

    @contextlib.contextmanager
    def channel(self, *, as_root=False):
        with self._machine.channel(as_root=as_root) as channel:
            if self.broken:
                self.broken -= 1
                if self.broken % 2:
                    raise Unreachable("pi1 does not answer")
                documents = channel.documents

                def cut(**more):
                    yield next(documents(**more))
                    raise Unreachable("the connection to pi1 broke")

                channel.documents = cut
            yield channel


def test_a_connection_that_breaks_is_made_again_from_the_same_place(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("rpicluster.sites.batch._RETRY_S", (0.1,))
    run = start(runs, tmp_path, COUNT)
    runs.machine = Breaking(runs.machine, broken=5)
    said, talk = [], []
    record = runs.follow(run, show=said.append, say=talk.append)
    assert b"".join(said).decode().splitlines() == [f"line {number}" for number in range(12)]
    assert record.exit_code == 5
    assert f"{run} goes on there, trying again" in talk[0]
    assert "the connection is back" in talk


def test_a_connection_that_stays_away_says_how_to_come_back(tmp_path, runs, monkeypatch):
    monkeypatch.setattr("rpicluster.sites.batch._RETRY_S", (0.1,))
    monkeypatch.setattr("rpicluster.sites.batch.LOST_CONTACT_S", 0.5)
    run = start(runs, tmp_path, WAIT)
    kept, runs.machine = runs.machine, Breaking(runs.machine, broken=1001)
    runs.machine.channel = _never
    with pytest.raises(Unreachable) as lost:
        runs.follow(run, show=silent, say=silent)
    runs.machine = kept
    assert f"{run} goes on there" in lost.value.message
    assert lost.value.hint == f"rpicluster jobs attach {run}"


def _never(**_):
    raise Unreachable("pi1 does not answer")


def test_what_was_sent_and_never_started_is_no_run_that_somebody_waits_for(tmp_path, runs):
    run = start(runs, tmp_path, "print(1)")
    watched(runs, run)
    folder = Path(runs._root) / run
    for name in ("state.json", "end", "lock"):
        (folder / name).unlink()
    assert runs.one(run).state == "submitted"
    os.utime(folder, (1, 1))
    assert runs.one(run).state == "lost"
    assert "ended before it was started" in runs.one(run).reason
