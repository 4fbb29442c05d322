"""SIGKILL of each daemon and of the session's driver under a running query, on the shared cluster.

Each time: the running query gives the right answer or a clear error; then, with no manual step and within
60 seconds, status is healthy and a query with a known answer is right.
"""

import os
import signal
import threading
import time

import pytest

from rpicluster.errors import RpiclusterError
from rpicluster.health.probes import read_session

pytestmark = pytest.mark.cluster

QUERY = "select sum(x) from (select hash(id) % 7 as x from range(0, {rows}, 1, 16)) where x >= 0"
SAMPLE_ROWS = 60_000_000
LONG_ENOUGH_S = 10  # a fast machine computes more rows, so that the daemon is killed under the query
UNDER_WAY_S = 1
KNOWN = "select count(*), sum(id) from kill_known"
ANSWER = [(100_000, 4_999_950_000)]
RECOVERY_S = 60
NEW_PROCESS_S = 30


@pytest.fixture(scope="module")
def question(cluster) -> tuple[str, list[tuple[object, ...]]]:
    """A query that runs for some seconds on this machine, and its answer."""
    with cluster.session() as session:
        session.sql("create or replace table kill_known using iceberg as select id from range(100000)").rows()
        session.sql(QUERY.format(rows=SAMPLE_ROWS)).rows()  # the second one has its executor and its code
        started = time.monotonic()
        session.sql(QUERY.format(rows=SAMPLE_ROWS)).rows()
        times = LONG_ENOUGH_S / (time.monotonic() - started)
        query = QUERY.format(rows=int(SAMPLE_ROWS * max(1, times)))
        return query, session.sql(query).rows()


def pid_of(cluster, unit: str, node: str) -> int:
    if unit == "driver":
        return int((read_session(cluster.placement, cluster.spec)["driver"] or {}).get("pid", 0))
    return next(s.pid for s in cluster.site.place.statuses() if (s.unit, s.node) == (unit, node)) or 0


def kill(cluster, *daemons: tuple[str, str]) -> None:
    """Kill, and wait until other processes stand in their places: only then their work is missed."""
    before = {daemon: pid_of(cluster, *daemon) for daemon in daemons}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + NEW_PROCESS_S
    while any(pid_of(cluster, *daemon) in (0, pid) for daemon, pid in before.items()):
        assert time.monotonic() < deadline, f"no new {daemons} in {NEW_PROCESS_S} s"
        time.sleep(0.2)


def comes_back(cluster, question: tuple[str, list[tuple[object, ...]]], *killed: tuple[str, str]) -> None:
    query, expected = question
    outcome: list[object] = []

    def ask() -> None:
        try:
            with cluster.session() as session:
                outcome.append(session.sql(query, timeout_s=150).rows())
        except RpiclusterError as error:
            outcome.append(error)

    running = threading.Thread(target=ask)
    running.start()
    time.sleep(UNDER_WAY_S)
    assert running.is_alive(), "the query ended before anything was killed"
    kill(cluster, *killed)
    running.join(180)
    assert not running.is_alive(), "the query hangs"
    assert outcome[0] == expected or isinstance(outcome[0], RpiclusterError), outcome
    last: object = None
    deadline = time.monotonic() + RECOVERY_S
    while time.monotonic() < deadline:
        status = cluster.status()
        last = status.cause
        if status.healthy:
            try:
                with cluster.session() as session:
                    last = session.sql(KNOWN, timeout_s=60).rows()
            except RpiclusterError as error:
                last = error
            if last == ANSWER:
                return
        time.sleep(1)
    raise AssertionError(f"not healthy {RECOVERY_S} s after {killed} were killed: {last}")


@pytest.mark.parametrize(
    ("unit", "node"),
    [
        ("datanode", "worker1"),
        ("nodemanager", "worker1"),
        ("nodemanager", "worker2"),
        ("resourcemanager", "manager"),
        ("namenode", "manager"),
        ("driver", "manager"),
    ],
)
def test_a_killed_daemon_comes_back_by_itself(cluster, question, unit, node):
    comes_back(cluster, question, (unit, node))


@pytest.mark.long
def test_a_master_lost_together_with_the_resourcemanager_is_replaced(cluster, question):
    """Where nobody tells the new ResourceManager, it learns of the loss by the master's silence alone."""
    application = next(a for a in cluster.yarn.applications() if not a.is_final)
    master = next(c for c in cluster.yarn.containers(application.id) if c.is_am)
    host = master.node_id.split(":")[0]
    node = next(name for name, placed in cluster.placement.nodes.items() if placed.address == host)
    comes_back(cluster, question, ("nodemanager", node), ("resourcemanager", "manager"))
