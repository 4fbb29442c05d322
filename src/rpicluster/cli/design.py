"""`init` and `plan`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rpicluster.cli.console import console, styled
from rpicluster.cli.options import cluster_option, examples, find_cluster, format_option, json_option
from rpicluster.design.plan import Plan, diff
from rpicluster.errors import UsageError

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster

CHANGES_PENDING = 3


@click.command(
    epilog=examples(
        "rpicluster init",
        "rpicluster init --name lab --workers 3 ~/lab/cluster.yml",
        "rpicluster init --ssh pi@192.168.1.11,pi@192.168.1.12,pi@192.168.1.13",
        "rpicluster init --ssh manager=pi@pi1.lan,ana@pi2.lan:2200 --name lab lab.yml",
        "rpicluster init --cloud-init cards --nodes 3",
        "rpicluster init --cloud-init cards --nodes 3 --address 192.168.1.11/24 --gateway 192.168.1.1",
        "rpicluster init --cloud-init cards --nodes pi4,pi5 --image raspios --key ~/.ssh/pis.pub",
    )
)
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=Path("cluster.yml"))
@click.option("--name", help="The cluster's name [default: demo, of real nodes lab].")
@click.option("--workers", type=click.IntRange(1, 16), help="Virtual workers on this machine [default: 2].")
@click.option("--memory", help="Memory of each worker, such as 2G [default: what suits this machine].")
@click.option(
    "--ssh",
    "nodes_behind_ssh",
    metavar="[NAME=][USER@]HOST[:PORT],…",
    multiple=True,
    help="For real nodes that answer SSH; the first one manages.",
)
@click.option(
    "--cloud-init",
    "cards",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="For real Pis: write what goes on the boot partition of each card to DIR/NODE.",
)
@click.option("--nodes", metavar="N|NAME,…", help="Cards: how many, pi1 to piN, or their names [default: 3].")
@click.option(
    "--image", type=click.Choice(("ubuntu", "raspios")), help="Cards: what is on them [default: ubuntu]."
)
@click.option("--user", help="Cards: the login to create; it may use sudo [default: pi].")
@click.option(
    "--key",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Cards: your public SSH key [default: the first of ~/.ssh/id_*.pub].",
)
@click.option(
    "--address", metavar="A.B.C.D/N", help="Cards: a fixed address, others count on from it [default: DHCP]."
)
@click.option("--gateway", metavar="A.B.C.D", help="Cards: the router, with --address.")
@click.option(
    "--dns",
    metavar="A.B.C.D",
    multiple=True,
    help="Cards: name servers, with --address [default: the router].",
)
@click.option("--replace", is_flag=True, help="Cards: write anew what is in DIR.")
def init(
    path: Path,
    name: str | None,
    workers: int | None,
    memory: str | None,
    nodes_behind_ssh: tuple[str, ...],
    cards: Path | None,
    **about_cards: Any,
) -> None:
    """Write a cluster.yml for virtual nodes on this machine, sized so that it is accepted.

    With --ssh: for real nodes; nothing is asked of them, `rpicluster check` does that.
    With --cloud-init: files for the cards of real Pis, so that their first boot ends with a login by your SSH
    key and no other, and a cluster.yml that names them. A cluster.yml that is there stays as it is.
    """
    if (cards is not None or nodes_behind_ssh) and (workers or memory):
        raise UsageError("--workers and --memory are for virtual nodes", hint="rpicluster init --help")
    if cards is not None and nodes_behind_ssh:
        raise UsageError("--ssh is for nodes that run, --cloud-init for cards of new ones: one of both")
    if cards is not None:
        from rpicluster.cli.cards import write_cards

        defaults = {"nodes": "3", "image": "ubuntu", "user": "pi"}
        chosen = {option: value or defaults.get(option) for option, value in about_cards.items()}
        write_cards(path=path, folder=cards, name=name or "lab", **{**chosen, "dns": about_cards["dns"]})
        return
    useless = [f"--{option}" for option, value in about_cards.items() if value]
    if useless:
        raise UsageError(f"{', '.join(useless)}: only with --cloud-init DIR", hint="rpicluster init --help")
    if path.exists():
        raise UsageError(
            f"{path} is there already; it is not overwritten", hint=f"rpicluster plan --cluster {path}"
        )
    if nodes_behind_ssh:
        from rpicluster.design.first_nodes import cluster_spec, entries
        from rpicluster.model.specfile import parse_spec

        text = cluster_spec(name or "lab", entries(nodes_behind_ssh))
        parse_spec(text, str(path))  # refuses a name that is none, before anything is written
    else:
        from rpicluster.nodes.local.first_spec import initial_spec

        text = initial_spec(name=name or "demo", workers=workers or 2, memory=memory)
    from rpicluster.nodes.written import write_text

    write_text(path, text)
    console.say(f"wrote {path}")
    console.next_step(*(["rpicluster check"] if nodes_behind_ssh else []), "rpicluster plan", "rpicluster up")


@click.command(
    epilog=examples(
        "rpicluster plan", "rpicluster plan --diff", "rpicluster plan --explain", "rpicluster plan -o p.json"
    )
)
@cluster_option
@json_option
@format_option
@click.option("--diff", "with_diff", is_flag=True, help="Show the very bytes that change.")
@click.option("--explain", "with_sizes", is_flag=True, help="Show the arithmetic behind every size.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Save the plan for `up --plan`."
)
@click.option("--exit-code", is_flag=True, help="Exit with 3 if there is something to do.")
def plan(
    which: str | None,
    as_json: bool,
    disks: tuple[str, ...],
    with_diff: bool,
    with_sizes: bool,
    output: Path | None,
    exit_code: bool,
) -> int:
    """Show what `up` would do: + create, ~ change, - remove, ! start, stop or restart. Changes nothing."""
    cluster = find_cluster(which)
    cluster.may_format(disks)
    try:
        found = cluster.plan(texts=with_diff)
    finally:
        show_host_keys(cluster)  # whatever else is wrong: they were learnt
    if output:
        output.write_text(found.to_json() + "\n", encoding="utf-8")
    if as_json:
        console.data(found.to_json())
    else:
        if with_sizes:
            show_sizes(cluster.explain())
        show_plan(found, with_diff=with_diff)
    return CHANGES_PENDING if exit_code and found.steps else 0


def show_host_keys(cluster: "Cluster") -> None:
    """Print the host keys that were learnt just now, to be compared on the nodes, and who is elsewhere."""
    for node, key in cluster.new_host_keys.items():
        console.warn(f"first contact with {node}: its host key is {key.type} {key.fingerprint}")
    for note in cluster.address_notes:
        console.warn(note)


def show_sizes(nodes: dict[str, list[tuple[str, int, str]]]) -> None:
    """Print each node's memory as a sum, with the reason for every part."""
    for node, lines in nodes.items():
        console.data(styled(node, bold=True))
        for label, memory_mib, reason in lines:
            console.data(f"  {memory_mib:>7} MiB  {label:<18} {reason}")
    console.data("")


def show_plan(found: Plan, *, with_diff: bool = False) -> None:
    """Print a plan, node by node, and its summary."""
    colours = {"+": "green", "~": "yellow", "-": "red", "!": "cyan"}
    for warning in found.warnings:
        console.warn(warning)
    for node, cause in found.unreachable.items():
        console.warn(f"{node} cannot be reached and is left out: {cause}")
    for refusal in found.refusals:
        console.warn(f"refused: {refusal}")
    node = ""
    for step in sorted(found.steps, key=lambda step: step.node):
        if step.node != node:
            node = step.node
            console.data(styled(node, bold=True))
        symbol = styled(step.symbol, fg=colours[step.symbol])
        console.data(f"  {symbol} {step.action.value} {step.target} ({step.reason})")
        if with_diff and (changes := diff(step)):
            console.data("".join("      " + line for line in changes.splitlines(keepends=True)).rstrip("\n"))
    console.data(found.summary() if found.steps else "Plan: nothing to do")


def read_plan(path: str) -> Plan:
    """Return a saved plan; raises UsageError if the file is none."""
    try:
        return Plan.from_json(Path(path).read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UsageError(f"{path}: {error}", hint="save one with `rpicluster plan --output FILE`") from error
