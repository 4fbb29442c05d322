"""The local engine with Hadoop's own daemons, in a home with an awkward name."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rpicluster.design import layout
from rpicluster.design.plan import Action, Observed, make_plan
from rpicluster.design.rendering import render
from rpicluster.design.sizing import size
from rpicluster.design.units import Rendered, Unit
from rpicluster.errors import LocalEngineError, RpiclusterError
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.local.engine import LocalPlace
from rpicluster.nodes.local.facts import cluster_facts, find_java
from rpicluster.nodes.local.listeners import listeners
from rpicluster.nodes.local.placement import allocate
from rpicluster.nodes.local.processes import read_process
from rpicluster.nodes.local.state import open_state
from rpicluster.nodes.local.supervisord import Supervisord
from rpicluster.runtime.store import Runtime
from rpicluster.services.transport import Transport
from rpicluster.services.webhdfs import WebHdfs

pytestmark = [pytest.mark.lifecycle, pytest.mark.timeout(600)]
NETWORKS = [f"127.63.{number}" for number in range(200, 250)]
READY_S = 180.0
NAMENODE_PORTS = ("namenode_rpc", "namenode_http")
DATANODE_PORTS = ("datanode_data", "datanode_http", "datanode_ipc")


class Hdfs:
    """HDFS alone, one manager that also works: the daemons that own data."""

    def __init__(self, root: Path, runtime: Runtime) -> None:
        self.spec = ClusterSpec.model_validate(
            {"name": "hdfs", "nodes": [{"name": "n0", "local": {"memory": "4G", "cores": 2}}]}
        )
        self.state = open_state("hdfs", root=root)
        java = find_java()
        self.placement = allocate(self.state, self.spec, java_home=java.home, networks=NETWORKS)
        facts = cluster_facts(self.spec, java, self.state.directory)
        rendered = render(
            self.spec, size(self.spec, facts), self.placement, runtime.path.name, keeper_sources={}
        )
        units = tuple(unit for unit in rendered.units if unit.name in ("namenode", "datanode"))
        self.rendered = Rendered(rendered.files, units, rendered.runtime_hash)
        self.place = LocalPlace(self.state, self.placement, runtime.path)
        self.node = self.placement.nodes["n0"]
        url = f"http://{self.node.address}:{self.node.ports['namenode_http']}"
        self.files = WebHdfs(Transport(), url, user=self.placement.login)

    def unit(self, name: str) -> Unit:
        return next(unit for unit in self.rendered.units if unit.name == name)

    def up(self) -> None:
        plan = make_plan("hdfs", self.rendered, self.place.observe())
        assert plan.refusals == ()
        for step in plan.steps:
            self.place.apply(step)
        self.wait()

    def wait(self) -> None:
        """Wait until a file can be written, which needs a NameNode out of safe mode and a DataNode."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                with tempfile.NamedTemporaryFile() as file:
                    file.write(b"ready")
                    file.flush()
                    self.files.put(Path(file.name), "/ready", overwrite=True)
                return
            except RpiclusterError as error:
                assert time.monotonic() < deadline, error.message
                time.sleep(0.3)

    def pid(self, unit: str) -> int:
        pid = next(status.pid for status in self.place.statuses() if status.unit == unit)
        assert pid is not None
        return pid


