"""`export`: what other tools need to make the cluster."""

from pathlib import Path

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import cluster_option, examples, find_cluster


@click.group(epilog=examples("rpicluster export ansible ~/lab-ansible"))
def export() -> None:
    """Write what another tool needs to make the cluster without rpicluster."""


@export.command(
    epilog=examples("rpicluster export ansible ~/lab-ansible", "rpicluster export ansible --replace DIR")
)
@cluster_option
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Write anew a folder that an earlier export wrote.")
def ansible(which: str | None, folder: Path, replace: bool) -> None:
    """Write playbooks, inventory and every byte to FOLDER, for Ansible to run without rpicluster.

    Looks at the nodes and changes nothing there. FOLDER takes about 450 MB and holds no secret.
    """
    from rpicluster.cli.design import show_host_keys
    from rpicluster.cli.lifecycle import fetch_runtime

    cluster = find_cluster(which)
    with cluster.changing("export ansible"):
        fetch_runtime(cluster)
        cluster.export_ansible(folder, replace=replace)
    show_host_keys(cluster)
    console.say(f"wrote {folder}")
    console.next_step(f"cd {folder}", "ansible-playbook -i inventory apply.yml")
