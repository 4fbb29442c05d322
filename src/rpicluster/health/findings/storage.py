"""Disks: full, read-only, broken, worn, slow; and swap where it does harm."""

import re
from collections.abc import Iterator

from rpicluster.design.hdfs_files import NODEMANAGER_FREE_MIB
from rpicluster.design.mount_unit import unit_name
from rpicluster.health.findings.finding import NOTE, PROBLEM, WARNING, Node, Trouble, node_kind
from rpicluster.model.facts import DATA_MOUNT
from rpicluster.model.machine import Disk, DiskKind, Mount

FULL_PERCENT = 85
# Runtime, logs and a first job: a node with less than this is not worth setting up.
ROOM_MIB = 4096
_DATA = "/var/lib/rpicluster"
_REAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "overlay", "jfs", "reiserfs"})
_CARDS = frozenset({DiskKind.SD, DiskKind.EMMC, DiskKind.USB_STICK})
WORN_PERCENT = 80
# Cards name no endurance. Makers of consumer TLC flash promise some hundreds of full writes; what reaches the
# flash is more than what the file system wrote.
WORN_WRITES = 300
OLD_YEARS = 6
SPEED_CLASS_MIN = 10  # MB/s: class 10, U1, V10; below, a job's spill is the whole job


def _real_mounts(node: Node) -> list[Mount]:
    """The file systems that hold data, in the order of their paths; the firmware's partition is none."""
    found = {m.path: m for m in node.facts.mounts if m.filesystem in _REAL and not m.path.startswith("/boot")}
    return [found[path] for path in sorted(found)]


def _matters(node: Node, mount: Mount) -> bool:
    """Whether the system or the cluster stands on it; of this machine only such ones were looked at."""
    if node.name == node.seen.here:
        return True
    paths = ("/", "/tmp", "/var/log", _DATA, _data(node), "/opt/rpicluster")  # noqa: S108
    held = (node.facts.mount_of(path) for path in paths)
    return any(found is not None and found.path == mount.path for found in held)


def _data_disk(node: Node) -> dict[str, str]:
    """What the manifest says of the disk with the node's data; empty where they lie below /var/lib."""
    manifest = node.facts.manifest
    about = manifest.extra.get("storage") if manifest is not None else None
    return {str(key): str(value) for key, value in about.items()} if isinstance(about, dict) else {}


def _data(node: Node) -> str:
    return _data_disk(node).get("path") or _DATA


@node_kind("data-disk-away", PROBLEM, "The disk with a node's data is not mounted")
def data_disk_away(node: Node) -> Iterator[Trouble]:
    """The manifest says on which mount point the data lie, and nothing is mounted there. Daemons that need it
    do not start, so that nothing is written in its place.
    """
    about = _data_disk(node)
    mount, name = about.get("mount"), about.get("disk")
    if not mount or not node.facts.mounts or any(seen.path == mount for seen in node.facts.mounts):
        return
    base = (name or "").partition("-part")[0]
    there = any(base in disk.ids for disk in node.facts.disks)
    named = f"{name} is {'connected' if there else 'not connected'}" if name else ""
    ours = mount == DATA_MOUNT
    yield Trouble(
        what=f"the disk with the data of {node.name} is not mounted on {mount}",
        cause="it is unplugged, dropped off for a weak supply or cable, or its line in /etc/fstab is gone",
        evidence=(
            f"data lie in {about.get('path')}; nothing is mounted on {mount}",
            *([named] if named else ()),
        ),
        fix="connect it, mount it, then `rpicluster start`; daemons that need it do not start without it",
        command=node.run(
            f"sudo systemctl start {_quoted(unit_name(mount))}" if ours else f"sudo mount {_quoted(mount)}"
        ),
    )


@node_kind("disk-full", PROBLEM, "A disk is more than 85 % full", here=True)
def disk_full(node: Node) -> Iterator[Trouble]:
    """A warning; a problem where the system or the cluster stands on it and so little is free that a
    NodeManager takes no containers.
    """
    for mount in _real_mounts(node):
        if mount.used_percent is None or mount.used_percent <= FULL_PERCENT or mount.read_only:
            continue
        free = mount.free_mib
        enough = free is None or free >= NODEMANAGER_FREE_MIB
        yield Trouble(
            what=f"{mount.path} of {node.name} is {mount.used_percent} % full",
            cause="logs, packages, old files, or data that outgrew the disk",
            evidence=(
                f"{mount.source} on {mount.path}: {mount.used_percent} % used, {free} of "
                f"{mount.total_mib} MiB free",
                *([] if enough else [f"a NodeManager needs {NODEMANAGER_FREE_MIB} MiB free"]),
            ),
            fix="see what is large, and remove it",
            command=node.run(f"sudo du -xhd2 {_quoted(mount.path)} | sort -h | tail -20"),
            severity=PROBLEM if not enough and _matters(node, mount) else WARNING,
        )


