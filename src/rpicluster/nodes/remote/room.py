"""Whether a node's disks can take what `up` brings, told before anything changes. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from rpicluster.design.preview import PATHS
from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.remote.placement import java_homes, packages

# openjdk-17-jre-headless with what it needs, its packages, and apt's lists.
PACKAGES_MIB = 350
# r-base-core and what rpicluster's own R package needs, on Debian 12: 158 MB installed, 69 MB downloaded.
R_MIB = 230
SPARE_MIB = 100  # logs and the first blocks
_WRITTEN = ("/etc", "/usr", "/var/lib", "/opt")


def no_room(
    machines: Mapping[str, MachineFacts | None],
    *,
    runtime_hash: str,
    runtime_mib: int,
    data: Mapping[str, str] | None = None,
    r: bool = False,
) -> tuple[str, ...]:
    """Return why nodes cannot take it; a node that has the runtime and its packages needs nothing new.

    `data` has the folder of each node's data, by default below /var/lib. With `r` they get R as well; apt
    itself looks for the room of compilers, which only some packages need.
    """
    homes = java_homes(machines)
    found: list[str] = []
    for name, machine in machines.items():
        if machine is not None:
            needs = [((data or {}).get(name, PATHS.data), SPARE_MIB, "data")]
            if machine.runtime != runtime_hash:
                needs.append((PATHS.runtime, runtime_mib, "the runtime"))
            if packages(machine, homes[name]):
                needs.append(("/usr", PACKAGES_MIB, "Debian packages"))
            if r and machine.r is None:
                needs.append(("/usr", R_MIB, "R"))
            found += [*_read_only(name, machine), *_full(name, machine, needs)]
    return tuple(found)


def _read_only(name: str, machine: MachineFacts) -> Iterator[str]:
    found = {mount.path: mount for path in _WRITTEN if (mount := machine.mount_of(path)) and mount.read_only}
    for mount in found.values():
        yield (
            f"{name}: {mount.path} ({mount.source}) is mounted read-only, as Linux does with a disk "
            f"that fails; look with: rpicluster ssh {name} sudo dmesg"
        )


def _full(name: str, machine: MachineFacts, needs: Sequence[tuple[str, int, str]]) -> Iterator[str]:
    if len(needs) == 1:
        return
    by_mount: dict[str, list[tuple[int, str]]] = {}
    for path, mib, what in needs:
        mount = machine.mount_of(path)
        if mount is not None and mount.free_mib is not None:
            by_mount.setdefault(mount.path, []).append((mib, what))
    for path, parts in by_mount.items():
        wanted = sum(mib for mib, _ in parts)
        mount = machine.mount_of(path)
        if mount is not None and mount.free_mib is not None and mount.free_mib < wanted:
            listed = ", ".join(f"{what} {mib}" for mib, what in parts)
            yield (
                f"{name} has {mount.free_mib} MiB free on {path} and needs {wanted} ({listed}); "
                f"free some: rpicluster ssh {name} sudo du -xhd2 {path}"
            )
