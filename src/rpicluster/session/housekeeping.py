"""Expire old snapshots, orphan files of every table and logs of old applications, as the session's user.

Run as `python -m rpicluster.session.housekeeping CONNECTION.json`; the keeper does so once a day. What is
kept by default, and why: docs/explanation/tables.md.
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rpicluster.design.layout import CONTAINER_LOGS, LOGS_KEPT_S
from rpicluster.errors import RpiclusterError, UsageError

if TYPE_CHECKING:
    from rpicluster.services.connect.connection import Connection
    from rpicluster.services.connect.result import SqlResult

CATALOG = "rpi"
DAY_S = 86400
KEEP_SNAPSHOTS_S = 7 * DAY_S
KEEP_ORPHAN_FILES_S = 3 * DAY_S
# A writer's files are orphans until it commits; Iceberg itself refuses less than a day.
LEAST_ORPHAN_FILES_S = DAY_S
RETAIN_LAST = 5  # snapshots that stay whatever their age


class Session(Protocol):
    """What housekeeping needs of a ConnectSession."""

    def sql(self, statement: str) -> "SqlResult":
        """Run one statement. Raises RpiclusterError."""
        ...


@dataclass(frozen=True)
class Tidied:
    """What was removed from one table, or the `problem` that kept it from being looked after."""

    table: str
    data_files: int = 0  # of expired snapshots
    other_files: int = 0  # manifests and the like
    orphan_files: int = 0
    problem: str | None = None

    def __str__(self) -> str:
        """Return one line for the log."""
        if self.problem is not None:
            return f"{self.table}: {self.problem}"
        return (
            f"{self.table}: removed {self.data_files} data files and {self.other_files} manifests "
            f"of expired snapshots, {self.orphan_files} orphan files"
        )


def tables(session: Session, namespace: str = CATALOG) -> Iterator[tuple[str, str]]:
    """Yield every table below `namespace`, nested ones too, as (quoted namespace, plain table name)."""
    from rpicluster.services.connect.quoting import quote_identifier

    for child, *_ in session.sql(f"SHOW NAMESPACES IN {namespace}").rows():
        inner = f"{CATALOG}.{'.'.join(quote_identifier(part) for part in split_name(child))}"
        for row in session.sql(f"SHOW TABLES IN {inner}").rows():
            yield inner, row[1]
        yield from tables(session, inner)


def split_name(quoted: str) -> list[str]:
    """Return the parts of a name as Spark prints it: `a.b`, with back quotes around odd parts."""
    return [
        odd.replace("``", "`") or plain for odd, plain in re.findall(r"`((?:[^`]|``)+)`|([^.`]+)", quoted)
    ]


def tidy(
    session: Session, *, keep_snapshots_s: int, keep_orphan_files_s: int, now_s: float
) -> Iterator[Tidied]:
    """Look after every table, one after the other; a table that fails does not keep the others from it.

    Raises UsageError for less than a day of orphan files, RpiclusterError if the tables cannot be listed.
    """
    if keep_orphan_files_s < LEAST_ORPHAN_FILES_S:
        raise UsageError(
            f"orphan files must be kept for {LEAST_ORPHAN_FILES_S} s or longer, not {keep_orphan_files_s} s: "
            "a running write looks like an orphan until it commits"
        )
    for namespace, name in tables(session):
        yield _tidy_table(
            session,
            namespace,
            name,
            _timestamp(now_s - keep_snapshots_s),
            _timestamp(now_s - keep_orphan_files_s),
        )


def _tidy_table(
    session: Session, namespace: str, name: str, snapshots_before: str, orphans_before: str
) -> Tidied:
    from rpicluster.services.connect.quoting import quote_identifier, quote_string

    label = f"{namespace}.{name}".replace("`", "")
    try:
        table = quote_string(f"{namespace}.{quote_identifier(name)}")
        expired = _counts(
            session.sql(
                f"CALL {CATALOG}.system.expire_snapshots(table => {table}, "
                f"older_than => {snapshots_before}, retain_last => {RETAIN_LAST})"
            )
        )
        orphans = session.sql(
            f"CALL {CATALOG}.system.remove_orphan_files(table => {table}, older_than => {orphans_before})"
        ).rows()
    except RpiclusterError as problem:
        return Tidied(label, problem=problem.message.splitlines()[0][:300])
    data_files = sum(count for column, count in expired.items() if "manifest" not in column)
    return Tidied(label, data_files, sum(expired.values()) - data_files, len(orphans))


def _counts(result: "SqlResult") -> dict[str, int]:
    columns = result.columns
    row: tuple[Any, ...] = next(iter(result.rows()), ())
    return {column: int(count or 0) for column, count in zip(columns, row, strict=False)}


def _timestamp(seconds: float) -> str:
    return f"TIMESTAMP '{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC'"


def _expire_logs(connection: "Connection", before_s: float) -> int:
    from rpicluster.services.log_expiry import expire
    from rpicluster.services.transport import Transport
    from rpicluster.services.webhdfs import WebHdfs

    hdfs = WebHdfs(Transport(), connection.webhdfs, connection.webhdfs_user)
    return sum(1 for _ in expire(hdfs, CONTAINER_LOGS, before_s=before_s))


def main(arguments: Sequence[str], say: Callable[[str], object] = sys.stdout.write) -> int:
    """Look after the tables of one connection; returns 0, or 1 if a table or the session failed."""
    parser = argparse.ArgumentParser(prog="python -m rpicluster.session.housekeeping", description=__doc__)
    parser.add_argument("connection", type=Path, metavar="CONNECTION.json")
    parser.add_argument("--keep-snapshots-s", type=int, default=KEEP_SNAPSHOTS_S, metavar="N")
    parser.add_argument("--keep-orphan-files-s", type=int, default=KEEP_ORPHAN_FILES_S, metavar="N")
    parser.add_argument("--keep-logs-s", type=int, default=LOGS_KEPT_S, metavar="N")
    options = parser.parse_args(arguments)
    count = failed = 0
    try:
        from rpicluster.services.connect.connection import Connection

        connection = Connection.load(options.connection)
        logs = _expire_logs(connection, time.time() - options.keep_logs_s)
        say(f"removed the logs of {logs} old applications\n")
        with connection.session() as session:
            for tidied in tidy(
                session,
                keep_snapshots_s=options.keep_snapshots_s,
                keep_orphan_files_s=options.keep_orphan_files_s,
                now_s=time.time(),
            ):
                count, failed = count + 1, failed + (tidied.problem is not None)
                say(f"{tidied}\n")
    except RpiclusterError as problem:
        say(f"housekeeping stopped after {count} tables: {problem.message}\n")
        return 1
    say(f"{count} tables looked after, {failed} failed\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
