"""Unpacks the sdist, member by member, into the layout of a runtime.

`tarfile.extract` is not used: the place of every file is computed here from a checked name, so that the
early 3.11 releases, which have no extraction filters, are as safe as later ones.
"""

import hashlib
import io
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from rpicluster.errors import RuntimeFetchError
from rpicluster.runtime import layout
from rpicluster.runtime.lock import Artifact
from rpicluster.runtime.progress import Progress, Report
from rpicluster.runtime.slim import copy_without

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Stored:
    """One file of the runtime: its SHA-256, its size in bytes and its mode."""

    sha256: str
    size_bytes: int
    mode: int
    same_as: str | None = None
    """The path of which this one is a hard link, if it is."""


def unpack_sdist(archive: Path, sdist: Artifact, tree: Path, report: Report) -> tuple[dict[str, Stored], int]:
    """Lay the members of `archive` out under `tree`; its hash must have been checked before.

    Returns the files stored and the bytes of all members, pruned ones included.
    Raises RuntimeFetchError for a member that is neither file nor folder, or whose name leads elsewhere.
    """
    stored: dict[str, Stored] = {}
    seen_bytes = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            inside = _checked_name(member, sdist)
            if not member.isfile():
                continue
            seen_bytes += member.size
            report(
                Progress(str(sdist), min(seen_bytes, sdist.unpacked_bytes), sdist.unpacked_bytes, "unpack")
            )
            path = layout.destination(inside)
            if path is None:
                continue
            content = tar.extractfile(member)
            if content is None:  # cannot be for a regular file; tarfile's types allow it
                raise RuntimeFetchError(f"{sdist.filename}: {member.name} has no content")
            with content:
                stored[path] = _store(content, path, tree)
    _add_links(stored, tree)
    return stored, seen_bytes


def _checked_name(member: tarfile.TarInfo, sdist: Artifact) -> str:
    """The member's path without the archive's top folder; empty for that folder itself."""
    if not (member.isfile() or member.isdir()):
        raise RuntimeFetchError(
            f"{sdist.filename}: {member.name!r} is a link or a device; nothing was installed",
            hint="the archive is not the one rpicluster was tested with; report it",
        )
    parts = PurePosixPath(member.name).parts
    if (
        not parts
        or member.name.startswith("/")
        or ".." in parts
        or "\\" in member.name
        or "\0" in member.name
    ):
        raise RuntimeFetchError(
            f"{sdist.filename}: the member {member.name!r} leads out of the archive; nothing was installed",
            hint="the archive is not the one rpicluster was tested with; report it",
        )
    return "/".join(parts[1:])


def _store(content: IO[bytes], path: str, tree: Path) -> Stored:
    mode = 0o755 if layout.is_program(path) else 0o644
    target = tree / path
    target.parent.mkdir(parents=True, exist_ok=True)
    entries = layout.entry_filter(path)
    if entries:
        native, stays = entries
        # Only jars of the SLIMMED table come here, the largest is 72 MB: the whole of one fits in memory.
        whole, thin = io.BytesIO(content.read()), io.BytesIO()
        copy_without(whole, thin, lambda name: bool(native.fullmatch(name)) and not stays.fullmatch(name))
        thin.seek(0)
        content = thin
    return write_new(content, target, mode)


def write_new(content: IO[bytes], target: Path, mode: int) -> Stored:
    """Write a file that must not be there yet, hashing on the way, whatever the umask."""
    digest = hashlib.sha256()
    size_bytes = 0
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
        while block := content.read(BLOCK_BYTES):
            digest.update(block)
            size_bytes += len(block)
            out.write(block)
        os.fchmod(out.fileno(), mode)
    return Stored(digest.hexdigest(), size_bytes, mode)


def link_or_copy(old: Path, new: Path) -> None:
    """Make `new` the same file as `old`, or a copy where the file system has no hard links."""
    new.parent.mkdir(parents=True, exist_ok=True)
    try:
        new.hardlink_to(old)
    except FileExistsError:
        raise
    except OSError:
        with old.open("rb") as content:
            write_new(content, new, old.stat().st_mode & 0o777)


def _add_links(stored: dict[str, Stored], tree: Path) -> None:
    for path, file in list(stored.items()):
        for other in layout.links(path):
            link_or_copy(tree / path, tree / other)
            stored[other] = Stored(file.sha256, file.size_bytes, file.mode, same_as=path)
    shared = [path for path in stored if re.fullmatch(layout.DAEMONS_SHARE, path)]
    if len(shared) != layout.DAEMONS_SHARE_COUNT:
        raise RuntimeFetchError(
            f"the sdist holds {len(shared)} of the {layout.DAEMONS_SHARE_COUNT} logging jars of the daemons",
            hint="the lock file and the layout rules do not fit together; report it",
        )
