"""Copies a jar without some of its entries, byte for byte: no recompression.

Recompressing would give other bytes with another zlib, and two laptops would then disagree about
the same runtime. Layout of a ZIP file: APPNOTE 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.
"""

import struct
import zipfile
from collections.abc import Callable
from typing import IO

_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")


def copy_without(source: IO[bytes], target: IO[bytes], drop: Callable[[str], bool]) -> None:
    """Write to `target` the entries of the jar `source` whose names `drop` refuses to drop.

    Raises zipfile.BadZipFile for a broken jar, or one that needs ZIP64 (over 4 GiB).
    """
    with zipfile.ZipFile(source) as jar:
        entries = sorted(jar.infolist(), key=lambda e: e.header_offset)
        central_start = jar.start_dir
    # What stands between one local header and the next belongs to the first, its data descriptor included.
    ends = [e.header_offset for e in entries[1:]] + [central_start]
    new_offsets: dict[int, int] = {}
    for entry, end in zip(entries, ends, strict=True):
        if not drop(entry.filename):
            new_offsets[entry.header_offset] = target.tell()
            source.seek(entry.header_offset)
            _copy(source, target, end - entry.header_offset)
    _write_central_directory(source, target, central_start, len(entries), new_offsets)


def _copy(source: IO[bytes], target: IO[bytes], count: int) -> None:
    while count:
        block = source.read(min(count, 1 << 20))
        if not block:
            raise zipfile.BadZipFile("the jar ends inside an entry")
        target.write(block)
        count -= len(block)


def _write_central_directory(
    source: IO[bytes], target: IO[bytes], start: int, count: int, new_offsets: dict[int, int]
) -> None:
    new_start = target.tell()
    source.seek(start)
    for _ in range(count):
        record = source.read(_CENTRAL.size)
        fields = list(_CENTRAL.unpack(record))
        if fields[0] != b"PK\x01\x02":
            raise zipfile.BadZipFile("the jar's directory is not where it should be")
        tail = source.read(fields[10] + fields[11] + fields[12])
        if fields[16] in new_offsets:
            fields[16] = new_offsets[fields[16]]
            target.write(_CENTRAL.pack(*fields) + tail)
    size = target.tell() - new_start
    if target.tell() > 0xFFFFFFFE or count >= 0xFFFF:
        raise zipfile.BadZipFile("the jar needs ZIP64")
    kept = len(new_offsets)
    target.write(_END.pack(b"PK\x05\x06", 0, 0, kept, kept, size, new_start, 0))
