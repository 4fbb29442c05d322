"""`up`, `status`, `stop`, `start`, `destroy`."""

from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console, human_bytes, human_duration
from rpicluster.cli.options import (
    cluster_option,
    examples,
    find_cluster,
    format_option,
    json_option,
    yes_option,
)
from rpicluster.errors import Unhealthy, UsageError

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster
    from rpicluster.design.plan import Plan


@click.command(epilog=examples("rpicluster up", "rpicluster up --yes --json"))
@cluster_option
@yes_option
@json_option
@click.option("--plan", "plan_file", type=click.Path(exists=True, dir_okay=False), help="Apply a saved plan.")
@click.option("--verify", is_flag=True, help="Run a small job on two workers even if nothing changed.")
@format_option
@click.option("--reboot", is_flag=True, help="Reboot boards whose firmware settings changed.")
def up(
    which: str | None,
    yes: bool,
    as_json: bool,
    plan_file: str | None,
    verify: bool,
    disks: tuple[str, ...],
    reboot: bool,
) -> None:
    """Make the cluster what cluster.yml says, and wait until it answers a query.

    Run it again after an interruption: it continues.
    """
    cluster = find_cluster(which)
    cluster.may_reboot(reboot)
    cluster.may_format(disks)
    bring_up(cluster, yes=yes, as_json=as_json, plan_file=plan_file, verify=verify)


def bring_up(
    cluster: "Cluster",
    *,
    yes: bool,
    as_json: bool = False,
    plan_file: str | None = None,
    guide: bool = True,
    verify: bool = False,
) -> None:
    """Plan, ask, apply, wait; also what `demo` does first."""
    from rpicluster.cli.design import read_plan, show_host_keys, show_plan

    with cluster.changing("up"):
        try:
            fetch_runtime(cluster)
            plan = cluster.plan()
        finally:
            show_host_keys(cluster)
        if plan_file and read_plan(plan_file).hash != plan.hash:
            raise UsageError(
                f"{plan_file} is stale: the cluster or its cluster.yml changed since it was saved",
                hint="run `rpicluster plan --output FILE` again and look at what is different",
            )
        if plan.refusals:
            if not as_json:
                show_plan(plan)
            raise UsageError("the plan is refused: " + "; ".join(plan.refusals))
        if plan.steps:
            if not yes and not as_json:
                show_plan(plan)
            if not console.confirm(f"Apply this to {cluster.name}?", yes=yes):
                raise UsageError("nothing was changed")
        timings = apply_and_wait(cluster, plan, verify=verify)
    if as_json:
        console.document({"cluster": cluster.name, "changed": len(plan.steps), "timings_s": timings})
    else:
        for what, seconds in timings.items():
            console.say(f"  {what}: {human_duration(seconds)}")
    if guide:
        console.next_step("rpicluster status", "rpicluster connect")


def fetch_runtime(cluster: "Cluster") -> None:
    """Make sure that the runtime is in the cache, with a bar for each download."""
    with console.bars() as update:
        cluster.ensure_runtime(
            lambda p: update(
                p.what,
                p.done_bytes,
                p.total_bytes or None,
                f"{p.phase} {human_bytes(p.done_bytes)} of {human_bytes(p.total_bytes)}"
                if p.total_bytes
                else p.phase,
            )
        )


def apply_and_wait(cluster: "Cluster", plan: "Plan", *, verify: bool = False) -> dict[str, float]:
    """Apply with a line a step, then wait with a line a part; return seconds by phase."""
    with console.bars() as update:
        return cluster.apply(
            plan, report=lambda key, text, share: update(key, share, 1.0, text), verify=verify
        )


@click.command(epilog=examples("rpicluster status", "rpicluster status --json"))
@cluster_option
@json_option
def status(which: str | None, as_json: bool) -> None:
    """Say what is alive; answers within 2 seconds whatever is dead. Exit code 6 if something is wrong."""
    cluster = find_cluster(which)
    found = cluster.status()
    if as_json:
        console.document(found.document())
    else:
        console.table(
            ("part", "where", "state", "detail"), [(p.name, p.where, p.state, p.detail) for p in found.parts]
        )
        for note in found.notes:
            console.say(note)
    if not found.healthy:
        raise Unhealthy(
            found.cause or "something is wrong",
            hint=f"rpicluster start --cluster {cluster.name}",
        )


@click.command(epilog=examples("rpicluster stop"))
@cluster_option
def stop(which: str | None) -> None:
    """Stop every daemon of the cluster; files and tables stay where they are."""
    cluster = find_cluster(which)
    with cluster.changing("stop"), console.bars() as update:
        cluster.stop(report=lambda key, text, share: update(key, share, 1.0, text))
    console.say(f"{cluster.name} is stopped")
    console.next_step("rpicluster start")


@click.command(epilog=examples("rpicluster start"))
@cluster_option
def start(which: str | None) -> None:
    """Start a stopped or crashed cluster exactly as it was set up; `up` is for changes."""
    cluster = find_cluster(which)
    with cluster.changing("start"), console.bars() as update:
        timings = cluster.start(report=lambda key, text, share: update(key, share, 1.0, text))
    for what, seconds in timings.items():
        console.say(f"  {what}: {human_duration(seconds)}")
    console.next_step("rpicluster status", "rpicluster connect")


@click.command(epilog=examples("rpicluster destroy", "rpicluster destroy --confirm demo"))
@cluster_option
@click.option("--confirm", "given", metavar="NAME", help="The cluster's name, instead of being asked for it.")
def destroy(which: str | None, given: str | None) -> None:
    """Stop the cluster and remove all its files, HDFS included; then look whether anything is left."""
    cluster = find_cluster(which)
    console.confirm_name(
        f"This deletes cluster {cluster.name} with everything in its HDFS.", cluster.name, given=given
    )
    with console.bars() as update:
        leftovers = cluster.destroy(report=lambda key, text, share: update(key, share, 1.0, text))
    if leftovers:
        raise Unhealthy("something is left: " + "; ".join(leftovers))
    console.say(f"{cluster.name} is gone: no process, port or file of it is left; {cluster.spec_path} stays")
