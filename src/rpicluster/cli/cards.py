"""`init --cloud-init`: the files for the cards of nodes, and a cluster.yml that names these nodes."""

import re
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, NetmaskValueError
from pathlib import Path

from rpicluster.cli.console import console
from rpicluster.errors import UsageError

MAX_CARDS = 200


def write_cards(
    *,
    path: Path,
    folder: Path,
    name: str,
    nodes: str,
    image: str,
    user: str,
    key: Path | None,
    address: str | None,
    gateway: str | None,
    dns: tuple[str, ...],
    replace: bool,
) -> None:
    """Write a folder a node, and `path` unless it is there; raises UsageError and SpecError."""
    from rpicluster.design.cards import (
        PARTITIONS,
        Card,
        Image,
        addresses,
        card_files,
    )
    from rpicluster.design.first_nodes import cluster_spec, node_lines
    from rpicluster.model.specfile import parse_spec
    from rpicluster.nodes.ssh.public_keys import public_keys
    from rpicluster.nodes.written import refuse_existing, write_text

    names = node_names(nodes)
    key_file, keys = public_keys(key)
    router, static = _static(address, gateway, dns)
    given = addresses(static, len(names), router) if static and router else (None,) * len(names)
    servers = tuple(_ip("--dns", text) for text in dns) or ((router,) if router else ())
    cards = tuple(
        Card(node, Image(image), user, keys, at, router, servers)
        for node, at in zip(names, given, strict=True)
    )
    entries = [card.entry for card in cards]
    text = cluster_spec(name, entries)
    parse_spec(text, str(path))  # refuses names and logins that are none, before anything is written
    files = {
        folder / card.name / file: content for card in cards for file, content in card_files(card).items()
    }
    refuse_existing(files, replace=replace)
    for file, content in files.items():
        write_text(file, content, replace=replace)
    partition = PARTITIONS[Image(image)]
    for card in cards:
        console.say(
            f"wrote {folder / card.name}: copy its files to the partition {partition} of {card.name}'s card"
        )
    console.say(f"who may log in: {user}, by the key {key_file}")
    if path.exists():
        console.say(f"{path} stays as it is. The lines for these nodes:")
        for line in node_lines(entries):
            console.data(line)
    else:
        write_text(path, text)
        console.say(f"wrote {path}")
    console.next_step("rpicluster discover", "rpicluster check")


def node_names(text: str) -> tuple[str, ...]:
    """Return pi1..piN for a number, else the names of a list; raises UsageError."""
    from rpicluster.design.first_nodes import node_name

    if re.fullmatch(r"[0-9]{1,9}", text):
        count = int(text)
        if not 1 <= count <= MAX_CARDS:
            raise UsageError(f"--nodes: {count} is not between 1 and {MAX_CARDS}")
        return tuple(node_name(number) for number in range(1, count + 1))
    names = tuple(part.strip() for part in text.split(","))
    if len(names) > MAX_CARDS:
        raise UsageError(f"--nodes: {len(names)} names, at most {MAX_CARDS} at a time")
    return names


def _static(
    address: str | None, gateway: str | None, dns: tuple[str, ...]
) -> tuple[IPv4Address | None, IPv4Interface | None]:
    if address is None:
        if gateway or dns:
            raise UsageError("--gateway and --dns belong to --address; without it nodes ask DHCP")
        return None, None
    if gateway is None:
        raise UsageError(
            "--address needs --gateway: without one nodes reach no Debian packages",
            hint="your router's address, e.g.: --gateway 192.168.1.1",
        )
    try:
        first = IPv4Interface(address)
    except (AddressValueError, NetmaskValueError, ValueError):
        first = None
    if first is None or "/" not in address:
        raise UsageError(
            f"--address: {address!r} is no IPv4 address with a prefix", hint="e.g.: --address 192.168.1.11/24"
        )
    return _ip("--gateway", gateway), first


def _ip(option: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise UsageError(
            f"{option}: {text!r} is no IPv4 address", hint=f"e.g.: {option} 192.168.1.1"
        ) from None
