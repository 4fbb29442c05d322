"""Who is likely a Raspberry Pi, by the address of its network card and by the name it announces. Pure."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_address

# The IEEE's register of MA-L prefixes (https://standards-oui.ieee.org/oui/oui.txt), entries of Raspberry Pi,
# read from copies of it of 2024 to 2026. A Pico W has such an address, too; it answers no SSH.
PREFIXES = {
    "b8:27:eb": "Raspberry Pi Foundation",
    "28:cd:c1": "Raspberry Pi Trading Ltd",
    "d8:3a:dd": "Raspberry Pi Trading Ltd",
    "dc:a6:32": "Raspberry Pi Trading Ltd",
    "e4:5f:01": "Raspberry Pi Trading Ltd",
    "2c:cf:67": "Raspberry Pi (Trading) Ltd",
    "88:a2:9e": "Raspberry Pi (Trading) Ltd",
}
# What the kernel keeps of a neighbour that did not answer (ip-neighbour(8)).
_SILENT = frozenset(("FAILED", "INCOMPLETE", "NONE"))
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")
_PI_NAME = re.compile(
    r"raspberrypi(-[0-9]+)?\.local"
)  # the name of an image that nobody named, and of its twins


@dataclass(frozen=True)
class Neighbour:
    """One entry of the kernel's neighbour table."""

    address: str
    mac: str
    interface: str


@dataclass(frozen=True)
class Announced:
    """One host that multicast DNS names."""

    name: str  # with .local
    addresses: tuple[str, ...]
    services: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """One machine: its names, addresses, and why it is listed. `likely` is whether it is taken for a Pi."""

    name: str
    addresses: tuple[str, ...]
    mac: str
    likely: bool
    reasons: tuple[str, ...] = field(default=())


def read_neighbours(text: str) -> tuple[Neighbour, ...]:
    """Return the answering IPv4 and IPv6 neighbours that `ip -json neigh` prints.

    Raises ValueError for what is not its answer.
    """
    document = json.loads(text or "[]")
    if not isinstance(document, list):
        raise ValueError("not a list of neighbours")
    found = []
    for entry in document:
        if not isinstance(entry, dict):
            raise ValueError("not a list of neighbours")
        mac, states = str(entry.get("lladdr", "")).lower(), entry.get("state") or []
        if not _MAC.fullmatch(mac) or set(states) & _SILENT:
            continue
        address = str(ip_address(str(entry["dst"]).partition("%")[0]))
        found.append(Neighbour(address, mac, str(entry.get("dev", ""))))
    return tuple(found)


def read_networks(text: str) -> tuple[IPv4Network, ...]:
    """Return the IPv4 networks that `ip -json -4 address` prints, without loopback.

    Raises ValueError for what is not its answer.
    """
    document = json.loads(text or "[]")
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise ValueError("not a list of interfaces")
    return tuple(
        IPv4Network(f"{about['local']}/{about['prefixlen']}", strict=False)
        for entry in document
        if "LOOPBACK" not in entry.get("flags", ())
        for about in entry.get("addr_info", ())
        if about.get("family") == "inet" and "local" in about and "prefixlen" in about
    )


def maker(mac: str) -> str | None:
    """Return who the prefix of a MAC address was given to, if that is a maker of Pis."""
    return PREFIXES.get(mac.lower()[:8])


def find(neighbours: Iterable[Neighbour], announced: Iterable[Announced]) -> tuple[Found, ...]:
    """Return machines that are likely Pis, then those that only announce SSH.

    The same MAC or a common address makes two answers one machine. IPv4 addresses stand first.
    """
    by_mac: dict[str, set[str]] = {}
    for neighbour in neighbours:
        by_mac.setdefault(neighbour.mac, set()).add(neighbour.address)
    hosts = {host.name: host for host in announced if _NAME.fullmatch(host.name)}
    found = []
    for mac, addresses in by_mac.items():
        named = [host for host in hosts.values() if addresses & set(host.addresses)]
        if not named and maker(mac) is None:
            continue
        for host in named:
            hosts.pop(host.name)
        found.append(_machine(mac, addresses.union(*(host.addresses for host in named)), named))
    found += [_machine("", set(host.addresses), [host]) for host in hosts.values() if host.addresses]
    return tuple(sorted(found, key=lambda machine: (not machine.likely, _order(machine.addresses[0]))))


def _machine(mac: str, addresses: set[str], named: list[Announced]) -> Found:
    reasons = []
    if (made_by := maker(mac)) is not None:
        reasons.append(f"its MAC address was given to {made_by}")
    names = [host.name for host in named]
    by_name = [name for name in names if _PI_NAME.fullmatch(name.lower())]
    reasons += [f"it calls itself {name}" for name in by_name]
    services = sorted({service for host in named for service in host.services})
    if services:
        reasons.append(f"it announces {', '.join(services)}")
    ordered = tuple(sorted(addresses, key=_order))
    return Found(names[0] if names else "", ordered, mac, bool(made_by or by_name), tuple(reasons))


def _order(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return (parsed.version, int(parsed))
