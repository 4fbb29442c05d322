"""The job that proves a cluster: two workers must have done tasks of it."""

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rpicluster.errors import Unhealthy
from rpicluster.sites import readiness


class Cluster:
    """A session whose second executor comes only when a job is long enough."""

    def __init__(self, long_enough: int) -> None:
        self.jobs: list[int] = []
        self._long_enough = long_enough

    def app_id(self) -> str:
        return "application_1_0001"

    def sql(self, statement: str) -> SimpleNamespace:
        found = re.search(r"range\(0, (\d+),", statement)
        assert found
        self.jobs.append(int(found[1]))
        return SimpleNamespace(rows=lambda: [[1, self.jobs[-1]]])

    def executors(self, application: str, *, dead: bool) -> list[SimpleNamespace]:
        assert dead and application == self.app_id()
        both = max(self.jobs, default=0) >= self._long_enough
        tasks = {"10.0.0.1": 100 + len(self.jobs), "10.0.0.2": 7 + both}
        return [SimpleNamespace(node=n, completed_tasks=t, is_driver=False) for n, t in tasks.items()]

    def prove(self) -> dict[str, int]:
        _, busy = readiness.prove(cast(Any, self), cast(Any, self), workers=2, report=lambda *_: None)
        return busy


def test_a_job_is_made_longer_until_a_second_executor_has_come() -> None:
    cluster = Cluster(80_000_000)
    assert cluster.prove() == {"10.0.0.1": 3, "10.0.0.2": 1}
    assert cluster.jobs == [20_000_000, 40_000_000, 80_000_000]


def test_a_worker_that_does_nothing_is_named_by_who_did_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_JOB_TIMEOUT_S", -1.0)
    with pytest.raises(Unhealthy, match=r"was to run on 2 workers and ran on 10\.0\.0\.1"):
        Cluster(10**12).prove()
