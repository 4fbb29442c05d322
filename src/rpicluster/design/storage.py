"""Which disk a node's data go to: from what cluster.yml says, what was seen, and what it has already. Pure.

A node that has data keeps them where they are: whatever is plugged in later moves nothing.
"""

import uuid
from dataclasses import dataclass

from rpicluster.design.mount_unit import described
from rpicluster.design.preview import PATHS
from rpicluster.model.facts import DATA_MOUNT, DataDisk
from rpicluster.model.machine import Disk, DiskKind, MachineFacts, Mount, Partition
from rpicluster.model.spec import NOT_FOR_DATA, NodeSpec, is_plain_folder

FOLDER = "rpicluster"  # ours, on a disk that may hold other things
SYSTEMS = PATHS.data.removesuffix(f"/{FOLDER}")  # named as a folder: with the system, whatever else is there
FORMATTED_AS = "ext4"
# The smallest file system that is worth more than the boot disk's: an 8 GB stick is not.
SIZE_MIN_MIB = 8 << 10
CARDS = frozenset({DiskKind.SD, DiskKind.EMMC, DiskKind.USB_STICK})
_FREE_CHOICE = frozenset({"ext3", "ext4", "xfs", "btrfs", "f2fs"})
# Whoever names one of these knows why; overlay is what virtual machines and containers stand on.
_BY_NAME = _FREE_CHOICE | {"ext2", "zfs", "jfs", "reiserfs", "bcachefs", "overlay"}
_PARTS_OF_MORE = ("LVM2_member", "linux_raid_member", "crypto_LUKS")
_WHY_NOT = {
    **dict.fromkeys(("vfat", "exfat", "msdos"), "it knows no owners and no permissions"),
    **dict.fromkeys(("ntfs", "ntfs3", "fuseblk"), "it keeps no owners and permissions as Linux knows them"),
    **dict.fromkeys(("nfs", "nfs4", "cifs", "9p", "fuse.sshfs"), "it is another machine's"),
    **dict.fromkeys(_PARTS_OF_MORE, "it is a part of something larger, or encrypted"),
    "swap": "it is swap",
}
# What the system itself stands on is never chosen by default; NOT_FOR_DATA not even when it is named.
_SYSTEM = (*NOT_FOR_DATA, "/var", "/opt", "/snap", "/nix", "/efi")
_NAMESPACE = uuid.UUID("6f0d2c1e-3f63-4b39-9d6c-0f4f4b5f3c55")


@dataclass(frozen=True)
class Choice:
    """Where a node's data go; `disk` None: to the file system that holds /var/lib."""

    disk: DataDisk | None = None
    formats: str = ""  # what is on a disk that is to be formatted, in words; "" for none
    refusal: str = ""  # begins with the node's name
    warnings: tuple[str, ...] = ()


class _Refused(Exception):
    """Why a disk will not do."""


def choose(
    node: NodeSpec,
    machine: MachineFacts | None,
    kept: DataDisk | None,
    *,
    has_data: bool,
    cluster_id: str,
    formats: frozenset[str] = frozenset(),
) -> Choice:
    """Return where the data of `node` go.

    With `has_data` they are at `kept` (None: below /var/lib), and stay. `formats` are the names of disks that
    may be formatted. The order of disks and mounts makes no difference.
    """
    name = node.name
    try:
        if has_data:
            return _kept(node, machine, kept, formats)
        if node.storage is None:
            return _by_default(name, machine) if machine is not None else Choice()
        if node.storage.path is not None:
            return _folder(name, machine, node.storage.path)
        return _disk(name, machine, str(node.storage.disk), f"{cluster_id}/{name}", formats)
    except _Refused as why:
        return Choice(refusal=f"{name}: {why}")


def _kept(
    node: NodeSpec, machine: MachineFacts | None, kept: DataDisk | None, formats: frozenset[str]
) -> Choice:
    """Return where the data are, with the reason if nothing may be changed there now."""
    try:
        _require_said(node, machine, kept, formats)
        if kept is not None and machine is not None:
            _require_there(node.name, machine, kept)
    except _Refused as why:
        return Choice(kept, refusal=f"{node.name}: {why}")
    return Choice(kept)


def _where(kept: DataDisk | None) -> str:
    return described(kept) if kept is not None else f"{PATHS.data}, on the disk that it boots from"


