"""Debian packages that nodes downloaded once, offered to every later rack.

They stand in a read-only layer below the node's disk, as apt's own download folder. apt checks size and
hash of what it finds there against the signed index, so a wrong file is downloaded again, never installed.
"""

import contextlib
import os
import shutil
from pathlib import Path

ARCHIVES = Path("var/cache/apt/archives")


def packages_folder(cache: Path, suite: str) -> Path:
    """Return where the packages of a suite are kept between racks."""
    return cache / f"packages-{suite}"


def offer(packages: Path, layer: Path) -> None:
    """Make `layer` the overlay layer that shows `packages` to nodes, by hard links where that is possible.

    The layer is a rack's own: what later racks add to the cache does not change it under running nodes.
    """
    archives = layer / ARCHIVES
    if archives.is_dir():
        return
    aside = layer.with_name(layer.name + ".new")
    shutil.rmtree(aside, ignore_errors=True)
    (aside / ARCHIVES).mkdir(parents=True)
    for folder, _, _ in os.walk(aside):
        Path(folder).chmod(0o755)
    for package in sorted(packages.glob("*.deb")) if packages.is_dir() else ():
        target = aside / ARCHIVES / package.name
        try:
            target.hardlink_to(package)
        except OSError:  # another file system
            shutil.copyfile(package, target)
    aside.rename(layer)


def keep(init: int, packages: Path) -> int:
    """Copy what a running node downloaded into the cache, each file whole; return how many are new."""
    packages.mkdir(parents=True, exist_ok=True)
    kept = 0
    for package in sorted(Path(f"/proc/{init}/root", ARCHIVES).glob("*.deb")):
        target = packages / package.name
        if target.exists() or package.is_symlink():
            continue
        aside = packages / f".{package.name}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):  # the node cleans its cache just now
            shutil.copyfile(package, aside)
            aside.chmod(0o644)
            aside.rename(target)
            kept += 1
    return kept
