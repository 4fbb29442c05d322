"""The Python packages by which R reaches Spark Connect, for a manager that has only its system's Python.

pip fetches wheels for the manager's processor and version, in the versions that this machine uses; our own
sources come from this installation. Once fetched, a kit is kept in the cache.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

from rpicluster.errors import RuntimeFetchError, UsageError
from rpicluster.runtime import store

PACKAGES = ("grpcio", "protobuf", "pyarrow", "httpx")
OLDEST = (3, 11)
_TIMEOUT_S = 900
_MACHINES = ("x86_64", "aarch64")
# Newest first: glibc 2.28 is older than that of every system that nodes run.
_UNUSED_FOLDERS = ("pyarrow/include", "pyarrow/includes", "pyarrow/tests", "pyarrow/src", "bin")
# A server of Arrow's own protocol, 34 MiB; nothing else loads it.
_UNUSED_FILES = ("pyarrow/libarrow_flight*", "pyarrow/libarrow_python_flight*", "pyarrow/_flight*")
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")


def kit_id(python: str, machine: str) -> str:
    """Return the name of the kit for `python` (such as `3.11`) on `machine` (`aarch64`): 16 hex digits.

    Raises UsageError for a version or a processor for which there is none.
    """
    if tuple(map(int, python.split("."))) < OLDEST or machine not in _MACHINES:
        raise UsageError(
            f"R scripts that reach Spark need Python {'.'.join(map(str, OLDEST))} or newer on x86_64 or "
            f"aarch64 on the manager, which has Python {python} on {machine}",
            hint="write a newer system to its card; scripts with PySpark run as they are",
        )
    digest = hashlib.sha256(f"1 {python} {machine} {' '.join(_requirements())}".encode())
    for name, content in _own_sources():
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()[:16]


def ensure_kit(python: str, machine: str, *, report: Callable[[str], None]) -> Path:
    """Return the archive of a kit, fetched if it is not there. Raises RuntimeFetchError, UsageError."""
    folder = store.runtimes_dir().parent / "kits"
    path = folder / f"{kit_id(python, machine)}.tar"
    if path.exists():
        return path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
        target = Path(scratch) / "kit"
        report(f"fetching {', '.join(_requirements())} for Python {python} on {machine}")
        _fetch(target, python, machine)
        for name, content in _own_sources():
            file = target / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        fresh = Path(scratch) / "kit.tar"
        _pack(target, fresh)
        fresh.replace(path)
    for old in sorted(folder.glob("*.tar"), key=lambda kit: kit.stat().st_mtime)[:-4]:
        old.unlink()
    return path


def _requirements() -> list[str]:
    return [f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES]


def _own_sources() -> list[tuple[str, bytes]]:
    """Return the sources of this package by their place below `rpicluster`, sorted."""
    with as_file(files("rpicluster")) as folder:
        return [
            (f"rpicluster/{path.relative_to(folder).as_posix()}", path.read_bytes())
            for path in sorted(folder.rglob("*.py"))
        ]


def _fetch(target: Path, python: str, machine: str) -> None:
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    line += ["--target", str(target), "--no-compile", "--only-binary=:all:", "--implementation", "cp"]
    line += ["--python-version", python]
    for platform in _PLATFORMS:
        line += ["--platform", f"{platform}_{machine}"]
    try:
        done = subprocess.run(
            [*line, *_requirements()],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
        )
    except subprocess.TimeoutExpired:
        raise RuntimeFetchError(f"pip did not fetch {', '.join(PACKAGES)} within {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        said = [row for row in done.stderr.splitlines() if row.startswith("ERROR")] or [done.stderr.strip()]
        raise RuntimeFetchError(
            f"pip could not fetch what R needs on the manager, for Python {python} on {machine}: {said[-1]}",
            hint="is the network there? python -m pip download pyarrow",
        )
    for name in _UNUSED_FOLDERS:
        shutil.rmtree(target / name, ignore_errors=True)
    for pattern in _UNUSED_FILES:
        for path in target.glob(pattern):
            path.unlink()


def _pack(folder: Path, path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and not file.is_symlink():
                archive.add(file, arcname=file.relative_to(folder).as_posix(), recursive=False)
