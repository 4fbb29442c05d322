"""Taking a rack down, from wherever an `up` or an accident left it, and proving that nothing is left."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from rpicluster.errors import RackError
from rpicluster.nodes.rack import aptcache, base, host, machine, network, state
from rpicluster.nodes.rack.addresses import Names, Network, names_of, unique_local_prefix
from rpicluster.nodes.rack.answering import Report
from rpicluster.nodes.rack.cgroups import Layout, host_layout, kill_members, rack_directories, remove_tree
from rpicluster.nodes.rack.inventory import leftovers
from rpicluster.nodes.rack.state import RackState

_SHUTDOWN_S = 30.0
_GONE_S = 10.0
_POLL_S = 0.05


def down(name: str | None, *, keep: bool, report: Report) -> str:
    """Take a rack away; with `keep` nodes shut down in good order and their disks stay for the next `up`.

    Also cleans after an `up` that was broken off anywhere. Returns the rack's name. Raises UsageError if
    there is no such rack, RackError that lists what could not be removed.
    """
    host.require_root("down")
    found, directory = state.find_directory(name)
    if not directory.is_dir():
        if not _traces(found):
            raise state.no_rack(found)
        directory.mkdir(parents=True)  # somebody deleted it under the running rack
    with state.changing(found, directory, "down"):
        known = state.load(directory) or found in {entry.name for entry in state.registered()}
        if not known and not _traces(found):
            (directory / "lock").unlink()
            with contextlib.suppress(OSError):  # somebody's files stand in it
                directory.rmdir()
            raise state.no_rack(found)
        take_down(found, directory, keep=keep, report=report)
    return found


def _traces(name: str) -> bool:
    names = names_of(name)
    return bool(rack_directories(host_layout(), names.cgroup)) or names.bridge in network.interfaces()


def take_down(name: str, directory: Path, *, keep: bool, report: Report | None = None) -> None:
    """Remove everything of a rack; the caller holds its lock."""
    rack, names, layout = state.load(directory), names_of(name), host_layout()
    nodes = sorted(path for path in directory.glob("nodes/pi*") if path.is_dir())
    if rack:
        _keep_packages(rack, nodes)
    if keep:
        _shut_down(nodes, report)
    _end_at_once(nodes)
    kill_members(rack_directories(layout, names.cgroup))
    with state.register_lock():
        networks = _networks(name, rack)
        network.remove_network(names, networks)
        for cgroup in rack_directories(layout, names.cgroup):
            remove_tree(cgroup)
        _require_gone(names, networks, nodes, directory, layout)
        state.unregister(name)
        if not state.registered():
            network.restore_forwarding(state.REGISTER / "ip_forward")
            state.forget_register_if_empty()
    if not keep:
        _remove_files(directory, rack)


def _networks(name: str, rack: RackState | None) -> Network | None:
    if rack:
        return rack.network
    for entry in state.registered():
        if entry.name == name:
            return Network(entry.subnet, unique_local_prefix(name, entry.subnet))
    return None


def _keep_packages(rack: RackState, nodes: Sequence[Path]) -> None:
    folder = aptcache.packages_folder(base.cache_root(), rack.suite)
    for node in machine.running(nodes).values():
        if node.init:
            with contextlib.suppress(OSError):  # a cache: the next rack downloads what is missing
                aptcache.keep(node.init, folder)


def _shut_down(nodes: Sequence[Path], report: Report | None) -> None:
    """Ask all nodes to shut down and give them time; those that do not are cut afterwards."""
    asked = {folder: node for folder, node in machine.running(nodes).items() if node.loop}
    for folder, node in asked.items():
        if report:
            report(folder.name, "shuts down", 0.5)
        assert node.loop is not None  # noqa: S101  filtered above
        _kill(node.loop, signal.SIGTERM)
    deadline = time.monotonic() + _SHUTDOWN_S
    while any(node.pids for node in machine.running(asked).values()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _end_at_once(nodes: Sequence[Path]) -> None:
    """Kill all loops; the kernel ends nspawn, its node and lxcfs with them, and drops their mounts."""
    deadline = time.monotonic() + _GONE_S
    while pids := [pid for node in machine.running(nodes).values() for pid in node.pids]:
        if time.monotonic() >= deadline:
            raise RackError(f"processes {pids} do not end although they were killed")
        for pid in pids:
            _kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _kill(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _require_gone(
    names: Names, networks: Network | None, nodes: Sequence[Path], directory: Path, layout: Layout
) -> None:
    """Wait until the kernel has let go of everything; raises RackError that lists what stays."""
    deadline = time.monotonic() + _GONE_S
    while left := leftovers(names, networks, nodes, directory, layout):
        if time.monotonic() >= deadline:
            raise RackError(
                f"after {_GONE_S:.0f} s there is still: {'; '.join(left)}",
                hint="look who uses it, then once more: rpicluster rack down",
            )
        time.sleep(_POLL_S)


def _remove_files(directory: Path, rack: RackState | None) -> None:
    """Remove the rack's files; a cluster.yml that somebody edited and files of others stay."""
    shutil.rmtree(directory / "nodes", ignore_errors=True)
    for name in (*state.USER_FILES, state.STATE_FILE, "lock"):
        edited = name == "cluster.yml" and rack and not _is_as_written(directory / name, rack)
        if not edited:
            (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody's files stand in it
        directory.rmdir()


def _is_as_written(spec: Path, rack: RackState) -> bool:
    return not spec.exists() or spec.read_text() == state.written_cluster_yml(rack)