def _require_said(
    node: NodeSpec, machine: MachineFacts | None, kept: DataDisk | None, formats: frozenset[str]
) -> None:
    said = node.storage
    if said is None:
        return
    if not _same(said.path, said.disk, kept, machine):
        raise _Refused(
            f"its data lie in {_where(kept)}, and cluster.yml says storage: {said.path or said.disk}. Data "
            f"are never moved: take {node.name} out of cluster.yml, run `rpicluster up`, and put it in again "
            "with the new storage; the manager's stay as long as the cluster"
        )
    if said.disk in formats:
        raise _Refused(f"{said.disk} holds data of this cluster and is not formatted")


def _require_there(name: str, machine: MachineFacts, kept: DataDisk) -> None:
    """Refuse to go on while the disk with the data is away: what is made anew would pass for it."""
    mount = _mounted_on(machine, kept.mount)
    if mount is None:
        if kept.is_ours and any(p.uuid == kept.uuid for disk in machine.disks for p in disk.partitions):
            return  # it is connected, and is mounted again
        raise _Refused(
            f"its data lie in {_where(kept)}, and nothing is mounted on {kept.mount} now; is the disk "
            f"connected? Look with: rpicluster ssh {name} lsblk -f"
        )
    seen = _partition_of(machine, mount)
    if seen is not None and kept.uuid and seen.uuid and seen.uuid != kept.uuid:
        raise _Refused(
            f"on {kept.mount} another file system is mounted than the one with its data: {seen.uuid}, and "
            f"not {kept.uuid}"
        )


def _same(path: str | None, name: str | None, kept: DataDisk | None, machine: MachineFacts | None) -> bool:
    """Return whether cluster.yml means where the data are."""
    if kept is None:
        return path == SYSTEMS
    if path is not None:
        return kept.path == f"{path}/{FOLDER}"
    if name == kept.disk or machine is None:
        return name == kept.disk
    wanted = _by_id(machine, _split(str(name))[0])
    if wanted is None:
        return False
    if kept.disk:  # the same disk by another of its names
        old, old_part = _split(kept.disk)
        return old in wanted.ids and old_part == _split(str(name))[1]
    mount = _mounted_on(machine, kept.mount)
    return mount is not None and mount.disk == wanted.name


def _by_default(name: str, machine: MachineFacts) -> Choice:
    """Return the largest mounted file system of a disk that is no boot disk and no card, else of a card."""
    boots = boot_disks(machine)
    if not boots:
        return Choice()  # a container, or a root on LVM: which disks are others cannot be told
    able: list[Mount] = []
    reasons: list[str] = []
    for disk in sorted(machine.disks, key=lambda disk: disk.name):
        if disk.name in boots or disk.kind is DiskKind.COMPRESSED_MEMORY:
            continue
        mounts = [m for m in _visible(machine) if m.disk == disk.name and not _is_systems(m.path)]
        free = not any(p.filesystem in _PARTS_OF_MORE for p in disk.partitions)
        if not mounts and free and disk.size_mib >= SIZE_MIN_MIB and disk.ids:
            named = sorted(disk.ids)[0]
            reasons.append(f"{_disk_words(disk)} is not mounted: say storage: {{disk: {named}}} to use it")
        for mount in mounts:
            why = _unfit(mount, _FREE_CHOICE) or _too_small(mount) or _unsteady(mount)
            if why:
                reasons.append(f"{_disk_words(disk)} on {mount.path} is not used: {why}")
            else:
                able.append(mount)
    if able:
        best = min(able, key=lambda m: (_is_card(machine, m.disk), -(m.total_mib or 0), m.path))
        disk_words = _disk_words(machine.disk(best.disk))
        note = f"{name}: data go to {best.path} ({disk_words}), the largest disk that it does not boot from"
        if _is_card(machine, best.disk):
            note += "; it is flash without wear control, an SSD is better"
        return Choice(_on(best, best.path, machine), warnings=(note,))
    return Choice(warnings=_about_boot_disk(name, machine, boots, reasons))


def _about_boot_disk(
    name: str, machine: MachineFacts, boots: frozenset[str], reasons: list[str]
) -> tuple[str, ...]:
    cards = sorted(disk for disk in boots if _is_card(machine, disk))
    note = f"{name}: data go to the disk that it boots from"
    if cards:
        note += f", a card ({', '.join(cards)}): slow, and writing wears it out; an SSD is better"
    elif not reasons:
        return ()  # an SSD or a virtual disk, and no other there
    return ("; ".join((note, *reasons)),)


