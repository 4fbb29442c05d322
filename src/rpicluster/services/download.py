"""Files and directories out of HDFS: a temporary name, checksum compared, then one rename."""

import errno
import os
import posixpath
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rpicluster.errors import TransferError
from rpicluster.services.filechecksum import ChecksumOfBytes
from rpicluster.services.transfer import (
    CHUNK_BYTES,
    SUFFIX,
    TRANSFER_TIMEOUT_S,
    Meter,
    Progress,
    Transferred,
    in_parallel,
    is_abandoned,
    removed_on_failure,
    temporary_name,
)

if TYPE_CHECKING:
    from rpicluster.services.webhdfs import WebHdfs


def get(
    hdfs: "WebHdfs", remote: str, local: Path, *, overwrite: bool, progress: Progress | None
) -> Transferred:
    """Fetch a file or a directory of HDFS; `local` is its new name."""
    found = hdfs.status(remote)
    directories, files = _remote_tree(hdfs, remote) if found.is_dir else ([], [("", found.length)])
    total = sum(size for _, size in files)
    _refuse_local(local, total, overwrite=overwrite, want_directory=found.is_dir)
    temporary = local.with_name(temporary_name("." + local.name))
    meter = Meter(total, progress)
    with removed_on_failure(lambda: _remove_local(temporary), str(temporary)), _local_errors(local):
        for stale in local.parent.glob(".*" + SUFFIX):
            if stale.name.startswith(f".{local.name}.") and is_abandoned(
                stale.name, stale.lstat().st_mtime, time.time()
            ):
                _remove_local(stale)
        if not found.is_dir:
            _download(hdfs, remote, temporary, meter)
        else:
            for relative in directories:
                (temporary / relative).mkdir()
            in_parallel(
                lambda relative: _download(
                    hdfs, posixpath.join(remote, relative), temporary / relative, meter
                ),
                [relative for relative, _ in files],
                meter,
            )
        _appear(temporary, local, overwrite=overwrite)
    return Transferred(str(local), total, len(files))


@contextmanager
def _local_errors(local: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransferError(
            f"{error.filename or local} cannot be written: {error.strerror or error}",
            hint="is the disk full?" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else None,
        ) from error


def _remote_tree(hdfs: "WebHdfs", remote: str) -> tuple[list[str], list[tuple[str, int]]]:
    """Return relative directories (parents first) and files with their lengths."""
    directories, files, waiting = [""], [], [""]
    while waiting:
        folder = waiting.pop()
        for entry in hdfs.iterate(posixpath.join(remote, folder).rstrip("/") or "/"):
            relative = posixpath.join(folder, entry.name)
            if entry.is_dir:
                directories.append(relative)
                waiting.append(relative)
            elif not entry.name.endswith(SUFFIX):
                files.append((relative, entry.length))
    return directories, files


def _refuse_local(local: Path, total: int, *, overwrite: bool, want_directory: bool) -> None:
    if local.is_dir() and not want_directory:
        raise TransferError(f"{local} is a directory", hint=f"name the file in it: {local}/NAME")
    if os.path.lexists(local):
        kind = local.lstat().st_mode
        # A rename would put a file in the place of a device, a pipe or a link.
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise TransferError(
                f"{local} is neither a file nor a directory, nothing was written", hint="choose another name"
            )
        if not overwrite:
            raise TransferError(f"{local} exists already", hint="choose another name, or add --replace")
    try:
        free = shutil.disk_usage(local.parent).free
    except OSError as error:
        raise TransferError(f"{local.parent} cannot be written: {error.strerror}") from error
    if total > free:
        raise TransferError(
            f"{local.parent} has {free} bytes free, {total} are needed", hint="free some space"
        )


def _download(hdfs: "WebHdfs", remote: str, temporary: Path, meter: Meter) -> None:
    """Write a file of HDFS to a new local file, on the disk and verified when this returns."""
    before = hdfs.status(remote)
    stored = hdfs.checksum(remote)
    cut = (
        stored.block_size or max(before.block_size, stored.bytes_per_checksum),
        stored.bytes_per_checksum or 512,
    )
    checksum = ChecksumOfBytes(block_size=cut[0], bytes_per_checksum=cut[1], crc_type=stored.crc_type)
    what = f"read {remote}"
    url = hdfs.datanode_url("GET", "OPEN", remote, {}, what=what)
    datanode = hdfs.namenode.at(url)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
    with (
        os.fdopen(descriptor, "wb", buffering=0) as file,
        hdfs.transport.stream(datanode, "GET", url, what=what, read_timeout_s=TRANSFER_TIMEOUT_S) as response,
    ):
        for piece in response.iter_raw(CHUNK_BYTES):
            file.write(piece)
            checksum.update(piece)
            meter.add(len(piece))
        os.fsync(file.fileno())
    mine, after = checksum.hexdigest(), hdfs.status(remote)
    if (after.file_id, after.length, after.modified_ms) != (
        before.file_id,
        before.length,
        before.modified_ms,
    ):
        raise TransferError(f"{remote} changed while it was copied, so nothing was kept", hint="try again")
    if checksum.length != before.length or mine != stored.md5_hex:
        raise TransferError(
            f"{remote} did not arrive as it is stored: {checksum.length} of {before.length} bytes, "
            f"checksum {mine} instead of {stored.md5_hex} ({stored.algorithm})",
            hint="try again; if it happens again, test the memory and the disks of the nodes",
        )


def _appear(temporary: Path, local: Path, *, overwrite: bool) -> None:
    """Give what was fetched its final name, on the disk when this returns."""
    if not overwrite and os.path.lexists(local):
        raise TransferError(f"somebody else made {local} in the meantime, so nothing was kept")
    aside = None
    if local.is_dir() and not local.is_symlink():
        aside = local.with_name(temporary_name("." + local.name))
        local.rename(aside)
    temporary.replace(local)
    if aside:
        shutil.rmtree(aside)
    descriptor = os.open(local.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_local(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
