"""What goes to the manager with a run, and what comes home from it."""

import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from rpicluster.errors import TransferError, UsageError

_BLOCK_BYTES = 1 << 20


class Readable(Protocol):
    """What an archive comes from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, none at the end."""
        ...


@dataclass(frozen=True)
class Brought:
    """What came home: where it stands, how much it is, and what was left: it is no plain file."""

    folder: Path
    files: int
    bytes: int
    left: tuple[str, ...] = ()


def files_of(script: Path, declared: Iterable[Path]) -> dict[str, Path]:
    """Return what a run takes along, by the name that it has beside the script.

    Below the script's folder names stay as they are; others lose their folder. Raises UsageError for what
    is not there, what is neither file nor folder, and for two that would have one name.
    """
    found: dict[str, Path] = {script.name: script}
    base = script.resolve().parent
    for path in declared:
        if not path.exists():
            raise UsageError(f"{path} does not exist; nothing was started")
        resolved = path.resolve()
        inside = resolved.is_relative_to(base) and resolved != base
        name = resolved.relative_to(base).as_posix() if inside else resolved.name
        for relative, file in _below(name, path):
            if relative.split("/")[0] == "results":
                raise UsageError(
                    f"{file} would lie in `results`, which is for what the script writes", hint="rename it"
                )
            if found.setdefault(relative, file).resolve() != file.resolve():
                raise UsageError(f"{found[relative]} and {file} would both be {relative} beside the script")
    return found


def _below(name: str, path: Path) -> Iterator[tuple[str, Path]]:
    if path.is_file():
        yield name, path
        return
    if not path.is_dir():
        raise UsageError(f"{path} is neither a file nor a folder")
    for top, folders, files in os.walk(path):
        folders.sort()
        for file in sorted(files):
            here = Path(top) / file
            if not here.is_file():
                raise UsageError(f"{here} is neither a file nor a folder, or leads nowhere")
            yield f"{name}/{here.relative_to(path).as_posix()}", here


def pack(into: IO[bytes], files: Mapping[str, Path], texts: Mapping[str, bytes]) -> None:
    """Write an archive of plain files: `files` by name, and `texts` that are not on this disk."""
    with tarfile.open(fileobj=into, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path in files.items():
            entry = tarfile.TarInfo(name)
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                entry.size, entry.mode = status.st_size, status.st_mode & 0o777
                archive.addfile(entry, file)
        for name, content in texts.items():
            import io

            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))


def blocks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what a file holds, from its beginning."""
    file.seek(0)
    while block := file.read(_BLOCK_BYTES):
        yield block


def bring_home(archive: Readable, target: Path) -> Brought:
    """Unpack an archive into the new folder `target`, which is there whole or not at all.

    Only plain files and folders come: links and the like are left, and named. Raises TransferError for an
    archive that is damaged or names a place outside; UsageError if `target` is there already.
    """
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already; nothing was fetched", hint="choose another: --results")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        count, total, left = 0, 0, []
        with tarfile.open(fileobj=cast("IO[bytes]", archive), mode="r|") as members:
            for member in members:
                _require_inside(member.name)
                if member.isdir():
                    (fresh / member.name).mkdir(parents=True, exist_ok=True)
                elif member.isreg():
                    total += _write(members, member, fresh / member.name)
                    count += 1
                else:
                    left.append(member.name)
        fresh.chmod(0o777 & ~_umask())
        fresh.rename(target)
    except (tarfile.TarError, EOFError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise TransferError(f"the results arrived damaged: {error}; nothing was kept here") from error
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return Brought(target, count, total, tuple(left))


def _require_inside(name: str) -> None:
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
        raise TransferError(
            f"the results name a place outside of their folder, {name!r}; nothing was kept here"
        )


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    source = members.extractfile(member)
    if source is None:
        raise TransferError(f"{member.name} in the results cannot be read; nothing was kept here")
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file)
    return member.size


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