@node_kind("little-room", WARNING, "There is little room for the cluster's data")
def little_room(node: Node) -> Iterator[Trouble]:
    """Less than 4 GiB are free where data will stand, on a disk that is not full but small."""
    mount = node.facts.mount_of(_data(node))
    if mount is None or mount.free_mib is None or mount.free_mib >= ROOM_MIB:
        return
    if mount.used_percent is not None and mount.used_percent > FULL_PERCENT:
        return  # disk-full says it
    yield Trouble(
        what=f"{node.name} has {mount.free_mib} MiB free for the cluster",
        cause="the disk is small, or its partition was never grown to the card's size",
        evidence=(f"{mount.source} on {mount.path}: {mount.free_mib} of {mount.total_mib} MiB free",),
        fix=f"use a larger disk, or grow the file system; {ROOM_MIB} MiB are wanted",
        command=node.run("lsblk; df -h"),
    )


@node_kind("disk-read-only", PROBLEM, "A disk cannot be written to", here=True)
def disk_read_only(node: Node) -> Iterator[Trouble]:
    """A file system that is mounted read-only: a problem where the system or the cluster stands on it, or
    where the kernel's log says that it stopped writing after errors; else a warning.
    """
    for mount in _real_mounts(node):
        if not mount.read_only:
            continue
        said = [line for line in _kernel_log(node) if "read-only" in line]
        yield Trouble(
            what=f"{mount.path} of {node.name} is read-only",
            cause="the kernel stopped writing after errors of the disk, or it was mounted so",
            evidence=(
                f"{mount.source} on {mount.path} ({mount.filesystem}): ro",
                *(line.strip() for line in said[-2:]),
            ),
            fix=(
                "save what is on it, then look at the disk and its power supply; a reboot checks the "
                "file system"
            ),
            command=node.run(f"sudo dmesg | tail -50; findmnt {_quoted(mount.path)}"),
            severity=PROBLEM if said or _matters(node, mount) else WARNING,
        )


_DISK_ERRORS = re.compile(
    r"I/O error|EXT4-fs error|mmc[0-9].*(?:error|timeout)|uas_eh_|nvme.*(?:timeout|controller is down)"
)


def _kernel_log(node: Node) -> tuple[str, ...]:
    # A container shows its host's log, which says nothing about the node.
    return () if node.is_container else node.facts.kernel_log


@node_kind("disk-errors", PROBLEM, "The kernel reports errors of a disk", here=True)
def disk_errors(node: Node) -> Iterator[Trouble]:
    """Lines of the kernel's log since boot about read or write errors and resets."""
    lines = [line.strip() for line in _kernel_log(node) if _DISK_ERRORS.search(line)]
    if lines:
        yield Trouble(
            what=f"a disk of {node.name} makes errors",
            cause="a dying card or disk, a bad cable or USB adapter, or too little power for it",
            evidence=tuple(lines[-3:]),
            fix="save its data and replace it; with a USB adapter, first try another port, cable and supply",
            command=node.run("sudo dmesg -T | grep -iE 'error|reset|timeout' | tail -20"),
        )


@node_kind("out-of-memory", WARNING, "The kernel killed a process for memory", here=True)
def out_of_memory(node: Node) -> Iterator[Trouble]:
    """Since boot; a container's log is its host's and does not count."""
    lines = [line.strip() for line in _kernel_log(node) if re.search(r"Out of memory: Kill|oom-kill", line)]
    if lines:
        yield Trouble(
            what=f"{node.name} ran out of memory",
            cause="programs beside the cluster took more than `reserve` leaves them",
            evidence=tuple(lines[-3:]),
            fix=(
                f"see what is large there, or give {node.name} a larger `reserve` in cluster.yml, then "
                "`rpicluster up`"
            ),
            command=node.run("ps -eo rss,user,comm --sort -rss | head"),
        )


