"""Turns what can go wrong with disks and files into errors that a user can act on."""

import errno
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rpicluster.errors import RuntimeFetchError

ELSEWHERE = "export RPICLUSTER_CACHE_DIR=/a/folder/on/another/disk"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


def mib(size_bytes: int) -> str:
    """A size for people, in MiB, never rounded down to nothing."""
    return f"{max(1, round(size_bytes / 2**20))} MiB"


def _disk_full(root: Path) -> RuntimeFetchError:
    """The error for a file system that cannot take the runtime."""
    return RuntimeFetchError(
        f"the disk that holds {root} is full; nothing was installed",
        hint=f"free some space there, or: {ELSEWHERE}",
    )


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Raise RuntimeFetchError with a cause and a hint for whatever the file system or an archive refuses."""
    try:
        yield
    except OSError as error:
        raise _explain(error, root) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise RuntimeFetchError(
            f"an archive with the right hash cannot be read: {error}; nothing was installed",
            hint="the lock file names an archive that rpicluster cannot use; report it",
        ) from error


def _explain(error: OSError, root: Path) -> RuntimeFetchError:
    where = error.filename or root
    if error.errno in _FULL:
        return _disk_full(root)
    if error.errno == errno.EFBIG:
        return RuntimeFetchError(
            f"{where}: the limit for the size of a file is reached; nothing was installed",
            hint="ulimit -f unlimited",
        )
    if error.errno in _CLOSED:
        return RuntimeFetchError(
            f"{where} cannot be written ({error.strerror}); nothing was installed",
            hint=f"make it writable, or: {ELSEWHERE}",
        )
    return RuntimeFetchError(
        f"{where}: {error.strerror or error}; nothing was installed", hint=f"look at {root}, or: {ELSEWHERE}"
    )
