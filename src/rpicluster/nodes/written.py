"""Folders of files that rpicluster writes for somebody else: whole, never over what is there."""

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from rpicluster.errors import UsageError


def refuse_existing(paths: Iterable[Path], *, replace: bool) -> None:
    """Raise UsageError if one of the paths is there, unless it may be replaced."""
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there and not replace:
        raise UsageError(
            f"{', '.join(there)}: there already; nothing was written", hint="add --replace to write it anew"
        )


def write_text(path: Path, text: str, *, mode: int = 0o644, replace: bool = False) -> None:
    """Write a file whole or not at all; one that is there is replaced only with `replace`."""
    refuse_existing([path], replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            Path(fresh).replace(path)
        else:
            os.link(fresh, path)  # unlike a rename it never takes the place of a file that came meanwhile
            Path(fresh).unlink()
    except FileExistsError:
        Path(fresh).unlink()
        refuse_existing([path], replace=False)
        raise
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
