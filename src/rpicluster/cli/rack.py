"""`rack`: virtual Pis on this machine."""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console, human_bytes, human_duration
from rpicluster.cli.options import examples, json_option
from rpicluster.errors import UsageError

if TYPE_CHECKING:
    from rpicluster.nodes.rack.answering import Report

name_option = click.option(
    "--name", metavar="NAME", help="Which rack [default: the one that is up, else `rack`]."
)


@contextmanager
def _progress() -> Iterator["Report"]:
    with console.bars() as update:
        yield lambda key, text, share: update(key, share, 1.0, text)


@click.group(
    epilog=examples(
        "sudo rpicluster rack up --nodes 4G,2G,2G",
        "sudo rpicluster rack status",
        "sudo rpicluster rack ssh pi2 free -m",
        "sudo rpicluster rack down",
    )
)
def rack() -> None:
    """Boot virtual Pis on this Linux machine: systemd, sshd, true memory limits, a network of their own.

    Needs root. Everything but `down --keep` is undone by `rack down`, which looks whether anything is left.
    """


@rack.command(epilog=examples("sudo rpicluster rack up --nodes 4G,2G,2G --cpus 1,0.5,0.5"))
@click.option("--nodes", metavar="MEM,…", help="Memory of pi1, pi2, … [default: 4G,2G,2G].")
@click.option("--cpus", metavar="N,…", help="CPUs that each may use at a time [default: all].")
@click.option(
    "--suite", type=click.Choice(("bookworm", "trixie")), help="Debian release [default: bookworm]."
)
@click.option("--name", metavar="NAME", help="The rack's name [default: rack].")
@click.option("--dir", "directory", type=click.Path(file_okay=False, path_type=Path), help="Where it stands.")
@click.option("--subnet", metavar="A.B.C.0/24", help="Its IPv4 subnet [default: the first free one].")
@click.option("--disk", metavar="SIZE", help="Size of each node's disk, sparse [default: 16G].")
def up(
    nodes: str | None,
    cpus: str | None,
    suite: str | None,
    name: str | None,
    directory: Path | None,
    subnet: str | None,
    disk: str | None,
) -> None:
    """Boot the nodes and write a cluster.yml for them; continues what was broken off."""
    from rpicluster.nodes.rack import lifecycle
    from rpicluster.nodes.rack.addresses import parse_subnet
    from rpicluster.nodes.rack.request import check_rack_name, parse_disk, parse_nodes
    from rpicluster.nodes.rack.state import DEFAULT_NAME

    wanted = lifecycle.Wanted(
        name=check_rack_name(name or DEFAULT_NAME),
        nodes=parse_nodes(nodes or lifecycle.DEFAULT_NODES, cpus) if nodes or cpus else None,
        suite=suite,
        directory=directory,
        subnet=parse_subnet(subnet) if subnet else None,
        disk_mib=parse_disk(disk) if disk else None,
    )
    with _progress() as report:
        result = lifecycle.up(wanted, report=report)
    made = result.state
    for note in result.notes:
        console.warn(note)
    total = human_duration(sum(result.timings_s.values()))
    phases = ", ".join(f"{what} {human_duration(seconds)}" for what, seconds in result.timings_s.items())
    console.say(
        f"rack {made.name}: {len(made.nodes)} nodes up in {total} ({phases}), "
        f"{made.network.v4} and {made.network.v6}"
    )
    console.say(f"in {made.directory}: cluster.yml, ssh_config, known_hosts, id_ed25519")
    console.say("\nwhat a rack cannot show:")
    for limit in lifecycle.LIMITS:
        console.say(f"  - {limit}")
    console.next_step(
        f"ssh -F {shlex.quote(str(made.ssh_config))} {made.nodes[0].name}",
        f"rpicluster plan --cluster {shlex.quote(str(made.directory / 'cluster.yml'))}",
        _as_root("down", made.name),
    )


def _as_root(command: str, name: str) -> str:
    """Return the line to type for another rack command, the way that this one was called."""
    from rpicluster.nodes.rack.host import this_program
    from rpicluster.nodes.rack.state import DEFAULT_NAME, invoking_user

    program = f"sudo {this_program()}" if invoking_user() else "rpicluster"
    return f"{program} rack {command}" + ("" if name == DEFAULT_NAME else f" --name {name}")


@rack.command(epilog=examples("sudo rpicluster rack status", "sudo rpicluster rack status --json"))
@name_option
@json_option
def status(name: str | None, as_json: bool) -> None:
    """Show each node: power, SSH, cable, memory in use (file cache included) of its limit."""
    from rpicluster.model.memory import format_memory
    from rpicluster.nodes.rack import power

    found, nodes = power.status(name)
    if as_json:
        console.document(
            {
                "rack": found.name,
                "suite": found.suite,
                "directory": str(found.directory),
                "subnet": str(found.network.v4),
                "subnet6": str(found.network.v6),
                "nodes": [asdict(node) for node in nodes],
            }
        )
        return
    console.table(
        ("node", "power", "ssh", "cable", "address", "address6", "used", "memory", "cpus"),
        [
            (
                node.name,
                node.power,
                "answers" if node.answers else "-",
                node.cable,
                node.address,
                node.address6,
                "-" if node.used_mib is None else f"{node.used_mib}M",
                format_memory(node.memory_mib),
                node.cpus or "all",
            )
            for node in nodes
        ],
        right="used memory cpus",
    )


