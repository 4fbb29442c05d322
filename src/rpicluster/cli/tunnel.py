"""`connect --status`, `connect --print-command` and `disconnect`: the tunnel as its user sees it."""

import time
from typing import TYPE_CHECKING

import click

from rpicluster.cli.console import console, human_duration
from rpicluster.cli.options import cluster_option, examples, find_cluster
from rpicluster.errors import Unreachable, UsageError

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster
    from rpicluster.sites.doors import Doors, DoorsState, Way


@click.command(epilog=examples("rpicluster disconnect", "rpicluster disconnect --cluster shelf"))
@cluster_option
def disconnect(which: str | None) -> None:
    """Close what `connect` opened: the ports on 127.0.0.1, the SSH connection, and the process that kept it.

    What R has running on the cluster goes on there; only the way to it is closed.
    """
    cluster = find_cluster(which)
    closed = _doors(cluster).close()
    console.say(
        f"the tunnel to {cluster.name} is closed" if closed else f"no tunnel to {cluster.name} is open"
    )
    console.next_step("rpicluster connect")


def show_state(cluster: "Cluster", as_json: bool) -> None:
    """Say what is open; raises Unreachable while a tunnel that is kept is not."""
    found = _doors(cluster).state()
    if as_json:
        console.document({"cluster": cluster.name, **found.document(time.time())})
    else:
        _say(cluster.name, found)
    if found.kept and not found.open:
        why = found.told.why if found.told else ""
        raise Unreachable(
            f"the tunnel to {cluster.name} is not open at the moment{f': {why}' if why else ''}; it is tried "
            "again by itself",
            hint="try at once: rpicluster connect",
        )


def _say(name: str, found: "DoorsState") -> None:
    told = found.told
    if told is None:
        console.say(
            f"a connection to {name} is open, by another command; nobody keeps it"
            if found.open
            else f"no tunnel to {name} is open"
        )
        console.next_step("rpicluster connect")
        return
    console.table(("door", "here", "leads to", "state"), [_row(way) for way in _joined(found.ways)])
    lasting = human_duration(max(0.0, time.time() - told.since))
    again = f", opened again {told.opened - 1} times" if told.opened > 1 else ""
    outage = f", the last time after {told.lost_s:.1f} s" if again and told.lost_s is not None else ""
    pids = f"kept by pid {told.pid}" + (f", ssh is pid {told.ssh_pid}" if told.ssh_pid else "")
    console.say(f"\n{told.state} for {lasting}{again}{outage}; {pids}")


def _row(ways: "list[Way]") -> tuple[str, str, str, str]:
    first, last = ways[0], ways[-1]
    here, there = f"127.0.0.1:{first.local}", first.leads_to
    if first is not last:
        here, there = f"{here}-{last.local}", f"{there}-{last.leads_to.rpartition(':')[2]}"
    return first.name, here, there, first.state


def _joined(ways: "tuple[Way, ...]") -> "list[list[Way]]":
    """Return ways with those of one name and state that follow one another in one row."""
    rows: list[list[Way]] = []
    for way in ways:
        before = rows[-1][-1] if rows else None
        if before and (before.name, before.state, before.local + 1) == (way.name, way.state, way.local):
            rows[-1].append(way)
        else:
            rows.append([way])
    return rows


def show_command(cluster: "Cluster", as_json: bool) -> None:
    """Print the ssh line that opens the same by hand."""
    doors = _doors(cluster)
    line = doors.command()
    if as_json:
        console.document({"cluster": cluster.name, "command": line})
    else:
        console.data(line)
    if doors.state().open:
        console.say("\nThese ports are open already; before you use the line: rpicluster disconnect")


def _doors(cluster: "Cluster") -> "Doors":
    doors = cluster.doors()
    if doors is None:
        raise UsageError(
            f"the session of {cluster.name} is on this machine: there is no tunnel, and none is needed",
            hint="rpicluster connect",
        )
    return doors
