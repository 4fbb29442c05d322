"""Who is whom when addresses have changed: nodes that do not answer, and machines that do. Pure.

A machine is a node only if OpenSSH found the node's known host key there, and its machine-id is the
remembered one. Whatever else is known of it (network cards, key prints) only says where to look first.
"""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from rpicluster.design.plan import Action, Step
from rpicluster.model.machine import MachineFacts
from rpicluster.model.neighbours import Announced, Neighbour

LARGEST_PREFIX = 22  # at most 1,022 addresses are ever tried
PRIVATE = tuple(IPv4Network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"))  # RFC 1918
MOST_PAIRS = 64  # of a node and an address that are asked over SSH


@dataclass(frozen=True)
class Lost:
    """A node that does not answer where it was, and what is known of it.

    `addresses` are where it may have been or may be, the likeliest first; `prints` are its host keys'
    `SHA256:...` fingerprints.
    """

    name: str
    machine_id: str
    addresses: tuple[str, ...] = ()
    prints: frozenset[str] = frozenset()
    macs: frozenset[str] = frozenset()
    network: IPv4Network | None = None

    @classmethod
    def of(cls, name: str, facts: MachineFacts, addresses: Iterable[str]) -> "Lost | None":
        """Return what is known of a node; None without a machine-id, because nothing could prove it then."""
        if not facts.machine_id:
            return None
        known = tuple(dict.fromkeys(a for a in addresses if is_ipv4(a)))
        return cls(
            name,
            facts.machine_id,
            known,
            frozenset(key.fingerprint for key in facts.host_keys),
            macs_of(facts),
            next((found for a in known if (found := network_to_search(a, facts)) is not None), None),
        )


@dataclass(frozen=True)
class Claim:
    """A machine that has the known host key of a node, as OpenSSH checked it, and what it says of itself."""

    node: str
    address: str
    machine_id: str | None
    boot_id: str | None


@dataclass(frozen=True)
class Verdict:
    """Where nodes are, and what speaks against it.

    `found` has an address by node. `copies` has, by node, the addresses at which different machines claim to
    be it, or one machine that claims to be several nodes. `others` are addresses of machines with its host
    key and another machine-id.
    """

    found: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def macs_of(facts: MachineFacts) -> frozenset[str]:
    """Return the MAC addresses of a node's interfaces, in lower case."""
    return frozenset(i.mac.lower() for i in facts.interfaces if i.mac)


def network_to_search(address: str, facts: MachineFacts) -> IPv4Network | None:
    """Return the network of one of a node's own addresses, cut down to a /22 around it.

    None where the node did not have that address, and for networks that are not private (RFC 1918): nobody
    else's machines are to be knocked at.
    """
    for interface in facts.interfaces:
        for own in interface.addresses:
            if own.address == address and own.prefix > 0:
                prefix = max(own.prefix, LARGEST_PREFIX)
                network = IPv4Network(f"{address}/{prefix}", strict=False)
                return network if any(network.subnet_of(private) for private in PRIVATE) else None
    return None


def first_candidates(
    lost: Iterable[Lost],
    neighbours: Iterable[Neighbour],
    announced: Iterable[Announced],
    *,
    taken: Collection[str] = (),
) -> tuple[str, ...]:
    """Return addresses at which a lost node may be, the likeliest first; those that are `taken` are not.

    Addresses of its own network cards stand first, then names that are its own, then where it and the other
    lost ones were (two may have changed places), then everybody.
    """
    lost, neighbours, announced = list(lost), list(neighbours), list(announced)
    macs = frozenset().union(*(node.macs for node in lost))
    names = {f"{node.name}.local" for node in lost}
    ordered = [
        *(n.address for n in neighbours if n.mac.lower() in macs),
        *(a for host in announced if host.name.lower() in names for a in host.addresses),
        *(a for node in lost for a in node.addresses),
        *(n.address for n in neighbours),
        *(a for host in announced for a in host.addresses),
    ]
    return tuple(a for a in dict.fromkeys(ordered) if is_ipv4(a) and a not in taken)


def by_card(lost: Iterable[Lost], neighbours: Iterable[Neighbour]) -> tuple[tuple[str, str], ...]:
    """Return (node, address) where a neighbour has a network card of the node, and where it was before.

    For networks in which this machine is not itself: nobody's key can be asked for without a login there.
    """
    neighbours = list(neighbours)
    return tuple(
        (node.name, address)
        for node in lost
        for address in dict.fromkeys(
            (*(n.address for n in neighbours if n.mac.lower() in node.macs), *node.addresses)
        )
        if is_ipv4(address)
    )[:MOST_PAIRS]


def sweep_of(
    lost: Iterable[Lost],
    asked: Collection[str],
    taken: Collection[str] = (),
    *,
    near: Collection[IPv4Network],
) -> tuple[IPv4Address, ...]:
    """Return the addresses of lost nodes' networks that nobody was asked at yet, each once.

    Only of networks that touch one that is `near`: this machine's own, and addresses of nodes that answer.
    The same private addresses lead to somebody else's machines elsewhere.
    """
    networks = dict.fromkeys(
        node.network
        for node in lost
        if node.network is not None and any(node.network.overlaps(own) for own in near)
    )
    skipped = {*asked, *taken}
    return tuple(
        dict.fromkeys(
            address for network in networks for address in network.hosts() if str(address) not in skipped
        )
    )


def pairs(lost: Iterable[Lost], prints: Mapping[str, frozenset[str]]) -> tuple[tuple[str, str], ...]:
    """Return (node, address) worth a login, from the key prints that addresses showed unasked.

    A sieve and no proof: whoever shows a key need not hold it. A node whose keys are not remembered is asked
    for everywhere. At most 64 pairs.
    """
    return tuple(
        (node.name, address)
        for node in lost
        for address, shown in prints.items()
        if not node.prints or node.prints & shown
    )[:MOST_PAIRS]


def judge(lost: Mapping[str, Lost], claims: Iterable[Claim]) -> Verdict:
    """Return which claims hold; one machine with two addresses is found at the one that was asked first.

    Machines are told apart by the boot id, which the kernel draws at each boot: cards that were copied have
    the same machine-id and host key, and each its own boot. Without one, every address is a machine.
    """
    right: dict[str, list[Claim]] = {}
    others: dict[str, list[str]] = {}
    for claim in claims:
        node = lost.get(claim.node)
        if node is None:
            continue
        if claim.machine_id == node.machine_id:
            right.setdefault(claim.node, []).append(claim)
        else:
            others.setdefault(claim.node, []).append(claim.address)
    claimed_by: dict[str, set[str]] = {}
    for name, held in right.items():
        for claim in held:
            claimed_by.setdefault(_machine(claim), set()).add(name)
    found, copies = {}, {}
    for name, held in right.items():
        machines = {_machine(claim) for claim in held}
        addresses = tuple(dict.fromkeys(claim.address for claim in held))
        if len(machines) > 1 or any(len(claimed_by[machine]) > 1 for machine in machines):
            copies[name] = addresses
        else:
            found[name] = addresses[0]
    return Verdict(found, copies, {name: tuple(dict.fromkeys(where)) for name, where in others.items()})


def _machine(claim: Claim) -> str:
    return claim.boot_id or f"at {claim.address}"


def moves(known: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return (was, is) of nodes whose address is no longer the one that the cluster was set up with."""
    return {
        name: (known[name], address)
        for name, address in now.items()
        if known.get(name) and is_ipv4(known[name]) and known[name] != address
    }


def move_steps(moved: Mapping[str, tuple[str, str]]) -> list[Step]:
    """Return what a plan shows of nodes that have another address; the files that name it are other steps."""
    return [
        Step(Action.MOVE, name, "address", f"{name} moved from {was} to {now}")
        for name, (was, now) in moved.items()
    ]


def manager_refusal(
    manager: str, moved: Mapping[str, tuple[str, str]], *, formatted: bool, macs: Collection[str] = ()
) -> str | None:
    """Return why the manager may not have another address, None where it has not, or has no files yet.

    Iceberg writes whole addresses of files into its metadata (Table spec, "Manifests": `file_path` is a full
    URI), so tables could no longer be read.
    """
    if manager not in moved or not formatted:
        return None
    was, now = moved[manager]
    cards = f" (its network card: {', '.join(sorted(macs))})" if macs else ""
    return (
        f"{manager}, the manager, moved from {was} to {now}, and must have its old address: tables name "
        f"their files by it (hdfs://{was}:…). Reserve {was} for it in your router{cards}, restart it, "
        "and run `rpicluster up` again"
    )


def is_ipv4(text: str) -> bool:
    """Whether a text is an IPv4 address of one machine."""
    try:
        return not IPv4Address(text).is_multicast
    except ipaddress.AddressValueError:
        return False
