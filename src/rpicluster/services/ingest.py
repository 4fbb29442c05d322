"""Files of this machine as persistent tables: types decided, converted to Parquet, uploaded, made a table."""

import json
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rpicluster.errors import ServiceError, UsageError
from rpicluster.services.connect.quoting import alike
from rpicluster.services.connect.types import type_of_arrow
from rpicluster.services.csv_types import Column, TypeLadder, arrow_type, parse_types
from rpicluster.services.tables import quoted_table

if TYPE_CHECKING:
    import pyarrow as pa

    from rpicluster.services.connect.session import ConnectSession
    from rpicluster.services.webhdfs import WebHdfs

Mode = Literal["create", "append", "replace"]
Kind = Literal["csv", "parquet", "rds"]
_KINDS: dict[str, Kind] = {".csv": "csv", ".csv.gz": "csv", ".parquet": "parquet", ".rds": "rds"}
_BLOCK_BYTES = 16 << 20
_R_TIMEOUT_S = 600


@dataclass(frozen=True)
class Source:
    """Local files that are one table: their kind, and the columns as they will be."""

    paths: tuple[Path, ...]
    kind: Kind
    columns: tuple[Column, ...]
    na_strings: tuple[str, ...]
    overridden: frozenset[str] = frozenset()


def prepare(local: Path, *, types: str | None, na_strings: Sequence[str]) -> Source:
    """Look through LOCAL once and return what its table would be; changes nothing.

    CSV is read to its end, so that a type holds for every row. Raises UsageError with the file that is
    wrong and why.
    """
    paths, kind = _find_files(local)
    read = {"csv": _csv_columns, "parquet": _parquet_columns, "rds": _rds_columns}[kind]
    columns = _guarded(paths[0], lambda: read(paths, tuple(na_strings)))
    wanted = parse_types(types) if types else {}
    unknown = set(wanted) - {column.name for column in columns}
    if unknown:
        raise UsageError(
            f"--types names {', '.join(sorted(unknown))}, and {local} has no such column",
            hint="its columns are " + ", ".join(column.name for column in columns),
        )
    for kind_name in wanted.values():
        arrow_type(kind_name)
    decided = tuple(
        replace(column, type=wanted[column.name], reason="as you said") if column.name in wanted else column
        for column in columns
    )
    return Source(tuple(paths), kind, decided, tuple(na_strings), frozenset(wanted))


def write_table(
    source: Source,
    table: str,
    mode: Mode,
    *,
    webhdfs: "WebHdfs",
    session: "ConnectSession",
    staging: str,
    progress: Callable[[int, int], None],
    properties: Mapping[str, str] | None = None,
) -> int:
    """Make, append to or replace persistent table `table`; return the number of rows that were written.

    The files go to a folder of their own below `staging` in HDFS, one statement makes them a table
    version, and the folder goes again: the table has all rows or none. `properties` are Iceberg's, for a
    table that is made. Raises UsageError, SqlError.
    """
    name = quoted_table(table)
    folder = f"{staging}/{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="rpicluster-") as temporary:
        parts = list(_parquet_parts(source, Path(temporary)))
        rows = sum(count for _, count in parts)
        total = sum(path.stat().st_size for path, _ in parts)
        done = 0
        try:
            for number, (path, _) in enumerate(parts):
                before = done
                webhdfs.put(
                    path,
                    f"{folder}/part-{number:05d}.parquet",
                    progress=lambda sent, _, before=before: progress(before + sent, total),  # type: ignore[misc]
                )
                done += path.stat().st_size
            _run(session, name, mode, folder, properties or {})
        finally:
            webhdfs.delete_now(folder, recursive=True)
    return rows


def _run(
    session: "ConnectSession", name: str, mode: Mode, folder: str, properties: Mapping[str, str]
) -> None:
    listed = ", ".join(f"'{key}' = '{value}'" for key, value in properties.items())
    using = "USING iceberg" + (f" TBLPROPERTIES ({listed})" if listed else "")
    rows = f"SELECT * FROM parquet.`{folder}`"
    statement = {
        "create": f"CREATE TABLE {name} {using} AS {rows}",
        "replace": f"CREATE OR REPLACE TABLE {name} {using} AS {rows}",
        "append": f"INSERT INTO {name} BY NAME {rows}",
    }[mode]
    try:
        session.sql(statement).rows()
    except ServiceError as error:
        if mode == "create" and "TABLE_OR_VIEW_ALREADY_EXISTS" in error.message:
            raise UsageError(
                f"table {name} is there already", hint="add --append or --replace, or choose another name"
            ) from error
        raise


def _find_files(local: Path) -> tuple[list[Path], Kind]:
    if not local.exists():
        raise UsageError(f"{local} does not exist")
    paths = [local]
    if local.is_dir():
        paths = sorted(p for p in local.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
        if not paths:
            raise UsageError(f"{local} holds no files")
    kinds = {_kind(path) for path in paths}
    if len(kinds) > 1:
        raise UsageError(f"{local} mixes {' and '.join(sorted(kinds))} files", hint="put one kind at a time")
    return paths, kinds.pop()


def _kind(path: Path) -> Kind:
    for suffix, kind in _KINDS.items():
        if path.name.lower().endswith(suffix):
            return kind
    raise UsageError(
        f"{path} is no kind of table that is known", hint=f"known: {', '.join(_KINDS)}; or put it as a file"
    )


def _guarded(path: Path, read: Callable[[], Any]) -> Any:
    """Run `read`, and turn what pyarrow and the system say into a UsageError that names the file."""
    import pyarrow as pa

    try:
        return read()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}") from error


