"""Links, addresses, routes and names."""

import shlex
from collections.abc import Iterator

from rpicluster.health.findings.finding import (
    NOTE,
    PROBLEM,
    WARNING,
    Node,
    Seen,
    Trouble,
    cluster_kind,
    node_kind,
)

_GIGABIT = 1000
_ETHERNET_MTU = 1500
SLOW_LOOKUP_S = 0.5


@node_kind("no-ipv4", PROBLEM, "A node has no IPv4 address")
def no_ipv4(node: Node) -> Iterator[Trouble]:
    """Interfaces were seen, and none of those that are up has a global IPv4 address."""
    interfaces = node.facts.interfaces
    if not interfaces:
        return
    found = [
        a for i in interfaces if i.up for a in i.addresses if ":" not in a.address and a.scope == "global"
    ]
    if not found:
        yield Trouble(
            what=f"{node.name} has no IPv4 address",
            cause="no DHCP server answered, or the network is not configured",
            evidence=tuple(
                f"{i.name}: {'up' if i.up else 'down'}, "
                f"{', '.join(a.address for a in i.addresses) or 'no address'}"
                for i in interfaces
            ),
            fix="the daemons listen on IPv4: give it an address",
            command=node.run("ip addr; sudo journalctl -b -u NetworkManager -u systemd-networkd -n 30"),
        )


@node_kind("no-default-route", WARNING, "A node has no way to the internet")
def no_default_route(node: Node) -> Iterator[Trouble]:
    """No IPv4 default route. Only apt needs one; the cluster itself does not."""
    facts = node.facts
    if not facts.interfaces or node.is_unseen("routes"):
        return
    if not any(route.family == 4 for route in facts.routes):
        yield Trouble(
            what=f"{node.name} has no default route",
            cause="a static address without a gateway, or no DHCP server answered",
            evidence=("`ip route show default`: nothing for IPv4",),
            fix="without one apt finds no packages: set a gateway",
            command=node.run("ip route; ip addr"),
        )


@node_kind("address-dynamic", NOTE, "A node's address may change")
def address_dynamic(node: Node) -> Iterator[Trouble]:
    """The address that the cluster uses has a lifetime: it comes from DHCP."""
    interface = node.interface
    found = [a for a in interface.addresses if a.dynamic and ":" not in a.address] if interface else []
    if interface and found:
        yield Trouble(
            what=f"the address of {node.name} comes from DHCP",
            cause="the usual default",
            evidence=tuple(
                f"{a.address} on {interface.name} ({interface.mac}) has a lifetime" for a in found
            ),
            fix=f"reserve {found[0].address} for {interface.mac} in the router, so that it stays",
            command=node.run(f"ip addr show {interface.name}"),
        )


@cluster_kind("mtu-mismatch", WARNING, "Nodes' networks have different packet sizes")
def mtu_mismatch(seen: Seen) -> Iterator[Trouble]:
    """MTU of the interfaces that carry the cluster: small requests work, and large transfers hang."""
    groups = seen.groups(lambda node: node.interface.mtu if node.interface else None)
    if len(groups) > 1:
        common = max(groups, key=lambda mtu: (len(groups[mtu]), mtu == _ETHERNET_MTU, mtu))
        odd = next(nodes[0] for mtu, nodes in groups.items() if mtu != common)
        name = odd.interface.name if odd.interface else "eth0"
        yield Trouble(
            what=f"nodes have different MTUs: {', '.join(str(mtu) for mtu in groups)}",
            cause="jumbo frames on some of them only, or a tunnel",
            evidence=tuple(
                f"MTU {mtu}: "
                + ", ".join(f"{n.name} ({n.interface.name})" for n in nodes if n.interface is not None)
                for mtu, nodes in groups.items()
            ),
            fix=f"set the same on all nodes, also in their network configuration; here on {odd.name}",
            command=odd.run(f"sudo ip link set {name} mtu {common}"),
        )


@node_kind("link-slow", WARNING, "A cable runs at less than a gigabit")
def link_slow(node: Node) -> Iterator[Trouble]:
    """The interface that carries the cluster, where the board's own socket can do more."""
    interface = node.interface
    if interface is None or not interface.hardware or interface.wireless or interface.speed_mbps is None:
        return
    board = node.facts.board.type if node.facts.board else None
    can = board.ethernet_mbps if board else _GIGABIT
    if interface.speed_mbps < min(can, _GIGABIT):
        yield Trouble(
            what=f"{interface.name} of {node.name} runs at {interface.speed_mbps} Mb/s",
            cause="a cable with a broken pair, a 100 Mb/s switch or port, or a bad plug",
            evidence=(f"{interface.name}: {interface.speed_mbps} Mb/s, the board can do {can}",),
            fix="try another cable and another port of the switch; shuffles and HDFS run at this speed",
            command=node.run(f"cat /sys/class/net/{interface.name}/speed; sudo ethtool {interface.name}"),
        )


