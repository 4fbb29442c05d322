"""True memory limits and CPU quotas: cgroup v1 or hybrid, cgroup v2, or a systemd scope on cgroup v2."""

import contextlib
import math
import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rpicluster.errors import RackError
from rpicluster.nodes.rack.request import NodeRequest

_PERIOD_US = 100_000  # the kernel's default; quotas are so many µs of each
# Which v1 hierarchies a node gets a cgroup of its own in. `name=systemd` and the empty v2 one belong to
# them: nodes that shared a cgroup there would be one machine to each other's systemd.
_JOINED = frozenset({"memory", "cpu", "cpuacct", "cpuset", "pids", "freezer", "name=systemd"})
_POLL_S = 0.02

Kind = Literal["v1", "v2", "scope"]


@dataclass(frozen=True)
class Layout:
    """How this machine does cgroups: `roots` are the mount points in which a node gets a directory."""

    kind: Kind
    roots: tuple[Path, ...]
    memory_root: Path


def detect_layout(mounts: str, pid1: str) -> Layout:
    """Return the layout that /proc/self/mounts and the name of PID 1 describe.

    Raises RackError if no memory controller can be used.
    """
    v1: dict[Path, set[str]] = {}
    v2: list[Path] = []
    for line in mounts.splitlines():
        _, mount, kind, options = line.split()[:4]
        if kind == "cgroup":
            v1[Path(mount)] = set(options.split(","))
        elif kind == "cgroup2":
            v2.append(Path(mount))
    memory = next((mount for mount, options in v1.items() if "memory" in options), None)
    if memory:
        roots = [mount for mount, options in v1.items() if options & _JOINED]
        return Layout("v1", (*roots, *v2), memory)
    if v2 and not v1:
        return Layout("scope" if pid1 == "systemd" else "v2", (v2[0],), v2[0])
    raise RackError(
        "this kernel has no cgroup memory controller, so a node's memory could not be limited",
        hint="on a Raspberry Pi add to cmdline.txt: cgroup_enable=memory cgroup_memory=1 — and reboot",
    )


def host_layout() -> Layout:
    """Return this machine's layout."""
    mounts = Path("/proc/self/mounts").read_text()
    return detect_layout(mounts, Path("/proc/1/comm").read_text().strip())


def cpu_list(node: NodeRequest, number: int, machine: Sequence[int]) -> str | None:
    """Return which of the machine's CPUs the `number`th node sees, None for all.

    A quota of 0.5 is one CPU half of the time: without this a node would count all of the machine's cores.
    Nodes start at different CPUs, so that they do not all crowd the first.
    """
    if node.cpus is None or node.cpus > len(machine) - 1:
        return None
    count = math.ceil(node.cpus)
    return ",".join(str(machine[(number - 1 + place) % len(machine)]) for place in range(count))


def limit_files(kind: Kind, node: NodeRequest, cpus: str | None = None) -> tuple[tuple[str, str], ...]:
    """Return (file, content) pairs that hold a node to its memory and CPUs, in the order of writing.

    `cpus` is what `cpu_list` gives. Swap is part of the limit.
    Source: the kernel's cgroup-v1/memory.rst, cgroup-v2.rst, sched-bwc.rst.
    """
    limit = str(node.memory_mib << 20)
    if kind == "v1":
        quota = str(int(node.cpus * _PERIOD_US)) if node.cpus else "-1"
        return (
            ("memory.use_hierarchy", "1"),
            ("memory.memsw.limit_in_bytes", "-1"),  # it may never be below the next, also when limits change
            ("memory.limit_in_bytes", limit),
            ("memory.memsw.limit_in_bytes", limit),
            ("cpu.cfs_period_us", str(_PERIOD_US)),
            ("cpu.cfs_quota_us", quota),
            *((("cpuset.cpus", cpus),) if cpus else ()),
        )
    quota = str(int(node.cpus * _PERIOD_US)) if node.cpus else "max"
    return (
        ("memory.max", limit),
        ("memory.swap.max", "0"),
        ("memory.oom.group", "0"),
        ("cpu.max", f"{quota} {_PERIOD_US}"),
        *((("cpuset.cpus", cpus),) if cpus else ()),
    )


# What a kernel may lack without a limit being lost: swap accounting, hierarchies that are always on.
_OPTIONAL = frozenset(
    {"memory.use_hierarchy", "memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group"}
)


def scope_argv(unit: str, node: NodeRequest, cpus: str | None = None) -> list[str]:
    """Return the words before a command that make systemd run it in a transient scope with the limits."""
    quota = [f"--property=CPUQuota={node.cpus * 100:.0f}%"] if node.cpus else []
    allowed = [f"--property=AllowedCPUs={cpus}"] if cpus else []
    return [
        "systemd-run",
        "--scope",
        "--quiet",
        "--collect",
        f"--unit={unit}",
        "--property=Delegate=yes",
        f"--property=MemoryMax={node.memory_mib}M",
        "--property=MemorySwapMax=0",
        "--property=TasksMax=infinity",
        *quota,
        *allowed,
        "--",
    ]


