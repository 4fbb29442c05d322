"""Python values as Spark literals, so that parameters never become part of a statement's text."""

import datetime
import decimal
from typing import Any

from rpicluster.errors import UsageError

_EPOCH = datetime.date(1970, 1, 1)
_EPOCH_UTC = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


def literal(messages: Any, value: Any) -> Any:
    """Return the Expression message of a Python value; raises UsageError for a type without a literal."""
    return messages.Expression(literal=messages.Expression.Literal(**_field(messages, value)))


def _field(messages: Any, value: Any) -> dict[str, Any]:  # noqa: PLR0911  one line a type
    match value:
        case None:
            return {"null": messages.DataType(null=messages.DataType.NULL())}
        case bool():
            return {"boolean": value}
        case int() if -(2**31) <= value < 2**31:
            return {"integer": value}
        case int() if -(2**63) <= value < 2**63:
            return {"long": value}
        case float():
            return {"double": value}
        case str():
            return {"string": value}
        case bytes() | bytearray():
            return {"binary": bytes(value)}
        case decimal.Decimal() if value.is_finite():
            return {"decimal": messages.Expression.Literal.Decimal(value=format(value, "f"))}
        case datetime.datetime() if value.tzinfo is not None:
            return {"timestamp": (value - _EPOCH_UTC) // _MICROSECOND}
        case datetime.datetime():
            return {"timestamp_ntz": (value.replace(tzinfo=datetime.UTC) - _EPOCH_UTC) // _MICROSECOND}
        case datetime.date():
            return {"date": (value - _EPOCH).days}
    raise UsageError(f"{value!r} of type {type(value).__name__} cannot be a parameter of a statement")