def _folder(name: str, machine: MachineFacts | None, path: str) -> Choice:
    if path == SYSTEMS:
        system = machine.mount_of(path) if machine is not None else None
        return Choice(warnings=_about_card(name, machine, system.disk) if system is not None else ())
    if machine is None:
        return Choice(DataDisk(path=f"{path}/{FOLDER}", mount=path))
    mount = machine.mount_of(path)
    if mount is None or mount.path == "/":
        raise _Refused(
            f"storage: {path} lies on the file system of the system itself, so no disk is mounted there. "
            f"Mount one (in /etc/fstab, that it comes back), or say storage: {SYSTEMS}"
        )
    why = _unfit(mount, _BY_NAME)
    if why:
        raise _Refused(f"storage: {path} will not do: {why}")
    return Choice(_on(mount, path, machine), warnings=_about_card(name, machine, mount.disk))


def _disk(name: str, machine: MachineFacts | None, wanted: str, seed: str, formats: frozenset[str]) -> Choice:
    fresh = DataDisk(
        path=f"{DATA_MOUNT}/{FOLDER}",
        mount=DATA_MOUNT,
        disk=wanted,
        uuid=str(uuid.uuid5(_NAMESPACE, f"{seed}/{wanted}")),  # so that a new file system is known again
        filesystem=FORMATTED_AS,
    )
    if machine is None:
        return Choice(fresh)
    base, part = _split(wanted)
    disk = _by_id(machine, base)
    if disk is None:
        there = sorted(name for disk in machine.disks for name in disk.ids)
        raise _Refused(
            f"no disk is called {base} there" + (f"; there are {', '.join(there)}" if there else "")
        )
    if disk.name in boot_disks(machine):
        raise _Refused(f"{wanted} is the disk that it boots from; to use it, say storage: {SYSTEMS}")
    card = _about_card(name, machine, disk.name)
    if any(p.uuid == fresh.uuid for p in disk.partitions):  # an `up` that was broken off has formatted it
        return Choice(fresh, warnings=card)
    if wanted in formats:
        _may_be_formatted(machine, disk, wanted, part)
        return Choice(fresh, formats=_holds(disk), warnings=card)
    found = _file_system(disk, wanted, part)
    mounts = [m for m in _visible(machine) if m.disk == disk.name and _partition_of(machine, m) == found]
    if mounts and mounts[0].path != DATA_MOUNT:
        _require_possible(mounts[0])
        chosen = _on(mounts[0], mounts[0].path, machine).model_copy(update={"disk": wanted})
        return Choice(chosen, warnings=card)
    update = {"uuid": found.uuid, "filesystem": found.filesystem}
    return Choice(fresh.model_copy(update=update), warnings=card)


def _require_possible(mount: Mount) -> None:
    why = _unfit(mount, _BY_NAME)
    if not why and (_is_below(mount.path, NOT_FOR_DATA) or mount.path == "/"):
        why = "services do not see it there, or it is the system's"
    if why:
        raise _Refused(f"its disk is mounted on {mount.path}, which will not do: {why}")


def _may_be_formatted(machine: MachineFacts, disk: Disk, wanted: str, part: str) -> None:
    """Refuse what is never formatted, whoever types its name."""
    if part:
        raise _Refused(f"only whole disks are formatted, and {wanted} is a part of one")
    if disk.read_only:
        raise _Refused(f"{wanted} is read-only")
    mounted = sorted(m.path for m in machine.mounts if m.disk == disk.name)
    if mounted:
        raise _Refused(f"{wanted} is mounted on {', '.join(mounted)} and is not formatted; unmount it first")
    if any(swap.disk == disk.name for swap in machine.swaps):
        raise _Refused(f"{wanted} is in use as swap and is not formatted")


def _file_system(disk: Disk, wanted: str, part: str) -> Partition:
    """Return the one file system of a disk that will do; raises _Refused with how to go on."""
    known = [p for p in disk.partitions if p.filesystem]
    if part:
        known = [p for p in known if p.name.removeprefix(disk.name).lstrip("p") == part]
    able = sorted((p for p in known if p.filesystem in _BY_NAME and p.uuid), key=lambda p: p.name)
    if len(able) == 1:
        return able[0]
    if able:
        numbers = [p.name.removeprefix(disk.name).lstrip("p") for p in able]
        raise _Refused(
            f"{wanted} has several file systems; name one: " + ", ".join(f"{wanted}-part{n}" for n in numbers)
        )
    again = f"to make one, which loses everything on the disk: rpicluster up --format {wanted}"
    if not known:
        raise _Refused(f"{wanted} has no file system; {again}")
    kinds = sorted({f"{p.filesystem} ({_WHY_NOT.get(p.filesystem or '', 'not tried')})" for p in known})
    raise _Refused(f"{wanted} has no file system that will do, only {', '.join(kinds)}; {again}")


