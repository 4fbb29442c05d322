"""What strangers could reach or read, and strangers that are there already."""

import shlex
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from rpicluster.health.findings.deployed import is_wider
from rpicluster.health.findings.finding import (
    PROBLEM,
    WARNING,
    Node,
    Seen,
    Trouble,
    cluster_kind,
    is_address,
    node_kind,
)
from rpicluster.health.findings.reach import command_in, kind_of_error
from rpicluster.model.machine import Listener, Wall
from rpicluster.model.ports import MANAGER_PORTS, SESSION_PORTS, WORKER_PORTS
from rpicluster.model.spec import Role

_EVERYWHERE = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104  compared, never bound
# What stock Hadoop and Spark listen on besides: older NameNodes, history servers, a standalone master, Hive.
_STOCK_PORTS = {
    "NameNode of Hadoop 2": 50070,
    "NameNode RPC of many tutorials": 9000,
    "MapReduce history": 19888,
    "Spark history": 18080,
    "Spark master": 7077,
    "Hive or Spark Thrift server": 10000,
}
_PORTS = {
    number: name for name, number in (MANAGER_PORTS | WORKER_PORTS | SESSION_PORTS | _STOCK_PORTS).items()
}


def _who(listener: Listener) -> str:
    if listener.process:
        return f"{listener.process}, process {listener.pid}"
    return (
        f"a process of user id {listener.uid}" if listener.uid is not None else "a process that was not seen"
    )


@node_kind("open-port", PROBLEM, "A Hadoop or Spark port is open to everybody")
def open_port(node: Node) -> Iterator[Trouble]:
    """It listens on all addresses. Whoever reaches an open ResourceManager runs commands: bots look for
    them. A warning where rpicluster's firewall stands before it.
    """
    found = [
        listener
        for listener in node.facts.listeners or ()
        if listener.address in _EVERYWHERE and listener.port in _PORTS
    ]
    if not found:
        return
    guarded = any("rpicluster" in table for table in node.facts.firewall_tables or ())
    ports = sorted({listener.port for listener in found})
    yield Trouble(
        what=f"{node.name} lets everybody reach {_listed(ports)}",
        cause="a daemon that listens on all addresses, as a stock Hadoop does, instead of the cluster's",
        evidence=tuple(f"{li.address}:{li.port} ({_PORTS[li.port]}): {_who(li)}" for li in found)
        + (("nftables: a table of rpicluster stands before it",) if guarded else ()),
        fix=(
            "stop what listens there if it is not rpicluster's; `rpicluster up` binds its own to the "
            "cluster's address"
        ),
        command=node.run(f"sudo ss -ltnp '( {' or '.join(f'sport = :{port}' for port in ports)} )'"),
        severity=WARNING if guarded else PROBLEM,
    )


@node_kind("port-taken", PROBLEM, "Another program has a port that the cluster needs")
def port_taken(node: Node) -> Iterator[Trouble]:
    """It is known whose process it is, and it is none of rpicluster's."""
    needed: dict[str, int] = {}
    if Role.MANAGER in node.roles:
        needed |= MANAGER_PORTS | SESSION_PORTS
    if Role.WORKER in node.roles:
        needed |= WORKER_PORTS
    ours = {d.pid for d in node.facts.daemons if d.is_ours}
    ours |= {u.pid for name, u in node.facts.units.items() if name.startswith("rpicluster") and u.pid}
    numbers = {number: name for name, number in needed.items()}
    taken = [
        listener
        for listener in node.facts.listeners or ()
        if listener.port in numbers and listener.pid is not None and listener.pid not in ours
    ]
    if taken and not _is_session_child(node, taken):
        ports = sorted({listener.port for listener in taken})
        yield Trouble(
            what=f"{node.name}: {_listed(ports)} is taken by another program",
            cause="a program that is not rpicluster's listens where a daemon of the cluster has to",
            evidence=tuple(f"{li.address}:{li.port} ({numbers[li.port]}): {_who(li)}" for li in taken),
            fix="stop it, and keep it from starting again",
            command=node.run(f"ps -fp {' '.join(str(pid) for pid in sorted({li.pid or 0 for li in taken}))}"),
        )


def _is_session_child(node: Node, taken: list[Listener]) -> bool:
    """Whether all are Java on session ports of a node that runs sessions: `ps` hides some of their marks."""
    return node.facts.manifest is not None and all(
        listener.port in SESSION_PORTS.values() and listener.process == "java" for listener in taken
    )


def _listed(ports: list[int]) -> str:
    return ("port " if len(ports) == 1 else "ports ") + ", ".join(str(port) for port in ports)


@node_kind("foreign-hadoop", PROBLEM, "Somebody else's Hadoop or Spark runs on a node")
def foreign_hadoop(node: Node) -> Iterator[Trouble]:
    """Processes of Hadoop, Spark and their kin that rpicluster did not start."""
    foreign = node.facts.foreign_daemons
    if foreign:
        pids = " ".join(str(daemon.pid) for daemon in foreign)
        yield Trouble(
            what=f"{node.name} runs Hadoop or Spark that is not rpicluster's",
            cause="an earlier installation, or somebody else's work",
            evidence=tuple(
                f"process {d.pid} of {d.user}: {', '.join(d.classes)}" + (f" in {d.unit}" if d.unit else "")
                for d in foreign
            ),
            fix="ask whose it is; it takes ports and memory that this cluster counts on",
            command=node.run(f"ps -o pid,user,lstart,unit -p {pids}"),
        )


