"""Files and directories into HDFS: a temporary name, HDFS's own checksum compared, then one rename."""

import os
import posixpath
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rpicluster.errors import RemoteError, TransferError
from rpicluster.services.filechecksum import ChecksumOfBytes, CrcType
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


def _remove_abandoned(hdfs: "WebHdfs", directory: str, name: str) -> None:
    # Their names begin as `name` does, so they come right after it: one batch, however large the directory.
    stem = temporary_name(name).split(SUFFIX)[0].rsplit(".", 1)[0]
    try:
        for entry in hdfs.iterate(directory, after=stem):
            if not entry.name.startswith(stem):
                return
            if is_abandoned(entry.name, entry.modified_s, time.time()):
                hdfs.delete_now(entry.path, recursive=True)
    except RemoteError as error:
        if error.exception != "FileNotFoundException":  # the directory is made by the upload
            raise


def _remove(hdfs: "WebHdfs", temporary: str) -> None:
    if hdfs.exists(temporary):  # where nothing may be written, nothing may be deleted either
        hdfs.delete_now(temporary, recursive=True)


def put_file(
    hdfs: "WebHdfs", local: Path, remote: str, *, overwrite: bool, progress: Progress | None
) -> Transferred:
    """Store one local file as `remote`, an absolute path of HDFS."""
    length = _source_stat(local).st_size
    _refuse_target(hdfs, remote, overwrite=overwrite, want_directory=False)
    directory, name = posixpath.split(remote)
    _remove_abandoned(hdfs, directory, name)
    temporary = posixpath.join(directory, temporary_name(name))
    with removed_on_failure(lambda: _remove(hdfs, temporary), temporary):
        _upload(hdfs, local, temporary, Meter(length, progress))
        _rename(hdfs, temporary, remote, overwrite=overwrite)
    return Transferred(remote, length, 1)


def put_tree(
    hdfs: "WebHdfs", local: Path, remote: str, *, overwrite: bool, progress: Progress | None
) -> Transferred:
    """Store a local directory as `remote`, at most 4 files at a time."""
    directories, files = _local_tree(hdfs, local)
    previous = _refuse_target(hdfs, remote, overwrite=overwrite, want_directory=True)
    parent, name = posixpath.split(remote)
    _remove_abandoned(hdfs, parent, name)
    temporary = posixpath.join(parent, temporary_name(name))
    meter = Meter(sum(size for _, size in files), progress)
    with removed_on_failure(lambda: _remove(hdfs, temporary), temporary):
        for relative in directories:
            hdfs.mkdirs(posixpath.join(temporary, relative))
        in_parallel(
            lambda relative: _upload(hdfs, local / relative, posixpath.join(temporary, relative), meter),
            [relative for relative, _ in files],
            meter,
        )
        if previous:
            hdfs.delete(remote, recursive=True)
        _rename(hdfs, temporary, remote, overwrite=False)
    return Transferred(remote, sum(size for _, size in files), len(files))


def _source_stat(local: Path) -> os.stat_result:
    """Return the file's status. Raises TransferError for what is not a readable, regular file."""
    try:
        found = local.stat()
    except OSError as error:
        raise TransferError(f"{local} cannot be read: {error.strerror}", hint="check the path") from error
    if stat.S_ISDIR(found.st_mode):
        raise TransferError(f"{local} is a directory, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise TransferError(
            f"{local} is not a regular file but a pipe, socket or device, which has no length to verify",
            hint="write it to a file first",
        )
    return found


def _refuse_target(hdfs: "WebHdfs", remote: str, *, overwrite: bool, want_directory: bool) -> bool:
    """Return whether something stands at `remote` that may be replaced. Raises TransferError where not."""
    found = hdfs.find(remote)
    if found is None:
        return False
    if found.is_dir and not want_directory:
        raise TransferError(
            f"{remote} is a directory in HDFS", hint=f"name the file in it: {remote.rstrip('/')}/NAME"
        )
    if not overwrite:
        raise TransferError(f"{remote} exists in HDFS already", hint="choose another name, or add --replace")
    return True


