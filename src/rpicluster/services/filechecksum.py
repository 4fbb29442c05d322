"""HDFS file checksums, computed from the bytes, to be compared with what GETFILECHECKSUM answers.

HDFS keeps a CRC of every `bytes_per_checksum` bytes. A file's checksum is the MD5 of its blocks' MD5s, and
a block's MD5 is that of its big-endian CRCs (`MD5-of-131072MD5-of-512CRC32`: 131072 CRCs a block, 512 bytes
a CRC). Formula: org.apache.hadoop.hdfs.FileChecksumHelper and org.apache.hadoop.fs.MD5MD5CRC32FileChecksum
of Hadoop 3.5.0.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from rpicluster.errors import ServiceError

CrcType = Literal["CRC32", "CRC32C"]
_ALGORITHM = re.compile(r"^MD5-of-(\d+)MD5-of-(\d+)(CRC32C?)$")
# DataOutputBuffer starts with 32 bytes and doubles; Hadoop hashes the whole buffer, unused zeros included.
_HADOOP_BUFFER_BYTES = 32
_CASTAGNOLI = 0x82F63B78


@dataclass(frozen=True)
class FileChecksum:
    """What HDFS says of a file. `crcs_per_block` is 0 for a file of at most one block."""

    algorithm: str
    crc_type: CrcType
    bytes_per_checksum: int
    crcs_per_block: int
    md5_hex: str

    @property
    def block_size(self) -> int | None:
        """Return the bytes of a full block, None where the file has at most one."""
        return self.crcs_per_block * self.bytes_per_checksum or None


def parse_checksum(document: Any) -> FileChecksum:
    """Read the JSON that GETFILECHECKSUM answers. Raises ServiceError for an unknown algorithm."""
    try:
        algorithm, raw = (
            str(document["FileChecksum"]["algorithm"]),
            bytes.fromhex(document["FileChecksum"]["bytes"]),
        )
        match = _ALGORITHM.match(algorithm)
        bytes_per_checksum, crcs_per_block, md5 = struct.unpack(">iq16s", raw[:28])
    except (KeyError, TypeError, ValueError, struct.error) as error:
        raise ServiceError(f"HDFS answered with a checksum that cannot be read: {document!r:.200}") from error
    if match is None:
        raise ServiceError(f"HDFS answered with a checksum of an unknown kind, {algorithm}")
    crc_type: CrcType = "CRC32C" if match[3] == "CRC32C" else "CRC32"
    return FileChecksum(algorithm, crc_type, bytes_per_checksum, crcs_per_block, md5.hex())


class ChecksumOfBytes:
    """Computes a file's MD5-of-MD5-of-CRC from its bytes as they pass by.

    CRC32 runs at zlib's speed; CRC32C, which Python has only as a table, at some MB/s.
    """

    def __init__(
        self, *, block_size: int, bytes_per_checksum: int = 512, crc_type: CrcType = "CRC32"
    ) -> None:
        """Start an empty file; `block_size` is a multiple of `bytes_per_checksum`, as HDFS demands."""
        self._block_size = block_size
        self._chunk = bytes_per_checksum
        self._crc: Callable[[Any], int] = zlib.crc32 if crc_type == "CRC32" else crc32c
        self._rest = b""
        self._block = hashlib.md5(usedforsecurity=False)
        self._in_block = 0
        self._blocks = bytearray()
        self.length = 0

    def update(self, data: bytes | memoryview) -> None:
        """Add bytes at the end; any length, fastest in multiples of `bytes_per_checksum`."""
        self.length += len(data)
        if self._rest:
            data = self._rest + bytes(data)
        whole = len(data) - len(data) % self._chunk
        self._rest = bytes(data[whole:])
        view = memoryview(data)[:whole]
        while view:
            piece = view[: self._block_size - self._in_block]
            self._add(piece)
            view = view[len(piece) :]

    def hexdigest(self) -> str:
        """Return the MD5 as HDFS would; nothing may be added afterwards."""
        if self._rest:
            self._add(memoryview(self._rest))
            self._rest = b""
        if self._in_block:
            self._end_block()
        capacity = _HADOOP_BUFFER_BYTES
        while capacity < len(self._blocks):
            capacity *= 2
        return hashlib.md5(self._blocks.ljust(capacity, b"\0"), usedforsecurity=False).hexdigest()

    def _add(self, piece: memoryview) -> None:
        chunk, crc = self._chunk, self._crc
        crcs = [crc(piece[start : start + chunk]) for start in range(0, len(piece), chunk)]
        self._block.update(struct.pack(f">{len(crcs)}I", *crcs))
        self._in_block += len(piece)
        if self._in_block >= self._block_size:
            self._end_block()

    def _end_block(self) -> None:
        self._blocks += self._block.digest()
        self._block = hashlib.md5(usedforsecurity=False)
        self._in_block = 0


def _castagnoli_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return tuple(table)


_TABLE = _castagnoli_table()


def crc32c(data: bytes | memoryview) -> int:
    """Return the CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `data`; slow, for files that others wrote."""
    crc, table = 0xFFFFFFFF, _TABLE
    for byte in bytes(data):
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
