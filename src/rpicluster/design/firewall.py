"""The firewall of a node: nftables rules for the cluster's own ports, in a table of their own.

On the way in, only members reach these ports; on the way out, only the cluster's own users do, because
Hadoop believes whatever name a client states, and only they answer from them, because members believe whoever
answers. Nothing else is ruled: a port that is not the cluster's stays
as it is, and what other tables drop stays dropped (a packet must be accepted by every table).
"""

import ipaddress
from collections.abc import Iterable, Mapping

from rpicluster.design import layout
from rpicluster.design.hosts_block import is_address
from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import HEADER
from rpicluster.model.ports import (
    DATANODE_INTERNAL_PORT,
    MANAGER_PORTS,
    SESSION_PORTS,
    SPARKLYR_REACH,
    WORKER_PORTS,
)
from rpicluster.model.spec import Role

NFT = "/usr/sbin/nft"
TABLE = "inet rpicluster"
SSH_PORT = 22
# Doors of a session that listen on loopback alone; clients come through a tunnel.
ON_LOOPBACK = ("connect",)
_REJECT = "counter reject with tcp reset"
Interval = tuple[int, int]  # first and last port


def guarded_ports(inputs: Inputs, name: str) -> tuple[Interval, ...]:
    """Return the ports on which node `name` listens for other members, sorted and merged."""
    ports, roles = inputs.node(name).ports, inputs.roles_of(name)
    found: list[Interval] = []
    if Role.MANAGER in roles:
        found += [(ports[key], ports[key]) for key in MANAGER_PORTS]
        more = len(inputs.executor_ports) - 1  # spark.port.maxRetries
        for user in inputs.users:
            bases = (inputs.session_port(user, key) for key in SESSION_PORTS if key not in ON_LOOPBACK)
            found += [(base, base + more) for base in bases]
    if Role.WORKER in roles:
        found += [(ports[key], ports[key]) for key in WORKER_PORTS]
        found.append((inputs.executor_ports[0], inputs.executor_ports[-1]))
    return _merged(found)


def cluster_ports(inputs: Inputs) -> tuple[Interval, ...]:
    """Return all ports on which members listen for one another."""
    return _merged({port for node in inputs.spec.nodes for port in guarded_ports(inputs, node.name)})


def doors(inputs: Inputs, name: str) -> tuple[Interval, ...]:
    """Return the ports on which the cluster listens on loopback of node `name`: sessions, DataNodes."""
    found: list[int] = []
    if name == inputs.manager:
        found += [inputs.session_port(user, key) for user in inputs.users for key in ON_LOOPBACK]
    if Role.WORKER in inputs.roles_of(name):
        found.append(DATANODE_INTERNAL_PORT)
    return _merged((port, port) for port in found)


def gateways(inputs: Inputs, name: str) -> dict[str, Interval]:
    """Return the ports of each user's sparklyr gateway on loopback of node `name`.

    The gateway asks nobody for a password, so its own user and the tunnel are all that may come in. The last
    range goes as far as the gateway may look for a port that is free.
    """
    if name != inputs.manager or not inputs.has_gateway:
        return {}
    ranges = {user: inputs.sparklyr_ports(user) for user in inputs.users}
    reach = max(ports[0] for ports in ranges.values()) + SPARKLYR_REACH - 1
    last = max(ports[-1] for ports in ranges.values())
    return {user: (ports[0], reach if ports[-1] == last else ports[-1]) for user, ports in ranges.items()}


def clients(inputs: Inputs, name: str) -> tuple[str, ...]:
    """Return the logins of node `name` that may connect to the cluster's ports.

    root is one of them: it could remove these rules, so refusing it would only break diagnosis.
    """
    services = ("root", layout.HDFS_USER, layout.YARN_USER)
    return (*services, layout.TUNNEL_USER, *inputs.users) if name == inputs.manager else services


def rules(inputs: Inputs, name: str) -> bytes:
    """Return the firewall of node `name` for `nft -f`, which takes all of it or nothing."""
    unknown, members = inputs.once(_members)
    lines = [
        f"# {HEADER}",
        *(f"# {node} is no member yet: its address is not known" for node in unknown),
        # The first line makes the second one work when there is no such table yet.
        f"table {TABLE}",
        f"delete table {TABLE}",
        f"table {TABLE} {{",
        *members,
        *_ports("own_ports", guarded_ports(inputs, name)),
        *_ports("cluster_ports", inputs.once(cluster_ports)),
        *_ports("doors", doors(inputs, name)),
        *_input(inputs, name),
        *_forward(),
        *_output(clients(inputs, name), gateways(inputs, name)),
        "}",
    ]
    return ("\n".join(lines) + "\n").encode()