@pytest.fixture(scope="module")
def hdfs(runtime: Runtime, java_home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    found = Hdfs(tmp_path_factory.mktemp("home") / "Ünï cødé %d home", runtime)
    found.up()
    yield found
    found.place.destroy()
    assert found.place.leftovers() == []


@pytest.fixture(scope="module")
def kept(hdfs: Hdfs, tmp_path_factory: pytest.TempPathFactory) -> str:
    source = tmp_path_factory.mktemp("source") / "file"
    source.write_bytes(b"kept through everything\n" * 1000)
    hdfs.files.put(source, "/kept")
    return "/kept"


def read(hdfs: Hdfs, path: str, tmp_path: Path) -> bytes:
    """Return a file of HDFS, as soon as the DataNode has reported its blocks."""
    target = tmp_path / f"got-{time.monotonic_ns()}"
    deadline = time.monotonic() + READY_S
    while True:
        try:
            hdfs.files.get(path, target)
            return target.read_bytes()
        except RpiclusterError as error:
            assert time.monotonic() < deadline, error.message
            time.sleep(0.3)


def test_up_leaves_nothing_to_do(hdfs: Hdfs) -> None:
    assert make_plan("hdfs", hdfs.rendered, hdfs.place.observe()).is_empty
    assert hdfs.place.observe().namenode == "formatted"


def test_daemons_listen_on_the_nodes_address_only(hdfs: Hdfs) -> None:
    inodes = {
        os.readlink(entry)  # noqa: PTH115
        for unit in ("namenode", "datanode")
        for entry in Path(f"/proc/{hdfs.pid(unit)}/fd").iterdir()
        if entry.exists() or entry.is_symlink()
    }
    mine = [listener for listener in listeners() if f"socket:[{listener.inode}]" in inodes]
    ports = {hdfs.node.ports[name] for name in (*NAMENODE_PORTS, *DATANODE_PORTS)}
    assert ports <= {listener.port for listener in mine}
    assert {listener.address for listener in mine} <= {hdfs.node.address, "127.0.0.1"}


def test_a_killed_namenode_comes_back_with_its_files(hdfs: Hdfs, kept: str, tmp_path: Path) -> None:
    pid = hdfs.pid("namenode")
    os.kill(pid, signal.SIGKILL)
    hdfs.wait()
    assert hdfs.pid("namenode") != pid
    assert read(hdfs, kept, tmp_path) == b"kept through everything\n" * 1000


def test_a_second_format_changes_nothing(hdfs: Hdfs, kept: str, tmp_path: Path) -> None:
    name = Path(layout.namenode_directory(hdfs.node.paths))
    version = (name / "current" / "VERSION").read_bytes()
    formats = [
        step
        for step in make_plan("hdfs", hdfs.rendered, Observed()).steps
        if step.action in (Action.FORMAT, Action.START) and step.target == "namenode"
    ]
    assert [step.action for step in formats] == [Action.FORMAT, Action.START]
    for step in formats:
        hdfs.place.apply(step)
    hdfs.wait()
    assert (name / "current" / "VERSION").read_bytes() == version
    assert read(hdfs, kept, tmp_path) == b"kept through everything\n" * 1000


def test_a_second_namenode_over_the_same_directory_ends_at_once(hdfs: Hdfs, tmp_path: Path) -> None:
    unit = hdfs.unit("namenode")
    log = tmp_path / "second.log"
    marks = ("-Drpicluster.unit=", "-Drpicluster.log=")
    argv = [word for word in unit.argv if not word.startswith(marks)]
    argv[1:1] = [f"-Drpicluster.log={log}"]
    elsewhere = "127.63.251.10"
    options = [
        f"-Dfs.defaultFS=hdfs://{elsewhere}:8020",
        f"-Ddfs.namenode.rpc-address={elsewhere}:8020",
        f"-Ddfs.namenode.http-address={elsewhere}:9870",
    ]
    second = subprocess.run(
        [*argv, *options],
        env=dict(unit.environment),
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert second.returncode != 0
    assert "already locked the storage" in log.read_text()
    hdfs.files.mkdirs("/still-there")


def test_after_sigkill_of_the_supervisor_start_gives_one_of_each_and_all_data(
    hdfs: Hdfs, kept: str, tmp_path: Path
) -> None:
    before = [hdfs.pid(unit) for unit in ("namenode", "datanode")]
    supervisor = Supervisord(hdfs.state).pid()
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    assert read(hdfs, kept, tmp_path)  # HDFS itself serves on
    hdfs.place.start_all()
    hdfs.wait()
    assert not [pid for pid in before if read_process(pid)]
    assert len(hdfs.place._supervisor.processes()) == 3
    assert read(hdfs, kept, tmp_path) == b"kept through everything\n" * 1000


def test_stop_and_start_keep_the_data_and_stop_leaves_no_process(
    hdfs: Hdfs, kept: str, tmp_path: Path
) -> None:
    hdfs.place.stop_all()
    assert hdfs.place._supervisor.processes() == []
    assert not [line for line in hdfs.place.leftovers() if not line.startswith("files")]
    hdfs.place.start_all()
    hdfs.wait()
    assert read(hdfs, kept, tmp_path) == b"kept through everything\n" * 1000
    assert make_plan("hdfs", hdfs.rendered, hdfs.place.observe()).is_empty


def test_another_clusters_file_system_is_refused_by_plan_and_by_format(hdfs: Hdfs) -> None:
    hdfs.place.stop_all()
    version = Path(layout.namenode_directory(hdfs.node.paths)) / "current" / "VERSION"
    mine = version.read_text()
    version.write_text(mine.replace("clusterID=rpicluster-", "clusterID=CID-"))
    try:
        plan = make_plan("hdfs", hdfs.rendered, hdfs.place.observe())
        assert "another cluster's file system" in plan.refusals[0]
        step = next(
            step
            for step in make_plan("hdfs", hdfs.rendered, Observed()).steps
            if step.action is Action.FORMAT
        )
        with pytest.raises(LocalEngineError, match="never formatted over"):
            hdfs.place.apply(step)
    finally:
        version.write_text(mine)
    hdfs.place.start_all()
    hdfs.wait()
