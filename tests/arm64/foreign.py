"""A Debian for arm64 in the user's cache, and programs that run in it, emulated unless this is one."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from rpicluster.nodes.lock import cluster_lock
from rpicluster.nodes.rack.base import KEYRING, apt_archives
from rpicluster.nodes.rack.commands import environment, find_tool

SUITE = "bookworm"
# What `up` installs on a node, and what every Raspberry Pi OS has.
PACKAGES = ("ca-certificates", "openjdk-17-jre-headless", "procps", "python3")
ADDRESS = "192.0.2.11"  # RFC 5737; it stands on loopback of a network namespace
NATIVE = platform.machine() == "aarch64"
_BUILD_S = 3600.0
_FORMAT = 1
# Debian's qemu-user-static brings this line; systemd registers it at boot, where systemd is.
_HANDLER = Path("/usr/lib/binfmt.d/qemu-aarch64.conf")
# Run in a mount namespace. On Linux 6.18 the registration goes with the last mount of its file system; on
# older kernels it may stay until the machine boots, as the package's own does.
_HANDLE = f"""
cd /proc/sys/fs/binfmt_misc
[ -e register ] || {{ mount -t binfmt_misc binfmt_misc . && cd /proc/sys/fs/binfmt_misc; }}
grep -qs '^magic 7f454c460201010000000000000000000200b7' * || cat {_HANDLER} >register
cd /
"""
_ENTER = f"""{"" if NATIVE else _HANDLE}
lower=$1 place=$2 runtime=$3; shift 3
root=$place/root
ip link set lo up; ip address add {ADDRESS}/32 dev lo; hostname pi1
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$place/upper,workdir=$place/work" "$root"
mkdir -p "$root/opt/rpicluster/runtime"
mount --bind "$runtime" "$root/opt/rpicluster/runtime"
mount -o remount,ro,bind "$root/opt/rpicluster/runtime"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
"""


def why_not() -> str | None:
    """Return why this machine runs no programs for arm64, None if it does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs Linux and root"
    tools = ("debootstrap", "unshare", "setpriv", "ip", *(() if NATIVE else ("qemu-aarch64-static",)))
    if missing := [tool for tool in tools if find_tool(tool) is None]:
        return f"{', '.join(missing)} not found: sudo apt-get install debootstrap iproute2 qemu-user-static"
    if not NATIVE and not _HANDLER.exists():
        return f"{_HANDLER} is not there: sudo apt-get install qemu-user-static"
    return None


def ensure_root() -> Path:
    """Return the Debian, made by debootstrap if it is not in the cache: 5 to 10 minutes under emulation.

    It is made aside, in namespaces that die with this process, and renamed when it is whole.
    """
    document = json.dumps([_FORMAT, SUITE, PACKAGES])
    key = hashlib.sha256(document.encode()).hexdigest()[:16]
    folder = user_cache_path("rpicluster") / "arm64"
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / f"{SUITE}-{key}"
    with cluster_lock(folder, cluster="arm64 root", command="make test-arm64", wait_s=_BUILD_S):
        if whole.is_dir():
            return whole
        for left in folder.glob(".building-*"):
            shutil.rmtree(left)
        aside = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
        try:
            _debootstrap(aside / "root", folder / "debootstrap.log")
            os.sync()
            (aside / "root").rename(whole)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return whole


def _debootstrap(root: Path, log: Path) -> None:
    mirror, _ = apt_archives()
    with log.open("w") as file:
        done = subprocess.run(
            [
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"),
                *("bash", "-euc", ("" if NATIVE else _HANDLE) + 'exec "$@"', "build"),
                *("debootstrap", "--arch=arm64", "--variant=minbase", f"--include={','.join(PACKAGES)}"),
                *(f"--keyring={KEYRING}", "--force-check-gpg", SUITE, str(root)),
                *([mirror] if mirror else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(),
            timeout=_BUILD_S,
            check=False,
        )
    assert done.returncode == 0, f"debootstrap: {log}: {log.read_text().splitlines()[-3:]}"
    for name in ("etc/resolv.conf", "etc/hostname"):  # of this machine, today
        (root / name).unlink(missing_ok=True)
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()


@dataclass(frozen=True)
class Pi:
    """One machine for arm64: the Debian of the cache below, `place/upper` above, a network of its own."""

    debian: Path
    place: Path
    runtime: Path

    def __post_init__(self) -> None:
        for name in ("upper", "work", "root"):
            (self.place / name).mkdir(parents=True, exist_ok=True)
        self.write("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 pi1\n")  # as Raspberry Pi OS has it

    def write(self, path: str, content: bytes | str, mode: int = 0o644) -> None:
        """Put a file on its disk, while it is off."""
        file = self.place / "upper" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        file.chmod(mode)

    def read(self, path: str) -> str:
        """Return a file that was written on it."""
        return (self.place / "upper" / path.lstrip("/")).read_text(errors="replace")

    def run(self, argv: Sequence[str], *, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        """Switch it on for one program; what that starts ends with it."""
        return subprocess.run(
            [
                *("setpriv", "--pdeathsig", "KILL", "--"),
                *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL"),
                *("--net", "--uts", "--", "bash", "-euc", _ENTER, "pi"),
                *(str(self.debian), str(self.place), str(self.runtime), *argv),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            env=environment(),
        )