@node_kind("firewall-missing", PROBLEM, "A node's firewall rules are not loaded")
def firewall_missing(node: Node) -> Iterator[Trouble]:
    """The manifest has rules for nftables, and no table of rpicluster is loaded."""
    facts = node.facts
    if facts.manifest is None or facts.firewall_tables is None or facts.privilege == "none":
        return
    rules = [path for path in facts.manifest.files if "nft" in path]
    if rules and not any("rpicluster" in table for table in facts.firewall_tables):
        yield Trouble(
            what=f"the firewall of {node.name} is down",
            cause="somebody flushed the rules, or their service did not start",
            evidence=(
                f"manifest: {', '.join(sorted(rules))}",
                f"nft list tables: {', '.join(facts.firewall_tables) or 'none'}",
            ),
            fix="load them again",
            command="rpicluster up",
        )


@node_kind("other-firewall", PROBLEM, "Another firewall on a node shuts the others out")
def other_firewall(node: Node) -> Iterator[Trouble]:
    """ufw, firewalld or rules of one's own that drop what they do not name, and do not name the cluster's
    nodes. rpicluster's own rules cannot open what another table drops: each has a say. Connections that
    stand may go on until the next restart.
    """
    others = {
        address: other.name
        for other in node.seen.nodes
        if other.name != node.name and (address := _address(other)) is not None
    }
    for wall in node.facts.walls:
        shut_out = [address for address in others if _shuts_out(wall, ip_address(address))]
        if wall.judged and shut_out:
            has_ufw = "ufw.service" in node.facts.units and node.facts.units["ufw.service"].active == "active"
            yield Trouble(
                what=f"another firewall on {node.name} shuts out {', '.join(others[a] for a in shut_out)}",
                cause="it was switched on, or its rules were written, without the cluster's nodes in it",
                evidence=(
                    f"nft list table {wall.table}: input drops what it does not name",
                    f"it lets in: {', '.join(wall.lets_in) or 'no address'}",
                ),
                fix="let the nodes in there, or switch it off: rpicluster brings a firewall of its own",
                command=node.run(
                    "; ".join(f"sudo ufw allow from {address}" for address in shut_out)
                    if has_ufw
                    else f"sudo nft list table {wall.table}"
                ),
            )


def _address(node: Node) -> str | None:
    if node.host is not None and is_address(node.host):
        return node.host
    addresses = node.interface.addresses if node.interface is not None else ()
    return next((each.address for each in addresses if ":" not in each.address), None)


_VERSIONS = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}


def _shuts_out(wall: Wall, address: IPv4Address | IPv6Address) -> bool:
    family = wall.table.partition(" ")[0]
    return address.version in _VERSIONS.get(family, ()) and not any(
        _holds(source, address) for source in wall.lets_in
    )


def _holds(source: str, address: IPv4Address | IPv6Address) -> bool:
    first, _, last = source.partition("-")
    try:
        if last:
            low, high = ip_address(first), ip_address(last)
            return low.version == high.version == address.version and int(low) <= int(address) <= int(high)
        return address in ip_network(first, strict=False)
    except ValueError:  # a name, which nft shows for a number where it is told to
        return False


@cluster_kind("secret-readable", PROBLEM, "Others may read a key, token or private file")
def secret_readable(seen: Seen) -> Iterator[Trouble]:
    """A file that was put there for its owner (or group) alone has a wider mode now; or the SSH key, or a
    token on this machine.
    """
    for node in sorted(seen.errors):
        if kind_of_error(seen.errors[node]) == "secret-readable":
            yield Trouble(
                what="others may read the SSH key, so ssh does not use it",
                cause="it was copied, or its folder has no permissions of its own",
                evidence=(seen.errors[node].message,),
                fix=seen.errors[node].hint or "chmod 600 the key",
                command=command_in(seen.errors[node].hint) or "chmod 600 ~/.ssh/id_ed25519",
                node=node,
            )
    for file in seen.cluster.private_files if seen.cluster else ():
        if file.mode & 0o077:
            yield Trouble(
                what=f"others may read {file.path}",
                cause="its mode was changed, or it was copied",
                evidence=(f"{file.path}: mode {file.mode:04o}, 0600 at most",),
                fix="whoever reads it may run commands in your session: take it back",
                command=f"chmod 600 {file.path}",
            )
    for found in seen.nodes:
        yield from _wider_than_put(found)
        yield from _tokens_that_others_read(found)


def _tokens_that_others_read(node: Node) -> Iterator[Trouble]:
    for path, stands in sorted(node.facts.secrets.items()):
        if stands.mode & 0o077:
            yield Trouble(
                what=f"others may read the token {path} on {node.name}",
                cause="its mode was changed after it was put there",
                evidence=(f"{path}: mode {stands.mode:04o}, 0600 at most",),
                fix="take it back; whoever has read it may run commands in that session",
                command=node.run(f"sudo chmod 600 {shlex.quote(path)}"),
                node=node.name,
            )


def _wider_than_put(node: Node) -> Iterator[Trouble]:
    if node.facts.manifest is None:
        return
    for path in sorted(node.facts.manifest.files):
        wanted, stands = node.facts.manifest.files[path], node.facts.deployed.get(path)
        if stands is None or not is_wider(wanted, stands):
            continue
        yield Trouble(
            what=f"others may read {path} on {node.name}",
            cause="its mode was changed after it was put there",
            evidence=(f"{path}: mode {stands.mode:04o}, put there as {wanted.mode:04o}",),
            fix="take it back; if it held a token, `rpicluster up` makes a new one",
            command=node.run(f"sudo chmod {wanted.mode:o} {path}"),
            node=node.name,
        )
