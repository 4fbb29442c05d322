"""`sql` and `tables`."""

import base64
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from rpicluster.cli.console import console, human_bytes, human_duration
from rpicluster.cli.options import cluster_option, examples, find_cluster, json_option
from rpicluster.errors import SqlError, UsageError

if TYPE_CHECKING:
    from rpicluster.cluster import Cluster
    from rpicluster.services.connect.execution import SqlProgress

NODES_AFTER_S = 1.0
WAITING_AFTER_S = 10.0


@click.command(
    epilog=examples(
        "rpicluster sql 'select count(*) from flights'",
        "rpicluster sql --format csv 'select * from flights limit 10' > ten.csv",
        "rpicluster sql < report.sql",
    )
)
@click.argument("statement", required=False)
@cluster_option
@json_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How rows are printed; csv is what `put` reads back.",
)
@click.option(
    "--max-rows", type=click.IntRange(1), default=1000, show_default=True, help="Of a table on the screen."
)
def sql(statement: str | None, which: str | None, as_json: bool, form: str, max_rows: int) -> None:
    """Run STATEMENT [default: standard input] in the cluster's warm session.

    Ctrl-C cancels it on the cluster; the session stays usable.
    """
    if statement is None:
        if sys.stdin.isatty():
            raise UsageError("no statement", hint="rpicluster sql 'select 1'")
        statement = sys.stdin.read()
    try:
        statement.encode()
    except UnicodeEncodeError:
        raise UsageError("the statement is not UTF-8 text", hint="rpicluster sql 'select 1'") from None
    if not statement.strip():
        raise UsageError("the statement is empty", hint="rpicluster sql 'select 1'")
    cluster = find_cluster(which)
    started = time.monotonic()
    columns, rows, cut = run_statement(
        cluster, statement, max_rows=max_rows if form == "table" and not as_json else None
    )
    if as_json or form == "json":
        console.document({"columns": columns, "rows": [[json_value(value) for value in row] for row in rows]})
    elif form == "csv":
        console.data(",".join(name if name.isidentifier() else csv_field(name) for name, _ in columns))
        for row in rows:
            console.data(",".join(csv_field(value) for value in row))
    elif columns:
        numeric = ("int", "bigint", "smallint", "tinyint", "double", "float", "decimal")
        console.table(
            [name for name, _ in columns],
            [["NULL" if value is None else value for value in row] for row in rows],
            right=" ".join(name for name, kind in columns if kind.startswith(numeric)),
        )
    if cut:
        console.say(f"the first {max_rows} rows; --max-rows or --format csv shows more")
    console.say(f"{len(rows)} rows in {human_duration(time.monotonic() - started)}" if columns else "done")


def json_value(value: Any) -> Any:
    """Return what JSON can hold: NaN, the infinities, dates and decimals as text, bytes as Base64."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value


def csv_field(value: Any) -> str:
    """Return one field as `put` reads it back: NULL is a bare NA, all text is quoted."""
    if value is None:
        return "NA"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, Decimal, date, datetime)):
        return str(value)
    text = value if isinstance(value, str) else json_value(value)
    if not isinstance(text, str):
        text = json.dumps(text, default=str, ensure_ascii=False)
    return '"' + text.replace('"', '""') + '"'


def run_statement(
    cluster: "Cluster", statement: str, *, max_rows: int | None
) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]], bool]:
    """Run one statement with progress and a Ctrl-C that reaches the cluster.

    Returns (name, type) of the columns, the rows, and whether rows beyond `max_rows` were left out.
    """
    with cluster.session() as session, console.bars() as update:
        interrupted = threading.Event()

        def on_interrupt(*_: object) -> None:
            interrupted.set()
            console.say("cancelling on the cluster …")
            threading.Thread(target=session.interrupt, daemon=True).start()

        previous = signal.signal(signal.SIGINT, on_interrupt)
        try:
            result = session.sql(statement, on_progress=partial(_show_progress, cluster, update))
            columns = [(field.name, field.type) for field in result.schema]
            rows: list[tuple[Any, ...]] = []
            for row in result.each_row():
                if len(rows) == max_rows:
                    result.close()
                    return columns, rows, True
                rows.append(row)
            return columns, rows, False
        except Exception as error:
            if interrupted.is_set():
                raise KeyboardInterrupt from None
            if isinstance(error, SqlError):
                raise with_cause(error) from error
            raise
        finally:
            signal.signal(signal.SIGINT, previous)


def with_cause(error: SqlError) -> SqlError:
    """Return `error` with a hint, where it is the cluster's failure and not the statement's."""
    from rpicluster.health.causes import explain

    cause = None if error.condition or error.hint else explain(error.message)
    if cause is None:
        return error
    hint = f"{cause.title}: {cause.fix}"
    return SqlError(error.message, condition=error.condition, sqlstate=error.sqlstate, hint=hint)


def _show_progress(
    cluster: "Cluster", update: Callable[[str, float, float | None, str], None], progress: "SqlProgress"
) -> None:
    if not progress.tasks_total:
        return
    done = f"{progress.stages_done}/{progress.stages_total} stages"
    tasks = f"{progress.tasks_done}/{progress.tasks_total} tasks"
    # Asking Spark where its tasks run takes longer than a short statement does.
    nodes = ", ".join(cluster.busy_nodes()) if progress.elapsed_s > NODES_AFTER_S else ""
    where = f" on {nodes}" if nodes else ""
    if not progress.running_tasks and progress.elapsed_s > WAITING_AFTER_S:
        where = ", waiting for YARN to give an executor (`rpicluster jobs list` shows who holds memory)"
    update("stages", progress.tasks_done, progress.tasks_total, f"{done}, {tasks}{where}")


@click.command(epilog=examples("rpicluster tables", "rpicluster tables flights", "rpicluster tables --json"))
@click.argument("name", required=False)
@cluster_option
@json_option
def tables(name: str | None, which: str | None, as_json: bool) -> None:
    """List persistent tables, or show the schema, rows, size and snapshots of NAME."""
    from rpicluster.services.tables import describe_table, list_tables

    cluster = find_cluster(which)
    with cluster.session() as session:
        if name is None:
            found = list_tables(session)
            if as_json:
                console.document({"tables": found})
            else:
                console.table(("table",), [(table,) for table in found])
                console.say(f"{len(found)} tables")
            return
        table = describe_table(session, name)
    if as_json:
        console.document(table.document())
        return
    console.table(
        ("column", "type", "null"), [(c.name, c.type, "yes" if c.nullable else "no") for c in table.columns]
    )
    size = f"{human_bytes(table.size_bytes)} in {table.files} files"
    console.say(f"\n{table.rows} rows, {size}; kept in {table.location}")
    console.table(
        ("snapshot", "made", "by", "rows"),
        [(s.id, s.made_at, s.operation, s.rows) for s in table.snapshots],
        right="rows",
    )
