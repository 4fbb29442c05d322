"""The base image: one minimal Debian that all nodes of a suite share as their overlay's lower layer."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from platformdirs import user_cache_path

from rpicluster.errors import RackError
from rpicluster.nodes.lock import cluster_lock
from rpicluster.nodes.rack import files
from rpicluster.nodes.rack.commands import environment, find_tool, run

# What a Raspberry Pi OS Lite has and the Ansible roles use. Java is not here: installing it is their work.
PACKAGES = (
    "acl",
    "ca-certificates",
    "curl",
    "dbus",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libpam-systemd",
    "netbase",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "python3-apt",
    "rsync",
    "sudo",
    "systemd",
    "systemd-sysv",
    "zstd",
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
OWN_CERTIFICATES = Path("/usr/local/share/ca-certificates")

_FORMAT = 1  # raised when what `_configure` does changes
_LXCFS_UNIT = "rpicluster-limits-in-proc.service"
_ENABLED = ("systemd-networkd.service", "ssh.service", _LXCFS_UNIT)
# apt's timers would hold the dpkg lock at times nobody chose; the rest has no hardware here.
_MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "console-getty.service",
    "getty.target",
    "systemd-networkd-wait-online.service",
)
_NEEDED_BYTES = 1 << 30
_BUILD_S = 1800.0
_BUILDING = ".building-"

Report = Callable[[str], None]


def cache_root() -> Path:
    """Return the folder of base images and downloaded packages, in the user's cache ($XDG_CACHE_HOME)."""
    return user_cache_path("rpicluster") / "rack"


def base_files() -> dict[str, tuple[int, str]]:
    """Return every file that we put into a base image, with its mode."""
    return {
        "etc/default/locale": (0o644, "LANG=C.UTF-8\n"),
        "etc/ssh/sshd_config.d/rpicluster-rack.conf": (0o644, files.sshd_settings()),
        "etc/sudoers.d/010_pi-nopasswd": (0o440, files.sudoers()),
        f"etc/systemd/system/{_LXCFS_UNIT}": (0o644, files.lxcfs_unit()),
    }


def content_key(suite: str, architecture: str, certificates: Mapping[str, bytes]) -> str:
    """Return the key of a base image: the same for the same suite, packages, files and certificates."""
    document = {
        "format": _FORMAT,
        "suite": suite,
        "architecture": architecture,
        "packages": PACKAGES,
        "files": base_files(),
        "units": (_ENABLED, _MASKED),
        "certificates": {name: hashlib.sha256(content).hexdigest() for name, content in certificates.items()},
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def own_certificates(folder: Path = OWN_CERTIFICATES) -> dict[str, bytes]:
    """Return the certificates that the machine's owner added: nodes trust what the machine trusts."""
    if not folder.is_dir():
        return {}
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.crt"))}
    return {name.replace("/", "_"): path.read_bytes() for name, path in found.items() if path.is_file()}


def apt_archives() -> tuple[str | None, str | None]:
    """Return the Debian archive and the security archive that this machine's apt uses, None for neither."""
    if find_tool("apt-get"):
        with contextlib.suppress(RackError):  # no lists fetched yet: debootstrap knows an archive itself
            listing = run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)"])
            return archives_in(listing)
    return None, None


def archives_in(listing: str) -> tuple[str | None, str | None]:
    """Return archive and security archive from `apt-get indextargets` lines of ORIGIN|LABEL|REPO_URI."""
    found: dict[str, str] = {}
    for line in reversed(listing.splitlines()):
        origin, _, rest = line.partition("|")
        label, _, uri = rest.partition("|")
        if origin == "Debian" and uri.startswith(("http://", "https://")):
            found[label] = uri.rstrip("/")
    return found.get("Debian"), found.get("Debian-Security")


def ensure_base(suite: str, *, report: Report, root: Path | None = None) -> Path:
    """Return the base image of `suite`, built if it is not in the cache.

    It is built aside and renamed when whole, so what a broken-off build left is never used. Raises
    RackError if debootstrap fails or the disk is too full, LockHeld if another build does not end.
    """
    folder = root or cache_root()
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    certificates = own_certificates()
    key = content_key(suite, run(["dpkg", "--print-architecture"]).strip(), certificates)
    base = folder / f"base-{suite}-{key}"
    if base.is_dir():
        return base
    with cluster_lock(folder, cluster="base image", command="rpicluster rack up", wait_s=_BUILD_S):
        if base.is_dir():
            return base
        for left in folder.glob(f"{_BUILDING}*"):
            shutil.rmtree(left)
        if shutil.disk_usage(folder).free < _NEEDED_BYTES:
            raise RackError(
                f"less than 1 GiB is free in {folder}, where the base image is to stand",
                hint="free some space, or choose another disk with: export XDG_CACHE_HOME=…",
            )
        aside = Path(tempfile.mkdtemp(prefix=_BUILDING, dir=folder))
        try:
            _build(suite, aside / "root", folder / f"debootstrap-{suite}.log", report)
            _configure(aside / "root", certificates, report)
            os.sync()  # a rename may reach the disk before what it names
            (aside / "root").rename(base)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return base


def _contained(*command: str) -> list[str]:
    """Return the command in mount and process namespaces of its own, which die with this process.

    So a build that is broken off, even by SIGKILL, leaves neither a process nor a mount.
    """
    death = ["setpriv", "--pdeathsig", "KILL", "--"]
    return [
        *death,
        *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--"),
        *command,
    ]


def _build(suite: str, root: Path, log: Path, report: Report) -> None:
    mirror, _ = apt_archives()
    command = _contained(
        "debootstrap",
        "--variant=minbase",
        f"--keyring={KEYRING}",
        "--force-check-gpg",
        f"--include={','.join(PACKAGES)}",
        suite,
        str(root),
        *([mirror] if mirror else []),
    )
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment(),
        ) as process,
    ):
        assert process.stdout is not None  # noqa: S101  PIPE was asked for
        last: list[str] = []
        try:
            for line in process.stdout:
                file.write(line)
                last = [*last[-2:], line.strip()]
                report(line.strip().removeprefix("I: "))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise RackError(
            f"debootstrap could not make a Debian {suite}: {' / '.join(last)}",
            hint=f"look at {log}; then check that apt works on this machine: sudo apt-get update",
        )


def _configure(root: Path, certificates: Mapping[str, bytes], report: Report) -> None:
    report("configuring")
    for name, (mode, content) in base_files().items():
        _place(root / name, content.encode(), mode)
    for name, content_bytes in certificates.items():
        _place(root / OWN_CERTIFICATES.relative_to("/") / name, content_bytes, 0o644)
    inside: Sequence[Sequence[str]] = (
        ("update-ca-certificates",),
        ("useradd", "--create-home", "--shell", "/bin/bash", "--groups", "sudo", files.USER),
        ("systemctl", "enable", *_ENABLED),
        ("systemctl", "mask", *_MASKED),
        ("apt-get", "clean"),
    )
    for command in inside:
        run(_contained("chroot", str(root), *command), timeout_s=300)
    # What must differ from node to node is each node's own; see `seed`.
    for name in ("etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf"):
        (root / name).unlink(missing_ok=True)
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    # debootstrap writes the name servers of today's network into resolv.conf, and the machine's into hosts
    (root / "etc/hosts").unlink(missing_ok=True)


def _place(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
