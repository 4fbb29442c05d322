"""What goes on the boot partition of a card, so that a Pi's first boot ends with an SSH login. Pure.

cloud-init reads three files there: on Ubuntu Server for Raspberry Pi (partition `system-boot`) and on
Raspberry Pi OS from trixie on (partition `bootfs`). JSON strings are YAML strings, too, so every value is
written by `json.dumps` and no character of it can end the string.
"""

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface

from rpicluster.design.first_nodes import Entry
from rpicluster.errors import UsageError
from rpicluster.model.ssh_key import PublicKey


class Image(StrEnum):
    """What was written to the card."""

    UBUNTU = "ubuntu"
    RASPIOS = "raspios"


PARTITIONS = {Image.UBUNTU: "system-boot", Image.RASPIOS: "bootfs"}


@dataclass(frozen=True)
class Card:
    """One node's card. Without `address` the node asks DHCP; `gateway` and `dns` count with one only."""

    name: str
    image: Image
    user: str
    keys: tuple[PublicKey, ...]
    address: IPv4Interface | None = None
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()

    @property
    def entry(self) -> Entry:
        """How the node is reached: by its address, else by its name and multicast DNS."""
        host = str(self.address.ip) if self.address else f"{self.name}.local"
        return Entry(self.name, host, self.user)


def addresses(first: IPv4Interface, count: int, gateway: IPv4Address) -> tuple[IPv4Interface, ...]:
    """Return `count` addresses from `first` on, one after the other, in its network.

    Raises UsageError where they leave the network, or one of them is the gateway's.
    """
    network = first.network
    if network.prefixlen > 30:
        raise UsageError(
            f"{first} names no network", hint="give the prefix of yours, e.g.: --address 192.168.1.11/24"
        )
    if gateway not in network:
        raise UsageError(f"the gateway {gateway} is not in {network}, so nodes could not reach it")
    found = []
    for number in range(count):
        address = first.ip + number
        if address not in network or address in (network.network_address, network.broadcast_address):
            raise UsageError(
                f"{count} addresses from {first.ip} on do not fit into {network}: {address} is no host's"
            )
        if address == gateway:
            raise UsageError(
                f"{address} would be a node's address and is the gateway's", hint="begin at another address"
            )
        found.append(IPv4Interface(f"{address}/{network.prefixlen}"))
    return tuple(found)


def card_files(card: Card) -> dict[str, str]:
    """Return the files for the boot partition of one node's card, by name."""
    user_data, network = _user_data(card), _network_config(card)
    # cloud-init does its work once an instance-id: files that changed must count as a new one.
    digest = hashlib.sha256((user_data + network).encode()).hexdigest()[:12]
    meta_data = (
        f"instance-id: {_text(f'rpicluster-{card.name}-{digest}')}\n"
        f"local-hostname: {_text(card.name)}\n"
        "dsmode: local\n"
    )
    return {"user-data": user_data, "network-config": network, "meta-data": meta_data}


def _user_data(card: Card) -> str:
    lines = [
        "#cloud-config",
        f"# For {card.name}, written by rpicluster. cloud-init reads it at the first boot.",
        f"hostname: {_text(card.name)}",
        "# Only the line 127.0.1.1: cloud-init must not take away what `rpicluster up` writes to /etc/hosts.",
        "manage_etc_hosts: localhost",
        "users:",
        f"  - name: {_text(card.user)}",
        "    groups: adm, sudo, video",  # no list: the schema of cloud-init 22.2, in images of 2022, has none
        "    shell: /bin/bash",
        "    # Nobody logs in by password, so sudo cannot ask for one.",
        '    sudo: "ALL=(ALL) NOPASSWD:ALL"',
        "    lock_passwd: true",
        "    ssh_authorized_keys:",
        *(f"      - {_text(key.line)}" for key in card.keys),
        "ssh_pwauth: false",
        "disable_root: true",
    ]
    if card.image is Image.RASPIOS:
        lines += [
            "# Raspberry Pi OS leaves SSH off.",
            "runcmd:",
            "  - [systemctl, enable, --now, ssh.service]",
        ]
    elif card.address is None:
        lines += [
            f"# So that {card.entry.host} is found; Ubuntu Server does not answer multicast DNS by itself.",
            "packages: [avahi-daemon]",
        ]
    return "\n".join(lines) + "\n"


def _network_config(card: Card) -> str:
    lines = ["version: 2", "ethernets:", "  eth0:"]
    if card.address is None:
        return "\n".join([*lines, "    dhcp4: true"]) + "\n"
    lines += ["    dhcp4: false", f"    addresses: [{_text(str(card.address))}]"]
    if card.gateway:
        # Not `to: default`: the netplan of Ubuntu 20.04's first images does not know it.
        lines += ["    routes:", f'      - {{to: "0.0.0.0/0", via: {_text(str(card.gateway))}}}']
    if card.dns:
        servers = ", ".join(_text(str(server)) for server in card.dns)
        lines += ["    nameservers:", f"      addresses: [{servers}]"]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    return json.dumps(value)