@dataclass(frozen=True)
class NodeCgroup:
    """One node's cgroup, in every hierarchy that counts."""

    layout: Layout
    rack: str
    node: NodeRequest
    number: int

    @property
    def cpus(self) -> str | None:
        """The CPUs that the node sees, None for all."""
        return cpu_list(self.node, self.number, sorted(os.sched_getaffinity(0)))

    @property
    def unit(self) -> str:
        """The name of the transient scope."""
        return f"{self.rack}-{self.node.name}"

    @property
    def directories(self) -> tuple[Path, ...]:
        """The node's cgroup directories; a scope's is systemd's to make and remove."""
        if self.layout.kind == "scope":
            return tuple(root / "system.slice" / f"{self.unit}.scope" for root in self.layout.roots)
        return tuple(root / self.rack / self.node.name for root in self.layout.roots)

    def create(self) -> list[Path]:
        """Make the directories with their limits; return the files that a process joins by writing into.

        Raises RackError if a limit that was asked for cannot be set.
        """
        if self.layout.kind == "scope":
            return []
        if self.layout.kind == "v2":
            _enable_controllers(self.layout.roots[0], self.rack)
        for directory in self.directories:
            directory.mkdir(parents=True, exist_ok=True)
            if self.layout.kind == "v1":
                _inherit_cpuset(directory)
        for name, content in limit_files(self.layout.kind, self.node, self.cpus):
            self._write(name, content)
        return [directory / "cgroup.procs" for directory in self.directories]

    def _write(self, name: str, content: str) -> None:
        files = [directory / name for directory in self.directories if (directory / name).exists()]
        if not files and name not in _OPTIONAL and not (name.startswith("cpu") and not self.node.cpus):
            raise RackError(
                f"{self.node.name} cannot be limited: this kernel has no {name} in a cgroup",
                hint="leave --cpus out" if name.startswith("cpu") else "boot with: cgroup_enable=memory",
            )
        for file in files:
            try:
                file.write_text(content)
            except OSError as error:
                if name not in _OPTIONAL:
                    raise RackError(
                        f"{self.node.name} cannot be limited: writing {content} to {file}: {error.strerror}"
                    ) from error

    def memory_used_mib(self) -> int | None:
        """Return what the node uses of its limit now, file cache included; None when it has no cgroup."""
        for directory in self.directories:
            for name in ("memory.usage_in_bytes", "memory.current"):
                with contextlib.suppress(FileNotFoundError):
                    return int((directory / name).read_text()) >> 20
        return None


def _inherit_cpuset(directory: Path) -> None:
    """Give a v1 cpuset its parents' CPUs and memory nodes: a new one has none, and nothing may join it."""
    for folder in (directory.parent, directory):
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (folder / name).exists():
                (folder / name).write_text((folder.parent / name).read_text())


def _enable_controllers(root: Path, rack: str) -> None:
    (root / rack).mkdir(exist_ok=True)
    for directory in (root, root / rack):
        try:
            (directory / "cgroup.subtree_control").write_text("+memory +cpu +cpuset")
        except OSError as error:
            raise RackError(
                f"cannot hand memory and CPU limits down in {directory}: {error.strerror}",
                hint="a container must own its cgroup for this: run the rack on the machine itself",
            ) from error


def members(directories: Iterable[Path]) -> set[int]:
    """Return the pids of all processes in these cgroups and in those below them."""
    found: set[int] = set()
    for directory in directories:
        for folder, _, files in os.walk(directory):
            if "cgroup.procs" in files:
                with contextlib.suppress(OSError):  # removed meanwhile, or a threaded cgroup
                    found.update(int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split())
    return found - {0}


def kill_members(directories: Sequence[Path], *, timeout_s: float = 10.0) -> None:
    """Kill every process in these cgroups and wait until they are gone; raises RackError if one stays."""
    deadline = time.monotonic() + timeout_s
    while pids := members(directories):
        if time.monotonic() >= deadline:
            raise RackError(
                f"processes {sorted(pids)} do not end although they were killed",
                hint="ps -o pid,stat,wchan:30,args " + " ".join(map(str, sorted(pids))),
            )
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def remove_tree(directory: Path, *, timeout_s: float = 5.0) -> None:
    """Remove an empty cgroup with those below it; a process that just died may keep it for a moment."""
    deadline = time.monotonic() + timeout_s
    for folder, _, _ in os.walk(directory, topdown=False):
        while True:
            try:
                os.rmdir(folder)  # noqa: PTH106  os.walk gives strings
            except FileNotFoundError:
                break
            except OSError as error:
                if time.monotonic() >= deadline:
                    raise RackError(f"the cgroup {folder} cannot be removed: {error.strerror}") from error
                time.sleep(_POLL_S)
            else:
                break


def rack_directories(layout: Layout, rack: str) -> list[Path]:
    """Return the cgroup directories that are there for a rack, in every hierarchy."""
    if layout.kind == "scope":
        return sorted((layout.roots[0] / "system.slice").glob(f"{rack}-pi*.scope"))
    return [root / rack for root in layout.roots if (root / rack).is_dir()]
