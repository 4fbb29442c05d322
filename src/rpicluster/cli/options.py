"""Options that several commands share."""

import sys
from typing import TYPE_CHECKING

import click

from rpicluster.errors import UsageError

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

format_option = click.option(
    "--format",
    "disks",
    metavar="DISK",
    multiple=True,
    help="Make a new file system on this disk, which loses everything on it: one that cluster.yml names as "
    "`storage: {disk: DISK}`, never one that is mounted or booted from.",
)


def find_cluster(which: str | None) -> "Cluster":
    """Return the cluster that `--cluster` names; raises SpecError or UsageError."""
    from rpicluster.cli.console import console
    from rpicluster.cluster import Cluster

    cluster = Cluster.find(which)
    cluster.ask_password = ask_password
    cluster.tell = console.say
    return cluster


def ask_password(nodes: str) -> str:
    """Ask once for the password of sudo, without showing it; exit 2 where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError(
            f"sudo wants a password on {nodes}, and there is no terminal to ask for it",
            hint="let the login run sudo without one, or run this in a terminal",
        )
    password: str = click.prompt(f"password of sudo on {nodes}", hide_input=True, err=True)
    return password


def examples(*lines: str) -> str:
    """Return text for click's `epilog`: examples, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
