"""What a node needs before files can be placed there, from the design and from what was seen of it. Pure."""

from dataclasses import asdict

from rpicluster.design import layout
from rpicluster.design.accounts import directories, system_users
from rpicluster.design.hosts_block import hosts_block
from rpicluster.design.inputs import Inputs
from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.remote.manifest import Base
from rpicluster.nodes.remote.placement import packages
from rpicluster.nodes.remote.storage import order


def base_of(inputs: Inputs, name: str, machine: MachineFacts | None) -> Base:
    """Return what node `name` needs; packages and boot file only where it was seen that they are missing."""
    return Base(
        group=layout.GROUP,
        users=tuple(
            {"name": user.name, "comment": user.purpose, "home": user.home, "shell": user.shell}
            for user in system_users(inputs, name)
        ),
        directories=tuple(
            {**asdict(directory), "mode": f"{directory.mode:04o}"} for directory in directories(inputs, name)
        ),
        hosts_block=_of_others(inputs.once(hosts_block), name),
        boot_file=_boot_file(machine),
        storage=order(inputs.paths(name)),
        packages=packages(machine, inputs.node(name).java_home) if machine is not None else (),
    )


def _of_others(block: str, name: str) -> str:
    """Return the lines for /etc/hosts without the node's own.

    Hadoop looks up the name of its own address, and listens on what that name leads to. With its own line
    here, that is its name, which Debian's line `127.0.1.1 NAME` leads to loopback (seen on a rack: NameNode
    and NodeManager on 127.0.1.1); without it, the address stays an address.
    """
    before, own, behind = block.partition(f"\t{name}\n")
    return before[: before.rfind("\n") + 1] + behind if own else block


def _boot_file(machine: MachineFacts | None) -> str:
    """Return the cmdline.txt that lacks the memory cgroup, "" where there is none to change."""
    if machine is None or machine.cgroups is None or machine.cgroups.memory:
        return ""
    if machine.board is None or machine.cgroups.boot_file is None:
        return ""
    enabled = "cgroup_enable=memory" in (machine.cgroups.boot_command_line or "")
    return "" if enabled else machine.cgroups.boot_file
