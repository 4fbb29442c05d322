"""What the columns of a CSV file are: a ladder of types, each tried on every value of the file."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rpicluster.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

# 007 is a code, not a number: reading it as 7 would lose what a postcode means
_LEADING_ZERO = r"^[+-]?0[0-9]"
_ZONE = r"(Z|[+-][0-9]{2}:?[0-9]{2})$"
_INT32 = (-(2**31), 2**31 - 1)


@dataclass(frozen=True)
class Column:
    """A column as it will be in the table: Spark's type, and why this type."""

    name: str
    type: str
    reason: str


class TypeLadder:
    """Finds the narrowest type that every non-missing text value of a column can be read as without loss."""

    def __init__(self, name: str) -> None:
        """Start with every type possible for column `name`."""
        self.name = name
        self._rungs = list(_LADDER)
        self._seen = 0

    def see(self, values: "pa.Array") -> None:
        """Look at some more values (text, null where missing) and drop the types that do not hold."""
        self._seen += len(values) - values.null_count
        while self._rungs and not self._rungs[0][1](values):
            self._rungs.pop(0)

    @property
    def column(self) -> Column:
        """What the column is, by all values seen."""
        if not self._seen:
            return Column(self.name, "string", "every value is missing")
        if not self._rungs:
            return Column(self.name, "string", "text")
        return Column(self.name, self._rungs[0][0], self._rungs[0][2])


def _casts(kind: Callable[[Any], Any], refuse: str | None = None) -> Callable[["pa.Array"], bool]:
    def fits(values: "pa.Array") -> bool:
        import pyarrow as pa
        import pyarrow.compute as pc

        if refuse is not None and pc.any(pc.match_substring_regex(values, refuse)).as_py():
            return False
        try:
            pc.cast(values, kind(pa))
        except pa.ArrowInvalid:
            return False
        return True

    return fits


def _is_int32(values: "pa.Array") -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _casts(lambda pa: pa.int64(), _LEADING_ZERO)(values):
        return False
    extremes = pc.min_max(pc.cast(values, pa.int64())).as_py()
    return extremes["min"] is None or _INT32[0] < extremes["min"] <= extremes["max"] <= _INT32[1]


def _is_whole(values: "pa.Array") -> bool:
    import pyarrow.compute as pc

    return pc.all(pc.match_substring_regex(values, r"^[+-]?[1-9][0-9]{0,37}$|^[+-]?0$")).as_py() is not False


def _all_zoned(values: "pa.Array") -> bool:
    import pyarrow.compute as pc

    zoned = pc.all(pc.match_substring_regex(values, _ZONE)).as_py()
    return zoned is not False and _casts(lambda pa: pa.timestamp("us", tz="UTC"))(values)


_LADDER: list[tuple[str, Callable[["pa.Array"], bool], str]] = [
    ("int", _is_int32, "whole numbers within 32 bits"),
    ("bigint", _casts(lambda pa: pa.int64(), _LEADING_ZERO), "whole numbers"),
    ("decimal(38,0)", _is_whole, "whole numbers beyond 64 bits"),
    ("double", _casts(lambda pa: pa.float64(), _LEADING_ZERO + r"[0-9]*$"), "numbers"),
    ("boolean", _casts(lambda pa: pa.bool_(), r"^[01]$"), "true and false"),
    ("date", _casts(lambda pa: pa.date32()), "dates"),
    ("timestamp", _all_zoned, "times with a zone"),
    ("timestamp_ntz", _casts(lambda pa: pa.timestamp("us"), _ZONE), "times without a zone"),
]


def parse_types(text: str) -> dict[str, str]:
    """Return {name: type} for `id bigint, price decimal(10,2), `my col` string`; raises UsageError."""
    types: dict[str, str] = {}
    for part in re.split(r",(?![^(]*\))", text):
        match = re.fullmatch(r"\s*(?:`([^`]+)`|(\S+?)):?\s+([a-zA-Z_0-9]+\s*(?:\([0-9, ]+\))?)\s*", part)
        if not match:
            raise UsageError(
                f"--types: {part.strip()!r} is not NAME TYPE", hint="--types 'id bigint, price decimal(10,2)'"
            )
        types[match[1] or match[2]] = match[3].lower().replace(" ", "")
    return types


def arrow_type(spark_type: str) -> "pa.DataType":
    """Return the Arrow type that Parquet carries to Spark's `spark_type`; raises UsageError for others."""
    import pyarrow as pa

    simple: dict[str, Callable[[], pa.DataType]] = {
        "tinyint": pa.int8,
        "smallint": pa.int16,
        "int": pa.int32,
        "integer": pa.int32,
        "bigint": pa.int64,
        "long": pa.int64,
        "float": pa.float32,
        "double": pa.float64,
        "boolean": pa.bool_,
        "string": pa.string,
        "binary": pa.binary,
        "date": pa.date32,
        "timestamp": lambda: pa.timestamp("us", tz="UTC"),
        "timestamp_ntz": lambda: pa.timestamp("us"),
    }
    if spark_type in simple:
        return simple[spark_type]()
    if match := re.fullmatch(r"decimal(?:\((\d+)(?:,(\d+))?\))?", spark_type):
        precision, scale = int(match[1] or 10), int(match[2] or 0)
        if 1 <= precision <= 38 and scale <= precision:
            return pa.decimal128(precision, scale)
    raise UsageError(
        f"{spark_type!r} is not a column type", hint=f"one of {', '.join(simple)}, decimal(precision,scale)"
    )
