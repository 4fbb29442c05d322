"""The text of every file that a rack writes: into its nodes, and for its user. Pure."""

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePath

from rpicluster.errors import UsageError
from rpicluster.model.memory import format_memory
from rpicluster.nodes.rack.addresses import Network
from rpicluster.nodes.rack.request import NodeRequest

USER = "pi"
LXCFS_IN_NODE = "/run/host/lxcfs"
# What lxcfs answers for the asking process's cgroup instead of for the machine.
LXCFS_FILES = ("cpuinfo", "diskstats", "loadavg", "meminfo", "slabinfo", "stat", "swaps", "uptime")


@dataclass(frozen=True)
class NodeAddresses:
    """How a node is reached."""

    name: str
    v4: IPv4Address
    v6: IPv6Address


def hosts_file(node: str) -> str:
    """Return /etc/hosts as Debian's and Raspberry Pi OS's installers leave it.

    The 127.0.1.1 line is the trap that real Pis have: the node's own name leads to loopback.
    """
    return (
        "127.0.0.1\tlocalhost\n"
        "::1\t\tlocalhost ip6-localhost ip6-loopback\n"
        "ff02::1\t\tip6-allnodes\n"
        "ff02::2\t\tip6-allrouters\n"
        "\n"
        f"127.0.1.1\t{node}\n"
    )


def network_unit(network: Network, number: int) -> str:
    """Return the systemd-networkd unit of the `number`th node: static addresses, nothing learned."""
    return f"""\
[Match]
Name=host0

[Network]
Gateway={network.gateway4}
DHCP=no
IPv6AcceptRA=no
LLDP=no

[Address]
Address={network.node4(number)}/{network.v4.prefixlen}

[Address]
Address={network.node6(number)}/{network.v6.prefixlen}
DuplicateAddressDetection=none
"""


def sshd_settings() -> str:
    """Return the drop-in that allows keys only."""
    return (
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin no\n"
        # without DNS a reverse look-up would hold each login for seconds
        "UseDNS no\n"
    )


def sudoers() -> str:
    """Return the drop-in that Raspberry Pi OS has for its first user."""
    return f"{USER} ALL=(ALL) NOPASSWD: ALL\n"


def lxcfs_unit() -> str:
    """Return the unit that lays lxcfs's files over /proc before anything reads it."""
    binds = "".join(
        f"ExecStart=-/bin/mount --bind {LXCFS_IN_NODE}/proc/{name} /proc/{name}\n" for name in LXCFS_FILES
    )
    return f"""\
[Unit]
Description=Show this node's limits in /proc
DefaultDependencies=no
ConditionPathIsDirectory={LXCFS_IN_NODE}/proc
Before=sysinit.target

[Service]
Type=oneshot
RemainAfterExit=yes
{binds}
[Install]
WantedBy=sysinit.target
"""


def apt_sources(suite: str, mirror: str, security: str | None) -> str:
    """Return /etc/apt/sources.list for one suite from the archives that the machine itself uses."""
    archives = [(mirror, suite), (mirror, f"{suite}-updates")]
    if security:
        archives.append((security, f"{suite}-security"))
    return "".join(f"deb {uri} {name} main\n" for uri, name in archives)


def resolv_conf(host_text: str, *fallbacks: str) -> str:
    """Return name servers that a node can reach: the first of the given texts with one off loopback.

    `host_text` is the machine's /etc/resolv.conf; where that names a resolver on loopback, as
    systemd-resolved does, a fallback is the resolver's own list. An empty answer means there is none.
    """
    for text in (host_text, *fallbacks):
        kept, servers = [], 0
        for line in text.splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                if _leaves_the_node(words[1]):
                    kept.append(line)
                    servers += 1
            elif words and words[0] in ("search", "domain", "options"):
                kept.append(line)
        if servers:
            return "\n".join(kept) + "\n"
    return ""


