"""The rack's own network: one bridge, both subnets kept on this machine, a narrow way out for apt."""

import contextlib
import ipaddress
import json
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path

from rpicluster.errors import RackError
from rpicluster.nodes.rack.addresses import BRIDGE_PREFIX, Names, Network
from rpicluster.nodes.rack.commands import run, succeeds

FORWARD_SWITCH = Path("/proc/sys/net/ipv4/ip_forward")
FORWARD_TABLE = "rpicluster_forwarding"
# Behind the connected route: what is meant for the rack never takes the default route instead.
_BLACKHOLE_METRIC = "4096"


def rack_ruleset(names: Names, network: Network) -> str:
    """Return nft's text that replaces the rack's table: DNS, HTTP and HTTPS leave by NAT, nothing else does.

    IPv6 is never forwarded. Bridged packets pass, should br_netfilter show them to this chain.
    """
    bridge = f'"{names.bridge}"'
    return f"""\
table inet {names.table}
delete table inet {names.table}
table inet {names.table} {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname {bridge} oifname {bridge} accept
    iifname {bridge} meta nfproto ipv6 drop
    iifname {bridge} udp dport 53 accept
    iifname {bridge} tcp dport {{ 53, 80, 443 }} accept
    iifname {bridge} drop
    oifname {bridge} ct state established,related accept
    oifname {bridge} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {network.v4} oifname != {bridge} masquerade
  }}
}}
"""


def forwarding_ruleset(existing: Sequence[str]) -> str:
    """Return nft's text that keeps the machine from routing between the interfaces it had.

    A rack needs ip_forward; without this the machine would become a router for its neighbours too.
    Interfaces that come later (another program's bridges) are not concerned.
    """
    names = ", ".join(f'"{name}"' for name in sorted(existing))
    rule = f"\n    iifname {{ {names} }} oifname {{ {names} }} drop" if names else ""
    return f"""\
table inet {FORWARD_TABLE}
delete table inet {FORWARD_TABLE}
table inet {FORWARD_TABLE} {{
  chain forward {{
    type filter hook forward priority filter; policy accept;{rule}
  }}
}}
"""


def interfaces() -> list[str]:
    """Return the names of all network interfaces."""
    return [path.name for path in Path("/sys/class/net").iterdir()]


def networks_in_use() -> list[IPv4Network]:
    """Return every IPv4 destination that this machine has a route for, but the default."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    found = []
    for route in routes:
        with contextlib.suppress(ValueError):  # "default", and the names that a distribution may add
            found.append(ipaddress.IPv4Network(route.get("dst", ""), strict=False))
    return found


def ensure_network(names: Names, network: Network) -> None:
    """Make bridge, addresses, blackhole routes and rules what they have to be; safe to repeat."""
    if not Path(f"/sys/class/net/{names.bridge}").exists():
        try:
            run(["ip", "link", "add", names.bridge, "type", "bridge", "mcast_snooping", "0"])
        except RackError as error:
            raise RackError(
                f"this kernel makes no bridge: {error.message}", hint="sudo modprobe bridge, then try again"
            ) from error
    for family, prefix in (("-4", network.v4), ("-6", network.v6)):
        run(["ip", family, "route", "replace", "blackhole", str(prefix), "metric", _BLACKHOLE_METRIC])
    run(["ip", "address", "replace", f"{network.gateway4}/{network.v4.prefixlen}", "dev", names.bridge])
    v6 = f"{network.gateway6}/{network.v6.prefixlen}"
    run(["ip", "-6", "address", "replace", v6, "dev", names.bridge, "nodad"])
    run(["ip", "link", "set", names.bridge, "up"])
    run(["nft", "-f", "-"], stdin=rack_ruleset(names, network))


def remove_network(names: Names, network: Network | None) -> None:
    """Remove everything that `ensure_network` makes, whatever part of it is there."""
    if table_exists(names.table):
        run(["nft", "delete", "table", "inet", names.table])
    if Path(f"/sys/class/net/{names.bridge}").exists():
        run(["ip", "link", "delete", names.bridge])
    for link in interfaces():
        if link.startswith(names.cable("")):
            # A connection that a killed node could not end goes on in the kernel for minutes, and with it the
            # node's network and this end of its cable. Gone meanwhile is as good.
            succeeds(["ip", "link", "delete", link])
    if network:
        for family, prefix in (("-4", network.v4), ("-6", network.v6)):
            # absent after an interrupted `up`; the caller looks at the routes afterwards
            succeeds(["ip", family, "route", "delete", "blackhole", str(prefix), "metric", _BLACKHOLE_METRIC])


def table_exists(table: str) -> bool:
    """Return whether nftables has this table of family inet."""
    listing = json.loads(run(["nft", "-j", "list", "tables", "inet"]))
    return any(entry.get("table", {}).get("name") == table for entry in listing["nftables"])


def blackholes(network: Network) -> list[str]:
    """Return the rack's blackhole routes that are there."""
    found = []
    for family, prefix in (("-4", network.v4), ("-6", network.v6)):
        text = run(["ip", family, "route", "show", "type", "blackhole"])
        found += [line.strip() for line in text.splitlines() if str(prefix) in line.split()]
    return found


def enable_forwarding(remembered: Path) -> None:
    """Switch ip_forward on and keep its old value in a file; the caller holds the register's lock."""
    if remembered.exists() or FORWARD_SWITCH.read_text().strip() == "1":
        return
    others = [name for name in interfaces() if name != "lo" and not name.startswith(BRIDGE_PREFIX)]
    run(["nft", "-f", "-"], stdin=forwarding_ruleset(others))
    remembered.write_text(FORWARD_SWITCH.read_text())
    FORWARD_SWITCH.write_text("1\n")


def restore_forwarding(remembered: Path) -> None:
    """Put ip_forward back to what the file `remembered` holds; the caller knows that no rack is left."""
    if remembered.exists():
        FORWARD_SWITCH.write_text(remembered.read_text())
        remembered.unlink()
    if table_exists(FORWARD_TABLE):
        run(["nft", "delete", "table", "inet", FORWARD_TABLE])
