"""Options that several commands share."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster

cluster_option = click.option(
    "-c",
    "--cluster",
    "which",
    metavar="NAME|PATH",
    help="A name or a cluster.yml [default: ./cluster.yml, else $RPICLUSTER_CLUSTER, else the only one].",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document to stdout.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def find_cluster(which: str | None) -> "Cluster":
    """Return the cluster that `--cluster` names; raises SpecError or UsageError."""
    from rpicluster.cluster import Cluster

    return Cluster.find(which)


def examples(*lines: str) -> str:
    """Return text for click's `epilog`: examples, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
