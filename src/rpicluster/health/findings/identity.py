"""Who nodes are: names, machine-ids and host keys, which cloned cards share."""

import ipaddress
from collections.abc import Iterator

from rpicluster.errors import NodeAmbiguous
from rpicluster.health.findings.finding import (
    NOTE,
    PROBLEM,
    WARNING,
    Node,
    Seen,
    Trouble,
    cluster_kind,
    is_address,
    node_kind,
)

# Images that were never booted carry these in place of an id (machine-id(5)).
_NO_MACHINE_ID = ("", "uninitialized")


def _canonical(address: str) -> str:
    """Return the one form of an IPv6 address that may be written in many."""
    try:
        return str(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return address


def _names(nodes: list[Node]) -> str:
    return ", ".join(node.name for node in nodes)


def _same_machine(nodes: list[Node]) -> bool:
    """Whether all of them are one running machine: a boot id is drawn anew at every boot."""
    boots = {node.facts.boot_id for node in nodes}
    return len(boots) == 1 and None not in boots


@cluster_kind("same-machine-twice", PROBLEM, "Two entries of cluster.yml lead to one machine")
def same_machine_twice(seen: Seen) -> Iterator[Trouble]:
    """They share the boot id, which the kernel draws at each boot."""
    for boot, nodes in seen.groups(lambda node: node.facts.boot_id).items():
        if len(nodes) > 1:
            yield Trouble(
                what=f"{_names(nodes)} are one and the same machine",
                cause=(
                    "two addresses or names of cluster.yml lead to it, or DHCP gave an address to another one"
                ),
                evidence=(
                    f"boot id {boot} on {_names(nodes)}",
                    *(f"{n.name}: host {n.host}" for n in nodes),
                ),
                fix=f"remove all but one of {_names(nodes)} from cluster.yml, or correct their `host`",
                command=nodes[-1].run("hostname; hostname -I"),
            )


@cluster_kind("machine-id-duplicate", PROBLEM, "Nodes share a machine-id")
def machine_id_duplicate(seen: Seen) -> Iterator[Trouble]:
    """Cards were cloned after their first boot: DHCP servers may give both the same address, and a node
    that moved could not be told from another.
    """
    for value, nodes in seen.groups(lambda node: node.facts.machine_id).items():
        if len(nodes) > 1 and value not in _NO_MACHINE_ID and not _same_machine(nodes):
            yield Trouble(
                what=f"{_names(nodes)} have the same machine-id",
                cause="their cards are copies of one that had been booted before",
                evidence=tuple(f"{node.name}: {value}" for node in nodes),
                fix=f"give all but one a new id, then reboot them; here for {nodes[-1].name}",
                command=nodes[-1].run(
                    "sudo rm -f /etc/machine-id /var/lib/dbus/machine-id && sudo systemd-machine-id-setup"
                    " && sudo reboot"
                ),
            )


@cluster_kind("host-key-duplicate", PROBLEM, "Nodes share an SSH host key")
def host_key_duplicate(seen: Seen) -> Iterator[Trouble]:
    """Cloned cards: whoever has one of them can pass for the others."""
    owners: dict[str, list[Node]] = {}
    for node in seen.nodes:
        for key in node.facts.host_keys:
            owners.setdefault(f"{key.type} {key.fingerprint}", []).append(node)
    shared: dict[tuple[str, ...], list[str]] = {}
    for key_text, nodes in owners.items():
        if len(nodes) > 1 and not _same_machine(nodes):
            shared.setdefault(tuple(node.name for node in nodes), []).append(key_text)
    for name, error in sorted(seen.errors.items()):
        if isinstance(error, NodeAmbiguous):
            yield Trouble(
                what=f"several machines answer as {name}",
                cause="its card was copied after it had been booted",
                evidence=(error.message,),
                fix="switch the copy off; before it is used again, on its own console",
                command="sudo rm /etc/machine-id /etc/ssh/ssh_host_*_key* && sudo systemd-machine-id-setup"
                " && sudo ssh-keygen -A && sudo reboot",
                node=name,
            )
    for names, keys in sorted(shared.items()):
        yield Trouble(
            what=f"{', '.join(names)} have the same SSH host keys",
            cause="their cards are copies of one that had been booted before",
            evidence=tuple(f"{key} on {', '.join(names)}" for key in sorted(keys)),
            fix=(
                f"make new ones on all but one; here on {names[-1]}. ssh then refuses it until you forget "
                "the old key"
            ),
            command=seen.on(
                names[-1],
                "sudo rm /etc/ssh/ssh_host_*_key* && sudo ssh-keygen -A && sudo systemctl restart ssh",
            ),
        )


@cluster_kind("hostname-duplicate", WARNING, "Nodes have the same host name")
def hostname_duplicate(seen: Seen) -> Iterator[Trouble]:
    """Rpicluster uses addresses; but NAME.local and DHCP's names lead to any one of them, and logs mix."""
    for value, nodes in seen.groups(lambda node: node.facts.names.hostname).items():
        if len(nodes) > 1 and not _same_machine(nodes):
            last = nodes[-1].name
            yield Trouble(
                what=f"{_names(nodes)} are all called {value}",
                cause="cards were cloned, or nobody has named the boards",
                evidence=tuple(f"{node.name}: {value}" for node in nodes),
                fix=f"name each after its entry in cluster.yml; here {last}",
                command=seen.on(last, f"sudo hostnamectl set-hostname {last}"),
            )


@node_kind("hostname-changes", WARNING, "The next boot changes a node's name")
def hostname_changes(node: Node) -> Iterator[Trouble]:
    """/etc/hostname does not say what the kernel says."""
    now, later = node.facts.names.hostname, node.facts.names.configured
    if now and later and now.split(".")[0] != later.split(".")[0]:
        yield Trouble(
            what=f"{node.name} is called {now} now and {later} after the next boot",
            cause="the name was set for the running system only, or /etc/hostname was edited",
            evidence=(f"kernel: {now}", f"/etc/hostname: {later}"),
            fix="say once which it is",
            command=node.run(f"sudo hostnamectl set-hostname {node.name}"),
        )


@cluster_kind("loopback-hostname", NOTE, "A node's own name leads to loopback")
def loopback_hostname(seen: Seen) -> Iterator[Trouble]:
    """Debian maps a host's name to 127.0.1.1. A stock Hadoop then advertises loopback; rpicluster's daemons
    are told their addresses, so it does no harm to them.
    """
    found = {}
    for node in seen.nodes:
        if node.name == seen.here:
            continue
        own = node.facts.names.own_name
        loops = [address for address in own.found if address.startswith("127.")] if own else []
        if loops and len(loops) == len([a for a in own.found if ":" not in a] if own else []):
            found[node.name] = loops[0]
    if found:
        first = min(found)
        yield Trouble(
            what=f"the own name leads to loopback on {', '.join(found)}",
            cause=(
                "/etc/hosts maps it to 127.0.1.1, as Debian does; other programs than rpicluster's may "
                "trip over it"
            ),
            evidence=tuple(
                f"{node}: {seen.facts[node].names.hostname} is {address}" for node, address in found.items()
            ),
            fix=f"nothing has to be done for rpicluster; to change it, here on {first}",
            command=seen.on(first, "sudo sed -i '/^127\\.0\\.1\\.1/d' /etc/hosts"),
        )


def _set_up_addresses(seen: Seen) -> dict[str, str]:
    """Return the addresses that members were set up with, by the manager's manifest; no other has them."""
    found = {}
    for manager in seen.nodes:
        members = manager.facts.manifest.extra.get("members") if manager.facts.manifest else None
        for name, member in members.items() if isinstance(members, dict) else ():
            was = member.get("address") if isinstance(member, dict) else None
            if isinstance(was, str) and is_address(was):
                found[name] = was
    return found


@cluster_kind("hosts-lines-gone", NOTE, "The cluster's lines are gone from a hosts file")
def hosts_lines_gone(seen: Seen) -> Iterator[Trouble]:
    """A node that was set up has no line for any other node; daemons need none, people do."""
    for node in seen.nodes:
        others = {other.name for other in seen.nodes} - {node.name}
        if node.facts.manifest is None or not others or node.is_unseen("hosts"):
            continue
        if not others & {name for line in node.facts.hosts for name in line.names}:
            yield Trouble(
                what=f"/etc/hosts of {node.name} has lost its lines for the other nodes",
                cause="cloud-init, another tool or somebody wrote it anew",
                evidence=(f"no line for {', '.join(sorted(others))}",),
                fix="no daemon needs them; to have them for yourself, put the names back",
                command=node.run("cat /etc/hosts"),
                node=node.name,
            )


@cluster_kind("hosts-line-wrong", WARNING, "A node's /etc/hosts has another node's old address")
def hosts_line_wrong(seen: Seen) -> Iterator[Trouble]:
    """The line names a node of this cluster with an address that this node does not have."""
    by_name = {node.name: node for node in seen.nodes if node.name != seen.here}
    set_up = _set_up_addresses(seen)
    for node in by_name.values():
        for line in node.facts.hosts:
            for name in line.names:
                other = by_name.get(name.removesuffix(".local"))
                if other is None or not other.addresses or line.address.startswith(("127.", "::1")):
                    continue
                if line.address == set_up.get(other.name):
                    continue  # our own line; `address-changed` says it, of the node that moved
                if _canonical(line.address) not in map(_canonical, other.addresses):
                    yield Trouble(
                        what=f"/etc/hosts of {node.name} has a wrong address for {other.name}",
                        cause=f"{other.name} has got another address since, most likely by DHCP",
                        evidence=(
                            f"{line.address} {' '.join(line.names)}",
                            f"{other.name} has {', '.join(sorted(other.addresses))}",
                        ),
                        fix="`rpicluster up` rewrites the lines that it manages; look at the file for others",
                        command=node.run(f"grep -n {name} /etc/hosts"),
                        node=node.name,
                    )


@cluster_kind("address-changed", PROBLEM, "A node no longer has the address it was set up with")
def address_changed(seen: Seen) -> Iterator[Trouble]:
    """Its daemons listen on, and others know, the address in the manager's manifest."""
    set_up = _set_up_addresses(seen)
    for node in seen.nodes:
        was = set_up.get(node.name)
        if was is not None and node.addresses and was not in node.addresses:
            yield Trouble(
                what=f"{node.name} was set up as {was} and has another address now",
                cause="DHCP gave it another one, or it was moved to another network",
                evidence=(f"the manager's manifest: {was}", f"now: {', '.join(sorted(node.addresses))}"),
                fix="`rpicluster up` rewrites addresses; reserve the address in the router so that it stays",
                command="rpicluster up",
                node=node.name,
            )
