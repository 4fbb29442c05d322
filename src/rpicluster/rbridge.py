"""The Python end of the R package: what R calls through reticulate, one plain function a need.

Handles are opaque to R. Columns travel as raw buffers (`services.connect.columns` says how), because
reticulate does not convert today's numpy and pandas. Every error has `message` and `hint`. Functions may
be called from any thread, `interrupt` while another one runs.
"""

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpicluster.errors import UsageError
from rpicluster.services.connect.connection import FILE_NAME, VARIABLE, Connection
from rpicluster.services.connect.session import ConnectSession

if TYPE_CHECKING:
    from rpicluster.services.connect.result import SqlResult
    from rpicluster.services.connect.staging import Staging

_MODES = {"create": "create", "append": "append", "replace": "replace", "overwrite": "replace"}


@dataclass
class Handle:
    """An open connection."""

    connection: Connection
    session: ConnectSession


@dataclass
class Rows:
    """A statement's result, and the rows of it that have arrived and were not yet asked for."""

    handle: Handle
    result: "SqlResult"
    batches: "Iterator[Any]"
    waiting: list[Any] = field(default_factory=list)
    fetched: int = 0
    cleared: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


def open(cluster: str | None = None) -> Handle:
    """Return a handle for a cluster: a connection file, a directory with one, or what `--cluster` takes.

    None takes RPICLUSTER_CONNECTION, else the only cluster there is. Waits for the session's first answer.
    Raises UsageError, ServiceError for a refused token, Unreachable.
    """
    connection = Connection.load(_connection_file(cluster))
    if connection.tunnelled or connection.sleeps:
        from rpicluster.cluster import Cluster

        found = Cluster.find(connection.cluster)
        found.tell = partial(print, file=sys.stderr, flush=True)
        found.open_door()
    session = connection.session()
    handle = Handle(connection, session)
    try:
        session.sql("SELECT 1").close()
    except BaseException:
        session.close()
        raise
    return handle