# -- what was seen -------------------------------------------------------------------------------------


def boot_disks(machine: MachineFacts) -> frozenset[str]:
    """Return the disks that the system stands on; empty where that was not seen."""
    paths = ("/", "/usr", "/var")
    found = {m.disk for m in machine.mounts if m.path in paths or _is_below(m.path, ("/boot",))}
    return (
        frozenset(name for name in found if name)
        if any(m.path == "/" and m.disk for m in machine.mounts)
        else frozenset()
    )


def _visible(machine: MachineFacts) -> list[Mount]:
    """Return the mounts that are not hidden by a later one on the same path, by path."""
    last = {mount.path: mount for mount in machine.mounts}
    return [last[path] for path in sorted(last)]


def _mounted_on(machine: MachineFacts, path: str) -> Mount | None:
    return next((mount for mount in _visible(machine) if mount.path == path), None)


def _partition_of(machine: MachineFacts, mount: Mount) -> Partition | None:
    device = mount.source.rpartition("/")[2]
    return next((p for disk in machine.disks for p in disk.partitions if p.name == device), None)


def _on(mount: Mount, folder: str, machine: MachineFacts) -> DataDisk:
    seen = _partition_of(machine, mount)
    return DataDisk(
        path=f"{folder}/{FOLDER}",
        mount=mount.path,
        uuid=(seen.uuid if seen is not None else "") or "",
        filesystem=mount.filesystem,
    )


def _unfit(mount: Mount, able: frozenset[str]) -> str:
    if mount.filesystem not in able:
        why = _WHY_NOT.get(mount.filesystem, "nobody has tried it")
        return f"{mount.path} is {mount.filesystem}, and {why}"
    if mount.no_exec:
        return f"{mount.path} is mounted with noexec, and Java loads libraries from there"
    return f"{mount.path} is mounted read-only" if mount.read_only else ""


def _too_small(mount: Mount) -> str:
    if (mount.total_mib or 0) < SIZE_MIN_MIB:
        return f"it has {mount.total_mib or 0} MiB, and {SIZE_MIN_MIB} are worth it"
    return ""


def _unsteady(mount: Mount) -> str:
    if not is_plain_folder(mount.path):
        return "its path has characters that Hadoop and systemd do not take as they are"
    # udisks mounts below /media/USER and /run/media when somebody logs in at the screen.
    if mount.path.startswith("/media/") and mount.path.count("/") > 2:
        return "a desktop mounted it, and it is gone after a reboot; write it into /etc/fstab"
    return ""


def _is_systems(path: str) -> bool:
    return path == "/" or _is_below(path, _SYSTEM)


def _is_below(path: str, tops: tuple[str, ...]) -> bool:
    return any(f"{path}/".startswith(f"{top}/") for top in tops)


def _is_card(machine: MachineFacts, name: str | None) -> bool:
    disk = machine.disk(name)
    return disk is not None and disk.kind in CARDS


def _about_card(name: str, machine: MachineFacts | None, disk: str | None) -> tuple[str, ...]:
    if machine is None or not _is_card(machine, disk):
        return ()
    return (f"{name}: data go to a card or stick ({disk}): slow, and writing wears it out; better an SSD",)


def _disk_words(disk: Disk | None) -> str:
    if disk is None:
        return "an unknown disk"
    return f"{disk.name}, {disk.kind.value}, {disk.size_mib // 1024} GiB"


def _holds(disk: Disk) -> str:
    """Return a disk and what is on it, for whoever is asked before it is lost."""
    what = [
        f"{p.name} {p.filesystem or 'unknown'}" + (f" {p.label!r}" if p.label else "")
        for p in disk.partitions
    ]
    return (
        f"{disk.model or disk.name}, {disk.size_mib // 1024} GiB, with {', '.join(what) or 'no file system'}"
    )


def _by_id(machine: MachineFacts, name: str) -> Disk | None:
    return next((disk for disk in machine.disks if name in disk.ids), None)


def _split(name: str) -> tuple[str, str]:
    """Return a name of /dev/disk/by-id as the disk's and the number of the part, "" for the whole."""
    base, mark, part = name.rpartition("-part")
    return (base, part) if mark and part.isdigit() else (name, "")
