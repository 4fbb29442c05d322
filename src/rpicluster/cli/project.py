"""`project`: R projects for VS Code and RStudio."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import cluster_option, examples, find_cluster

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster


@click.group(epilog=examples("rpicluster project new my-analysis", "rpicluster project flights"))
def project() -> None:
    """Write an R project that works with a cluster, and load the data that it begins with."""


@project.command(
    epilog=examples("rpicluster project new my-analysis", "rpicluster project new ~/flights --cluster drawer")
)
@click.argument("folder", type=click.Path(path_type=Path))
@cluster_option
def new(folder: Path, which: str | None) -> None:
    """Write an R project for VS Code and RStudio to FOLDER, which must not be there yet.

    Its last part is the project's name. Where the cluster has a door for sparklyr, plain spark_connect() in
    that folder goes to the cluster.
    """
    from rpicluster.project.writing import project_for, write_project

    cluster = _cluster(which)
    wanted = project_for(folder.absolute().name, cluster)
    for path in write_project(folder.absolute(), wanted):
        console.say(f"wrote {path}")
    if cluster is None:
        console.say("there is no cluster yet; the project takes the one that there will be")
        console.next_step("rpicluster init", f"code {shlex.quote(str(folder))}")
        return
    sparklyr = f"goes to {wanted.master}" if wanted.master else "has no door there: scripts use DBI"
    console.say(f"cluster {cluster.name}; sparklyr {sparklyr}")
    console.next_step(
        f"rpicluster project flights --cluster {cluster.name}", f"code {shlex.quote(str(folder))}"
    )


@project.command(epilog=examples("rpicluster project config", "rpicluster project config ~/flights"))
@click.argument("folder", type=click.Path(file_okay=False, exists=True, path_type=Path), default=Path())
@cluster_option
def config(folder: Path, which: str | None) -> None:
    """Write config.yml of the project in FOLDER anew: where plain spark_connect() goes."""
    from rpicluster.project.writing import project_for, write_config

    wanted = project_for("unnamed", find_cluster(which))  # config.yml names the cluster, not the project
    console.say(f"wrote {write_config(folder, wanted)}: {wanted.master}")
    console.next_step("R", "sc <- sparklyr::spark_connect()")


@project.command(epilog=examples("rpicluster project flights", "rpicluster project flights --cluster drawer"))
@cluster_option
def flights(which: str | None) -> None:
    """Load the flights of New York 2013 into the cluster: the tables flights, airlines and weather.

    Those that are there already stay as they are. Another table of one of these names stops it.
    """
    from rpicluster.project.flights import load_flights

    cluster = find_cluster(which)
    with console.bars() as update:
        rows = load_flights(cluster, update)
    for name, count in rows.items():
        console.say(f"table {name}: {count:,} rows")
    console.next_step(f"rpicluster sql --cluster {cluster.name} 'select count(*) from flights'")


def _cluster(which: str | None) -> "Cluster | None":
    """Return the cluster that is meant; None where nobody named one and there is none yet."""
    from rpicluster.nodes.local.state import cluster_names, state_root
    from rpicluster.sites.spec_file import CLUSTER_VARIABLE, SPEC_FILE

    named = which or os.environ.get(CLUSTER_VARIABLE) or Path(SPEC_FILE).exists()
    return find_cluster(which) if named or cluster_names(state_root()) else None
