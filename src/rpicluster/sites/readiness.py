"""From started to answering: HDFS and YARN, the folders in HDFS, the session, and a job on two workers."""

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from rpicluster.errors import Unhealthy
from rpicluster.health.readiness import wait_for
from rpicluster.sites.site import Report

if TYPE_CHECKING:
    from rpicluster.design.accounts import HdfsDirectory
    from rpicluster.health.status import Part
    from rpicluster.services.connect.session import ConnectSession
    from rpicluster.services.spark_rest import SparkRest
    from rpicluster.services.webhdfs import WebHdfs

# A Pi with an SD card that starts everything at once needs minutes; a laptop seconds.
DAEMONS_TIMEOUT_S = 180.0
SESSION_TIMEOUT_S = 300.0
PATIENCE_S = 8.0  # with one part's answer, while everything starts at once
_JOB_TIMEOUT_S = 120.0
_JOB = "SELECT sum(hash(id, 'rpicluster') % 1000) AS total, count(*) AS rows FROM range(0, {rows}, 1, 64)"
# A second executor is asked for when tasks have waited for a second, and called off when the job has ended
# before it came. How long that takes nobody knows, so each job is twice as long as the last one.
_JOB_ROWS, _JOB_ROWS_MAX = 20_000_000, 160_000_000


class Phases:
    """Waits one after the other, each with a deadline; `seconds` says how long after the start each ended."""

    def __init__(self, report: Report, *, started: float, hint: str) -> None:
        """Report to `report`; `hint` is for waits that end in vain."""
        self._report = report
        self._started = started
        self._hint = hint
        self.seconds: dict[str, float] = {}

    def wait(
        self, name: str, what: str, missing: Callable[[], str | None], *, timeout_s: float, said: str
    ) -> None:
        """Wait until `missing` returns None; raises Unhealthy with its last answer."""
        wait_for(
            what,
            missing,
            timeout_s=timeout_s,
            report=lambda text: self._report(name, f"waiting: {text}", 0.0),
            hint=self._hint,
        )
        self._report(name, what, 1.0)
        self.note(said)

    def note(self, said: str) -> None:
        """Keep when something had been done."""
        self.seconds[said] = time.monotonic() - self._started


def first_missing(parts: "Collection[Part]", without: Collection[str] = ()) -> str | None:
    """Return the first part that is not fine, in words; parts on the nodes `without` do not count."""
    return next(
        (f"{p.name} on {p.where}: {p.detail}" for p in parts if p.state != "ok" and p.where not in without),
        None,
    )


def make_folders(hdfs: "WebHdfs", folders: "Collection[HdfsDirectory]", superuser: str) -> None:
    """Make what Hadoop expects and nobody creates, as HDFS's superuser; safe to repeat."""
    for folder in folders:
        found = hdfs.find(folder.path)
        if found is None:
            hdfs.mkdirs(folder.path, permission=folder.permission)
        if folder.owner != superuser and (found is None or found.owner != folder.owner):
            hdfs.set_owner(folder.path, folder.owner)


def prove(
    session: "ConnectSession", spark: "SparkRest", *, workers: int, report: Report
) -> tuple[float, dict[str, int]]:
    """Run a small job until `workers` nodes have done tasks of it; return seconds and tasks by address.

    Raises Unhealthy when they have not within two minutes.
    """
    started = time.monotonic()
    application = session.app_id()
    before, amount = _tasks(spark, application), _JOB_ROWS
    while True:
        report("proof", f"a job on {workers} workers", 0.5)
        rows = session.sql(_JOB.format(rows=amount)).rows()
        if int(rows[0][1]) != amount:
            raise Unhealthy(f"a count over {amount} rows answered {rows[0][1]}")
        done = {node: n - before.get(node, 0) for node, n in _tasks(spark, application).items()}
        busy = {node: n for node, n in done.items() if n > 0}
        seconds = time.monotonic() - started
        if len(busy) >= workers:
            report("proof", f"a job ran on {len(busy)} workers", 1.0)
            return seconds, busy
        if seconds > _JOB_TIMEOUT_S:
            raise Unhealthy(
                f"a job was to run on {workers} workers and ran on {', '.join(busy) or 'none'}",
                hint="rpicluster status",
            )
        amount = min(2 * amount, _JOB_ROWS_MAX)


def _tasks(spark: "SparkRest", application: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for executor in spark.executors(application, dead=True):
        if not executor.is_driver:
            found[executor.node] = found.get(executor.node, 0) + executor.completed_tasks
    return found
