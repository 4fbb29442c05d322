"""The steps of the demo, from nothing to a proven answer."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rpicluster import rpackage
from rpicluster.cluster import Cluster
from rpicluster.demo import data, proof
from rpicluster.errors import RpiclusterError, SqlError, Unhealthy, UsageError
from rpicluster.nodes.local.first_spec import initial_spec
from rpicluster.nodes.local.state import state_root
from rpicluster.services.connect.connection import Connection
from rpicluster.services.ingest import prepare, write_table

NAME = "demo"
_R_TIMEOUT_S = 600
_SPREAD_TIMEOUT_S = 120
# A table of 5 MB is one piece of work by default. Small row groups and splits let both workers have a part.
_SMALL_SPLITS = {
    "write.parquet.row-group-size-bytes": "524288",
    "read.split.target-size": "524288",
    "read.split.open-file-cost": "0",
    "read.split.adaptive-size.enabled": "false",
}
# Long enough that YARN is asked for more executors: Spark asks when work has waited for a second.
_SPREADING_QUERY = "SELECT sum(hash(id)) FROM range(0, 300000000, 1, 32)"


@dataclass(frozen=True)
class Outcome:
    """What the demo found."""

    pipelines: list[dict[str, Any]]
    evidence: list[proof.Evidence]
    work: proof.Work
    picture: Path


def cluster() -> Cluster:
    """Return the demo's cluster; its cluster.yml is written on the first call and may be edited."""
    path = state_root() / NAME / "cluster.yml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(initial_spec(name=NAME, workers=2, memory=None), encoding="utf-8")
    return Cluster.from_file(path)


def check_tools() -> None:
    """Raise UsageError, with the line to type, for what the demo needs of this machine."""
    if missing := rpackage.missing_packages():
        raise UsageError(
            f"R lacks {', '.join(missing)}",
            hint="sudo apt-get install " + " ".join(f"r-cran-{name.lower()}" for name in missing),
        )


def load_tables(of: Cluster, folder: Path, report: Callable[[str, int, int], None]) -> None:
    """Make the three tables, unless they are there with all their rows."""
    with of.session() as session:
        for name, rows in data.ROWS.items():
            if _rows(session, name) == rows:
                continue
            written = write_table(
                prepare(folder / f"{name}.csv", types=None, na_strings=("NA", "")),
                name,
                "replace",
                webhdfs=of.webhdfs,
                session=session,
                staging=of.hdfs_path(".rpicluster-staging"),
                progress=lambda done, total, name=name: report(name, done, total),  # type: ignore[misc]
                properties=_SMALL_SPLITS if name == "flights" else None,
            )
            if written != rows:
                raise Unhealthy(f"{name} has {written} rows, {rows} were expected")


def _rows(session: Any, table: str) -> int | None:
    try:
        return int(session.sql(f"SELECT count(*) FROM {table}").rows()[0][0])
    except SqlError as error:
        if "TABLE_OR_VIEW_NOT_FOUND" in error.message:
            return None
        raise


def spread(of: Cluster, application: str) -> None:
    """Give Spark enough to do that it takes an executor on every worker, as a longer job would."""
    deadline = time.monotonic() + _SPREAD_TIMEOUT_S
    wanted = min(proof.NODES_NEEDED, len(of.spec.workers))
    with of.session() as session:
        while len({e.node for e in of.spark.executors(application) if not e.is_driver}) < wanted:
            if time.monotonic() > deadline:
                raise Unhealthy(
                    f"Spark did not get executors on {wanted} nodes within {_SPREAD_TIMEOUT_S} s",
                    hint="rpicluster jobs list --cluster demo",
                )
            session.sql(_SPREADING_QUERY).rows()


def run(of: Cluster, folder: Path, connection: Path | None = None) -> Outcome:
    """Run the R script against the cluster and collect the proof; raises RpiclusterError if R fails.

    `connection` replaces the cluster's own session: a test uses it to show that the proof cannot be had
    without a cluster.
    """
    door = connection or of.connection_path
    results = of.site.directory / "demo"
    results.mkdir(mode=0o700, exist_ok=True)
    with Connection.load(door).session() as session:
        application = session.app_id()
        before = _work(of, application)
        pipelines = _run_r(door, folder, results)
        work = _work(of, application).since(before)
        evidence = proof.prove(
            yarn=of.yarn,
            webhdfs=of.webhdfs,
            session=session,
            application=application,
            work=work,
            pipelines=pipelines,
        )
    return Outcome(pipelines, evidence, work, results / "timings.png")


def _work(of: Cluster, application: str) -> proof.Work:
    try:
        return proof.work_so_far(of.spark, application)
    except RpiclusterError:
        # Spark's pages at the session's address know no such application: then no work is proven
        return proof.Work({}, {}, 0)


def _run_r(connection: Path, folder: Path, results: Path) -> list[dict[str, Any]]:
    library = results / "library"
    rpackage.install(library)
    outcome = results / "results.json"
    outcome.unlink(missing_ok=True)
    rscript = shutil.which("Rscript")
    if rscript is None:
        raise UsageError("R is not installed", hint="sudo apt-get install r-base-core")
    with as_file(files("rpicluster.demo") / "flights.R") as script:
        done = subprocess.run(
            [rscript, str(script), str(connection), str(folder), str(results)],
            env={**os.environ, "R_LIBS": f"{library}{os.pathsep}{os.environ.get('R_LIBS', '')}"},
            timeout=_R_TIMEOUT_S,
            check=False,
        )
    if not outcome.exists():
        raise RpiclusterError(f"the R script ended with code {done.returncode} and no results")
    found: list[dict[str, Any]] = json.loads(outcome.read_text(encoding="utf-8"))
    return found