@node_kind("swap-on-card", WARNING, "Swap lies on an SD card")
def swap_on_card(node: Node) -> Iterator[Trouble]:
    """Swapping JVMs to a card makes a node unusable for minutes, and wears the card out. zram is memory."""
    for swap in node.facts.swaps:
        if swap.kind in _CARDS and swap.size_mib > 0:
            yield Trouble(
                what=f"{node.name} swaps to its {'stick' if swap.kind is DiskKind.USB_STICK else 'card'}",
                cause="Raspberry Pi OS up to bookworm sets up a swap file",
                evidence=(f"{swap.path} on {swap.disk}: {swap.size_mib} MiB, {swap.used_mib} MiB in use",),
                fix="switch it off; zram (apt install zram-tools) swaps to compressed memory instead",
                command=node.run(
                    f"sudo swapoff {_quoted(swap.path)}; sudo systemctl disable --now dphys-swapfile"
                ),
            )


def _cards(node: Node) -> list[Disk]:
    """The cards that hold a mounted file system."""
    used = {mount.disk for mount in node.facts.mounts}
    return [d for d in node.facts.disks if d.kind in (DiskKind.SD, DiskKind.EMMC) and d.name in used]


@node_kind("card-slow", WARNING, "An SD card is slower than class 10")
def card_slow(node: Node) -> Iterator[Trouble]:
    """By the classes that the card itself promises; one that promises none is not judged."""
    for disk in _cards(node):
        promised = re.findall(r"([CUVA])(\d+)", disk.speed_class or "")
        speeds = [int(n) * (10 if letter == "U" else 1) for letter, n in promised if letter in "CUV"]
        if speeds and max(speeds) < SPEED_CLASS_MIN:
            yield Trouble(
                what=f"the card of {node.name} promises only {max(speeds)} MB/s",
                cause="an old or cheap card: jobs that spill, and every start, wait for it",
                evidence=(f"{disk.name} ({disk.model}): speed class {disk.speed_class}",),
                fix="use an A1 or A2 card, or put the cluster's data on a USB SSD",
                command=node.run("lsblk -o NAME,SIZE,MODEL,TRAN"),
            )


@node_kind("card-worn", WARNING, "A card has been written to for most of its life")
def card_worn(node: Node) -> Iterator[Trouble]:
    """An eMMC's own account from 80 % on; for SD cards, which keep none, 300 times its size written."""
    for disk in _cards(node):
        writes = (disk.written_mib or 0) / disk.size_mib if disk.size_mib else 0
        if (disk.wear_percent or 0) >= WORN_PERCENT:
            seen = f"{disk.name} says that up to {disk.wear_percent} % of its life are used"
        elif writes >= WORN_WRITES:
            seen = (
                f"{disk.name}: {disk.written_mib} MiB written to its file systems, {writes:.0f} times its "
                "size"
            )
        else:
            continue
        yield Trouble(
            what=f"the card of {node.name} is worn",
            cause="logs, swap and spills of years: flash takes a limited number of writes",
            evidence=(seen,),
            fix="copy it to a new one before it fails, and put the cluster's data on an SSD",
            command=node.run(f"cat /sys/block/{disk.name}/device/life_time; lsblk"),
        )


@node_kind("card-old", NOTE, "An SD card is older than six years")
def card_old(node: Node) -> Iterator[Trouble]:
    """By the date that the card carries."""
    today = node.seen.year_month
    for disk in _cards(node):
        made = re.fullmatch(r"(\d{1,2})/(\d{4})", disk.made or "")
        if today is None or not made:
            continue
        months = (today[0] - int(made[2])) * 12 + today[1] - int(made[1])
        if months > OLD_YEARS * 12:
            yield Trouble(
                what=f"the card of {node.name} is {months // 12} years old",
                cause="cards age also unused; old ones are slow at small writes",
                evidence=(f"{disk.name} ({disk.model}): made {disk.made}",),
                fix="have a copy of it, or replace it",
                command=node.run("lsblk -o NAME,SIZE,MODEL"),
            )


def _quoted(path: str) -> str:
    return path if re.fullmatch(r"[A-Za-z0-9._/+@=-]+", path) else "'" + path.replace("'", "'\\''") + "'"
