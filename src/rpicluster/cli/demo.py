"""`demo`."""

import time

import click

from rpicluster.cli.console import console, human_bytes, human_duration, styled
from rpicluster.cli.lifecycle import bring_up
from rpicluster.cli.options import examples, json_option, yes_option
from rpicluster.errors import Unhealthy


@click.command(epilog=examples("rpicluster demo", "rpicluster destroy --cluster demo"))
@yes_option
@json_option
def demo(yes: bool, as_json: bool) -> None:
    """Bring up a cluster on this machine, query 336,776 flights from R, and prove that the cluster did it.

    It fails unless YARN, Spark and HDFS confirm every claim. Afterwards the cluster stays up.
    """
    from rpicluster.demo import data, run

    started = time.monotonic()
    run.check_tools()
    cluster = run.cluster()
    console.say(f"cluster {cluster.name}: {len(cluster.spec.nodes)} virtual nodes on this machine")
    bring_up(cluster, yes=yes, guide=False)
    ready = time.monotonic()
    with console.bars() as update:
        folder = data.fetch(lambda p: update(p.what, p.done_bytes, p.total_bytes or None, p.phase))
        run.load_tables(
            cluster,
            folder,
            lambda name, done, total: update(
                name, done, total, f"{human_bytes(done)} of {human_bytes(total)} into HDFS"
            ),
        )
        update("executors", 0, None, "one for every worker")
        run.spread(cluster, cluster.check_door()["application"])
    console.say("five dplyr pipelines, on the cluster and in local R:")
    outcome = run.run(cluster, folder)
    took = time.monotonic() - started
    if as_json:
        console.document(
            {
                "seconds": took,
                "pipelines": outcome.pipelines,
                "evidence": [evidence.__dict__ for evidence in outcome.evidence],
                "picture": str(outcome.picture),
            }
        )
    console.say("\nproof, asked of YARN, Spark and HDFS:")
    for evidence in outcome.evidence:
        mark = styled("yes", fg="green") if evidence.holds else styled("NO ", fg="red")
        console.say(f"  {mark}  {evidence.claim}: {evidence.seen}")
    for node, tasks in sorted(outcome.work.tasks.items()):
        seconds = outcome.work.task_ms[node] / 1000
        console.say(f"  {node} ran {tasks} tasks in {seconds:.1f} s of task time")
    cpu = [sum(p[key] for p in outcome.pipelines) for key in ("cluster_cpu_s", "local_cpu_s")]
    console.say(f"  CPU-seconds of this R: {cpu[0]:.2f} with the cluster, {cpu[1]:.2f} alone")
    console.say(f"  timings as a picture: {outcome.picture}")
    failed = [evidence.claim for evidence in outcome.evidence if not evidence.holds]
    if failed:
        raise Unhealthy(
            f"the demo is not proven: {'; '.join(failed)}", hint="rpicluster status --cluster demo"
        )
    came_up = human_duration(ready - started)
    console.say(
        f"\ndone in {human_duration(took)}, of which the cluster took {came_up} to come up.\n"
        "A laptop alone is faster on data this small; the point is that your R did not have to do it."
    )
    console.next_step(
        "rpicluster r-install",
        "rpicluster connect --cluster demo",
        "rpicluster sql --cluster demo 'select carrier, count(*) from flights group by carrier'",
        "rpicluster destroy --cluster demo",
    )
