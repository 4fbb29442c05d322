"""`jobs`: list, logs, kill."""

import time

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import cluster_option, examples, find_cluster, json_option, yes_option
from rpicluster.errors import UsageError


@click.group(
    epilog=examples(
        "rpicluster jobs list", "rpicluster jobs logs application_1_0001", "rpicluster jobs kill ID"
    )
)
def jobs() -> None:
    """List, explain and stop the applications on YARN."""


@jobs.command("list", epilog=examples("rpicluster jobs list --json"))
@cluster_option
@json_option
def list_jobs(which: str | None, as_json: bool) -> None:
    """List applications, newest first."""
    applications = find_cluster(which).yarn.applications()
    if as_json:
        console.document({"jobs": [application.document() for application in applications]})
        return
    console.table(
        ("id", "name", "user", "state", "result", "containers", "started"),
        [
            (
                a.id,
                a.name,
                a.user,
                a.state,
                a.final_status,
                a.containers,
                time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(a.started_s)),
            )
            for a in applications
        ],
        right="containers",
    )


@jobs.command("logs", epilog=examples("rpicluster jobs logs application_1_0001"))
@click.argument("application")
@cluster_option
def logs(application: str, which: str | None) -> None:
    """Say in plain words why APPLICATION failed, then print its logs."""
    from rpicluster.health.causes import explain

    cluster = find_cluster(which)
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
    """Stop APPLICATION on the cluster. A warm session that is killed comes back by itself."""
    cluster = find_cluster(which)
    found = cluster.yarn.application(application)
    if not console.confirm(f"Kill {found.id} ({found.name}, {found.state}, of {found.user})?", yes=yes):
        raise UsageError("nothing was killed")
    cluster.yarn.kill(application)
    console.say(f"{application} is killed")