@rack.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    epilog=examples("sudo rpicluster rack ssh pi1", "sudo rpicluster rack ssh pi2 free -m"),
)
@name_option
@click.argument("node")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def ssh(name: str | None, node: str, command: tuple[str, ...]) -> None:
    """Log in on NODE, or run COMMAND there; its exit code becomes this one's."""
    from rpicluster.nodes.rack.answering import ssh_argv
    from rpicluster.nodes.rack.state import require_rack

    found = require_rack(name)
    found.node(node)
    argv = ssh_argv(found, node, *command)
    os.execvp(argv[0], argv)  # noqa: S606  a list, no shell here


@rack.command(epilog=examples("sudo rpicluster rack cut pi3"))
@name_option
@click.argument("node")
def cut(name: str | None, node: str) -> None:
    """Cut NODE's power: every process in it dies at once. What its disk had is there at the next boot."""
    from rpicluster.nodes.rack import power
    from rpicluster.nodes.rack.state import DEFAULT_NAME

    power.cut(name, node)
    console.say(f"{node} is off")
    console.next_step(_as_root(f"boot {node}", name or DEFAULT_NAME))


@rack.command(epilog=examples("sudo rpicluster rack boot pi3"))
@name_option
@click.argument("node")
def boot(name: str | None, node: str) -> None:
    """Switch NODE on and wait until it answers."""
    from rpicluster.nodes.rack import power

    with _progress() as report:
        was_off = power.boot(name, node, report=report)
    console.say(f"{node} is up" if was_off else f"{node} was on already")


@rack.command(epilog=examples("sudo rpicluster rack reboot pi3"))
@name_option
@click.argument("node")
def reboot(name: str | None, node: str) -> None:
    """Reboot NODE in good order and wait until it answers."""
    from rpicluster.nodes.rack import power

    with _progress() as report:
        power.reboot(name, node, report=report)
    console.say(f"{node} is up again")


@rack.command(epilog=examples("sudo rpicluster rack link pi3 down", "sudo rpicluster rack link pi3 up"))
@name_option
@click.argument("node")
@click.argument("direction", type=click.Choice(("down", "up")))
def link(name: str | None, node: str, direction: str) -> None:
    """Pull NODE's network cable, or plug it in; a pulled one stays out over reboots."""
    from rpicluster.nodes.rack import power

    power.link(name, node, direction)
    console.say(f"the cable of {node} is {'out' if direction == 'down' else 'in'}")


@rack.command(
    "fill-disk",
    epilog=examples(
        "sudo rpicluster rack fill-disk pi2 --leave 10M", "sudo rpicluster rack fill-disk pi2 --undo"
    ),
)
@name_option
@click.argument("node")
@click.option("--leave", metavar="SIZE", default="10M", show_default=True, help="What stays free.")
@click.option("--undo", is_flag=True, help="Give the space back.")
def fill_disk(name: str | None, node: str, leave: str, undo: bool) -> None:
    """Fill NODE's disk; this machine's own disk is filled by as much."""
    from rpicluster.model.memory import parse_memory
    from rpicluster.nodes.rack import power
    from rpicluster.nodes.rack.state import DEFAULT_NAME

    if undo:
        console.say(f"{human_bytes(power.empty_disk(name, node))} given back on {node}")
        return
    try:
        leave_mib = parse_memory(leave)
    except ValueError as error:
        raise UsageError(f"--leave: {leave!r} is not a size", hint="e.g.: --leave 10M") from error
    taken = power.fill_disk(name, node, leave_mib << 20)
    console.say(f"{human_bytes(taken)} taken on {node}, {leave} stay free")
    console.next_step(_as_root(f"fill-disk {node} --undo", name or DEFAULT_NAME))


@rack.command(epilog=examples("sudo rpicluster rack add 2G"))
@name_option
@click.argument("memory")
@click.option("--cpus", metavar="N", help="CPUs that it may use at a time [default: all].")
def add(name: str | None, memory: str, cpus: str | None) -> None:
    """Boot one more node with MEMORY, and add it to cluster.yml unless that was edited."""
    from rpicluster.nodes.rack import lifecycle
    from rpicluster.nodes.rack.request import parse_cpus, parse_memory_limit

    with _progress() as report:
        node, notes = lifecycle.add(
            name, parse_memory_limit(memory), parse_cpus(cpus) if cpus else None, report=report
        )
    for note in notes:
        console.warn(note)
    console.say(f"{node} is up")


@rack.command(epilog=examples("sudo rpicluster rack down", "sudo rpicluster rack down --keep"))
@name_option
@click.option("--keep", is_flag=True, help="Shut down in good order and keep disks for the next `rack up`.")
def down(name: str | None, keep: bool) -> None:
    """Remove the rack: processes, mounts, cgroups, network and disks; then look whether anything is left."""
    from rpicluster.nodes.rack import teardown

    with _progress() as report:
        gone = teardown.down(name, keep=keep, report=report)
    console.say(
        f"rack {gone} is off, its disks are kept"
        if keep
        else f"rack {gone} is gone: no process, mount, cgroup, interface, route or rule of it is left"
    )
    if keep:
        console.next_step(_as_root("up", gone))