@node_kind("half-duplex", PROBLEM, "A cable sends or receives, never both")
def half_duplex(node: Node) -> Iterator[Trouble]:
    """A failed negotiation: collisions make it far slower than its speed says."""
    interface = node.interface
    if interface is not None and interface.duplex == "half" and interface.up:
        yield Trouble(
            what=f"{interface.name} of {node.name} is half duplex",
            cause="one end has a fixed speed and the other negotiates, or the other end is a hub",
            evidence=(f"{interface.name}: {interface.speed_mbps} Mb/s, duplex half",),
            fix="let the switch's port negotiate, or use a switch in place of the hub",
            command=node.run(
                f"cat /sys/class/net/{interface.name}/duplex; sudo ethtool -s {interface.name} autoneg on"
            ),
        )


@node_kind("wireless", WARNING, "A node is in the cluster by radio")
def wireless(node: Node) -> Iterator[Trouble]:
    """The interface that carries the cluster is a wireless one."""
    interface = node.interface
    if interface is not None and interface.wireless:
        yield Trouble(
            what=f"{node.name} is in the cluster by Wi-Fi",
            cause="no cable is plugged in, or cluster.yml has the address of the wireless interface",
            evidence=(
                f"{interface.name}: {', '.join(a.address for a in interface.addresses) or 'no address'}",
            ),
            fix="plug in a cable and write its address in cluster.yml: shuffles are bound by the network",
            command=node.run("ip -br addr"),
        )


@node_kind("dns-slow", WARNING, "A node waits for names")
def dns_slow(node: Node) -> Iterator[Trouble]:
    """A lookup of the node's own name or address took longer than 0.5 s; Hadoop asks all the time."""
    asked = {
        "its own name": node.facts.names.own_name,
        "its own address": node.facts.names.own_address,
    }
    slow = {
        what: lookup
        for what, lookup in asked.items()
        if lookup is not None and (lookup.timed_out or lookup.duration_s > SLOW_LOOKUP_S)
    }
    if slow:
        yield Trouble(
            what=f"{node.name} waits long for names",
            cause="a name server that does not answer for private addresses, or is not there",
            evidence=(
                *(
                    f"{what}: {lookup.duration_s:.2f} s{', cut off' if lookup.timed_out else ''}"
                    for what, lookup in slow.items()
                ),
                f"asked: {', '.join(node.facts.names.servers) or 'no server'}",
            ),
            fix="`rpicluster up` writes the nodes into /etc/hosts; or use a name server that answers",
            command=node.run('time getent hosts "$(hostname)"; cat /etc/resolv.conf'),
        )


@node_kind("dns-none", WARNING, "A node has nobody to ask for names")
def dns_none(node: Node) -> Iterator[Trouble]:
    """No name server is configured: apt finds none of its servers. Not asked of a cluster on this machine."""
    names = node.facts.names
    looked = names.own_name is not None and not node.is_unseen("resolver")
    if looked and not names.servers and node.host is not None:
        yield Trouble(
            what=f"{node.name} has no name server",
            cause="/etc/resolv.conf names none: DHCP gave none, or a fixed address was set without one",
            evidence=("no `nameserver` line in /etc/resolv.conf",),
            fix="name your router, where the node's network is set up: netplan, NetworkManager or dhcpcd",
            command=node.run("ls -l /etc/resolv.conf; cat /etc/resolv.conf; ip route"),
        )


@node_kind("own-name-unknown", WARNING, "A node does not find its own name")
def own_name_unknown(node: Node) -> Iterator[Trouble]:
    """Neither /etc/hosts nor a name server knows it: Java's own-name lookups fail, and sudo complains."""
    names = node.facts.names
    lookup = names.own_name
    if lookup is not None and names.hostname and not lookup.found and not lookup.timed_out:
        yield Trouble(
            what=f"{node.name} does not find its own name {names.hostname}",
            cause="its line is gone from /etc/hosts, and no name server knows it",
            evidence=(f"getent ahosts {names.hostname}: nothing, after {lookup.duration_s:.2f} s",),
            fix="add the line that Debian's installer writes",
            command=node.run(f"echo {shlex.quote('127.0.1.1 ' + names.hostname)} | sudo tee -a /etc/hosts"),
        )


@node_kind("cloud-init-hosts", NOTE, "The hosts file is rewritten by cloud-init")
def cloud_init_hosts(node: Node) -> Iterator[Trouble]:
    """With manage_etc_hosts it writes the file anew at each boot, and lines of others are gone."""
    init = node.facts.cloud_init
    if init is not None and init.manages_hosts:
        yield Trouble(
            what=f"cloud-init writes /etc/hosts of {node.name} anew at each boot",
            cause="manage_etc_hosts is set in its configuration",
            evidence=("manage_etc_hosts: true, below /etc/cloud or in the instance's data",),
            fix="switch it off",
            command=node.run(
                "echo 'manage_etc_hosts: false' | sudo tee /etc/cloud/cloud.cfg.d/99-rpicluster.cfg"
            ),
        )
