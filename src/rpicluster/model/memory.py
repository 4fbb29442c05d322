"""Memory amounts as people write them (`2G`, `1536M`), kept as whole MiB."""

import re
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

_UNITS_MIB = {"m": 1, "mb": 1, "mib": 1, "g": 1024, "gb": 1024, "gib": 1024}
_AMOUNT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]+)\s*$")


def parse_memory(value: object) -> int:
    """Return whole MiB for `2G`, `1536M`, `1.5 GiB`.

    G and GB mean GiB, as RAM is sold. A bare number is refused: its unit would be a guess.
    Raises ValueError with the form that is expected.
    """
    if isinstance(value, str) and (match := _AMOUNT.match(value)):
        factor = _UNITS_MIB.get(match[2].lower())
        if factor:
            return int(float(match[1]) * factor)
    raise ValueError(f"{value!r} is not an amount of memory, write it like 2G or 1536M")


def format_memory(memory_mib: int) -> str:
    """Return `2G` where that is exact, else `1536M`; `parse_memory` reads both back."""
    return f"{memory_mib // 1024}G" if memory_mib % 1024 == 0 and memory_mib else f"{memory_mib}M"


MemoryMib = Annotated[
    int,
    BeforeValidator(parse_memory),
    Field(gt=0),
    PlainSerializer(format_memory, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\s*[0-9]+(\.[0-9]+)?\s*([mM]|[mM][bB]|[mM][iI][bB]|[gG]|[gG][bB]|[gG][iI][bB])\s*$",
            "examples": ["2G", "1536M"],
        }
    ),
]
