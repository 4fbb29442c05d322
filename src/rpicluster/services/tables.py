"""Persistent tables: names, lists, descriptions, through any session that runs SQL."""

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rpicluster.errors import UsageError

if TYPE_CHECKING:
    from rpicluster.services.connect.session import ConnectSession

CATALOG = "rpi"
NAMESPACE = "default"


@dataclass(frozen=True)
class TableColumn:
    """A column of a table."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True)
class Snapshot:
    """One version of a table."""

    id: int
    made_at: str
    operation: str
    rows: int


@dataclass(frozen=True)
class TableDescription:
    """What `rpicluster tables NAME` shows."""

    name: str
    columns: tuple[TableColumn, ...]
    rows: int
    size_bytes: int
    files: int
    location: str
    snapshots: tuple[Snapshot, ...]

    def document(self) -> dict[str, Any]:
        """Return the description as JSON-able values."""
        return asdict(self)


def quoted_table(name: str) -> str:
    """Return the full, quoted name of table `name` in catalog rpi; raises UsageError if it is no table name.

    Letters, digits and _ only: the name becomes a folder in HDFS and stands in people's SQL unquoted.
    """
    parts = name.split(".")
    if parts[0] == CATALOG and len(parts) == 3:
        parts = parts[1:]
    if len(parts) > 2 or not all(re.fullmatch(r"\w+", part) for part in parts):
        raise UsageError(
            f"{name!r} is no table name: letters, digits and _, and a dot behind a namespace",
            hint="such as " + (re.sub(r"\W+", "_", name).strip("_") or "flights"),
        )
    namespace, table = parts if len(parts) == 2 else (NAMESPACE, parts[0])
    return f"`{CATALOG}`.`{namespace}`.`{table}`"


def list_tables(session: "ConnectSession") -> list[str]:
    """Return the names of all tables, with their namespace where it is not the default one."""
    found = []
    for (namespace,) in session.sql(f"SHOW NAMESPACES IN {CATALOG}").rows():
        for row in session.sql(f"SHOW TABLES IN {CATALOG}.`{namespace}`").rows():
            found.append(row[1] if namespace == NAMESPACE else f"{namespace}.{row[1]}")
    return sorted(found)


def describe_table(session: "ConnectSession", name: str) -> TableDescription:
    """Return schema, rows, size and snapshots of a table; raises SqlError if there is none."""
    table = quoted_table(name)
    schema = session.sql(f"SELECT * FROM {table} LIMIT 0").schema
    files = session.sql(
        f"SELECT coalesce(sum(record_count), 0), coalesce(sum(file_size_in_bytes), 0), count(*) "
        f"FROM {table}.files"
    ).rows()[0]
    snapshots = session.sql(
        f"SELECT snapshot_id, cast(committed_at AS string), operation, "
        f"coalesce(cast(summary['total-records'] AS bigint), 0) "
        f"FROM {table}.snapshots ORDER BY committed_at DESC"
    ).rows()
    details = dict(row[:2] for row in session.sql(f"DESCRIBE TABLE EXTENDED {table}").rows())
    return TableDescription(
        name=name,
        columns=tuple(TableColumn(f.name, f.type, f.nullable) for f in schema),
        rows=int(files[0]),
        size_bytes=int(files[1]),
        files=int(files[2]),
        location=str(details.get("Location", "")),
        snapshots=tuple(Snapshot(int(i), str(at), str(op), int(rows)) for i, at, op, rows in snapshots),
    )
