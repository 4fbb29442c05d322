"""Making a rack, and adding a node to it."""

import dataclasses
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from rpicluster.errors import RackError, UsageError
from rpicluster.nodes.local.state import write_file
from rpicluster.nodes.rack import aptcache, base, files, host, machine, network, power, state, teardown
from rpicluster.nodes.rack.addresses import Network, choose_subnet, names_of, unique_local_prefix
from rpicluster.nodes.rack.answering import Report, wait_until_answering
from rpicluster.nodes.rack.commands import run
from rpicluster.nodes.rack.request import (
    MAX_NODES,
    NodeRequest,
    check_host_memory,
    node_name,
    parse_nodes,
)
from rpicluster.nodes.rack.state import RackState

DEFAULT_NODES = "4G,2G,2G"
DEFAULT_SUITE = "bookworm"
DEFAULT_DISK_MIB = 16 * 1024  # a common SD card; the image is sparse and takes what is written

# What a rack cannot show, in short; docs/howto/rack.md has it in full.
LIMITS = (
    "a power cut loses no page cache here, so it proves nothing about fsync",
    "a node's clock is this machine's and cannot be set; negative oom scores may be refused",
    "no Ubuntu boots here: netplan, cloud-init, snapd, ufw and unattended-upgrades have fixtures instead",
)


@dataclass(frozen=True)
class Wanted:
    """What `rack up` was asked for; None means: as it was, or the default."""

    name: str
    nodes: tuple[NodeRequest, ...] | None = None
    suite: str | None = None
    directory: Path | None = None
    subnet: IPv4Network | None = None
    disk_mib: int | None = None


@dataclass(frozen=True)
class UpResult:
    """A rack that is up: how long each phase took in seconds, and what the user should know."""

    state: RackState
    timings_s: dict[str, float]
    notes: tuple[str, ...]


def up(wanted: Wanted, *, report: Report) -> UpResult:
    """Make the rack what is wanted and wait until every node lets `pi` in; continues what was broken off.

    Raises UsageError, RackError, LockHeld, Unreachable.
    """
    host.require_root("up")
    host.require_tools()
    host.require_kernel()
    directory = _directory_for(wanted)
    clock = _Stopwatch()
    with state.changing(wanted.name, directory, "up"):
        rack, notes = _admit(wanted, directory)
        rack = _with_base(rack, report)
        clock.lap("base")
        _switch_all_on(rack, report)
        notes += _write_user_files(rack)
        clock.lap("start")
        waited_for = [node.name for node in rack.nodes if not power.cable_is_out(rack, node.name)]
        wait_until_answering(rack, waited_for, timeout_s=power.BOOT_S, report=report)
        clock.lap("login")
        rack = dataclasses.replace(rack, whole=True)
        state.save(rack)
    if not machine.resolv_conf():
        notes.append("this machine has no IPv4 name server that a node could ask, so apt in nodes will fail")
    return UpResult(rack, clock.laps_s, tuple(notes))


def _with_base(rack: RackState, report: Report) -> RackState:
    """Return the rack with its base image; disks that exist keep the one that they were written over."""
    if rack.base and any(rack.directory.glob("nodes/pi*/disk.img")):
        if not Path(rack.base).is_dir():
            raise RackError(
                f"{rack.base} is gone, over which the disks of rack {rack.name} were written",
                hint=f"start afresh: rpicluster rack down --name {rack.name}",
            )
        return rack
    report("base", f"Debian {rack.suite}", 0.0)
    image = base.ensure_base(rack.suite, report=lambda text: report("base", text, 0.0))
    report("base", image.name, 1.0)
    rack = dataclasses.replace(rack, base=str(image))
    state.save(rack)
    return rack


class _Stopwatch:
    def __init__(self) -> None:
        self.laps_s: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps_s[name] = round(now - self._since, 2)
        self._since = now


def _directory_for(wanted: Wanted) -> Path:
    _, found = state.find_directory(wanted.name)
    directory = wanted.directory.absolute() if wanted.directory else found
    if directory != found and wanted.name in {entry.name for entry in state.registered()}:
        raise UsageError(
            f"rack {wanted.name} already stands in {found}",
            hint="leave --dir out, or choose another --name",
        )
    files.check_folder(directory)
    if directory.is_dir() and state.load(directory) is None:
        strangers = [name for name in state.USER_FILES[1:] if (directory / name).exists()]
        if strangers:
            raise UsageError(
                f"{directory} holds {', '.join(strangers)}, and no rack: nothing was touched",
                hint="choose another folder with --dir",
            )
    new = [folder for folder in (directory, *directory.parents) if not folder.exists()]
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    state.give_to_user(*new)
    return directory


def _admit(wanted: Wanted, directory: Path) -> tuple[RackState, list[str]]:
    """Return the rack that `up` works on, registered and saved before anything of it exists."""
    old = state.load(directory)
    if old and old.name != wanted.name:
        raise UsageError(
            f"{directory} holds rack {old.name}, not {wanted.name}", hint=f"add: --name {old.name}"
        )
    if old and not old.whole and _differs(old, wanted):
        teardown.take_down(wanted.name, directory, keep=False)  # a broken-off `up` that somebody starts over
        old = None
    if old and (difference := _differs(old, wanted)):
        raise UsageError(
            f"rack {old.name} is there with another {difference}",
            hint=f"take it down first: rpicluster rack down --name {old.name}",
        )
    nodes = old.nodes if old else wanted.nodes or parse_nodes(DEFAULT_NODES)
    warning = check_host_memory(nodes, host.host_memory_mib())
    with state.register_lock():
        others = [entry for entry in state.registered() if entry.name != wanted.name]
        for entry in others:
            if names_of(entry.name) == names_of(wanted.name):
                raise UsageError(f"the names of racks {entry.name} and {wanted.name} clash in the kernel")
        rack = old or _new_state(wanted, directory, nodes, [entry.subnet for entry in others])
        if old and wanted.name not in {entry.name for entry in state.registered()}:
            _check_still_free(old, [entry.subnet for entry in others])
        state.register(rack)
        state.save(rack)
    return rack, [warning] if warning else []


