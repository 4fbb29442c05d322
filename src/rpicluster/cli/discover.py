"""`discover`: a helper that lists likely Pis on this network."""

import click

from rpicluster.cli.console import console
from rpicluster.cli.options import examples, json_option
from rpicluster.errors import RpiclusterError

DEADLINE_S = 5.0


@click.command(epilog=examples("rpicluster discover", "rpicluster discover --all --json"))
@json_option
@click.option(
    "--all", "everybody", is_flag=True, help="Also list hosts that announce SSH and are likely no Pi."
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, DEADLINE_S),
    default=3.0,
    show_default=True,
    help="How long to listen for answers, at most 5.",
)
def discover(as_json: bool, everybody: bool, seconds: float) -> None:
    """List likely Raspberry Pis: by this machine's neighbour table, and by multicast DNS.

    A Pi that this machine has not talked to lately, and that announces nothing, is not found. No address is
    scanned. Needs Linux; multicast DNS needs `pip install 'rpicluster[discover]'`.
    """
    from rpicluster.model.neighbours import find
    from rpicluster.nodes.discovery.mdns import listen
    from rpicluster.nodes.discovery.neighbours import neighbour_table

    notes: list[RpiclusterError] = []
    try:
        announced = listen(seconds)
    except RpiclusterError as error:
        announced = ()
        notes.append(error)
    try:
        neighbours = neighbour_table()  # after the question: whoever answered it is in the table now
    except RpiclusterError as error:
        if notes:  # nobody could be asked at all
            raise
        neighbours = ()
        notes.append(error)
    found = [machine for machine in find(neighbours, announced) if everybody or machine.likely]
    if as_json:
        console.document(
            {"machines": [vars(machine) for machine in found], "notes": [note.message for note in notes]}
        )
    else:
        console.table(
            ("address", "name", "mac", "why"),
            [(m.addresses[0], m.name or "-", m.mac or "-", "; ".join(m.reasons)) for m in found],
        )
        for note in notes:
            console.warn(note.message + (f" ({note.hint})" if note.hint else ""))
    if not found:
        console.say("no likely Pi was seen; your router lists who asked it for an address")
        return
    console.next_step("ssh pi@ADDRESS", "rpicluster check")
