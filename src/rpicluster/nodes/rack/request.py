"""What a user asks a rack to be: node sizes, names, CPU quotas, as text in and values out. Pure."""

import re
from dataclasses import dataclass

from rpicluster.errors import UsageError
from rpicluster.model.memory import format_memory, parse_memory

SUITES = ("bookworm", "trixie")
MAX_NODES = 200  # addresses .11 to .210 of a /24
MIN_MEMORY_MIB = 128  # systemd, sshd and one login take about 60 MiB
MAX_CPUS = 1024.0
MIN_DISK_MIB, MAX_DISK_MIB = 256, 4 << 20
_RACK_NAME = re.compile(r"[a-z][a-z0-9-]{0,29}[a-z0-9]|[a-z]")


@dataclass(frozen=True)
class NodeRequest:
    """One virtual Pi: `cpus` is how many of the machine's CPUs it may use at a time, None for all."""

    name: str
    memory_mib: int
    cpus: float | None = None


def node_name(number: int) -> str:
    """Return the name of the `number`th node, counted from 1."""
    return f"pi{number}"


def parse_memory_limit(text: str) -> int:
    """Return whole MiB for one entry of `--nodes`; raises UsageError with the form that is expected."""
    try:
        memory_mib = parse_memory(text)
    except ValueError as error:
        raise UsageError(f"--nodes: {error}", hint="one amount a node, e.g.: --nodes 4G,2G,2G") from error
    if memory_mib < MIN_MEMORY_MIB:
        raise UsageError(
            f"--nodes: {text.strip()} is less than {MIN_MEMORY_MIB}M, in which no system boots",
            hint="the smallest Pi that can be a worker has 1G",
        )
    return memory_mib


def parse_disk(text: str) -> int:
    """Return whole MiB for `--disk`; raises UsageError."""
    try:
        disk_mib = parse_memory(text)
    except ValueError as error:
        raise UsageError(f"--disk: {text!r} is not a size", hint="e.g.: --disk 32G") from error
    if not MIN_DISK_MIB <= disk_mib <= MAX_DISK_MIB:
        raise UsageError(
            f"--disk: {text} is not between {format_memory(MIN_DISK_MIB)} and {format_memory(MAX_DISK_MIB)}",
            hint="the image is sparse: it takes what nodes write, so 16G costs nothing",
        )
    return disk_mib


def parse_cpus(text: str) -> float:
    """Return the number of CPUs that one entry of `--cpus` grants; raises UsageError."""
    try:
        cpus = float(text)
    except ValueError:
        cpus = 0.0
    if not 0.05 <= cpus <= MAX_CPUS:
        raise UsageError(
            f"--cpus: {text.strip()!r} is not a number of CPUs from 0.05 to {MAX_CPUS:.0f}",
            hint="one number a node, e.g.: --cpus 1,0.5,0.5",
        )
    return cpus


def parse_nodes(nodes: str, cpus: str | None = None) -> tuple[NodeRequest, ...]:
    """Return pi1..piN for `4G,2G,2G` and `1,0.5,0.5`.

    One CPU quota stands for all nodes. Raises UsageError.
    """
    memories = [parse_memory_limit(part) for part in nodes.split(",")]
    if len(memories) > MAX_NODES:
        raise UsageError(f"--nodes: {len(memories)} nodes, a rack holds at most {MAX_NODES}")
    quotas: list[float | None] = [None] * len(memories)
    if cpus is not None:
        given = [parse_cpus(part) for part in cpus.split(",")]
        if len(given) not in (1, len(memories)):
            raise UsageError(
                f"--cpus: {len(given)} numbers for {len(memories)} nodes",
                hint="give one number for all nodes, or one a node",
            )
        quotas = [*given] * len(memories) if len(given) == 1 else [*given]
    return tuple(
        NodeRequest(node_name(number), memory_mib, quota)
        for number, (memory_mib, quota) in enumerate(zip(memories, quotas, strict=True), start=1)
    )


def check_rack_name(name: str) -> str:
    """Return `name` if it can name a bridge, a table and a cgroup; raises UsageError."""
    if not _RACK_NAME.fullmatch(name):
        raise UsageError(
            f"--name: {name!r} is not a rack's name: lower-case letters, digits and dashes, at most 31, "
            "a letter first, no dash last",
            hint="e.g.: --name rack2",
        )
    return name


def check_host_memory(nodes: tuple[NodeRequest, ...], host_mib: int) -> str | None:
    """Return a warning if the limits add up to more than the machine has.

    Raises UsageError if one node's limit alone is more than that.
    """
    for node in nodes:
        if node.memory_mib > host_mib:
            raise UsageError(
                f"{node.name} is to have {format_memory(node.memory_mib)}, and this machine has "
                f"{host_mib} MiB in all",
                hint=f"give it at most {format_memory(host_mib // 1024 * 1024 or host_mib)}",
            )
    total_mib = sum(node.memory_mib for node in nodes)
    if total_mib <= host_mib:
        return None
    return (
        f"the nodes may use {total_mib} MiB together and this machine has {host_mib}: limits are not "
        "reservations, so this works until they are all used at once"
    )
