"""One node: its disk and seed, how it is booted, what runs of it, how it is cut, stopped and filled."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rpicluster.errors import RackError
from rpicluster.nodes.local.processes import own_processes
from rpicluster.nodes.rack import files, node_loop
from rpicluster.nodes.rack.addresses import Names
from rpicluster.nodes.rack.base import apt_archives
from rpicluster.nodes.rack.commands import environment, run
from rpicluster.nodes.rack.state import RackState

_LOOP = Path(node_loop.__file__)
_PI_ID = 1000  # the first user of an image
_REBOOT = signal.SIGRTMIN + 5  # what systemd reboots on (systemd(1), SIGNALS)
# In / itself and never through a link, so that no node can point this machine's root elsewhere.
_FILL = ".rpicluster-fill"
_POLL_S = 0.02
_RESOLVED = Path("/run/systemd/resolve/resolv.conf")


def nspawn_argv(*, names: Names, node: str, machine_id: str, folder: Path, legacy_cgroups: bool) -> list[str]:
    """Return the command that boots a node.

    `--keep-unit` and `--register=no` need no systemd on the machine. CAP_NET_ADMIN and CAP_NET_RAW let the
    node have its own firewall and ping.
    """
    init = ["SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"] if legacy_cgroups else []
    return [
        "systemd-nspawn",
        "--quiet",
        "--boot",
        f"--directory={folder}/root",
        f"--machine={names.machine(node)}",
        f"--hostname={node}",
        f"--uuid={dashed(machine_id)}",
        f"--network-bridge={names.bridge}",
        f"--bind={_bind_path(folder / 'lxcfs')}:{files.LXCFS_IN_NODE}",
        "--register=no",
        "--keep-unit",
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--capability=CAP_NET_ADMIN,CAP_NET_RAW",
        "--console=pipe",
        *init,
    ]


def _bind_path(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:")


def dashed(machine_id: str) -> str:
    """Return a machine-id as the UUID that nspawn takes."""
    cuts = (0, 8, 12, 16, 20, 32)
    return "-".join(machine_id[a:b] for a, b in itertools.pairwise(cuts))


def make_disk(state: RackState, node: str) -> None:
    """Make a node's folder: a sparse disk image, and the seed of what is its own; nothing if it is there."""
    folder = state.folder(node)
    if (folder / "disk.img").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted `up` left
    folder.mkdir(mode=0o700, parents=True)
    _make_seed(state, node, folder / "seed")
    image = folder / "disk.new"
    with image.open("wb") as file:
        os.truncate(file.fileno(), state.disk_mib << 20)
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-J", "size=32", "-E", "lazy_journal_init=1", "-L", node, image])
    image.rename(folder / "disk.img")


def _make_seed(state: RackState, node: str, seed: Path) -> None:
    number = state.number(node)
    mirror, security = apt_archives()
    texts = {
        "etc/hostname": f"{node}\n",
        "etc/hosts": files.hosts_file(node),
        "etc/machine-id": state.machine_ids[node] + "\n",
        "etc/systemd/network/10-host0.network": files.network_unit(state.network, number),
        f"home/{files.USER}/.ssh/authorized_keys": state.key.with_suffix(".pub").read_text(),
    }
    if mirror:  # else what debootstrap wrote stays
        texts["etc/apt/sources.list"] = files.apt_sources(state.suite, mirror, security)
    for name, text in texts.items():
        path = seed / name
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o644)
    (seed / "etc/ssh").mkdir()
    for kind in ("ed25519", "ecdsa"):
        key = seed / f"etc/ssh/ssh_host_{kind}_key"
        run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"root@{node}", "-f", key])
    for folder, _, _ in os.walk(seed):
        Path(folder).chmod(0o755)  # the copy takes the modes along, whatever the umask here
    home = seed / "home" / files.USER
    (home / ".ssh").chmod(0o700)
    (home / ".ssh/authorized_keys").chmod(0o600)
    for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
        os.chown(path, _PI_ID, _PI_ID)


def host_keys(state: RackState, node: str) -> list[str]:
    """Return a node's public host keys, as they were made for it."""
    folder = state.folder(node) / "seed/etc/ssh"
    return [path.read_text().strip() for path in sorted(folder.glob("ssh_host_*_key.pub"))]


def resolv_conf() -> str:
    """Return the name servers that nodes get: the machine's."""
    texts = [path.read_text() if path.exists() else "" for path in (Path("/etc/resolv.conf"), _RESOLVED)]
    return files.resolv_conf(*texts)


@dataclass(frozen=True)
class Running:
    """The processes of a node on this machine; `init` is its PID 1."""

    loop: int | None = None
    nspawn: int | None = None
    init: int | None = None
    others: tuple[int, ...] = ()

    @property
    def is_on(self) -> bool:
        """Whether the node's PID 1 lives."""
        return self.init is not None

    @property
    def pids(self) -> tuple[int, ...]:
        """Every process of the node that runs outside of its cgroup, and nspawn."""
        return tuple(pid for pid in (self.loop, self.nspawn, *self.others) if pid is not None)


