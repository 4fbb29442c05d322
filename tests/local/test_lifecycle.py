"""Three clusters of different shape come up, shuffle, hand over a million rows, and go without a trace."""

import os
import signal
import threading
import time

import pytest

from rpicluster.cluster import Cluster
from rpicluster.errors import LockHeld
from rpicluster.nodes.local.supervision import Supervisor


def silent(*_: object) -> None:
    """Report to nobody."""


pytestmark = [pytest.mark.lifecycle, pytest.mark.timeout(900)]

SHAPES = {
    # one machine with 4 GiB that does everything
    "solo": "name: solo\nnodes:\n  - {name: solo, local: {memory: 3840M, cores: 2}}\n",
    # the smallest manager with two workers, in a home that URIs, supervisor and class paths choke on
    "Ünï cødé %d home": """\
name: strange
nodes:
  - {name: boss, local: {memory: 1600M}}
  - {name: a, local: {memory: 1300M}}
  - {name: b, local: {memory: 1300M}}
""",
    # workers of different size, a manager that works too
    "mixed": """\
name: mixed
nodes:
  - {name: m, roles: [manager, worker], local: {memory: 3G, cores: 2}}
  - {name: big, roles: [worker], local: {memory: 2500M, cores: 2}}
hdfs: {block_size: 32M}
""",
}


# One shape in the gate; all three in `make test-long`.
@pytest.mark.parametrize(
    "home",
    [pytest.param(home, marks=pytest.mark.long) if home in ("solo", "mixed") else home for home in SHAPES],
)
def test_a_cluster_comes_up_works_and_goes_without_a_trace(
    home, tmp_path, monkeypatch, runtime, java_home, bring_up
):
    folder = tmp_path / home
    folder.mkdir()
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(folder / "state"))
    spec = folder / "cluster.yml"
    spec.write_text(SHAPES[home])
    cluster = Cluster.from_file(spec)
    try:
        bring_up(cluster)
        with cluster.session() as session:
            # both sides are too large to be sent to every task: this shuffles
            shuffled = session.sql(
                "select count(*), sum(a.id) from range(0, 2000000, 1, 8) a "
                "join range(0, 2000000, 2, 8) b using (id)"
            ).rows()
            assert shuffled == [(1_000_000, 999_999_000_000)]
            session.sql(
                "create table t using iceberg as select id, id * 1.5D as x from range(1000000)"
            ).rows()
            table = session.sql("select id, x, cast(id as string) as s, id % 7 as k from t").table()
            assert (table.num_rows, table.num_columns) == (1_000_000, 4)
            application = session.app_id()
        executors = cluster.spark.executors(application, dead=True)
        assert [e.id for e in executors if not e.is_active] == [], "a container was lost"
        assert "memory limits" not in cluster.yarn.application(application).diagnostics
        # Hadoop's default for this one is a folder in /tmp that all clusters of a user share.
        assert list((folder / "state").rglob("nodeattribute.mirror"))
        cluster.stop(report=silent)
        cluster.start(report=silent)
        with cluster.session() as session:
            assert session.sql("select count(*) from t").rows() == [(1_000_000,)]
    finally:
        left = cluster.destroy(report=silent)
    assert left == []
    assert not (folder / "state" / "clusters" / cluster.name).exists()


@pytest.mark.long
def test_killing_the_supervisor_and_two_ups_at_once(tmp_path, monkeypatch, runtime, java_home, bring_up):
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    spec = tmp_path / "cluster.yml"
    spec.write_text(SHAPES["solo"].replace("solo", "crash"))
    cluster = Cluster.from_file(spec)
    held: list[Exception] = []

    def second_up() -> None:
        time.sleep(1)
        try:
            bring_up(Cluster.from_file(spec))
        except LockHeld as error:
            held.append(error)

    try:
        rival = threading.Thread(target=second_up)
        rival.start()
        bring_up(cluster)
        rival.join()
        assert len(held) == 1
        assert f"pid {os.getpid()}" in str(held[0])
        supervisor = Supervisor(cluster.site.state, cluster.placement.cluster_id)
        os.kill(supervisor.daemon.pid(), signal.SIGKILL)
        cluster.start(report=silent)
        assert cluster.status().healthy
        namenodes = [process for process in supervisor.processes() if "-Dproc_namenode" in process.argv]
        assert len(namenodes) == 1, "two NameNodes over one directory"
        assert cluster.plan().is_empty
    finally:
        left = cluster.destroy(report=silent)
    assert left == []
