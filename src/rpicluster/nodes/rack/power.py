"""One node at a time: power, cable, disk; and what a rack's nodes look like now."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rpicluster.errors import RackError, UsageError
from rpicluster.nodes.rack import host, machine, state
from rpicluster.nodes.rack.answering import Report, shows_banner, wait_until_answering
from rpicluster.nodes.rack.cgroups import NodeCgroup, host_layout, scope_argv
from rpicluster.nodes.rack.commands import run
from rpicluster.nodes.rack.node_loop import CABLE_OUT
from rpicluster.nodes.rack.state import RackState

BOOT_S = 120.0
_OFF_S = 10.0
_SHUTDOWN_S = 90.0  # systemd's own patience with a service that does not stop


@dataclass(frozen=True)
class NodeStatus:
    """One line of `rack status`."""

    name: str
    address: str
    address6: str
    power: str
    answers: bool
    cable: str
    memory_mib: int
    used_mib: int | None
    cpus: float | None


def status(name: str | None) -> tuple[RackState, list[NodeStatus]]:
    """Return the rack and what each of its nodes is doing."""
    host.require_root("status")
    rack = state.require_rack(name)
    on = machine.running(rack.folder(node.name) for node in rack.nodes)
    layout = host_layout()

    def look(number: int) -> NodeStatus:
        node = rack.nodes[number]
        folder, addresses = rack.folder(node.name), rack.addresses(node.name)
        is_on = on[folder].is_on
        return NodeStatus(
            name=node.name,
            address=str(addresses.v4),
            address6=str(addresses.v6),
            power="on" if is_on else "starting" if on[folder].loop else "off",
            answers=is_on and shows_banner(addresses.v4),
            cable="out" if cable_is_out(rack, node.name) else "in",
            memory_mib=node.memory_mib,
            used_mib=NodeCgroup(layout, rack.names.cgroup, node, number + 1).memory_used_mib()
            if is_on
            else None,
            cpus=node.cpus,
        )

    with ThreadPoolExecutor(max_workers=16) as pool:
        return rack, list(pool.map(look, range(len(rack.nodes))))


def cable_is_out(rack: RackState, node: str) -> bool:
    """Return whether a node's cable was pulled; it stays so over reboots."""
    return (rack.folder(node) / CABLE_OUT).exists()


def require_network(rack: RackState) -> None:
    """Raise UsageError if the rack is down, as after `down --keep` or a restart of this machine."""
    if not Path(f"/sys/class/net/{rack.names.bridge}").exists():
        raise UsageError(
            f"rack {rack.name} is down", hint=f"boot it with: rpicluster rack up --name {rack.name}"
        )


def apt_layer(rack: RackState) -> Path:
    """Return the folder that shows nodes the packages which earlier racks downloaded."""
    return rack.directory / "nodes" / "apt-cache"


def switch_on(rack: RackState, node: str) -> None:
    """Give a node its cgroup and start its loop."""
    layout = host_layout()
    cgroup = NodeCgroup(layout, rack.names.cgroup, rack.node(node), rack.number(node))
    machine.switch_on(
        rack,
        node,
        cgroup_procs=cgroup.create(),
        prefix=scope_argv(cgroup.unit, cgroup.node, cgroup.cpus) if layout.kind == "scope" else (),
        apt_cache=apt_layer(rack),
        # systemd 256 and later boots on cgroup v1 only when told to
        legacy_cgroups=layout.kind == "v1" and rack.suite != "bookworm",
    )


def boot(name: str | None, node: str, *, report: Report) -> bool:
    """Switch a node on and wait until it answers; return False if it was on already."""
    with _one_node(name, node, "boot") as (rack, running):
        if running.loop:
            return False
        switch_on(rack, node)
        _wait(rack, [node], report)
    return True


def cut(name: str | None, node: str) -> None:
    """Cut a node's power: its PID 1 is killed, and with it all its processes, at once."""
    with _one_node(name, node, "cut") as (rack, running):
        machine.cut_power(_init(running, node))
        if not machine.wait_until_off(rack.folder(node), timeout_s=_OFF_S):
            raise RackError(f"{node} was cut and still has processes after {_OFF_S:.0f} s")


def reboot(name: str | None, node: str, *, report: Report) -> None:
    """Reboot a node in good order and wait until it answers again."""
    with _one_node(name, node, "reboot") as (rack, running):
        before = _init(running, node)
        machine.ask_to_reboot(before)
        machine.wait_for_another_boot(rack.folder(node), before, timeout_s=_SHUTDOWN_S)
        _wait(rack, [node], report)


def link(name: str | None, node: str, direction: str) -> None:
    """Pull a node's network cable (`down`) or plug it in (`up`); also for the boots to come."""
    with _one_node(name, node, "link") as (rack, running):
        mark = rack.folder(node) / CABLE_OUT
        if direction == "down":
            mark.touch()
        else:
            mark.unlink(missing_ok=True)
        if running.is_on:
            run(["ip", "link", "set", rack.names.cable(node), direction])


def fill_disk(name: str | None, node: str, leave_bytes: int) -> int:
    """Fill a node's disk until `leave_bytes` are free; return how many bytes were taken."""
    with _one_node(name, node, "fill-disk") as (_, running):
        return machine.fill_disk(node, _init(running, node), leave_bytes)


def empty_disk(name: str | None, node: str) -> int:
    """Give back what `fill_disk` took; return how many bytes."""
    with _one_node(name, node, "fill-disk") as (_, running):
        return machine.empty_disk(_init(running, node))


@contextmanager
def _one_node(name: str | None, node: str, command: str) -> Iterator[tuple[RackState, machine.Running]]:
    """Hold the rack for one node; yield the rack as it is now, and what runs of the node."""
    host.require_root(f"{command} {node}")
    found = state.require_rack(name)
    found.node(node)
    with state.changing(found.name, found.directory, f"{command} {node}"):
        rack = state.require_rack(name)
        require_network(rack)
        folder = rack.folder(node)
        yield rack, machine.running([folder])[folder]


def _init(running: machine.Running, node: str) -> int:
    if running.init is None:
        raise UsageError(f"{node} is off", hint=f"switch it on with: rpicluster rack boot {node}")
    return running.init


def _wait(rack: RackState, nodes: Sequence[str], report: Report) -> None:
    reachable = [node for node in nodes if not cable_is_out(rack, node)]
    wait_until_answering(rack, reachable, timeout_s=BOOT_S, report=report)
