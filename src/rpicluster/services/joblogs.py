"""The logs of an application: of running containers from their NodeManagers, of ended ones from HDFS.

Ended containers' logs stand in HDFS as one TFile a node (yarn.nodemanager.remote-app-log-dir), read here
without Java. Format: org.apache.hadoop.io.file.tfile.{TFile,BCFile,Utils,Chunk} for the frame,
org.apache.hadoop.yarn.logaggregation.AggregatedLogFormat for what is in it (Hadoop 3.5.0).
"""

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass

from rpicluster.errors import RemoteError, ServiceError
from rpicluster.services.webhdfs import WebHdfs
from rpicluster.services.yarn import Application, Yarn

# yarn.nodemanager.remote-app-log-dir and -dir-suffix as Hadoop has them by default.
REMOTE_LOG_DIR = "/tmp/logs"  # noqa: S108 (a directory of HDFS)
_SUFFIX = "bucket-logs-tfile"
TAIL_BYTES = 1 << 20
_FILE_BYTES_MAX = 256 << 20
_MAGIC = bytes.fromhex("d111d36891b5d7b639df414092bae150")
# At the end of a TFile: where its meta index begins (8 bytes), the version (4), the magic (16).
_TRAILER_BYTES = 8 + 4 + 16
_RESERVED = frozenset({"VERSION", "APPLICATION_ACL", "APPLICATION_OWNER"})
# What YARN adds to every container about its own launch; no user has written it.
_LAUNCH_FILES = frozenset({"directory.info", "launch_container.sh", "prelaunch.out"})


@dataclass(frozen=True)
class ContainerLog:
    """One log file of one container; `text` is its end, at most as long as was asked for."""

    container_id: str
    node: str
    name: str
    text: str


class _Bytes:
    """A cursor over the encodings of TFile and of java.io.DataOutput."""

    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    @property
    def is_done(self) -> bool:
        return self.at >= len(self.data)

    def take(self, count: int) -> bytes:
        piece = self.data[self.at : self.at + count]
        if count < 0 or len(piece) != count:
            raise ValueError(f"{count} bytes are needed at {self.at}, the file has {len(self.data)}")
        self.at += count
        return piece

    def number(self, count: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(count), "big", signed=signed)

    def vlong(self) -> int:
        """Read org.apache.hadoop.io.file.tfile.Utils.readVLong, which is not WritableUtils' encoding."""
        first = self.number(1, signed=True)
        if first >= -32:
            return first
        kind = (first + 128) // 8
        if kind >= 7:
            return ((first + 52) << 8) | self.number(1)
        if kind >= 3:
            return ((first + 88) << 16) | self.number(2)
        if kind >= 1:
            return ((first + 112) << 24) | self.number(3)
        return self.number(first + 129, signed=True)

    def string(self) -> str:
        return self.take(self.vlong()).decode()

    def utf(self) -> str:
        """Read DataOutput.writeUTF; names here are ASCII, for which it is UTF-8."""
        return self.take(self.number(2)).decode(errors="replace")

    def chunked(self) -> bytes:
        """Read a value that comes in chunks; all but the last have a negative length."""
        value = bytearray()
        while True:
            length = self.vlong()
            value += self.take(abs(length))
            if length >= 0:
                return bytes(value)


def _regions(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield offset and length of the data blocks of a TFile that is not compressed."""
    if len(data) < len(_MAGIC) + _TRAILER_BYTES or not data.startswith(_MAGIC) or not data.endswith(_MAGIC):
        raise ValueError("it is not a TFile")
    meta = _Bytes(data, _Bytes(data, len(data) - _TRAILER_BYTES).number(8))
    for _ in range(meta.vlong()):
        name, compression = meta.string(), meta.string()
        offset, _stored, _raw = meta.vlong(), meta.vlong(), meta.vlong()
        if name != "data:BCFile.index":
            continue
        index = _Bytes(data, offset)
        compression = index.string()
        if compression != "none":
            raise ValueError(
                f"it is compressed with {compression}, not none (log-aggregation.compression-type)"
            )
        for _ in range(index.vlong()):
            start, length, _raw = index.vlong(), index.vlong(), index.vlong()
            yield start, length
        return
    raise ValueError("it has no index")


def parse_aggregated(data: bytes, node: str, *, tail_bytes: int = TAIL_BYTES) -> list[ContainerLog]:
    """Return the logs in one node's aggregated file, launch files left out. Raises ValueError."""
    logs: list[ContainerLog] = []
    for start, length in _regions(data):
        block = _Bytes(data[start : start + length])
        while not block.is_done:
            key = _Bytes(block.take(block.vlong())).utf()
            value = _Bytes(block.chunked())
            while key not in _RESERVED and not value.is_done:
                name, size = value.utf(), int(value.utf())
                text = value.take(size)[-tail_bytes:].decode(errors="replace")
                if name not in _LAUNCH_FILES:
                    logs.append(ContainerLog(key, node, name, text))
    return logs


def application_logs(
    yarn: Yarn,
    hdfs: WebHdfs,
    application_id: str,
    *,
    directory: str = REMOTE_LOG_DIR,
    tail_bytes: int = TAIL_BYTES,
) -> list[ContainerLog]:
    """Return what an application has logged, its masters' containers first.

    Raises RemoteError, Unreachable; ServiceError for logs in a format that cannot be read.
    """
    application = yarn.application(application_id)
    logs = [*_aggregated(hdfs, application, directory, tail_bytes)]
    if not application.is_final:
        known = {log.container_id for log in logs}
        logs += [log for log in _running(yarn, application_id, tail_bytes) if log.container_id not in known]
    masters = {attempt.container_id for attempt in yarn.attempts(application_id)}
    return sorted(logs, key=lambda log: (log.container_id not in masters, log.container_id, log.name))


def _running(yarn: Yarn, application_id: str, tail_bytes: int) -> Iterator[ContainerLog]:
    for container in yarn.containers(application_id):
        for name in ("stderr", "stdout", "prelaunch.err"):
            try:
                text = yarn.container_log(container.node_http, container.id, name, tail_bytes=tail_bytes)
            except RemoteError as error:
                if error.status != 404:  # it has just ended, or does not write this file
                    raise
                continue
            yield ContainerLog(container.id, container.node_id, name, text)


def _aggregated(
    hdfs: WebHdfs, application: Application, directory: str, tail_bytes: int
) -> Iterator[ContainerLog]:
    number = int(application.id.rsplit("_", 1)[1])
    # LogAggregationUtils: a bucket is the application's number modulo 10000.
    folder = posixpath.join(directory, application.user, _SUFFIX, f"{number % 10000:04d}", application.id)
    if not hdfs.exists(folder):
        return
    for file in hdfs.iterate(folder):
        if file.name.endswith(".tmp"):
            continue
        if file.length > _FILE_BYTES_MAX:
            raise ServiceError(
                f"the logs of {application.id} on {file.name} are {file.length >> 20} MiB, too many to show",
                hint=f"rpicluster get {file.path}",
            )
        try:
            yield from parse_aggregated(hdfs.read(file.path), file.name, tail_bytes=tail_bytes)
        except ValueError as error:
            raise ServiceError(f"{file.path} in HDFS cannot be read as logs: {error}") from error


def as_text(logs: list[ContainerLog]) -> str:
    """Return logs as one text, each file under a line that says whose it is; empty files are left out."""
    return "\n".join(
        f"==> {log.container_id} on {log.node}: {log.name} <==\n{log.text.rstrip()}\n"
        for log in logs
        if log.text.strip()
    )
