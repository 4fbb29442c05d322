"""`check` and `ssh`: nodes behind SSH, one by one."""

import os

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import cluster_option, examples, find_cluster, json_option
from rpicluster.errors import Unreachable, UsageError


@click.command(epilog=examples("rpicluster check", "rpicluster check --json"))
@cluster_option
@json_option
def check(which: str | None, as_json: bool) -> None:
    """Look at every node: does it answer, is it large enough, may it be changed. Changes nothing."""
    from rpicluster.cli.design import show_host_keys

    cluster = find_cluster(which)
    try:
        found = cluster.check()
    finally:
        show_host_keys(cluster)
    if as_json:
        console.document({"cluster": cluster.name, "nodes": [vars(node) for node in found]})
    else:
        console.table(
            ("node", "address", "system", "memory", "cores", "java", "state"),
            [
                (
                    n.name,
                    n.address or "-",
                    n.system or "-",
                    f"{n.memory_mib} MiB" if n.memory_mib else "-",
                    n.cores or "-",
                    n.java or "-",
                    n.state,
                )
                for n in found
            ],
        )
    if unreachable := [node for node in found if node.state == "unreachable"]:
        raise Unreachable("; ".join(node.detail for node in unreachable))
    if refused := [node.detail for node in found if node.state == "refused"]:
        raise UsageError("; ".join(dict.fromkeys(refused)))
    console.next_step("rpicluster plan")


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog=examples("rpicluster ssh pi2", "rpicluster ssh pi2 -- free -m"),
)
@cluster_option
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(which: str | None, node: str, command: tuple[str, ...]) -> None:
    """Log in on a node with your own OpenSSH, or run a command there."""
    line = find_cluster(which).ssh_command(node, command)
    os.execvp(line[0], line)  # noqa: S606  the terminal and its signals are ssh's from here on
