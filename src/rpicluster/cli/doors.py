"""`connect`, `r-install`, `version`: the ways in from R and Python."""

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rpicluster import __version__
from rpicluster.cli.console import console
from rpicluster.cli.options import cluster_option, examples, find_cluster, json_option

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster


@click.command(
    epilog=examples(
        "rpicluster connect",
        "rpicluster connect --r > connect.R",
        "rpicluster connect --pages",
        "rpicluster connect --status",
        "rpicluster connect --print-command",
        "rpicluster connect --json",
        "rpicluster disconnect",
    )
)
@cluster_option
@json_option
@click.option("--r", "only_r", is_flag=True, help="Print the R lines only.")
@click.option("--python", "only_python", is_flag=True, help="Print the Python lines only.")
@click.option("--pages", is_flag=True, help="Open the way for a browser, and print what to type.")
@click.option("--status", is_flag=True, help="Say what is open; changes nothing.")
@click.option("--print-command", is_flag=True, help="Print the ssh line that opens the same; opens nothing.")
def connect(
    which: str | None,
    as_json: bool,
    only_r: bool,
    only_python: bool,
    pages: bool,
    status: bool,
    print_command: bool,
) -> None:
    """Open what R and a browser need, see that the session answers, print the lines that connect R or Python.

    Where the nodes are behind SSH, one connection carries all doors, on 127.0.0.1 alone. It is kept: opened
    again after a lost network or a sleep, whether this terminal stays or not, until `rpicluster disconnect`,
    `stop` or `destroy`.

    With --pages: the addresses of the daemons' pages, and the SOCKS proxy through which a browser sees them.
    """
    cluster = find_cluster(which)
    if status or print_command:
        from rpicluster.cli.tunnel import show_command, show_state

        (show_state if status else show_command)(cluster, as_json)
        return
    doors = cluster.doors()
    if doors is not None:
        doors.keep()
    if pages:
        _show_pages(cluster, as_json)
        return
    door = cluster.check_door()
    r_lines = (
        f'con <- DBI::dbConnect(rpicluster::rpi(), cluster = "{cluster.name}")\ndplyr::tbl(con, "flights")'
    )
    python_lines = (
        "from rpicluster.cluster import Cluster\n"
        f'with Cluster.find("{cluster.name}").session() as session:\n'
        '    print(session.sql("select 1").rows())'
    )
    if as_json:
        console.document({"cluster": cluster.name, "connection": str(cluster.connection_path), **door})
        return
    if not only_python:
        console.data(r_lines)
    if not only_r:
        if not only_python:
            console.data("")
        console.data(python_lines)
    if not (only_r or only_python):
        answered = f"answered in {door['answer_s']:.2f} s"
        console.say(f"\nSpark {door['spark_version']}, application {door['application']}, {answered}")
        if doors is not None:
            console.say("Its doors stay open on 127.0.0.1, until: rpicluster disconnect")
        console.next_step("rpicluster r-install", "R")


def _show_pages(cluster: "Cluster", as_json: bool) -> None:
    found, port = cluster.pages()
    proxy = f"socks5h://127.0.0.1:{port}" if port else None  # h: names are the manager's to look up
    if as_json:
        console.document({"cluster": cluster.name, "pages": found, "proxy": proxy})
        return
    for name, address in found.items():
        console.data(f"{name:<6} {address}")
    if port is None:
        return
    first = found["YARN"]
    browser = f'--user-data-dir="$(mktemp -d)" --proxy-server=socks5://127.0.0.1:{port}'
    console.say(f"\nTheir SOCKS proxy is on 127.0.0.1, port {port}; it leads to the cluster's pages alone.")
    console.say(f"  chromium {browser} {first}")
    console.say(f"  curl --proxy {proxy} {first}")
    console.say("  Firefox: Settings, Network Settings, Manual proxy: SOCKS v5 host and port as above")


@click.command(
    "r-install", epilog=examples("rpicluster r-install", "rpicluster r-install --library ~/R/library")
)
@click.option(
    "--library", type=click.Path(file_okay=False, path_type=Path), help="Into this library [default: yours]."
)
def r_install(library: Path | None) -> None:
    """Put the R package rpicluster into your R library and tell it where this Python is."""
    from rpicluster.rpackage import install

    target, version = install(library)
    console.say(f"R package rpicluster {version} is in {target}")
    console.next_step("rpicluster connect --r")


@click.command(epilog=examples("rpicluster version", "rpicluster version --json"))
@json_option
def version(as_json: bool) -> None:
    """Print versions, and where this installation and its Python stand."""
    from rpicluster.runtime.lock import load_lock

    locked = {artifact.name: artifact.version for artifact in load_lock().artifacts}
    document = {
        "version": __version__,
        "python": sys.executable,
        "python_version": platform.python_version(),
        "rpicluster": str(Path(sys.argv[0]).absolute()),
        "runtime": locked,
    }
    if as_json:
        console.document(document)
        return
    console.data(f"rpicluster {__version__} (Python {document['python_version']}, {sys.executable})")
    for name, number in locked.items():
        console.data(f"  {name} {number}")
