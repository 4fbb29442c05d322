"""Local tables become tables on the cluster: by the session itself when small, by a Parquet file when not."""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from rpicluster.errors import SqlError, UsageError
from rpicluster.services.connect.door import new_id
from rpicluster.services.connect.quoting import alike, quote_identifier, quote_qualified
from rpicluster.services.connect.session import ConnectSession

Mode = Literal["create", "append", "replace"]
# Up to this size a table travels inside one Connect message, which saves the file's round trips.
INLINE_MAX_BYTES = 1024 * 1024
_TYPE = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]*(?:[(<][A-Za-z0-9_(),<>: ]*[)>])?")


class Staging(Protocol):
    """A place that this machine can write to and Spark can read."""

    def put(self, local: Path, name: str) -> str:
        """Store the file `local` under `name`; return the path by which Spark reads it."""

    def remove(self, name: str) -> None:
        """Delete what `put` stored; no error if there is nothing."""


def write_table(
    session: ConnectSession,
    staging: Staging,
    name: str | Sequence[str],
    table: Any,
    mode: Mode,
    *,
    types: Mapping[str, str] | None = None,
) -> int:
    """Make, append to or replace the table `name` with the rows of a pyarrow.Table; return their number.

    One statement does it, so the table has all rows or none. `append` matches columns by name. `types`
    names Spark types to cast columns to. Raises UsageError, SqlError, Unreachable.
    """
    columns = _columns(table, types or {})
    target = quote_qualified(name)
    with _readable(session, staging, table) as source:
        statement = {
            "create": f"CREATE TABLE {target} AS SELECT {columns} FROM {source}",
            "replace": f"CREATE OR REPLACE TABLE {target} AS SELECT {columns} FROM {source}",
            "append": f"INSERT INTO {target} BY NAME SELECT {columns} FROM {source}",
        }[mode]
        session.sql(statement)
    return int(table.num_rows)


def _columns(table: Any, types: Mapping[str, str]) -> str:
    names = list(table.column_names)
    if not names:
        raise UsageError("a table needs at least one column")
    twice = alike(names)
    if twice:
        raise UsageError(
            f"two columns are called {twice[0]!r}; Spark does not tell upper from lower case",
            hint="rename one of them",
        )
    unknown = sorted(set(types) - set(names))
    if unknown:
        raise UsageError(f"a type is given for column {unknown[0]!r}, which the table does not have")
    selected = []
    for name in names:
        quoted, kind = quote_identifier(name), types.get(name)
        if kind is not None and not _TYPE.fullmatch(kind):
            raise UsageError(f"{kind!r} is not a Spark type", hint="such as bigint or decimal(10,2)")
        selected.append(quoted if kind is None else f"CAST({quoted} AS {kind}) AS {quoted}")
    return ", ".join(selected)


@contextlib.contextmanager
def _readable(session: ConnectSession, staging: Staging, table: Any) -> Iterator[str]:
    """Make the rows readable for the session as long as the context lasts; yields what to select from."""
    name = f"rpicluster_{new_id().replace('-', '')}"
    if table.nbytes <= INLINE_MAX_BYTES:
        session.create_temp_view(name, table)
        try:
            yield quote_identifier(name)
        finally:
            with contextlib.suppress(SqlError):  # dropped with the session at the latest
                session.sql(f"DROP VIEW IF EXISTS {quote_identifier(name)}")
        return
    file = f"{name}.parquet"
    with tempfile.TemporaryDirectory(prefix="rpicluster-") as directory:
        local = Path(directory, file)
        _write_parquet(table, local)
        try:
            path = staging.put(local, file)
            yield f"parquet.{quote_identifier(path)}"
        finally:
            staging.remove(file)


def _write_parquet(table: Any, path: Path) -> None:
    import pyarrow.parquet as pq

    # Spark reads microseconds as its own timestamps; smaller row groups let several tasks read one file.
    pq.write_table(table, path, compression="snappy", coerce_timestamps="us", row_group_size=256 * 1024)


class HdfsStaging:
    """A folder of the user's in HDFS, through WebHDFS."""

    def __init__(self, webhdfs: Any, directory: str) -> None:
        """Keep the `services.webhdfs.WebHdfs` to write with and the absolute `directory` for the files."""
        self._webhdfs = webhdfs
        self._directory = directory.rstrip("/")

    def put(self, local: Path, name: str) -> str:
        """Store the file; see Staging."""
        path = f"{self._directory}/{name}"
        self._webhdfs.put(local, path)
        return path

    def remove(self, name: str) -> None:
        """Delete the file for good; see Staging."""
        self._webhdfs.delete_now(f"{self._directory}/{name}")
