"""The local engine with real processes: small Python programs as units, on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rpicluster.design import layout
from rpicluster.design.plan import Action, Step, make_plan
from rpicluster.design.units import Rendered, RenderedFile, Unit
from rpicluster.errors import LocalEngineError, LockHeld
from rpicluster.model.facts import Placement
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.local.engine import LocalPlace
from rpicluster.nodes.local.placement import allocate
from rpicluster.nodes.local.processes import own_processes, read_process
from rpicluster.nodes.local.state import ClusterState, open_state
from rpicluster.nodes.local.supervision import UnitStatus
from rpicluster.nodes.local.supervisord import Supervisord

NETWORKS = [f"127.63.{number}" for number in range(100, 200)]
# A daemon in a few lines: says what it was given, listens, and starts a child that outlives a careless kill.
PROGRAM = """
import json, os, signal, socket, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(json.dumps({"argv": sys.argv[1:], "environment": dict(os.environ), "cwd": os.getcwd()}), flush=True)
if sys.argv[1] == "child":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
if sys.argv[1] == "listen":
    server = socket.create_server((sys.argv[2], int(sys.argv[3])))
if sys.argv[1] == "die":
    sys.exit(3)
while True:
    time.sleep(0.2)
"""


def spec_of(name: str, nodes: int = 2) -> ClusterSpec:
    return ClusterSpec.model_validate(
        {
            "name": name,
            "nodes": [{"name": f"n{i}", "local": {"memory": "2G", "cores": 1}} for i in range(nodes)],
        }
    )


class Cluster:
    """One cluster of small programs, with what a test asks of it."""

    def __init__(self, name: str, root: Path, runtime: Path, unit_arguments: dict[str, list[str]]) -> None:
        self.state: ClusterState = open_state(name, root=root)
        self.placement: Placement = allocate(
            self.state, spec_of(name), java_home="/nowhere", networks=NETWORKS
        )
        self.runtime = runtime
        self.place = LocalPlace(self.state, self.placement, runtime)
        self.files = {
            node: {"program.py": RenderedFile(PROGRAM.encode()), "secret": RenderedFile(b"s", 0o600)}
            for node in self.placement.nodes
        }
        self.units = tuple(self.unit(name, arguments) for name, arguments in unit_arguments.items())

    def unit(self, name: str, arguments: list[str], environment: dict[str, str] | None = None) -> Unit:
        paths = self.placement.nodes["n0"].paths
        return Unit(
            name=name,
            node="n0",
            argv=(sys.executable, f"{paths.conf}/program.py", *arguments),
            environment=tuple((environment or {}).items()),
            reads=("program.py",),
            directory=layout.unit_directory(paths, name),
            stop_timeout_s=5,
        )

    def rendered(self) -> Rendered:
        return Rendered(self.files, self.units, self.runtime.name)

    def plan(self):
        return make_plan(self.state.name, self.rendered(), self.place.observe())

    def up(self) -> None:
        for step in self.plan().steps:
            self.place.apply(step)

    def status(self, unit: str) -> UnitStatus:
        return next(status for status in self.place.statuses() if status.unit == unit)

    def said(self, unit: str) -> list[dict[str, object]]:
        path = self.state.directory / "logs" / "n0" / f"{unit}.out"
        return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]

    def supervisor_pid(self) -> int:
        pid = Supervisord(self.state).pid()
        assert pid is not None
        return pid

    def unit_pids(self, unit: str) -> list[int]:
        mark = f"{self.placement.cluster_id}/n0/{unit}"
        return [process.pid for process in own_processes() if process.unit == mark]


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    clusters: list[Cluster] = []
    runtime = tmp_path / "runtime-1"
    runtime.mkdir()

    def make(name: str = "demo", root: Path | None = None, **units: list[str]) -> Cluster:
        cluster = Cluster(name, root or tmp_path / "state", runtime, units or {"worker": ["run"]})
        clusters.append(cluster)
        return cluster

    yield make
    for cluster in clusters:
        if cluster.state.directory.exists():
            cluster.place.destroy()
        assert cluster.place.leftovers() == []


def until(done: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_up_reaches_what_was_rendered_and_a_second_up_has_nothing_to_do(make_cluster):
    cluster = make_cluster(worker=["run", "a b", "100%", "x;y # z", 'q"\'"', "ünï"])
    cluster.up()
    assert cluster.plan().is_empty
    assert cluster.status("worker").state == "running"
    until(lambda: cluster.said("worker"))
    assert cluster.said("worker")[0]["argv"] == ["run", "a b", "100%", "x;y # z", 'q"\'"', "ünï"]
    assert cluster.said("worker")[0]["cwd"] == str(cluster.state.directory / "data" / "n0" / "worker")
    secret = cluster.state.directory / "conf" / "n0" / "secret"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_unit_gets_exactly_the_environment_that_was_rendered(make_cluster, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_SHELL", "x")
    cluster = make_cluster()
    values = {"A": "1,2", "B": "100% 'single' \"double\"", "C": " ; # ", "D": "line\nline", "E": "ü"}
    cluster.units = (cluster.unit("worker", ["run"], values),)
    cluster.up()
    until(lambda: cluster.said("worker"))
    environment = cluster.said("worker")[0]["environment"]
    assert {name: environment[name] for name in values} == values
    assert environment["LANG"] == "C.UTF-8"
    assert "SECRET_OF_THE_SHELL" not in environment
    assert not [name for name in environment if name.startswith("SUPERVISOR")]


def test_a_unit_that_dies_is_started_again(make_cluster):
    cluster = make_cluster()
    cluster.up()
    first = cluster.status("worker").pid
    os.kill(first, signal.SIGKILL)
    until(
        lambda: (
            cluster.status("worker").state == "running" and cluster.status("worker").pid not in (None, first)
        )
    )


def test_the_next_life_of_a_unit_starts_alone(make_cluster):
    cluster = make_cluster(worker=["child"], nodemanager=["run"])
    cluster.up()
    until(lambda: len(cluster.unit_pids("worker")) == 2)
    before = cluster.unit_pids("worker")
    # As YARN starts a container: a session of its own, an environment that does not know the unit.
    directories = f"{cluster.placement.nodes['n0'].paths.data}/nodemanager/containers/usercache"
    code = "import os, time; os.setsid(); time.sleep(600)"
    clean = {"CONTAINER_ID": "container_1_0001_01_000002", "LOCAL_DIRS": directories}
    container = subprocess.Popen([sys.executable, "-c", code], env=clean)
    neighbour = subprocess.Popen([sys.executable, "-c", code], env={**clean, "LOCAL_DIRS": "/elsewhere"})
    os.kill(cluster.status("worker").pid, signal.SIGKILL)
    os.kill(cluster.status("nodemanager").pid, signal.SIGKILL)
    assert container.wait(timeout=20) == -signal.SIGKILL
    until(lambda: len(set(cluster.unit_pids("worker")) - set(before)) == 2)
    assert not set(cluster.unit_pids("worker")) & set(before)
    assert neighbour.poll() is None
    neighbour.kill()
    neighbour.wait()


def test_a_unit_that_dies_at_once_is_tried_with_growing_pauses_and_called_failed(make_cluster):
    cluster = make_cluster(worker=["die"])
    cluster.up()
    until(lambda: len(cluster.said("worker")) >= 3)
    until(lambda: cluster.status("worker").state == "failed")
    starts = len(cluster.said("worker"))
    time.sleep(2)
    assert len(cluster.said("worker")) - starts <= 2


def test_units_outlive_the_command_that_started_them_and_the_hangup_of_its_terminal(make_cluster, tmp_path):
    cluster = make_cluster()
    cluster.up()
    pid, supervisor = cluster.status("worker").pid, cluster.supervisor_pid()
    assert os.getsid(supervisor) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(0)
    parent = int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != os.getpid()
    terminal = Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[4]
    assert terminal == "0"
    for descriptor in (0, 1, 2):
        assert Path(f"/proc/{supervisor}/fd/{descriptor}").readlink() == Path("/dev/null")


def test_after_sigkill_of_the_supervisor_start_leaves_no_doubles_and_no_orphans(make_cluster):
    cluster = make_cluster(worker=["run"], other=["child"])
    cluster.up()
    until(lambda: len(cluster.unit_pids("other")) == 2)
    before = {*cluster.unit_pids("worker"), *cluster.unit_pids("other")}
    os.kill(cluster.supervisor_pid(), signal.SIGKILL)
    until(lambda: not cluster.place._supervisor.daemon.answers())
    assert all(read_process(pid) for pid in before), "orphans live on until somebody starts the cluster"
    begun = time.monotonic()
    assert {status.state for status in cluster.place.statuses()} == {"failed"}
    assert time.monotonic() - begun < 2
    cluster.place.start_all()
    assert {status.state for status in cluster.place.statuses()} == {"running"}
    assert not [pid for pid in before if read_process(pid)]
    until(lambda: len(cluster.unit_pids("other")) == 2)
    assert len(cluster.unit_pids("worker")) == 1
    assert cluster.plan().is_empty


def test_two_supervisors_of_one_cluster_never_run(make_cluster):
    cluster = make_cluster()
    cluster.up()
    first = cluster.supervisor_pid()
    with pytest.raises(LocalEngineError, match="did not start"):
        cluster.place._supervisor.daemon.boot()
    assert cluster.supervisor_pid() == first


def test_a_frozen_supervisor_is_named_within_two_seconds_and_destroy_still_works(make_cluster):
    cluster = make_cluster()
    cluster.up()
    pid = cluster.supervisor_pid()
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    with pytest.raises(LocalEngineError, match=rf"supervisor of cluster demo \(pid {pid}\) does not answer"):
        cluster.place.statuses()
    assert time.monotonic() - begun < 2
    cluster.place.destroy()
    assert cluster.place.leftovers() == []


def test_a_changed_file_restarts_the_units_that_read_it_and_only_them(make_cluster):
    cluster = make_cluster(worker=["run"], other=["run"])
    cluster.units = (cluster.units[0], Unit(**{**cluster.units[1].__dict__, "reads": ()}))
    cluster.up()
    pids = {unit: cluster.status(unit).pid for unit in ("worker", "other")}
    cluster.files["n0"]["program.py"] = RenderedFile(PROGRAM.encode() + b"# changed\n")
    assert [(step.action, step.target) for step in cluster.plan().steps] == [
        (Action.WRITE, "program.py"),
        (Action.RESTART, "worker"),
    ]
    cluster.up()
    assert cluster.plan().is_empty
    assert cluster.status("worker").pid != pids["worker"]
    assert cluster.status("other").pid == pids["other"]


def test_a_new_runtime_restarts_units_even_when_up_was_killed_before_the_restart(make_cluster, tmp_path):
    cluster = make_cluster()
    cluster.up()
    cluster.runtime = tmp_path / "runtime-2"
    cluster.runtime.mkdir()
    cluster.place = LocalPlace(cluster.state, cluster.placement, cluster.runtime)
    installs = [step for step in cluster.plan().steps if step.action is Action.INSTALL_RUNTIME]
    for step in installs:
        cluster.place.apply(step)
    assert [step.action for step in cluster.plan().steps] == [Action.RESTART]
    cluster.up()
    assert cluster.plan().is_empty


def test_a_unit_that_is_no_longer_wanted_is_stopped_and_never_started_again(make_cluster):
    cluster = make_cluster(worker=["run"], other=["run"])
    cluster.up()
    cluster.units = cluster.units[:1]
    cluster.up()
    assert cluster.unit_pids("other") == []
    cluster.place.stop_all()
    cluster.place.start_all()
    assert [status.unit for status in cluster.place.statuses()] == ["worker"]


def test_stop_leaves_no_process_and_start_brings_all_back(make_cluster):
    cluster = make_cluster(worker=["run"], other=["child"])
    cluster.up()
    until(lambda: len(cluster.unit_pids("other")) == 2)
    cluster.place.stop_all()
    assert cluster.place._supervisor.processes() == []
    assert {status.state for status in cluster.place.statuses()} == {"stopped"}
    cluster.place.start_all()
    assert cluster.plan().is_empty


def test_start_recreates_an_alias_that_a_reboot_removed(make_cluster):
    cluster = make_cluster()
    cluster.up()
    cluster.place.stop_all()
    subprocess.run(["rm", "-r", str(cluster.state.alias)], check=True)
    cluster.place.start_all()
    assert cluster.status("worker").state == "running"
    assert cluster.plan().is_empty


def test_a_taken_port_is_named_with_its_purpose_and_its_owner(make_cluster):
    cluster = make_cluster(resourcemanager=["run"])
    placed = cluster.placement.nodes["n0"]
    port = placed.ports["rm_client"]
    with socket.create_server((placed.address, port)), pytest.raises(LocalEngineError) as caught:
        cluster.up()
    assert f"{placed.address}:{port} (rm_client)" in caught.value.message
    assert f"pid {os.getpid()}" in caught.value.message
    cluster.up()
    assert cluster.status("resourcemanager").state == "running"


def test_two_clusters_run_at_once_and_destroying_one_leaves_the_other(make_cluster):
    one, two = make_cluster("one"), make_cluster("two")
    assert (
        one.placement.nodes["n0"].address.rsplit(".", 1)[0]
        != two.placement.nodes["n0"].address.rsplit(".", 1)[0]
    )
    assert one.placement.nodes["n0"].ports["connect"] != two.placement.nodes["n0"].ports["connect"]
    one.up()
    two.up()
    one.place.destroy()
    assert one.place.leftovers() == []
    assert two.status("worker").state == "running"
    assert two.plan().is_empty


@pytest.mark.parametrize("name", ["Ünï cødé %d home", "a;b # c", "quo'te\"s", "x" * 120])
def test_any_home_will_do(make_cluster, tmp_path, name):
    cluster = make_cluster(root=tmp_path / name)
    cluster.up()
    assert cluster.plan().is_empty
    until(lambda: cluster.said("worker"))
    assert name not in json.dumps(cluster.placement.model_dump(), ensure_ascii=False)
    cluster.place.destroy()
    assert cluster.place.leftovers() == []


def test_destroy_leaves_nothing_and_can_be_repeated_after_a_kill_in_its_middle(make_cluster):
    cluster = make_cluster(worker=["child"])
    cluster.up()
    assert any(line.startswith("process") for line in cluster.place.leftovers())
    cluster.place.stop_all()
    subprocess.run(["rm", "-r", str(cluster.state.directory / "data")], check=True)
    cluster.place.destroy()
    assert cluster.place.leftovers() == []


# The driver of an `up` that a test kills: in another process, as the user's would be.
UP = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_local_engine as t
from rpicluster.nodes.lock import cluster_lock
cluster = t.Cluster("demo", Path({root!r}), Path({runtime!r}), {{"worker": ["run"], "other": ["child"]}})
with cluster_lock(cluster.state.directory, cluster="demo", command="rpicluster up"):
    print("locked", flush=True)
    for number, step in enumerate(cluster.plan().steps):
        print(number, step.action.value, flush=True)
        if {pause!r} == number:
            import time; time.sleep(60)
        cluster.place.apply(step)
"""