def _leaves_the_node(server: str) -> bool:
    try:
        address = ipaddress.ip_address(server.partition("%")[0])
    except ValueError:
        return False
    # IPv6 stays in the rack, so a server that has only an IPv6 address cannot be asked.
    return address.version == 4 and not address.is_loopback


def known_hosts(nodes: Sequence[NodeAddresses], public_keys: Mapping[str, Sequence[str]]) -> str:
    """Return OpenSSH's known_hosts: each node's name and addresses with its real host keys."""
    return "".join(
        f"{node.name},{node.v4},{node.v6} {' '.join(key.split()[:2])}\n"
        for node in nodes
        for key in public_keys[node.name]
    )


def ssh_config(nodes: Sequence[NodeAddresses], folder: PurePath) -> str:
    """Return an OpenSSH configuration by which nothing of the user's own ~/.ssh is read or written.

    The folder is one that `check_folder` lets pass.
    """
    lines = [f"# Use it with: ssh -F {folder / 'ssh_config'} {nodes[0].name}"]
    for node in nodes:
        lines += [
            "",
            f"Host {node.name} {node.v4} {node.v6}",
            f"  HostName {node.v4}",
            f"  User {USER}",
            f"  IdentityFile {_quoted(folder / 'id_ed25519')}",
            "  IdentitiesOnly yes",
            f"  UserKnownHostsFile {_quoted(folder / 'known_hosts')}",
            "  GlobalKnownHostsFile /dev/null",
            "  StrictHostKeyChecking yes",
            "  PasswordAuthentication no",
            "  ForwardAgent no",
            "  ConnectTimeout 5",
        ]
    return "\n".join(lines) + "\n"


def check_folder(folder: PurePath) -> None:
    """Raise UsageError if OpenSSH's configuration cannot name files in `folder`."""
    text = str(folder)
    if any(character in text for character in '"\\$\n\r'):
        raise UsageError(
            f"--dir: OpenSSH cannot be told of {text!r}: it holds a quote, a dollar sign, a backslash or "
            "a new line",
            hint="choose a folder with a plainer name",
        )


def _quoted(path: PurePath) -> str:
    return '"' + str(path).replace("%", "%%") + '"'  # %h and its like are OpenSSH's tokens


def cluster_yml(
    rack: str,
    nodes: Sequence[NodeRequest],
    addresses: Sequence[NodeAddresses],
    host_cores: int,
    folder: PurePath,
) -> str:
    """Return a cluster.yml for the rack: pi1 manages, the others work, a lone node does both."""
    lines = [
        f"# Virtual Pis of rack {rack}, made by `rpicluster rack up`. `rpicluster plan` shows what follows.",
        f"name: {rack}",
        f"users: [{USER}]",
        "nodes:",
    ]
    for place, (node, address) in enumerate(zip(nodes, addresses, strict=True)):
        roles = ["manager", "worker"] if len(nodes) == 1 else ["worker"] if place else ["manager"]
        config = json.dumps(str(folder / "ssh_config"))
        cores = host_cores if node.cpus is None else min(host_cores, max(1, -(-node.cpus // 1)))
        lines += [
            f"  - name: {node.name}",
            f"    roles: [{', '.join(roles)}]",
            f"    ssh: {{host: {address.v4}, user: {USER}, config: {config}}}",
            f"    hardware: {{memory: {format_memory(node.memory_mib)}, cores: {int(cores)}}}",
        ]
    return "\n".join(lines) + "\n"


def boot_order(
    *,
    node: str,
    base: str,
    apt_cache: str | None,
    command: Sequence[str],
    cgroup_procs: Sequence[str],
    cable: str,
    resolv: str,
) -> str:
    """Return what `node_loop.py` reads before it boots a node."""
    document = {
        "node": node,
        "base": base,
        "apt_cache": apt_cache,
        "command": list(command),
        "cgroup_procs": list(cgroup_procs),
        "cable": cable,
        "resolv_conf": resolv,
    }
    return json.dumps(document, indent=1) + "\n"
