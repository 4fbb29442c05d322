"""Whether this machine can hold a rack: who asks, which tools are there, what the kernel has."""

import os
import sys
from pathlib import Path

from rpicluster.errors import RackError, UsageError
from rpicluster.nodes.rack.base import KEYRING
from rpicluster.nodes.rack.commands import find_tool, succeeds

FILESYSTEMS = Path("/proc/filesystems")
# tool -> the Debian package that has it
TOOLS = {
    "debootstrap": "debootstrap",
    "systemd-nspawn": "systemd-container",
    "nft": "nftables",
    "lxcfs": "lxcfs",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "dpkg": "dpkg",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}


def require_root(command: str) -> None:
    """Raise UsageError unless this is Linux and root asks; `command` goes into the hint."""
    if sys.platform != "linux":
        raise UsageError(
            "a rack needs Linux: its nodes are systemd-nspawn containers",
            hint="try the cluster on this machine without one: rpicluster demo",
        )
    if os.geteuid() != 0:
        raise UsageError(
            "a rack needs root: it makes a bridge, mounts disks and sets limits",
            hint=f"sudo {this_program()} rack {command}",
        )


def this_program() -> str:
    """Return how root calls this program: sudo's path does not lead to a user's own bin folder."""
    script = Path(sys.argv[0]).absolute()
    return f"{sys.executable} -m rpicluster" if script.name == "__main__.py" else str(script)


def require_tools() -> None:
    """Raise UsageError, with the line to type, if a tool is missing."""
    missing = {tool: package for tool, package in TOOLS.items() if find_tool(tool) is None}
    if not KEYRING.exists():
        missing[str(KEYRING)] = "debian-archive-keyring"
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise UsageError(
            f"not installed: {', '.join(missing)}",
            hint=f"sudo apt-get install --no-install-recommends {packages}",
        )


def require_kernel() -> None:
    """Raise RackError if the kernel lacks overlay, loop devices or FUSE and cannot load them."""
    filesystems = FILESYSTEMS.read_text().split()
    if "overlay" not in filesystems and not succeeds(["modprobe", "overlay"]):
        raise RackError(
            "this kernel has no overlay file system, which nodes share their base by",
            hint="sudo modprobe overlay; in a container or a small VM use the machine itself",
        )
    for device, module in (("/dev/loop-control", "loop"), ("/dev/fuse", "fuse")):
        if not Path(device).exists() and not succeeds(["modprobe", module]):
            raise RackError(f"this kernel has no {device}", hint=f"sudo modprobe {module}")


def host_memory_mib() -> int:
    """Return the RAM of this machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) >> 10
    raise RackError("/proc/meminfo has no MemTotal")