def start_up(cluster: Cluster, tmp_path: Path, pause: int | None = None) -> subprocess.Popen[str]:
    code = UP.format(
        tests=str(Path(__file__).parent),
        root=str(tmp_path / "state"),
        runtime=str(cluster.runtime),
        pause=pause,
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_up_killed_before_during_and_after_any_step_is_continued_by_the_next(make_cluster, tmp_path, number):
    cluster = make_cluster(worker=["run"], other=["child"])
    lines = ["locked"] + [f"{i} {step.action.value}" for i, step in enumerate(cluster.plan().steps)]
    for line in lines:
        for delay_s in (0.0, 0.03):
            process = start_up(cluster, tmp_path)
            assert process.stdout is not None
            for said in process.stdout:
                if said.strip() == line:
                    break
            time.sleep(delay_s)
            process.send_signal(number)
            process.wait(timeout=20)
            process.stdout.close()
            cluster.up()
            assert cluster.plan().is_empty
            assert len(cluster.unit_pids("worker")) == 1
            until(lambda: len(cluster.unit_pids("other")) == 2)
            cluster.place.stop_all()
            assert cluster.place._supervisor.processes() == []
            for folder in (cluster.state.directory / "conf").iterdir():
                subprocess.run(["rm", "-r", str(folder)], check=True)


def test_a_second_up_at_once_names_the_holder(make_cluster, tmp_path):
    from rpicluster.nodes.lock import cluster_lock

    cluster = make_cluster(worker=["run"], other=["child"])
    process = start_up(cluster, tmp_path, pause=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    with (
        pytest.raises(
            LockHeld, match=rf"`rpicluster up` \(pid {process.pid}, user .*, since ..:..:..\)"
        ) as caught,
        cluster_lock(cluster.state.directory, cluster="demo", command="rpicluster up"),
    ):
        pass
    assert str(process.pid) in (caught.value.hint or "")
    process.kill()
    process.wait()
    process.stdout.close()
    with cluster_lock(cluster.state.directory, cluster="demo", command="rpicluster up", wait_s=1):
        pass


def test_a_step_that_names_a_file_outside_of_the_configuration_is_refused(make_cluster):
    cluster = make_cluster()
    for target in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(LocalEngineError, match="outside"):
            cluster.place.apply(Step(Action.WRITE, "n0", target, "why", content=b""))
