"""What there is of a rack on this machine, so that `down` can prove that nothing is left."""

from collections.abc import Sequence
from pathlib import Path

from rpicluster.nodes.rack.addresses import Names, Network
from rpicluster.nodes.rack.cgroups import Layout, rack_directories
from rpicluster.nodes.rack.machine import running
from rpicluster.nodes.rack.network import blackholes, interfaces, table_exists


def leftovers(
    names: Names, network: Network | None, nodes: Sequence[Path], directory: Path, layout: Layout
) -> list[str]:
    """Return what is left of a rack in kernel and process table, in words; empty when it is all gone."""
    found = []
    for folder, node in running(nodes).items():
        found += [f"process {pid} of {folder.name}" for pid in node.pids]
    found += [f"cgroup {path}" for path in rack_directories(layout, names.cgroup)]
    found += [
        f"interface {link}"
        for link in interfaces()
        if link == names.bridge or link.startswith(names.cable(""))
    ]
    if table_exists(names.table):
        found.append(f"nft table inet {names.table}")
    if network:
        found += [f"route {line}" for line in blackholes(network)]
    found += [f"mount {path}" for path in mounts_below(Path("/proc/self/mountinfo").read_text(), directory)]
    found += [f"loop device of {path}" for path in loop_files() if path.is_relative_to(directory)]
    return found


def mounts_below(mountinfo: str, directory: Path) -> list[str]:
    """Return the mount points in `directory` that /proc/self/mountinfo lists (proc(5): octal escapes)."""
    points = (line.split()[4] for line in mountinfo.splitlines())
    plain = (point.encode().decode("unicode_escape").encode("latin-1").decode() for point in points)
    return [point for point in plain if Path(point).is_relative_to(directory)]


def loop_files() -> list[Path]:
    """Return the files behind all loop devices."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found.append(Path(path.read_text().rstrip("\n").removesuffix(" (deleted)")))
        except OSError:  # freed between listing and reading
            continue
    return found
