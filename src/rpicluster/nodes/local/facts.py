"""What this machine has: memory, cores, disk and Java, and the facts of the virtual nodes on it."""

import json
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rpicluster.errors import LocalEngineError
from rpicluster.model.facts import JAVA_WANTED, ClusterFacts, HostFacts, NodeFacts
from rpicluster.model.java import JAVA_USABLE
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.local.state import write_file

JAVA_OLDEST = 17
# Debian 13 has no 17.
_JAVA_HINT = "sudo apt install openjdk-17-jre-headless || sudo apt install openjdk-21-jre-headless"
_JAVA_DIRECTORIES = (Path("/usr/lib/jvm"), Path("/opt/java"), Path("/opt"))
_JAVA_VERSION_TIMEOUT_S = 20
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


@dataclass(frozen=True)
class Java:
    """An installed Java; `warning` says why it may not do."""

    home: str
    major: int
    warning: str | None = None


def host_facts(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> HostFacts:
    """Return memory and cores that this process may use; a cgroup's limits count where lower."""
    memory_kib = int(re.search(r"^MemTotal:\s+(\d+) kB", (proc / "meminfo").read_text(), re.M)[1])  # type: ignore[index]
    memory_mib, cores = memory_kib // 1024, float(len(os.sched_getaffinity(0)))
    for limit in _memory_limits(proc, cgroups):
        memory_mib = min(memory_mib, limit // 2**20)
    for quota in _core_limits(proc, cgroups):
        cores = min(cores, quota)
    return HostFacts(memory_mib=max(1, memory_mib), cores=max(1, int(cores)))


def cluster_facts(spec: ClusterSpec, java: Java, state_directory: Path) -> ClusterFacts:
    """Return the facts of a local cluster: each virtual node is what its budget says, on this machine."""
    free_mib = shutil.disk_usage(state_directory).free // 2**20
    name = (
        platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
        if Path("/etc/os-release").exists()
        else "Linux"
    )
    nodes = {
        node.name: NodeFacts(
            name=node.name,
            memory_mib=node.local.memory,
            cores=node.local.cores,
            arch=platform.machine(),
            os=name,
            java_home=java.home,
            java_major=java.major,
            free_disk_mib=free_mib,
        )
        for node in spec.nodes
        if node.local is not None
    }
    return ClusterFacts(nodes=nodes, host=host_facts())


def find_java(
    environment: Mapping[str, str] = os.environ,
    *,
    directories: Iterable[Path] = _JAVA_DIRECTORIES,
    cache: Path | None = None,
) -> Java:
    """Return the Java to use: $JAVA_HOME, else a Java 17 from PATH or the usual folders, else a newer one.

    `cache` is a file that remembers versions by path and modification time, so that asking costs no JVM
    start. Raises LocalEngineError that names what was found when nothing is Java 17 or newer.
    """
    known = _read_cache(cache)
    if given := environment.get("JAVA_HOME"):
        home = Path(given)
        java = _java_at(home, known)
        if java is None or java.major < JAVA_OLDEST:
            found = f"is Java {java.major}" if java else "has no bin/java that runs"
            raise LocalEngineError(
                f"JAVA_HOME={given} {found}; Hadoop 3.5 and Spark 4.1 need Java {JAVA_WANTED}",
                hint=f"unset JAVA_HOME, or: {_JAVA_HINT}",
            )
        _write_cache(cache, known)
        return java
    found_all = [java for home in _homes(environment, directories) if (java := _java_at(home, known))]
    _write_cache(cache, known)
    usable = [java for java in found_all if java.major >= JAVA_OLDEST]
    if not usable:
        names = ", ".join(f"Java {java.major} in {java.home}" for java in found_all)
        raise LocalEngineError(
            f"no Java {JAVA_WANTED} on this machine; "
            + (f"found only {names}" if names else "found no Java at all"),
            hint=_JAVA_HINT,
        )
    return min(usable, key=lambda java: (java.major != JAVA_WANTED, java.major))


def _homes(environment: Mapping[str, str], directories: Iterable[Path]) -> list[Path]:
    homes: list[Path] = []
    on_path = shutil.which("java", path=environment.get("PATH", os.defpath))
    if on_path:
        homes.append(Path(on_path).resolve().parent.parent)
    for directory in directories:
        if directory.is_dir():
            homes += sorted(
                {entry.resolve() for entry in directory.iterdir() if (entry / "bin" / "java").is_file()}
            )
    return list(dict.fromkeys(homes))


def _java_at(home: Path, known: dict[str, list[int]]) -> Java | None:
    program = home / "bin" / "java"
    try:
        changed = program.stat().st_mtime_ns
    except OSError:
        return None
    if known.get(str(program), [0, 0])[0] != changed:
        major = _ask_version(program)
        if major is None:
            return None
        known[str(program)] = [changed, major]
    major = known[str(program)][1]
    warning = None
    if major > JAVA_WANTED and major not in JAVA_USABLE:
        proven = " and ".join(str(usable) for usable in JAVA_USABLE)
        warning = f"Java {major} in {home} is not proven with this runtime, {proven} are: {_JAVA_HINT}"
    return Java(str(home), major, warning)


def _ask_version(program: Path) -> int | None:
    try:
        answer = subprocess.run(
            [str(program), "-version"],
            capture_output=True,
            timeout=_JAVA_VERSION_TIMEOUT_S,
            check=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError):  # not a program, not a Java, or one that hangs: not usable
        return None
    match = _VERSION.search(answer.stderr + answer.stdout)
    return int(match[1]) if match else None


def _read_cache(cache: Path | None) -> dict[str, list[int]]:
    if cache is None or not cache.is_file():
        return {}
    try:
        document = json.loads(cache.read_text())
        return {str(path): [int(changed), int(major)] for path, (changed, major) in document.items()}
    except (ValueError, TypeError, AttributeError):  # a cache may be thrown away
        return {}


def _write_cache(cache: Path | None, known: dict[str, list[int]]) -> None:
    if cache is not None and known and known != _read_cache(cache):
        write_file(cache, json.dumps(known).encode(), 0o600)


def _memory_limits(proc: Path, cgroups: Path) -> Iterable[int]:
    """Yield limits in bytes; v1 states "none" as a number near 2^63, which the minimum drops."""
    for controller, folder in _cgroup_folders(proc, cgroups, "memory"):
        text = _read(folder / ("memory.max" if controller == "v2" else "memory.limit_in_bytes"))
        if text.isdigit():
            yield int(text)


def _core_limits(proc: Path, cgroups: Path) -> Iterable[float]:
    for controller, folder in _cgroup_folders(proc, cgroups, "cpu"):
        if controller == "v2":
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():  # "max" and -1 mean no limit
            yield int(quota) / int(period)


def _cgroup_folders(proc: Path, cgroups: Path, controller: str) -> Iterable[tuple[str, Path]]:
    """Yield this process's cgroup and all above it, since each may limit it (cgroups(7))."""
    for line in _read(proc / "self" / "cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and controller not in names.split(","):
            continue
        kind, root = ("v1", cgroups / controller) if names else ("v2", cgroups)
        folder = root / path.lstrip("/")
        # In a container the path is the host's and not visible; the root then is this process's own.
        while True:
            if folder.is_dir():
                yield kind, folder
            if folder == root or root not in folder.parents:
                break
            folder = folder.parent


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:  # this kernel or container does not have the file: no limit from it
        return ""
