"""Arrow columns as raw little-endian buffers and back, as R's readBin() and writeBin() have them.

A column is a dict: `name`, `type` (Spark's name of it), `n` (rows), `data` (bytes), `valid` (one byte a
row, 0 for NULL; None if no row is NULL). What `data` holds, by type:

| type | data |
|---|---|
| boolean | one byte a row, 0 or 1 |
| tinyint, smallint, int, date (days since 1970-01-01) | int32 |
| bigint, timestamp and timestamp_ntz (microseconds since 1970-01-01 00:00, UTC or local) | int64 |
| float, double | double |
| string, varchar, char, decimal (all its digits) | UTF-8 strings, each ended by a NUL |
| binary | n + 1 int64 offsets, then the bytes of all rows |
| void | nothing |
| array, map, struct, variant | JSON texts, as strings |
| intervals of days, time | texts, as strings |

Under a NULL stand zeroes or an empty string. A NUL inside a string stays where it is: the reader
notices that there are more strings than rows.
"""

import base64
import datetime
import decimal
import json
import math
import struct
from typing import Any

from rpicluster.errors import UsageError
from rpicluster.services.connect.types import Field, refuse_unreadable

_TEXT_LIMIT = 2**31 - 1


def raw_columns(table: Any, fields: tuple[Field, ...]) -> list[dict[str, Any]]:
    """Return the columns of a pyarrow.Table, whose Spark types `fields` names, as raw buffers."""
    refuse_unreadable(fields)
    return [raw_column(field, column) for field, column in zip(fields, table.columns, strict=True)]


def raw_column(field: Field, column: Any) -> dict[str, Any]:
    """Return one column, a pyarrow.ChunkedArray, as raw buffers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(_chunks(column))
    valid = None
    if array.null_count and not pa.types.is_null(array.type):
        valid = _fixed(pc.is_valid(array).cast(pa.uint8()), 1)
    return {"name": field.name, "type": field.type, "n": len(array), "data": _data(array), "valid": valid}


def _chunks(column: Any) -> list[Any]:
    import pyarrow as pa

    chunks = list(column.chunks) or [pa.array([], column.type)]
    if pa.types.is_string(column.type) and sum(chunk.nbytes for chunk in chunks) > _TEXT_LIMIT:
        return [chunk.cast(pa.large_string()) for chunk in chunks]
    if pa.types.is_binary(column.type) and sum(chunk.nbytes for chunk in chunks) > _TEXT_LIMIT:
        return [chunk.cast(pa.large_binary()) for chunk in chunks]
    return chunks


def _data(array: Any) -> bytes:  # noqa: PLR0911  one line a type
    import pyarrow as pa

    kind, is_a = array.type, pa.types
    if is_a.is_null(kind):
        return b""
    if is_a.is_boolean(kind):
        return _fixed(_filled(array).cast(pa.uint8()), 1)
    if is_a.is_integer(kind) and kind.bit_width <= 32:
        return _fixed(_filled(array).cast(pa.int32()), 4)
    if is_a.is_date32(kind):
        return _fixed(_filled(array.view(pa.int32())), 4)
    if is_a.is_int64(kind):
        return _fixed(_filled(array), 8)
    if is_a.is_timestamp(kind):
        return _fixed(_filled(array.view(pa.int64())), 8)
    if is_a.is_floating(kind):
        return _fixed(_filled(array).cast(pa.float64()), 8)
    if is_a.is_string(kind) or is_a.is_large_string(kind):
        return _strings(array)
    if is_a.is_decimal(kind):
        return _strings(_decimal_texts(array))
    if is_a.is_binary(kind) or is_a.is_large_binary(kind):
        return _binary(array)
    return _strings(pa.array([_text(value) for value in _values(array)], pa.string()))


def _filled(array: Any) -> Any:
    """Return `array` with zeroes for NULL, under which Arrow leaves anything."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.fill_null(array, pa.scalar(0, pa.int8()).cast(array.type)) if array.null_count else array


def _fixed(array: Any, width: int) -> bytes:
    values = array.buffers()[1]
    if values is None:
        return b""
    return bytes(values.slice(array.offset * width, len(array) * width).to_pybytes())