def execute(handle: Handle, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> Rows:
    """Run a statement and return its result; a query's rows are fetched while `fetch` asks for them.

    `params` are the values for `?` or `:name`. Raises SqlError, SessionLost, Unreachable.
    """
    result = handle.session.sql(sql, params=params, count_affected=True)
    return Rows(handle, result, iter(result.batches()))


def fetch(result: Rows, n: int = -1) -> list[dict[str, Any]]:
    """Return the next `n` rows (all that are left for a negative `n`) as columns of raw buffers."""
    import pyarrow as pa

    from rpicluster.services.connect.columns import raw_columns

    with result.lock:
        _refuse_cleared(result)
        taken = _take(result, int(n))
        table = pa.Table.from_batches(taken, schema=result.result.arrow_schema)
        result.fetched += table.num_rows
        return raw_columns(table, result.result.schema)


def has_completed(result: Rows) -> bool:
    """Return whether all rows were fetched; a command has none to fetch."""
    with result.lock:
        _refuse_cleared(result)
        if result.result.is_command and not result.result.schema:
            return True
        if not result.fetched and not result.result.is_complete:
            return False
        return not _more(result)


def rows_affected(result: Rows) -> int | None:
    """Return how many rows a command changed; 0 for a query, None where Spark does not say."""
    if not result.result.is_command:
        return 0
    return result.result.affected


def row_count(result: Rows) -> int:
    """Return how many rows were fetched so far."""
    return result.fetched


def column_info(result: Rows) -> list[dict[str, Any]]:
    """Return name, type (Spark's name) and nullability of the result's columns."""
    return [{"name": f.name, "type": f.type, "nullable": f.nullable} for f in result.result.schema]


def clear(result: Rows) -> None:
    """Give a result up; what still runs for it on the cluster is cancelled."""
    with result.lock:
        if not result.cleared:
            result.cleared = True
            result.waiting.clear()
            result.result.close()


def interrupt(handle: Handle) -> int:
    """Cancel all that this connection runs on the cluster; return how many statements that were."""
    return handle.session.interrupt()


def close(handle: Handle) -> None:
    """End the session on the server."""
    handle.session.close()


def write_table(
    handle: Handle,
    name: str | Sequence[str],
    columns: Sequence[Mapping[str, Any]],
    mode: str,
    types: Mapping[str, str] | None = None,
) -> int:
    """Make (`create`), fill up (`append`) or replace (`replace`, `overwrite`) a table; return its new rows.

    `name` is a table's name or its parts, not quoted. `types` names Spark types to cast columns to.
    Raises UsageError, SqlError, Unreachable.
    """
    from rpicluster.services.connect import staging
    from rpicluster.services.connect.columns import table_of

    if mode not in _MODES:
        raise UsageError(f"mode {mode!r} is not one of {', '.join(_MODES)}")
    table = table_of([dict(column) for column in columns])
    wanted: Any = _MODES[mode]
    return staging.write_table(
        handle.session, _staging(handle.connection), name, table, wanted, types=types or None
    )


def write_view(handle: Handle, name: str, columns: Sequence[Mapping[str, Any]]) -> None:
    """Make a temporary view of this connection from columns."""
    from rpicluster.services.connect.columns import table_of

    handle.session.create_temp_view(name, table_of([dict(column) for column in columns]))


def tables(handle: Handle) -> list[str]:
    """Return the names of the tables in the connection's namespace and of its temporary views."""
    return sorted({str(row[1]) for row in handle.session.sql("SHOW TABLES").rows()} | set(views(handle)))


def views(handle: Handle) -> list[str]:
    """Return the names of the connection's temporary views."""
    rows = handle.session.sql("SHOW VIEWS IN spark_catalog.default").rows()
    return sorted(str(name) for _, name, is_temporary, *_ in rows if is_temporary)


def columns(handle: Handle, name: str | Sequence[str]) -> list[dict[str, Any]]:
    """Return name, type and nullability of a table's columns; raises SqlError if there is no such table."""
    found = handle.session.columns_of(name if isinstance(name, str) else list(name))
    return [{"name": f.name, "type": f.type, "nullable": f.nullable} for f in found]


def server_info(handle: Handle) -> dict[str, str]:
    """Return cluster, user, Spark's version, the application's id, the door's address and the time zone."""
    settings = handle.session.conf("spark.app.id", "spark.sql.session.timeZone")
    return {
        "cluster": handle.connection.cluster,
        "user": handle.connection.user,
        "spark_version": handle.session.version(),
        "app_id": settings["spark.app.id"] or "",
        "time_zone": settings["spark.sql.session.timeZone"] or "",
        "host": handle.connection.connect_host,
        "port": str(handle.connection.connect_port),
        "namespace": handle.connection.namespace or "",
    }


def _connection_file(cluster: str | None) -> Path:
    if cluster is None:
        cluster = os.environ.get(VARIABLE) or None
    if cluster is not None:
        path = Path(cluster).expanduser()
        if path.name == FILE_NAME:
            return path
        if (path / FILE_NAME).is_file():
            return path / FILE_NAME
    from rpicluster.cluster import Cluster

    return Cluster.find(cluster).connection_path


def _staging(connection: Connection) -> "Staging":
    from rpicluster.services.connect.staging import HdfsStaging
    from rpicluster.services.transport import Transport
    from rpicluster.services.webhdfs import WebHdfs

    transport = Transport()
    if connection.tunnelled:
        from rpicluster.cluster import Cluster

        transport = Cluster.find(connection.cluster).transport
    webhdfs = WebHdfs(transport, connection.webhdfs, connection.webhdfs_user)
    return HdfsStaging(webhdfs, f"/user/{connection.webhdfs_user}/.rpicluster-staging")


def _refuse_cleared(result: Rows) -> None:
    if result.cleared:
        raise UsageError("this result was cleared", hint="run the statement again")


def _more(result: Rows) -> bool:
    """Return whether a row is left, waiting for it if need be."""
    while not any(batch.num_rows for batch in result.waiting):
        batch = next(result.batches, None)
        if batch is None:
            return False
        result.waiting = [batch]
    return True


def _take(result: Rows, n: int) -> list[Any]:
    taken: list[Any] = []
    left = n
    while n < 0 or left > 0:
        batch = result.waiting.pop(0) if result.waiting else next(result.batches, None)
        if batch is None:
            break
        if n >= 0 and batch.num_rows > left:
            result.waiting.insert(0, batch.slice(left))
            batch = batch.slice(0, left)
        taken.append(batch)
        left -= batch.num_rows
    return taken