def _members(inputs: Inputs) -> tuple[list[str], list[str]]:
    """Return the nodes whose address is not known, and the lines of both sets of members."""
    addresses = {node.name: inputs.node(node.name).address for node in inputs.spec.nodes}
    unknown = sorted(node for node, address in addresses.items() if not is_address(address))
    known = [ipaddress.ip_address(address) for address in addresses.values() if is_address(address)]
    return unknown, [
        *_set("members4", "ipv4_addr", [str(a) for a in sorted(a for a in known if a.version == 4)]),
        *_set("members6", "ipv6_addr", [str(a) for a in sorted(a for a in known if a.version == 6)]),
    ]


def _input(inputs: Inputs, name: str) -> list[str]:
    target = inputs.spec_of(name).ssh
    ssh = sorted({SSH_PORT, (target and target.port) or SSH_PORT})
    return [
        *_chain("from_members", "ip saddr @members4 accept", "ip6 saddr @members6 accept", "counter drop"),
        *_chain(
            "input",
            _hook("input"),
            'iifname "lo" accept',
            "ct state established,related accept",
            "# Before the ports, so that no list of them can ever lock anybody out.",
            f"tcp dport {{ {', '.join(map(str, ssh))} }} accept",
            "tcp dport @own_ports jump from_members",
        ),
    ]


def _forward() -> list[str]:
    return _chain(
        "forward",
        _hook("forward"),
        "# What this node passes on, such as from a container of its own, would arrive as a member's.",
        "ct state established,related accept",
        "ip daddr @members4 tcp dport @cluster_ports jump from_members",
        "ip6 daddr @members6 tcp dport @cluster_ports jump from_members",
    )


def _output(users: Iterable[str], of_users: Mapping[str, Interval]) -> list[str]:
    allowed = ", ".join(_quoted(user) for user in users)
    chains, answers, questions = _of_gateways(of_users)
    return [
        *_chain("of_clients", f"meta skuid {{ {allowed} }} accept", _REJECT),
        # One rule, no list of who may: what the kernel itself answers has no user, and must pass.
        *_chain("of_daemons", f"meta skuid != {{ {allowed} }} counter drop"),
        *chains,
        *_chain(
            "output",
            _hook("output"),
            "# Nobody else answers in the place of a daemon that is down.",
            "ip saddr @members4 tcp sport @own_ports jump of_daemons",
            "ip6 saddr @members6 tcp sport @own_ports jump of_daemons",
            "ip saddr 127.0.0.0/8 tcp sport @doors jump of_daemons",
            "ip6 saddr ::1 tcp sport @doors jump of_daemons",
            *answers,
            "ct state established,related accept",
            "ip daddr @members4 tcp dport @cluster_ports jump of_clients",
            "ip6 daddr @members6 tcp dport @cluster_ports jump of_clients",
            "ip daddr 127.0.0.0/8 tcp dport @doors jump of_clients",
            "ip6 daddr ::1 tcp dport @doors jump of_clients",
            *questions,
        ),
    ]


def _of_gateways(of_users: Mapping[str, Interval]) -> tuple[list[str], list[str], list[str]]:
    """Return the chains of sparklyr's gateways, and the rules that lead answers and questions there."""
    chains, answers, questions = [], [], []
    for number, (user, (first, last)) in enumerate(of_users.items()):
        own, more = f'"root", {_quoted(user)}', _quoted(layout.TUNNEL_USER)
        chains += [
            *_chain(f"to_gateway_{number}", f"meta skuid {{ {own}, {more} }} accept", _REJECT),
            *_chain(f"from_gateway_{number}", f"meta skuid != {{ {own} }} counter drop"),
        ]
        for loopback in ("ip {} 127.0.0.0/8", "ip6 {} ::1"):
            answers.append(f"{loopback.format('saddr')} tcp sport {first}-{last} jump from_gateway_{number}")
            questions.append(f"{loopback.format('daddr')} tcp dport {first}-{last} jump to_gateway_{number}")
    return chains, answers, questions


def _quoted(user: str) -> str:
    return f'"{user}"'  # letters, digits, _ and -, see rpicluster.model.spec.UserName


def _hook(hook: str) -> str:
    return f"type filter hook {hook} priority filter; policy accept;"


def _chain(name: str, *lines: str) -> list[str]:
    return [f"  chain {name} {{", *(f"    {line}" for line in lines), "  }"]


def _set(name: str, kind: str, elements: list[str], flags: str = "") -> list[str]:
    lines = [f"    type {kind};", *([f"    flags {flags};"] if flags else [])]
    if elements:
        lines.append(f"    elements = {{ {', '.join(elements)} }}")
    return [f"  set {name} {{", *lines, "  }"]


def _ports(name: str, intervals: Iterable[Interval]) -> list[str]:
    elements = [str(first) if first == last else f"{first}-{last}" for first, last in intervals]
    return _set(name, "inet_service", elements, "interval")


def _merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    merged: list[Interval] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)
