"""A newcomer's machine: a clean clone inside a minbase that holds python3, make and certificates, no more.

`make demo` and `make test` must pass there in this order and in the other. Needs root and debootstrap.
The new root shares this machine's network, and gets its name servers, certificates, apt sources and the
settings of pip and Maven, so that packages come from where this machine gets them.
"""

import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RELEASE = "bookworm"
INCLUDED = "python3,make,ca-certificates"
STEP_TIMEOUT_S = 5400
# What tells package managers of this machine where packages are; copied as they are, never written down.
SETTINGS = (
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d",
    "/etc/apt/apt.conf.d",
    "/etc/apt/auth.conf.d",
    "/etc/pip.conf",
    "/etc/maven/settings.xml",
    "/etc/ssl/certs",
    "/usr/local/share/ca-certificates",
)
PASSED_ON = ("PIP_", "SSL_CERT", "REQUESTS_CA", "CURL_CA", "MAVEN_", "HTTP_", "HTTPS_", "http", "NO_PROXY")


@dataclass(frozen=True)
class Step:
    """One command in the clean root: what it was, whether it passed, seconds, last line."""

    command: str
    passed: bool
    seconds: float
    last_line: str


def base_root(cache: Path) -> Path:
    """Return a minbase made once and kept in `cache`."""
    base = cache / f"minbase-{RELEASE}"
    if not (base / "done").exists():
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir(parents=True)
        subprocess.run(
            ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", RELEASE, str(base / "root")],
            check=True,
            timeout=1800,
            stdout=subprocess.DEVNULL,
        )
        (base / "done").touch()
    return base / "root"


def fresh_root(cache: Path, target: Path) -> None:
    """Copy the minbase to `target`, add this machine's settings and a clean clone in /project."""
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(["cp", "-a", "--reflink=auto", str(base_root(cache)), str(target)], check=True)
    for setting in SETTINGS:
        source, copy = Path(setting), target / setting[1:]
        if source.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            contents = [f"{source}/.", f"{copy}/"] if source.is_dir() else [setting, str(copy)]
            copy.mkdir(exist_ok=True) if source.is_dir() else None
            subprocess.run(["cp", "-a", "--remove-destination", *contents], check=True)
    maven = Path.home() / ".m2" / "settings.xml"
    if maven.exists():
        (target / "root" / ".m2").mkdir(exist_ok=True)
        shutil.copy2(maven, target / "root" / ".m2" / "settings.xml")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(target / "project")], check=True)


def run_inside(root: Path, command: str, log: Path) -> Step:
    """Run a shell command in /project of `root`, in mount and process namespaces of its own."""
    script = (
        # a root that is no mount point of its own could not be unshared inside
        'mount --bind "$1" "$1" && mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && '
        'mount -t sysfs -o ro sysfs "$1/sys" && mount -t tmpfs tmpfs "$1/run" && '
        'exec chroot "$1" /usr/bin/env -i "${@:3}" /bin/sh -c "cd /project && $2"'
    )
    environment = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(PASSED_ON)]
    environment += ["HOME=/root", "USER=root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
    started = time.monotonic()
    with log.open("w") as output:
        done = subprocess.run(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private",
             "bash", "-euc", script, "inside", str(root), command, *environment],
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return Step(command, done.returncode == 0, time.monotonic() - started, lines[-1] if lines else "")


def run(order: tuple[str, ...], cache: Path, logs: Path) -> list[Step]:
    """Run the commands in one fresh root, in this order."""
    target = cache / "root"
    logs.mkdir(parents=True, exist_ok=True)
    fresh_root(cache, target)
    steps = []
    for number, command in enumerate(order):
        log = logs / f"{'-then-'.join(order).replace(' ', '-')}-{number + 1}.log"
        steps.append(run_inside(target, command, log))
        print(
            f"{command}: {'passed' if steps[-1].passed else 'FAILED'} in {steps[-1].seconds:.0f} s",
            flush=True,
        )
        if not steps[-1].passed:
            break
    shutil.rmtree(target, ignore_errors=True)
    return steps