def _strings(array: Any) -> bytes:
    """Return each string followed by a NUL; joining with the empty string does that in C++."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_string()
    ended = pc.binary_join_element_wise(
        array.cast(kind),
        pa.scalar("", kind),
        pa.scalar("\0", kind),
        null_handling="replace",
        null_replacement="",
    )
    return _bytes_of(ended)


def _binary(array: Any) -> bytes:
    import pyarrow as pa
    import pyarrow.compute as pc

    array = pc.fill_null(array.cast(pa.large_binary()), b"")
    ends = pc.cumulative_sum(pc.binary_length(array).cast(pa.int64()))
    return struct.pack("<q", 0) + _fixed(ends, 8) + _bytes_of(array)


def _bytes_of(array: Any) -> bytes:
    """Return the values of a large_string or large_binary array, one behind the other."""
    _, offsets, values = array.buffers()
    if values is None or not len(array):
        return b""
    (start,) = struct.unpack_from("<q", offsets, array.offset * 8)
    (end,) = struct.unpack_from("<q", offsets, (array.offset + len(array)) * 8)
    return bytes(values.slice(start, end - start).to_pybytes())


def _decimal_texts(array: Any) -> Any:
    """Return decimals as plain digits; Arrow writes tiny ones as 1E-18."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = array.cast(pa.string())
    if not pc.any(pc.match_substring(texts, "E")).as_py():
        return texts
    return pa.array(
        [None if value is None else format(value, "f") for value in array.to_pylist()], pa.string()
    )


def _values(array: Any) -> list[Any]:
    try:
        return list(array.to_pylist())
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"a value of type {array.type} cannot be written as text: {error}",
            hint="cast it in the statement: cast(… as string)",
        ) from error


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, (dict, list, tuple)):
        return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    return str(value)


def _plain(value: Any) -> Any:  # noqa: PLR0911  one line a type
    """Return what JSON can say: a map is a list of pairs, binary is Base64, a NaN and the like are text."""
    match value:
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case bytes():
            return base64.b64encode(value).decode()
        case float() if not math.isfinite(value):
            return str(value)
        case decimal.Decimal():
            return format(value, "f")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case None | bool() | int() | float() | str():
            return value
    return str(value)


def table_of(columns: list[dict[str, Any]]) -> Any:
    """Return a pyarrow.Table of raw columns.

    Their types: boolean, int, bigint, double, date, timestamp, string, binary. Raises UsageError
    for another type, for buffers of the wrong length and for text that is not UTF-8.
    """
    import pyarrow as pa

    names = [str(column["name"]) for column in columns]
    return pa.Table.from_arrays([array_of(column) for column in columns], names=names)


def array_of(column: dict[str, Any]) -> Any:
    """Return a pyarrow.Array of one raw column; see `table_of`."""
    import pyarrow as pa

    name, kind, n = str(column["name"]), str(column["type"]), int(column["n"])
    data, valid = pa.py_buffer(column["data"]), column.get("valid")
    widths = {"boolean": 1, "int": 4, "date": 4, "bigint": 8, "timestamp": 8, "double": 8}
    if kind in widths and data.size != widths[kind] * n:
        raise UsageError(f"column {name!r}: {data.size} bytes are not {n} values of type {kind}")
    if valid is not None and len(valid) != n:
        raise UsageError(f"column {name!r}: {len(valid)} validity bytes for {n} rows")
    match kind:
        case "boolean":
            array = pa.Array.from_buffers(pa.uint8(), n, [None, data]).cast(pa.bool_())
        case "int" | "date":
            array = pa.Array.from_buffers(pa.int32() if kind == "int" else pa.date32(), n, [None, data])
        case "bigint":
            array = pa.Array.from_buffers(pa.int64(), n, [None, data])
        case "timestamp":
            array = pa.Array.from_buffers(pa.timestamp("us", "UTC"), n, [None, data])
        case "double":
            array = pa.Array.from_buffers(pa.float64(), n, [None, data])
        case "string":
            array = _cut(name, data, n)
        case "binary":
            array = _from_offsets(name, data, n)
        case _:
            raise UsageError(f"column {name!r}: type {kind!r} cannot be written", hint="convert it to text")
    return array if valid is None else _masked(array, valid)


def _masked(array: Any, valid: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = pa.Array.from_buffers(pa.uint8(), len(array), [None, pa.py_buffer(valid)]).cast(pa.bool_())
    return pc.if_else(mask, array, pa.scalar(None, array.type))


def _cut(name: str, data: Any, n: int) -> Any:
    """Return the strings of a blob in which each ends with a NUL; the cutting is done in C++."""
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets = pa.py_buffer(struct.pack("<qq", 0, data.size))
    whole = pa.Array.from_buffers(pa.large_string(), 1, [None, offsets, data])
    try:
        whole.validate(full=True)
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"column {name!r} is not UTF-8: {error}", hint="convert it with enc2utf8()"
        ) from error
    pieces = pc.split_pattern(whole, "\0").values
    if len(pieces) != n + 1:
        raise UsageError(f"column {name!r}: {len(pieces) - 1} strings for {n} rows")
    return pieces.slice(0, n)


def _from_offsets(name: str, data: Any, n: int) -> Any:
    import pyarrow as pa

    head = 8 * (n + 1)
    try:
        array = pa.Array.from_buffers(pa.large_binary(), n, [None, data.slice(0, head), data.slice(head)])
        array.validate(full=True)
    except (pa.ArrowException, IndexError) as error:
        raise UsageError(f"column {name!r}: its offsets do not fit its bytes: {error}") from error
    return array
