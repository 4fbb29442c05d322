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

QUERY = "select sum(x) from (select hash(id) % 7 as x from range(0, 60000000, 1, 16)) where x >= 0"
KNOWN = "select count(*), sum(id) from kill_known"
ANSWER = [(100_000, 4_999_950_000)]
RECOVERY_S = 60


@pytest.fixture(scope="module")
def expected(cluster) -> list[tuple[object, ...]]:
    with cluster.session() as session:
        session.sql("create or replace table kill_known using iceberg as select id from range(100000)").rows()
        return session.sql(QUERY).rows()


def pid_of(cluster, unit: str, node: str) -> int:
    if unit == "driver":
        return int(read_session(cluster.placement, cluster.spec)["driver"]["pid"])
    return next(s.pid for s in cluster.site.place.statuses() if (s.unit, s.node) == (unit, node))


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
def test_a_killed_daemon_comes_back_by_itself(cluster, expected, unit, node):
    outcome: list[object] = []

    def query() -> None:
        try:
            with cluster.session() as session:
                outcome.append(session.sql(QUERY, timeout_s=150).rows())
        except RpiclusterError as error:
            outcome.append(error)

    running = threading.Thread(target=query)
    running.start()
    time.sleep(2)
    os.kill(pid_of(cluster, unit, node), signal.SIGKILL)
    killed = time.monotonic()
    running.join(180)
    assert not running.is_alive(), "the query hangs"
    assert outcome[0] == expected or isinstance(outcome[0], RpiclusterError), outcome
    last: object = None
    deadline = max(killed, time.monotonic()) + RECOVERY_S
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
    raise AssertionError(f"not healthy {RECOVERY_S} s after {unit} was killed: {last}")
