"""A Vagrantfile for development VMs, and the cluster.yml that names them. Pure.

The VMs get nothing but your key: `rpicluster up` configures them over SSH from this machine, by the playbooks
that configure Pis. So there is one way to a node, and Vagrant's own key and forwarded ports are not used.
"""

import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Address

from rpicluster.design.first_nodes import node_name
from rpicluster.errors import UsageError
from rpicluster.model.memory import format_memory, parse_memory
from rpicluster.model.ssh_key import PublicKey

# The Debian project's own, for both providers; 12.20250126.1 is the newest that was found. It makes no more
# since 2025, and made none of Debian 13 (mailing list debian-cloud, August 2025).
BOX = "debian/bookworm64"
# VirtualBox gives host-only networks addresses in 192.168.56.0/21 only (its manual, 6.7), by default.
FIRST_ADDRESS = IPv4Address("192.168.56.11")
USER = "vagrant"
MAX_VMS = 9
MIN_MEMORY_MIB = 1024
_BOX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}/[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Machine:
    """One VM."""

    name: str
    address: IPv4Address
    memory_mib: int


def machines(nodes: str, first: IPv4Address = FIRST_ADDRESS) -> tuple[Machine, ...]:
    """Return the VMs for `3` (4G, 2G, 2G) or for `4G,4G`; raises UsageError."""
    if re.fullmatch(r"[0-9]{1,9}", nodes):
        count = int(nodes)
        memories = [4096, *([2048] * (count - 1))] if count else []
    else:
        try:
            memories = [parse_memory(part) for part in nodes.split(",")]
        except ValueError as error:
            raise UsageError(f"--nodes: {error}", hint="e.g.: --nodes 3, or --nodes 4G,2G,2G") from error
    if not 1 <= len(memories) <= MAX_VMS:
        raise UsageError(f"--nodes: {len(memories)} is not between 1 and {MAX_VMS}")
    if min(memories) < MIN_MEMORY_MIB:
        raise UsageError(f"--nodes: a VM needs at least {format_memory(MIN_MEMORY_MIB)}")
    last = int(first) + len(memories) - 1
    if (
        not first.is_private
        or int(first) & 255 == 0
        or last & 255 in (0, 255)
        or last >> 8 != int(first) >> 8
    ):
        raise UsageError(
            f"--address: from {first} on there are no {len(memories)} private addresses in one /24",
            hint=f"e.g.: --address {FIRST_ADDRESS}",
        )
    return tuple(
        Machine(node_name(number), first + number - 1, memory_mib)
        for number, memory_mib in enumerate(memories, start=1)
    )


def vagrantfile(wanted: tuple[Machine, ...], keys: tuple[PublicKey, ...], *, box: str, cpus: int) -> str:
    """Return the Vagrantfile; raises UsageError for a box whose name is none.

    Names, addresses and keys hold no character that Ruby or a shell would read: their parsers see to it.
    """
    if not _BOX.fullmatch(box):
        raise UsageError(f"--box: {box!r} is not OWNER/NAME", hint=f"e.g.: --box {BOX}")
    rows = "\n".join(f'  ["{m.name}", "{m.address}", {m.memory_mib}],' for m in wanted)
    lines = "\n".join(f"{key.line}" for key in keys)
    return f"""\
# Written by `rpicluster vm init`: virtual machines for VirtualBox or libvirt, with nothing in them but your
# SSH key. `vagrant up`, then `rpicluster up` in this folder configures them as it configures Pis.
NODES = [
{rows}
].freeze

KEYS = <<~KEYS.freeze
{_indented(lines)}
KEYS

Vagrant.configure("2") do |config|
  config.vm.box = "{box}"
  config.vm.synced_folder ".", "/vagrant", disabled: true
  config.vm.provision "shell", name: "your SSH key", privileged: false, args: [KEYS], inline: <<~'SHELL'
    set -eu
    umask 077
    mkdir -p ~/.ssh
    touch ~/.ssh/authorized_keys
    printf '%s\\n' "$1" | grep . | while read -r key; do
      grep -qxF "$key" ~/.ssh/authorized_keys || printf '%s\\n' "$key" >>~/.ssh/authorized_keys
    done
  SHELL

  NODES.each do |name, address, memory_mib|
    config.vm.define name do |node|
      node.vm.hostname = name
      node.vm.network "private_network", ip: address
      node.vm.provider "virtualbox" do |vm|
        vm.memory = memory_mib
        vm.cpus = {cpus}
        vm.linked_clone = true
      end
      node.vm.provider "libvirt" do |vm|
        vm.memory = memory_mib
        vm.cpus = {cpus}
      end
    end
  end
end
"""


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def vm_cluster(name: str, wanted: tuple[Machine, ...], *, cpus: int) -> str:
    """Return the cluster.yml that names the VMs; `hardware` lets `plan` count before they boot."""
    lines = ["# Virtual machines; the first manages, the others work. Written by `rpicluster vm init`."]
    lines += [f"name: {json.dumps(name)}", "nodes:"]
    for machine in wanted:
        lines += [
            f"  - name: {machine.name}",
            f"    ssh: {{host: {machine.address}, user: {USER}}}",
            f"    hardware: {{memory: {format_memory(machine.memory_mib)}, cores: {cpus}}}",
        ]
    return "\n".join(lines) + "\n"
