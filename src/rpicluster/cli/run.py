"""`run`: a script on the manager, with a driver of its own; what `jobs attach` shares with it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console, human_bytes, human_duration
from rpicluster.cli.options import cluster_option, examples, find_cluster
from rpicluster.errors import RpiclusterError, TransferError, UsageError

if TYPE_CHECKING:
    from rpicluster.sites.batch import Record, Runs

INTERRUPTED = 130


@click.command(
    epilog=examples(
        "rpicluster run analysis.R",
        "rpicluster run model.py -- --year 2013",
        "rpicluster run analysis.R --file helpers.R --file data/",
        "rpicluster run --detach night.R && rpicluster jobs list",
    )
)
@click.argument("script", type=click.Path(path_type=Path))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@cluster_option
@click.option(
    "--file",
    "declared",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A file or folder that the script reads, to lie beside it there; may be repeated.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where its results come to, a new folder [default: results/RUN].",
)
@click.option("--detach", is_flag=True, help="Start it, say how to come back, and end.")
def run(
    script: Path,
    arguments: tuple[str, ...],
    which: str | None,
    declared: tuple[Path, ...],
    results: Path | None,
    detach: bool,
) -> int:
    """Run SCRIPT, R or Python, on the cluster's manager, with a driver and an application of its own.

    Its packages are looked for there first. What it says comes here; Ctrl-C, a closed lid or a lost network
    leave it running, and `rpicluster jobs attach` comes back. What it writes into the folder `results` is
    brought home, and its exit code is this command's.

    An R script reaches Spark by DBI::dbConnect(rpicluster::rpi()), a Python script by
    SparkSession.builder.getOrCreate().
    """
    from rpicluster.sites.batch_checks import read_script

    what = read_script(script, declared)
    if not what.needs.exact:
        console.say("R is not on this machine: the script's packages were found by patterns, and may be more")
    cluster = find_cluster(which)
    runs = cluster.runs
    if results is not None and results.exists():
        raise UsageError(f"{results} is there already", hint="name a new folder, or leave --results out")
    started = runs.start(what, arguments, say=console.say)
    runs.remember(started, target=str((results or Path("results") / started).absolute()))
    if detach:
        console.data(started)
        console.next_step(f"rpicluster jobs attach {started}")
        return 0
    console.say(f"{started} runs on {runs.machine.name}; Ctrl-C leaves it running there")
    return watch(runs, started)


def watch(runs: "Runs", run_id: str, *, from_start: bool = False, results: Path | None = None) -> int:
    """Show a run's log until it has ended, bring its results home, and return its exit code."""
    try:
        record = runs.follow(run_id, show=console.raw, say=console.say, from_start=from_start)
    except KeyboardInterrupt:
        console.say(f"\n{run_id} goes on without you")
        console.next_step(f"rpicluster jobs attach {run_id}", f"rpicluster jobs kill {run_id}")
        return INTERRUPTED
    brought = _bring(runs, record, results)
    code = _tell(record)
    return code if brought or code else 1


def _bring(runs: "Runs", record: "Record", results: Path | None) -> bool:
    """Bring the results of a run home, once; return False if that failed, which is then told."""
    known = runs.recall(record.id)
    if not record.result_files:
        return True
    if known.get("fetched") and results is None and Path(known["fetched"]).exists():
        console.say(f"its results are in {known['fetched']}")
        return True
    target = results or Path(known.get("target") or Path("results") / record.id)
    try:
        brought = runs.fetch(record.id, target)
    except (RpiclusterError, OSError) as error:
        again = f"rpicluster jobs attach {record.id} --results FOLDER"
        said = error if isinstance(error, RpiclusterError) else TransferError(f"{target}: {error.strerror}")
        console.error(TransferError(said.message, hint=again))
        return False
    if brought.left:
        console.warn(f"left there, because they are no plain files: {', '.join(brought.left[:10])}")
    console.say(f"results: {brought.files} files, {human_bytes(brought.bytes)}, in {brought.folder}")
    return True


def _tell(record: "Record") -> int:
    """Say how a run ended, and return its exit code."""
    took = ""
    if record.ended_at is not None and record.ended_at > record.submitted_at:
        took = f" after {human_duration(record.ended_at - record.submitted_at)}"
    if record.log_cut:
        console.warn(f"the log of {record.id} is not whole: it was too long, or the manager's disk was full")
    if record.state == "ended":
        why = f": {record.reason}" if record.reason else ""
        console.say(f"{record.id} ended with exit code {record.exit_code}{took}{why}")
        return record.exit_code if record.exit_code is not None else 1
    words = {"killed": "was killed", "lost": "did not end by itself", "failed": "could not be run"}
    hint = "rpicluster status" if record.state == "failed" else None
    console.error(
        RpiclusterError(
            f"{record.id} {words.get(record.state, record.state)}{took}: {record.reason}", hint=hint
        )
    )
    return 1
