"""The disk for data as systemd mounts it, and what keeps daemons from writing where it is not."""

from rpicluster.design import layout
from rpicluster.design.settings import HEADER
from rpicluster.design.systemd_text import plain_path
from rpicluster.design.units import RenderedFile
from rpicluster.model.facts import DataDisk, NodePaths

# Only the superblock's own checks, and no write for every read.
OPTIONS = "noatime"
# A disk behind USB may take half a minute to answer after power-on; a boot waits for nothing but this unit.
MOUNT_TIMEOUT_S = 60


def unit_name(mount: str) -> str:
    """Return what systemd calls the unit of a mount point, as `systemd-escape --path --suffix=mount` does."""
    text = mount.strip("/")
    escaped = "".join("-" if character == "/" else _escaped(character) for character in text)
    if escaped.startswith("."):
        escaped = f"\\x2e{escaped[1:]}"
    return f"{escaped or '-'}.mount"


def _escaped(character: str) -> str:
    plain = character.isascii() and (character.isalnum() or character in "_.:")
    return character if plain else "".join(f"\\x{byte:02x}" for byte in character.encode())


def mount_files(paths: NodePaths) -> dict[str, RenderedFile]:
    """Return the file of the unit that mounts a node's disk; none where somebody else mounts it."""
    disk = paths.disk
    if disk is None or not disk.is_ours:
        return {}
    text = f"""# {HEADER}

[Unit]
Description=disk with the cluster's data (rpicluster)

[Mount]
What=/dev/disk/by-uuid/{disk.uuid}
Where={plain_path(disk.mount)}
Type={disk.filesystem}
Options={OPTIONS}
TimeoutSec={MOUNT_TIMEOUT_S}

# Not RequiredBy=local-fs.target: a node whose disk is missing boots all the same, and can be asked.
[Install]
WantedBy=multi-user.target
"""
    return {f"{layout.SYSTEMD}/{unit_name(disk.mount)}": RenderedFile(text.encode())}


def required(paths: NodePaths, unit: str) -> tuple[tuple[str, str], ...]:
    """Return what unit `unit` says in its section [Unit] of the disks that it needs.

    A disk that is not mounted must not look like an empty one. A mount that systemd knows is waited for, and
    its end ends the daemon; of one that was made by hand it knows nothing after a boot, so it looks, too.
    """
    data, disk = plain_path(paths.data), paths.disk
    if disk is None or unit not in layout.ON_DISK:
        return (("RequiresMountsFor", data),)
    return (
        ("RequiresMountsFor", f"{data} {plain_path(disk.path)}"),
        *((("AssertPathIsMountPoint", plain_path(disk.mount)),) if disk.mount else ()),
    )


def described(disk: DataDisk) -> str:
    """Return a disk for data in words: its folder, and what it is."""
    what = disk.disk or (f"mounted on {disk.mount}" if disk.mount else "")
    return f"{disk.path} ({what})" if what else disk.path
