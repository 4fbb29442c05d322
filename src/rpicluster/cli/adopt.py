"""`adopt`: a cluster that another machine set up."""

from pathlib import Path

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import ask_password, examples


@click.command(epilog=examples("rpicluster adopt pi@192.168.1.11", "rpicluster adopt pi@pi1.lan lab.yml"))
@click.argument("manager", metavar="USER@MANAGER")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=Path("cluster.yml"))
def adopt(manager: str, path: Path) -> None:
    """Use and change a cluster from this machine, too, that another one set up.

    Fetches its cluster.yml from the manager, never over a file that is there, and lets this machine tunnel
    with a key of its own. Your ssh must get into every node, and sudo work there.
    """
    from rpicluster import adopted
    from rpicluster.cli.design import show_host_keys
    from rpicluster.cli.lifecycle import fetch_runtime

    found = adopted.adopt(manager, path, ask_password)
    for note in found.notes:
        console.warn(note)
    cluster = found.cluster
    fetch_runtime(cluster)
    found.join()
    show_host_keys(cluster)
    console.say(f"wrote {path}; {cluster.name} is known here as well")
    console.next_step("rpicluster status", "rpicluster connect", "rpicluster plan")