def _csv_batches(
    path: Path, na_strings: tuple[str, ...], types: dict[str, "pa.DataType"]
) -> Iterator["pa.RecordBatch"]:
    import pyarrow.csv as csv

    names = _csv_names(path)
    import pyarrow as pa

    reader = csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=names, skip_rows=1),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={name: types.get(name, pa.string()) for name in names},
            null_values=list(na_strings),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    yield from reader


def _csv_names(path: Path) -> list[str]:
    import pyarrow.csv as csv

    header = csv.open_csv(path, convert_options=csv.ConvertOptions(strings_can_be_null=False)).schema.names
    names = [name.removeprefix("\ufeff") or f"column{i + 1}" for i, name in enumerate(header)]
    twice = sorted(alike(names))
    if twice:
        raise UsageError(f"{path} has several columns called {twice[0]!r} (Spark ignores case)")
    return names


def _csv_columns(paths: Sequence[Path], na_strings: tuple[str, ...]) -> list[Column]:
    names = _csv_names(paths[0])
    for path in paths[1:]:
        if _csv_names(path) != names:
            raise UsageError(f"{path} has other columns than {paths[0]}")
    ladders = [TypeLadder(name) for name in names]
    for path in paths:
        last: str | None = None
        for batch in _csv_batches(path, na_strings, {}):
            for ladder, values in zip(ladders, batch.columns, strict=True):
                ladder.see(values)
            if batch.num_rows:
                last = batch.columns[-1][-1].as_py()
        _refuse_open_quote(path, last)
    return [ladder.column for ladder in ladders]


def _refuse_open_quote(path: Path, last_value: str | None) -> None:
    """Raise UsageError if a quote that nobody closed has swallowed the rest of the file.

    pyarrow takes that for one long value, the last of the file. A value of several lines is in quotes, so
    a file that ends with one ends with a quote.
    """
    import pyarrow as pa

    if last_value is None or "\n" not in last_value:
        return
    end = b""
    with pa.input_stream(str(path)) as stream:
        while block := stream.read(_BLOCK_BYTES):
            end = (end + block).rstrip()[-1:]
    if end != b'"':
        raise UsageError(
            f'{path}: a value that starts with "{last_value.splitlines()[0][:60]} is never closed',
            hint='close its quote, and write a quote inside of quotes twice: ""',
        )


def _parquet_columns(paths: Sequence[Path], _: tuple[str, ...]) -> list[Column]:
    import pyarrow.parquet as parquet

    schema = parquet.read_schema(paths[0])
    for path in paths[1:]:
        if not parquet.read_schema(path).equals(schema):
            raise UsageError(f"{path} has other columns than {paths[0]}")
    return [Column(field.name, type_of_arrow(field.type), "as in the file") for field in schema]


def _rds_columns(paths: Sequence[Path], _: tuple[str, ...]) -> list[Column]:
    with tempfile.TemporaryDirectory(prefix="rpicluster-") as temporary:
        columns = _rds_to_csv(paths[0], Path(temporary))[1]
        for path in paths[1:]:
            if _rds_to_csv(path, Path(temporary))[1] != columns:
                raise UsageError(f"{path} has other columns, or other types, than {paths[0]}")
        return columns


def _rds_to_csv(path: Path, folder: Path) -> tuple[Path, list[Column]]:
    """Have R write a data frame as CSV with a list of its types; numbers with 17 digits, times in UTC."""
    rscript = shutil.which("Rscript")
    if not rscript:
        raise UsageError(
            "R is needed to read .rds files and is not installed", hint="sudo apt-get install r-base-core"
        )
    target = folder / "data.csv"
    with as_file(files("rpicluster.services") / "rds_to_csv.R") as script:
        done = subprocess.run(
            [rscript, "--vanilla", str(script), str(path), str(target)],
            capture_output=True,
            text=True,
            timeout=_R_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        said = [line for line in done.stderr.strip().splitlines() if line != "Execution halted"]
        reason = said[-1].removeprefix("Error: ") if said else "no reason given"
        raise UsageError(f"{path} cannot be read by R: {reason}")
    types = json.loads(done.stdout)
    return target, [Column(t["name"], t["type"], t["reason"]) for t in types]


def _parquet_parts(source: Source, temporary: Path) -> Iterator[tuple[Path, int]]:
    """Yield (Parquet file, rows) for each source file, converted where needed.

    Raises UsageError for a source that changes meanwhile.
    """
    import pyarrow.parquet as parquet

    for number, path in enumerate(source.paths):
        before = path.stat()
        target = temporary / f"{number:05d}.parquet"
        if source.kind == "parquet" and not source.overridden:
            target = path
        else:
            _guarded(path, partial(_convert, source, path, target, temporary))
        rows = parquet.read_metadata(target).num_rows
        after = path.stat()
        if (before.st_size, before.st_mtime_ns, before.st_ino) != (
            after.st_size,
            after.st_mtime_ns,
            after.st_ino,
        ):
            raise UsageError(
                f"{path} changed while it was read, nothing was written", hint="try again when it rests"
            )
        yield target, rows


def _convert(source: Source, path: Path, target: Path, temporary: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = pa.schema([(column.name, arrow_type(column.type)) for column in source.columns if column.type])
    if source.kind == "parquet":
        parquet.write_table(parquet.read_table(path).cast(schema), target, compression="zstd")
        return
    if source.kind == "rds":
        path = _rds_to_csv(path, temporary)[0]
    na_strings = ("NA",) if source.kind == "rds" else source.na_strings
    types = {field.name: field.type for field in schema}
    with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        for batch in _csv_batches(path, na_strings, types):
            writer.write_batch(batch)