def _local_tree(hdfs: "WebHdfs", local: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return relative directories and files with sizes; what HDFS cannot take is refused first."""
    directories: list[str] = []
    files: list[tuple[str, int]] = []

    def refuse(error: OSError) -> None:
        raise TransferError(f"{error.filename} cannot be read: {error.strerror}") from error

    if not local.is_dir():
        raise TransferError(f"{local} is not a directory, or does not exist")
    for folder, below, names in os.walk(local, onerror=refuse):
        relative = Path(folder).relative_to(local)
        for name in below:
            if (Path(folder) / name).is_symlink():
                raise TransferError(f"{Path(folder) / name} links to a directory, which is not followed")
        directories.append(relative.as_posix())
        for name in names:
            hdfs.absolute(name)
            path = relative / name
            files.append((path.as_posix(), _source_stat(local / path).st_size))
        hdfs.absolute("/" + (relative.as_posix() if relative.parts else ""))
    return [d if d != "." else "" for d in directories], files


def _upload(hdfs: "WebHdfs", local: Path, remote: str, meter: Meter) -> None:
    """Write `local` to a new file `remote` and compare checksums; after an error it is not whole."""
    defaults = hdfs.defaults()
    what = f"store {local}"
    try:
        with local.open("rb", buffering=0) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise TransferError(f"{local} is not a regular file any more")
            checksum = ChecksumOfBytes(
                block_size=defaults.block_size,
                bytes_per_checksum=defaults.bytes_per_checksum,
                crc_type="CRC32",
            )
            params = {"overwrite": "false", "blocksize": str(defaults.block_size)}
            url = hdfs.datanode_url("PUT", "CREATE", remote, params, what=what)
            with hdfs.transport.stream(
                hdfs.namenode.at(url),
                "PUT",
                url,
                what=what,
                content=_read(file.readinto, local, before.st_size, checksum, meter)
                if before.st_size
                else b"",
                headers={"Content-Length": str(before.st_size), "Content-Type": "application/octet-stream"},
                read_timeout_s=TRANSFER_TIMEOUT_S,
            ) as response:
                response.read()
            _refuse_change(local, before, os.fstat(file.fileno()))
        _refuse_change(local, before, local.stat())
    except OSError as error:
        raise TransferError(f"{local} cannot be read: {error.strerror or error}") from error
    _compare(
        hdfs,
        local,
        remote,
        before.st_size,
        checksum,
        (defaults.block_size, defaults.bytes_per_checksum, "CRC32"),
    )


def _read(
    readinto: Callable[[bytearray], int | None],
    local: Path,
    length: int,
    checksum: ChecksumOfBytes,
    meter: Meter,
) -> Iterator[bytes]:
    """Yield exactly `length` bytes, each hashed from the very buffer that is sent."""
    buffer = bytearray(CHUNK_BYTES)
    while checksum.length < length:
        count = readinto(buffer) or 0
        if not count:
            raise TransferError(
                f"{local} became shorter while it was read", hint="wait until nobody writes to it"
            )
        piece = bytes(memoryview(buffer)[: min(count, length - checksum.length)])
        checksum.update(piece)
        yield piece
        meter.add(len(piece))


def _refuse_change(local: Path, before: os.stat_result, after: os.stat_result) -> None:
    def fields(s: os.stat_result) -> tuple[int, int, int, int]:
        return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns

    if fields(before) != fields(after):
        raise TransferError(
            f"{local} changed while it was copied, so nothing was stored",
            hint="wait until nobody writes to it",
        )


def _compare(
    hdfs: "WebHdfs",
    local: Path,
    remote: str,
    length: int,
    checksum: ChecksumOfBytes,
    computed: tuple[int, int, CrcType],
) -> None:
    """Compare what went or came with what HDFS has stored. Raises TransferError if they differ."""
    stored = hdfs.checksum(remote)
    mine = checksum.hexdigest()
    needed = (stored.block_size or computed[0], stored.bytes_per_checksum, stored.crc_type)
    if length and needed != computed:
        # Written with other settings than the NameNode's defaults: read the local file again, as HDFS cut it.
        again = ChecksumOfBytes(block_size=needed[0], bytes_per_checksum=needed[1], crc_type=needed[2])
        with local.open("rb") as file:
            while piece := file.read(CHUNK_BYTES):
                again.update(piece)
        mine = again.hexdigest()
    stored_length = hdfs.status(remote).length
    if stored_length != length or mine != stored.md5_hex:
        raise TransferError(
            f"{remote} in HDFS and {local} differ: {stored_length} and {length} bytes, "
            f"checksums {stored.md5_hex} and {mine} ({stored.algorithm})",
            hint="try again; if it happens again, test the memory and the disks of the nodes",
        )


def _rename(hdfs: "WebHdfs", temporary: str, remote: str, *, overwrite: bool) -> None:
    try:
        hdfs.rename(temporary, remote, overwrite=overwrite)
    except RemoteError as error:
        if error.exception != "FileAlreadyExistsException":
            raise
        raise TransferError(
            f"somebody else made {remote} in the meantime, so nothing was stored", hint="choose another name"
        ) from error
