"""Which names and addresses a rack gets. Pure."""

import hashlib
import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from rpicluster.errors import UsageError

_FIRST_NODE = 10  # pi1 has .11, so that pi1..pi9 end in their own digit
_TAG_LENGTH = 6
BRIDGE_PREFIX = "rp-"


@dataclass(frozen=True)
class Names:
    """What a rack's kernel objects are called; interface names end at 15 characters."""

    tag: str

    @property
    def bridge(self) -> str:
        """The bridge that all nodes hang on."""
        return BRIDGE_PREFIX + self.tag

    @property
    def table(self) -> str:
        """The nftables table of family inet."""
        return "rpicluster_" + self.tag.replace("-", "_")

    @property
    def cgroup(self) -> str:
        """The cgroup that holds one cgroup a node."""
        return "rpicluster-" + self.tag

    def machine(self, node: str) -> str:
        """Return what systemd-nspawn calls a node; the host end of its cable is `vb-` and this."""
        return f"{self.tag}-{node}"

    def cable(self, node: str) -> str:
        """Return the host end of a node's virtual Ethernet cable."""
        return "vb-" + self.machine(node)


def names_of(rack: str) -> Names:
    """Return the names that follow from the rack's own: short ones show it."""
    if len(rack) <= _TAG_LENGTH:
        return Names(rack)
    # 24 bits: two racks of one machine that collide are refused by the machine-wide register.
    return Names(hashlib.sha256(rack.encode()).hexdigest()[:_TAG_LENGTH])


@dataclass(frozen=True)
class Network:
    """A rack's two subnets: IPv4, and an IPv6 prefix of the unique local kind (RFC 4193)."""

    v4: IPv4Network
    v6: IPv6Network

    @property
    def gateway4(self) -> IPv4Address:
        """The machine's IPv4 address on the bridge."""
        return self.v4[1]

    @property
    def gateway6(self) -> IPv6Address:
        """The machine's IPv6 address on the bridge."""
        return self.v6[1]

    def node4(self, number: int) -> IPv4Address:
        """Return the IPv4 address of the `number`th node, counted from 1."""
        return self.v4[_FIRST_NODE + number]

    def node6(self, number: int) -> IPv6Address:
        """Return the IPv6 address of the `number`th node; it reads like the end of the IPv4 one."""
        return self.v6[int(str(_FIRST_NODE + number), 16)]


def unique_local_prefix(rack: str, v4: IPv4Network) -> IPv6Network:
    """Return fdxx:xxxx:xxxx::/64 with a global id of 40 hashed bits (RFC 4193, 3.2.2)."""
    digest = hashlib.sha256(f"rpicluster rack {rack} {v4}".encode()).digest()
    return ipaddress.IPv6Network((bytes([0xFD]) + digest[:5] + bytes(10), 64))


def candidates() -> Iterator[IPv4Network]:
    """Yield the subnets that racks use unless told otherwise, best first."""
    for block in ("10.77.0.0/16", "172.30.0.0/16", "192.168.128.0/17"):
        yield from ipaddress.IPv4Network(block).subnets(new_prefix=24)


def parse_subnet(text: str) -> IPv4Network:
    """Return the /24 that `--subnet` names; raises UsageError."""
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise UsageError(f"--subnet: {error}", hint="e.g.: --subnet 10.77.5.0/24") from error
    if subnet.prefixlen != 24 or not subnet.is_private or subnet.is_loopback or subnet.is_link_local:
        raise UsageError(
            f"--subnet: {subnet} is not a private /24", hint="e.g.: --subnet 10.77.5.0/24 (RFC 1918)"
        )
    return subnet


def choose_subnet(in_use: Iterable[IPv4Network], wanted: IPv4Network | None = None) -> IPv4Network:
    """Return `wanted`, or the first candidate that overlaps nothing `in_use`; raises UsageError if taken."""
    taken = [network for network in in_use if network.prefixlen > 0]
    for subnet in [wanted] if wanted else candidates():
        clash = next((network for network in taken if network.overlaps(subnet)), None)
        if clash is None:
            return subnet
        if wanted:
            raise UsageError(
                f"the subnet {subnet} is taken: this machine already has a route or an address in {clash}",
                hint="leave --subnet out and a free one is chosen; `ip route show table all` lists the taken",
            )
    raise UsageError(
        "every subnet that racks use is taken on this machine",
        hint="name a free private /24, e.g.: --subnet 10.200.7.0/24",
    )
