"""Disks, mounts and swap: text of the node in, facts out."""

import json
import re
from collections.abc import Iterator
from typing import Any

from rpicluster.model.machine import Disk, DiskKind, Mount, Partition, Swap
from rpicluster.nodes.ssh.sections import by_file, number

_MIB = 1 << 20
_LIFE_STEP_PERCENT = 10  # EXT_CSD DEVICE_LIFE_TIME_EST counts in tenths (JEDEC JESD84-B51)
_VIRTUAL = re.compile(r"^(vd|xvd|dm-|md|loop|ram|nbd|pmem)")
# File systems that hold no data of anybody's: kernel views and memory.
_PSEUDO = frozenset(
    {"proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "cgroup", "cgroup2", "mqueue", "hugetlbfs"}
    | {"debugfs", "tracefs", "securityfs", "configfs", "pstore", "bpf", "fusectl", "autofs", "binfmt_misc"}
    | {"efivarfs", "nsfs", "rpc_pipefs", "squashfs", "selinuxfs"}
)

# lxcfs stands over single files of /proc, systemd-nspawn shows its host's files below /run/host.
_VIEWS = ("/proc/", "/sys/", "/dev/", "/run/host/")


def read_disks(text: str, card: str, ids: str) -> tuple[Disk, ...]:
    """Return the disks from `lsblk -J -b`, what the card says of itself, and /dev/disk/by-id.

    Ubuntu 20.04's lsblk prints numbers; older ones print strings and "0" or "1" for booleans.
    """
    about = by_file(card)
    names = _ids(ids)
    return tuple(
        _disk(entry, about, names)
        for entry in json.loads(text)["blockdevices"]
        if entry.get("type") == "disk" and _int(entry.get("size"))  # a zram without size is not in use
    )


def _disk(entry: dict[str, Any], about: dict[str, str], names: dict[str, list[str]]) -> Disk:
    name = str(entry["name"])
    parts = list(_parts(entry))
    written = [
        number(content)
        for path, content in about.items()
        if path.endswith("/lifetime_write_kbytes") and path.split("/")[4] in (name, *(p.name for p in parts))
    ]
    device = f"/sys/block/{name}/device"
    return Disk(
        name=name,
        kind=disk_kind(entry, about.get(f"{device}/type", "")),
        size_mib=_int(entry.get("size")) // _MIB,
        model=_text(entry.get("model")) or _text(about.get(f"{device}/name")),
        serial=_text(entry.get("serial")),
        read_only=_flag(entry.get("ro")),
        removable=_flag(entry.get("rm")),
        partitions=tuple(parts),
        ids=tuple(names.get(name, ())),
        speed_class=speed_class(about.get(f"{device}/ssr", "")),
        made=_text(about.get(f"{device}/date")),
        wear_percent=wear_percent(about.get(f"{device}/life_time", "")),
        written_mib=sum(kib or 0 for kib in written) // 1024 if written else None,
    )


def disk_kind(entry: dict[str, Any], card_type: str = "") -> DiskKind:
    """Return what a disk of lsblk's is; `card_type` is SD or MMC for what sits in the card slot.

    The rotational flag of USB bridges is often wrong for sticks, hardly ever for SSDs with a name:
    "SSD" in the model counts more, and what says it can be pulled out is a stick.
    """
    name, bus = str(entry["name"]), entry.get("tran")
    rotates, model = _flag(entry.get("rota")), str(entry.get("model") or "").upper()
    fixed = (
        (name.startswith("mmcblk"), DiskKind.EMMC if card_type.strip() == "MMC" else DiskKind.SD),
        (name.startswith("nvme"), DiskKind.NVME),
        (name.startswith("zram"), DiskKind.COMPRESSED_MEMORY),
        (bool(_VIRTUAL.match(name)), DiskKind.VIRTUAL),
    )
    for matches, kind in fixed:
        if matches:
            return kind
    ssd = not rotates or "SSD" in model
    if bus == "usb":
        if _flag(entry.get("rm")):
            return DiskKind.USB_STICK
        return DiskKind.USB_SSD if ssd else DiskKind.USB_HDD
    if bus in ("sata", "ata", "sas"):
        return DiskKind.SATA_SSD if ssd else DiskKind.SATA_HDD
    if "QEMU" in model or str(entry.get("vendor") or "").strip() in ("QEMU", "VMware", "Msft"):
        return DiskKind.VIRTUAL
    return DiskKind.OTHER


def speed_class(register: str) -> str | None:
    """Return an SD card's promises, such as "C10 U1 V10 A1", from its SD Status register (64 bytes, hex).

    Source: SD Physical Layer Simplified Specification, "SD Status": SPEED_CLASS in byte 8,
    UHS_SPEED_GRADE in byte 14, VIDEO_SPEED_CLASS in byte 15, APP_PERF_CLASS in byte 21.
    """
    digits = "".join(register.split())
    if not re.fullmatch(r"[0-9a-fA-F]{128}", digits):
        return None
    status = bytes.fromhex(digits)
    named = (
        ("C", {0: 0, 1: 2, 2: 4, 3: 6, 4: 10}.get(status[8], 0)),
        ("U", status[14] >> 4),
        ("V", status[15]),
        ("A", status[21] & 0xF),
    )
    return " ".join(f"{letter}{value}" for letter, value in named if value) or None


def wear_percent(life_time: str) -> int | None:
    """Return the used part of an eMMC's life, upper end, the worse of its two kinds of memory."""
    worst = max((int(word, 16) for word in re.findall(r"0x[0-9a-fA-F]{1,2}\b", life_time)), default=0)
    return worst * _LIFE_STEP_PERCENT or None


def read_mounts(text: str, space: str, disks: tuple[Disk, ...]) -> tuple[Mount, ...]:
    """Return the file systems that hold data, from /proc/self/mounts, with sizes from `df -P -k`."""
    sizes = _sizes(space)
    mounts = []
    for line in text.splitlines():
        source, path, kind, options, *_ = line.split(" ")
        path = _unescape(path)
        if kind in _PSEUDO or path.startswith(_VIEWS):
            continue
        total, free, used = sizes.get(path, (None, None, None))
        mounts.append(
            Mount(
                source=_unescape(source),
                path=path,
                filesystem=kind,
                read_only="ro" in options.split(","),
                no_exec="noexec" in options.split(","),
                total_mib=total,
                free_mib=free,
                used_percent=used,
                disk=disk_of(_unescape(source), disks),
            )
        )
    return tuple(mounts)


def _sizes(text: str) -> dict[str, tuple[int, int, int | None]]:
    """Return {mount point: (total MiB, free MiB, used percent)}; POSIX fixes the columns of `df -P`."""
    found = {}
    for line in text.splitlines()[1:]:
        match = re.match(r".+?\s+(\d+)\s+(\d+)\s+(-?\d+)\s+(\d+%|-)\s+(/.*)$", line)
        if match:
            used = number(match[4].removesuffix("%"))
            found[match[5]] = (int(match[1]) // 1024, max(0, int(match[3])) // 1024, used)
    return found


def disk_of(source: str, disks: tuple[Disk, ...]) -> str | None:
    """Return the name of the disk that a device file lies on."""
    name = source.removeprefix("/dev/").removeprefix("mapper/")  # lsblk knows LVM and LUKS without it
    return next(
        (d.name for d in disks if name == d.name or any(name == part.name for part in d.partitions)), None
    )


def read_swaps(text: str, mounts: tuple[Mount, ...], disks: tuple[Disk, ...]) -> tuple[Swap, ...]:
    """Return active swap from /proc/swaps; a swap file lies on the disk of its file system."""
    swaps = []
    for line in text.splitlines()[1:]:
        path, kind, size, used, *_ = line.split()
        path = _unescape(path)
        name = disk_of(path, disks) if kind == "partition" else _disk_below(path, mounts)
        found = next((disk.kind for disk in disks if disk.name == name), None)
        if name is None and path.startswith("/dev/zram"):
            name, found = path.removeprefix("/dev/"), DiskKind.COMPRESSED_MEMORY
        swaps.append(
            Swap(path=path, size_mib=int(size) // 1024, used_mib=int(used) // 1024, disk=name, kind=found)
        )
    return tuple(swaps)


def _disk_below(path: str, mounts: tuple[Mount, ...]) -> str | None:
    above = [m for m in mounts if m.path == "/" or f"{path}/".startswith(f"{m.path}/")]
    return max(above, key=lambda mount: len(mount.path)).disk if above else None


def _parts(entry: dict[str, Any]) -> Iterator[Partition]:
    if entry.get("fstype"):  # a file system on the bare disk
        yield _partition(entry)
    for child in entry.get("children") or ():
        yield _partition(child)
        yield from (_partition(below) for below in child.get("children") or ())


def _partition(entry: dict[str, Any]) -> Partition:
    return Partition(
        name=str(entry["name"]),
        size_mib=_int(entry.get("size")) // _MIB,
        filesystem=_text(entry.get("fstype")),
        label=_text(entry.get("label")),
        uuid=_text(entry.get("uuid")),
    )


def _ids(text: str) -> dict[str, list[str]]:
    """Return {disk: its names}, from lines `LINK TARGET`; names of partitions are left out."""
    names: dict[str, list[str]] = {}
    for line in text.splitlines():
        link, _, target = line.partition(" ")
        if "-part" not in link:
            names.setdefault(target.rpartition("/")[2], []).append(link.rpartition("/")[2])
    return names


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _int(value: object) -> int:
    return int(value) if isinstance(value, int | str) else 0


def _flag(value: object) -> bool:
    return value in (True, 1, "1")


def _text(value: object) -> str | None:
    return str(value).strip() or None if value is not None else None