def running(folders: Iterable[Path]) -> dict[Path, Running]:
    """Return what runs for each node's folder; processes are known by their arguments, which name it."""
    wanted = {str(folder): folder for folder in folders}
    found: dict[str, dict[str, int]] = {name: {} for name in wanted}
    others: dict[str, list[int]] = {name: [] for name in wanted}
    for process in own_processes():
        text = " ".join(process.argv)
        for name in wanted:
            if process.argv and process.argv[-1] == name and str(_LOOP) in process.argv:
                found[name]["loop"] = process.pid
            elif f"--directory={name}/root" in process.argv and "setpriv" not in process.argv[0]:
                found[name]["nspawn"] = process.pid
            elif f"{name}/" in text and process.argv[0].endswith(("lxcfs", "setpriv")):
                others[name].append(process.pid)
    return {
        folder: Running(
            found[name].get("loop"),
            nspawn := found[name].get("nspawn"),
            _init_of(nspawn) if nspawn else None,
            tuple(others[name]),
        )
        for name, folder in wanted.items()
    }


def _init_of(nspawn: int) -> int | None:
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{nspawn}/task/{nspawn}/children").read_text().split():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    # the last number is the pid in the innermost namespace
                    if line.startswith("NSpid:") and len(line.split()) > 2 and line.split()[-1] == "1":
                        return int(pid)
    return None


def switch_on(
    state: RackState,
    node: str,
    *,
    cgroup_procs: Sequence[Path],
    prefix: Sequence[str] = (),
    apt_cache: Path | None = None,
    legacy_cgroups: bool = False,
) -> None:
    """Start a node's loop, which outlives this command; `wait_until_answering` says how it went."""
    folder = state.folder(node)
    argv = nspawn_argv(
        names=state.names,
        node=node,
        machine_id=state.machine_ids[node],
        folder=folder,
        legacy_cgroups=legacy_cgroups,
    )
    order = files.boot_order(
        node=node,
        base=state.base,
        apt_cache=str(apt_cache) if apt_cache else None,
        command=[*prefix, *argv],
        cgroup_procs=[str(path) for path in cgroup_procs],
        cable=state.names.cable(node),
        resolv=resolv_conf(),
    )
    (folder / "boot.json").write_text(order)
    with (folder / "loop.log").open("ab") as log:
        subprocess.Popen(
            [
                *("unshare", "--mount", "--propagation", "private", "--"),
                *(sys.executable, "-I", "-S", str(_LOOP), str(folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(),
            cwd="/",
            start_new_session=True,
        )


def last_words(folder: Path, lines: int = 3) -> str:
    """Return the end of what a node's loop and console said."""
    said: list[str] = []
    for name in ("console.log", "loop.log"):
        with contextlib.suppress(FileNotFoundError):
            said += (folder / name).read_text(errors="replace").strip().splitlines()[-lines:]
    return " / ".join(line.strip() for line in said if line.strip()) or "nothing"


def wait_until_off(folder: Path, *, timeout_s: float) -> bool:
    """Return whether every process of a node ended within the time."""
    deadline = time.monotonic() + timeout_s
    while running([folder])[folder].pids:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def wait_for_another_boot(folder: Path, before: int, *, timeout_s: float) -> None:
    """Wait until a node has another PID 1 than `before`; raises RackError if it did not shut down or died."""
    deadline = time.monotonic() + timeout_s
    while True:
        now = running([folder])[folder]
        if now.init not in (None, before):
            return
        if not now.loop:
            raise RackError(f"{folder.name} is off instead of rebooting: {last_words(folder)}")
        if time.monotonic() >= deadline:
            raise RackError(
                f"{folder.name} did not shut down within {timeout_s:.0f} s",
                hint=f"cut its power: rpicluster rack cut {folder.name}",
            )
        time.sleep(_POLL_S)


def ask_to_reboot(init: int) -> None:
    """Ask a node's systemd to reboot."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, _REBOOT)


def cut_power(init: int) -> None:
    """Kill a node's PID 1, and with it everything in the node, at once."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(init, signal.SIGKILL)


def fill_disk(node: str, init: int, leave_bytes: int) -> int:
    """Take all but `leave_bytes` of a node's free disk; return how many bytes were taken.

    Raises RackError if less is free already.
    """
    root = Path(f"/proc/{init}/root")
    figures = os.statvfs(root)
    take = figures.f_bavail * figures.f_frsize - leave_bytes
    if take <= 0:
        raise RackError(f"{node} has only {take + leave_bytes} bytes free already, nothing was filled")
    descriptor = os.open(root / _FILL, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, take)
    finally:
        os.close(descriptor)
    return take


def empty_disk(init: int) -> int:
    """Give back what `fill_disk` took; return how many bytes."""
    path = Path(f"/proc/{init}/root") / _FILL
    try:
        size = path.lstat().st_size
    except FileNotFoundError:
        return 0
    path.unlink()
    return size
