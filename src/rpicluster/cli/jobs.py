"""`jobs`: list, attach, logs, kill."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import cluster_option, examples, find_cluster, json_option, yes_option
from rpicluster.errors import RpiclusterError, UsageError

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster
    from rpicluster.sites.batch import Record


@click.group(
    epilog=examples(
        "rpicluster jobs list",
        "rpicluster jobs attach",
        "rpicluster jobs logs application_1_0001",
        "rpicluster jobs kill ID",
    )
)
def jobs() -> None:
    """List, explain and stop the applications on YARN, and the runs of scripts on the manager."""


@jobs.command("list", epilog=examples("rpicluster jobs list --json"))
@cluster_option
@json_option
def list_jobs(which: str | None, as_json: bool) -> None:
    """List runs of scripts, then applications, newest first."""
    cluster = find_cluster(which)
    applications = cluster.yarn.applications()
    found = _runs_of(cluster)
    if as_json:
        console.document(
            {
                "jobs": [application.document() for application in applications],
                "runs": [record.document() for record in found],
            }
        )
        return
    if found:
        console.table(
            ("run", "script", "state", "exit code", "application", "started", "results"),
            [
                (
                    r.id,
                    r.script,
                    r.state,
                    "" if r.exit_code is None else r.exit_code,
                    r.application or "",
                    _clock(r.submitted_at),
                    r.result_files or "",
                )
                for r in found
            ],
            right="results",
        )
        console.data("")
    console.table(
        ("id", "name", "user", "state", "result", "containers", "started"),
        [
            (a.id, a.name, a.user, a.state, a.final_status, a.containers, _clock(a.started_s))
            for a in applications
        ],
        right="containers",
    )


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _runs_of(cluster: "Cluster") -> "list[Record]":
    try:
        return cluster.runs.all()
    except RpiclusterError as error:  # YARN answers all the same
        console.warn(f"the runs of scripts are not listed: {error.message}")
        return []


@jobs.command(
    "attach",
    epilog=examples("rpicluster jobs attach", "rpicluster jobs attach run-20251123-152233 --from-start"),
)
@click.argument("run", required=False)
@cluster_option
@click.option("--from-start", is_flag=True, help="Show its log from the first line, not from the last shown.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its results come to, a new folder [default: what `run` said, else results/RUN].",
)
def attach(run: str | None, which: str | None, from_start: bool, results: Path | None) -> int:
    """Come back to RUN [default: the newest]: the log goes on, results come home, its exit code is ours."""
    from rpicluster.cli.run import watch
    from rpicluster.sites.batch import is_run

    if run is not None and not is_run(run):
        raise UsageError(f"{run!r} is no run of a script", hint="`rpicluster jobs list` shows them")
    runs = find_cluster(which).runs
    return watch(runs, run or runs.latest(), from_start=from_start, results=results)


@jobs.command("logs", epilog=examples("rpicluster jobs logs application_1_0001"))
@click.argument("application")
@cluster_option
def logs(application: str, which: str | None) -> None:
    """Say in plain words why APPLICATION failed, then print its logs; of a run, what it has said so far."""
    from rpicluster.health.causes import explain
    from rpicluster.sites.batch import is_run

    cluster = find_cluster(which)
    if is_run(application):
        console.raw(cluster.runs.log(application))
        return
    found = cluster.yarn.application(application)
    text = cluster.job_logs(application)
    cause = explain(found.diagnostics, text)
    console.say(f"{found.id} ({found.name}): {found.state}, {found.final_status}")
    if cause:
        console.say(f"\n{cause.title}\n  evidence: {cause.evidence}")
        console.hint(cause.fix)
        console.say()
    elif found.diagnostics.strip():
        console.say(found.diagnostics.strip())
    console.data(text)


@jobs.command("kill", epilog=examples("rpicluster jobs kill application_1_0001"))
@click.argument("application")
@cluster_option
@yes_option
def kill(application: str, which: str | None, yes: bool) -> None:
    """Stop APPLICATION, or a run of a script. A warm session that is killed comes back by itself."""
    from rpicluster.sites.batch import is_run

    cluster = find_cluster(which)
    if is_run(application):
        _kill_run(cluster, application, yes=yes)
        return
    found = cluster.yarn.application(application)
    if not console.confirm(f"Kill {found.id} ({found.name}, {found.state}, of {found.user})?", yes=yes):
        raise UsageError("nothing was killed")
    cluster.yarn.kill(application)
    console.say(f"{application} is killed")


def _kill_run(cluster: "Cluster", run: str, *, yes: bool) -> None:
    runs = cluster.runs
    record = runs.one(run)
    if record.is_final:
        raise UsageError(f"{run} has ended already ({record.state})", hint=f"rpicluster jobs attach {run}")
    if not console.confirm(f"Kill {run} ({record.script})?", yes=yes):
        raise UsageError("nothing was killed")
    console.say(f"{run} is {runs.kill(run).state}")
