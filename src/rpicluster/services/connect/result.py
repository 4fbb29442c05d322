"""What a statement gave: columns, and rows as Arrow batches that arrive while they are read."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from rpicluster.errors import SqlError, UsageError
from rpicluster.services.connect.types import Field, fields_of, refuse_unreadable, type_of_arrow


class SqlResult:
    """The columns and rows of one statement; the rows can be read once.

    `affected` is the number of rows a command changed, or None where Spark does not say.
    """

    def __init__(
        self, fields: tuple[Field, ...], batches: Iterator[Any], *, arrow_schema: Any, is_command: bool
    ) -> None:
        """Keep the columns and the iterator of pyarrow record batches."""
        self.schema = fields
        self.is_command = is_command
        self.affected: int | None = None
        self.num_rows = 0  # rows read so far
        self.is_complete = False  # whether the last row was read
        self._batches = batches
        self.arrow_schema = arrow_schema

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in order; they need not be unique."""
        return [field.name for field in self.schema]

    def batches(self) -> Iterator[Any]:
        """Iterate over the rows as pyarrow.RecordBatch, as they arrive; raises what the statement raises."""
        for batch in self._batches:
            self.num_rows += batch.num_rows
            yield batch
        self.is_complete = True

    def table(self) -> Any:
        """Return all rows not yet read as a pyarrow.Table, which has the right types even without rows."""
        import pyarrow as pa

        return pa.Table.from_batches(self.batches(), schema=self.arrow_schema)

    def rows(self) -> list[tuple[Any, ...]]:
        """Return all rows not yet read as tuples of exact Python values, for results of human size.

        decimal → Decimal, date → date, timestamp → datetime with the session's time zone, timestamp_ntz →
        datetime without, binary → bytes, struct → dict, array → list, map → list of pairs, NULL → None.
        Raises UsageError for a value that Python has no type for, such as a date in the year 12000.
        """
        return list(self.each_row())

    def each_row(self) -> Iterator[tuple[Any, ...]]:
        """Iterate over the rows as `rows` would return them, as they arrive."""
        return itertools.chain.from_iterable(self._python_rows(batch) for batch in self.batches())

    def close(self) -> None:
        """Give the result up; what still runs for it on the cluster is cancelled."""
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()
        self.is_complete = True

    def _python_rows(self, batch: Any) -> Iterable[tuple[Any, ...]]:
        if not batch.num_columns:
            return [()] * batch.num_rows
        refuse_unreadable(self.schema)
        columns = []
        for field, column in zip(self.schema, batch.columns, strict=True):
            try:
                columns.append(_python_values(column))
            except (ValueError, OverflowError, NotImplementedError) as error:
                raise UsageError(
                    f"column {field.name!r} of type {field.type} holds what Python cannot show: {error}",
                    hint="cast it in the statement: cast(… as string)",
                ) from error
        return zip(*columns, strict=True)


def _python_values(column: Any) -> list[Any]:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type) and column.type.tz:
        try:
            return list(column.to_pylist())
        except (ValueError, OverflowError):
            # In the first or last hours of Python's years a local time may not exist, while UTC's does.
            return list(column.cast(pa.timestamp(column.type.unit, "UTC")).to_pylist())
    return list(column.to_pylist())


def of_relation(answers: Iterator[Any]) -> SqlResult:
    """Return the result of a query; waits for its first rows, so that most errors show here."""
    import pyarrow as pa

    fields: tuple[Field, ...] = ()
    for answer in answers:
        if answer.HasField("schema"):
            fields = fields_of(answer.schema)
        if answer.HasField("arrow_batch"):
            reader = pa.ipc.open_stream(pa.py_buffer(answer.arrow_batch.data))
            # itertools.chain would hide close(), by which an abandoned query is cancelled.
            return SqlResult(
                fields, _following(list(reader), answers), arrow_schema=reader.schema, is_command=False
            )
    raise SqlError("the query ended without a result: the server sent no rows and no schema")


def _following(first: list[Any], answers: Iterator[Any]) -> Iterator[Any]:
    import pyarrow as pa

    try:
        yield from first
        for answer in answers:
            if answer.HasField("arrow_batch"):
                yield from pa.ipc.open_stream(pa.py_buffer(answer.arrow_batch.data))
    finally:
        answers.close()  # type: ignore[attr-defined]  # a generator


def of_command(data: bytes) -> SqlResult:
    """Return the result of a command, whose rows the server has sent whole, as an Arrow stream."""
    import pyarrow as pa

    reader = pa.ipc.open_stream(pa.py_buffer(data))
    fields = tuple(Field(field.name, type_of_arrow(field.type), field.nullable) for field in reader.schema)
    return SqlResult(fields, iter(list(reader)), arrow_schema=reader.schema, is_command=True)
