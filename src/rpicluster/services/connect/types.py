"""Spark's types by name, from the server's messages and from Arrow."""

from dataclasses import dataclass
from typing import Any

from rpicluster.errors import UsageError

# Names as `DESCRIBE TABLE` prints them (DataType.simpleString), by the field of the message.
_PLAIN = {
    "null": "void",
    "binary": "binary",
    "boolean": "boolean",
    "byte": "tinyint",
    "short": "smallint",
    "integer": "int",
    "long": "bigint",
    "float": "float",
    "double": "double",
    "date": "date",
    "timestamp": "timestamp",
    "timestamp_ntz": "timestamp_ntz",
    "calendar_interval": "interval",
    "variant": "variant",
}
_YEAR_MONTH = ("year", "month")
_DAY_TIME = ("day", "hour", "minute", "second")


@dataclass(frozen=True)
class Field:
    """One column: its name, Spark's name of its type, and whether it may be NULL."""

    name: str
    type: str
    nullable: bool = True


def fields_of(struct: Any) -> tuple[Field, ...]:
    """Return the columns of a `DataType` message that holds a struct, which every result's schema is."""
    return tuple(
        Field(field.name, type_name(field.data_type), field.nullable) for field in struct.struct.fields
    )


def type_name(data_type: Any) -> str:
    """Return the name of a type, such as `decimal(10,2)` or `array<struct<a:int>>`."""
    kind = data_type.WhichOneof("kind")
    if kind is None:
        raise ValueError("a type without a kind: the server is of another version than its messages")
    value = getattr(data_type, kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    return _with_parameters(kind, value)


def _with_parameters(kind: str, value: Any) -> str:  # noqa: PLR0911  one line a type
    match kind:
        case "string":
            plain = value.collation in ("", "UTF8_BINARY")
            return "string" if plain else f"string collate {value.collation}"
        case "decimal":
            precision = value.precision if value.HasField("precision") else 10
            return f"decimal({precision},{value.scale})"
        case "char":
            return f"char({value.length})"
        case "var_char":
            return f"varchar({value.length})"
        case "array":
            return f"array<{type_name(value.element_type)}>"
        case "map":
            return f"map<{type_name(value.key_type)},{type_name(value.value_type)}>"
        case "struct":
            return f"struct<{','.join(f'{f.name}:{type_name(f.data_type)}' for f in value.fields)}>"
        case "time":
            return f"time({value.precision if value.HasField('precision') else 6})"
        case "year_month_interval":
            return _interval(value, _YEAR_MONTH)
        case "day_time_interval":
            return _interval(value, _DAY_TIME)
        case "udt":
            return type_name(value.sql_type)
    return kind


def _interval(value: Any, units: tuple[str, ...]) -> str:
    start = value.start_field if value.HasField("start_field") else 0
    end = value.end_field if value.HasField("end_field") else len(units) - 1
    return f"interval {units[start]}" + ("" if start == end else f" to {units[end]}")


def refuse_unreadable(fields: tuple[Field, ...]) -> None:
    """Raise UsageError for columns of a type that pyarrow cannot read: intervals of years and months."""
    for field in fields:
        if "interval year" in field.type or "interval month" in field.type:
            raise UsageError(
                f"column {field.name!r} of type {field.type} cannot be read here",
                hint=f"cast it in the statement: cast({field.name} as string)",
            )


def type_of_arrow(arrow_type: Any) -> str:  # noqa: PLR0911  one line a type
    """Return Spark's name of the type that holds an Arrow type's values without loss.

    Raises UsageError for an Arrow type that Spark has no such type for.
    """
    import pyarrow.types as is_a

    text = str(arrow_type)
    if text in _FROM_ARROW:
        return _FROM_ARROW[text]
    if is_a.is_timestamp(arrow_type):
        return "timestamp" if arrow_type.tz else "timestamp_ntz"
    if is_a.is_decimal(arrow_type) and arrow_type.precision <= 38:
        return f"decimal({arrow_type.precision},{arrow_type.scale})"
    if is_a.is_dictionary(arrow_type):
        return type_of_arrow(arrow_type.value_type)
    if is_a.is_map(arrow_type):
        return f"map<{type_of_arrow(arrow_type.key_type)},{type_of_arrow(arrow_type.item_type)}>"
    if is_a.is_list(arrow_type) or is_a.is_large_list(arrow_type):
        return f"array<{type_of_arrow(arrow_type.value_type)}>"
    if is_a.is_struct(arrow_type):
        return f"struct<{','.join(f'{field.name}:{type_of_arrow(field.type)}' for field in arrow_type)}>"
    raise UsageError(f"Spark has no type for Arrow's {text}", hint="cast the column, for instance to text")


_FROM_ARROW = {
    "null": "void",
    "bool": "boolean",
    "int8": "tinyint",
    "int16": "smallint",
    "int32": "int",
    "int64": "bigint",
    "uint8": "smallint",
    "uint16": "int",
    "uint32": "bigint",
    "uint64": "decimal(20,0)",
    "halffloat": "float",
    "float": "float",
    "double": "double",
    "string": "string",
    "large_string": "string",
    "binary": "binary",
    "large_binary": "binary",
    "date32[day]": "date",
    "date64[ms]": "date",
    "duration[us]": "interval day to second",
    "month_interval": "interval year to month",
    "month_day_nano_interval": "interval",
    "time64[ns]": "time(6)",
    "time64[us]": "time(6)",
}