def _differs(old: RackState, wanted: Wanted) -> str | None:
    pairs = {
        "--nodes or --cpus": (wanted.nodes, old.nodes),
        "--suite": (wanted.suite, old.suite),
        "--subnet": (wanted.subnet, old.network.v4),
        "--disk": (wanted.disk_mib, old.disk_mib),
    }
    return next((what for what, (new, was) in pairs.items() if new is not None and new != was), None)


def _new_state(
    wanted: Wanted, directory: Path, nodes: tuple[NodeRequest, ...], taken: Sequence[IPv4Network]
) -> RackState:
    subnet = choose_subnet([*network.networks_in_use(), *taken], wanted.subnet)
    return RackState(
        name=wanted.name,
        directory=directory,
        suite=wanted.suite or DEFAULT_SUITE,
        network=Network(subnet, unique_local_prefix(wanted.name, subnet)),
        nodes=nodes,
        disk_mib=wanted.disk_mib or DEFAULT_DISK_MIB,
        machine_ids={node.name: secrets.token_hex(16) for node in nodes},
    )


def _check_still_free(rack: RackState, taken: Sequence[IPv4Network]) -> None:
    try:
        choose_subnet([*network.networks_in_use(), *taken], rack.network.v4)
    except UsageError as error:
        raise UsageError(
            error.message + f"; the disks of rack {rack.name} were made for it",
            hint=f"free that subnet, or start afresh: rpicluster rack down --name {rack.name}",
        ) from error


def _switch_all_on(rack: RackState, report: Report) -> None:
    _make_key(rack)
    with state.register_lock():
        state.register(rack)
        network.enable_forwarding(state.REGISTER / "ip_forward")
        network.ensure_network(rack.names, rack.network)
    aptcache.offer(aptcache.packages_folder(base.cache_root(), rack.suite), power.apt_layer(rack))
    on = machine.running(rack.folder(node.name) for node in rack.nodes)
    for node in rack.nodes:
        report(node.name, "boots", 0.3)
        machine.make_disk(rack, node.name)
        if not on[rack.folder(node.name)].loop:
            power.switch_on(rack, node.name)


def _make_key(rack: RackState) -> None:
    if not rack.key.exists():
        aside = rack.key.with_suffix(".new")
        for path in (aside, aside.with_suffix(".new.pub"), rack.key.with_suffix(".pub")):
            path.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"rack {rack.name}", "-f", aside])
        Path(f"{aside}.pub").rename(rack.key.with_suffix(".pub"))
        aside.rename(rack.key)
    rack.key.chmod(0o600)


def _write_user_files(rack: RackState, before: RackState | None = None) -> list[str]:
    """Write what the user works with; return notes. A cluster.yml that somebody edited stays as it is."""
    keys = {node.name: machine.host_keys(rack, node.name) for node in rack.nodes}
    addresses = rack.all_addresses
    texts = {
        "known_hosts": files.known_hosts(addresses, keys),
        "ssh_config": files.ssh_config(addresses, rack.directory),
    }
    notes = []
    spec = rack.directory / "cluster.yml"
    if not spec.exists() or spec.read_text() == state.written_cluster_yml(before or rack):
        texts["cluster.yml"] = state.written_cluster_yml(rack)
    elif spec.read_text() != state.written_cluster_yml(rack):
        notes.append(f"{spec} is not as a rack writes it, so it stays as it is")
    for name, text in texts.items():
        write_file(rack.directory / name, text.encode(), 0o644)
    state.give_to_user(*(rack.directory / name for name in state.USER_FILES))
    return notes


def add(name: str | None, memory_mib: int, cpus: float | None, *, report: Report) -> tuple[str, list[str]]:
    """Boot one more node beside the others; return its name and notes."""
    host.require_root("add")
    found = state.require_rack(name)
    with state.changing(found.name, found.directory, "add"):
        rack = state.require_rack(name)
        power.require_network(rack)
        if len(rack.nodes) >= MAX_NODES:
            raise UsageError(f"rack {rack.name} has {MAX_NODES} nodes, more have no addresses")
        node = NodeRequest(node_name(len(rack.nodes) + 1), memory_mib, cpus)
        grown = dataclasses.replace(
            rack,
            nodes=(*rack.nodes, node),
            machine_ids={**rack.machine_ids, node.name: secrets.token_hex(16)},
        )
        warning = check_host_memory(grown.nodes, host.host_memory_mib())
        state.save(grown)
        report(node.name, "boots", 0.3)
        machine.make_disk(grown, node.name)
        power.switch_on(grown, node.name)
        notes = _write_user_files(grown, before=rack)
        wait_until_answering(grown, [node.name], timeout_s=power.BOOT_S, report=report)
    return node.name, [*notes, *([warning] if warning else [])]
