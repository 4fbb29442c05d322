"""How many rows a statement changed: Spark Connect does not say, but an Iceberg table's new snapshot does."""

import re
from dataclasses import dataclass
from typing import Literal

# Iceberg writes session settings under this prefix into the snapshots it commits.
MARK = "spark.sql.iceberg.snapshot-property.rpicluster-mark"
_PROPERTY = "rpicluster-mark"
_PART = r"(?:`(?:[^`]|``)+`|\w+)"
_NAME = rf"({_PART}(?:\s*\.\s*{_PART}){{0,2}})"
_SPACE = r"(?:\s|--[^\n]*\n|/\*(?s:.*?)\*/)*"
_INSERT = re.compile(
    rf"{_SPACE}INSERT\s+(?:INTO|OVERWRITE)(?:\s+TABLE)?\s+(?!DIRECTORY\b|LOCAL\b){_NAME}", re.I
)
_DELETE = re.compile(rf"{_SPACE}DELETE\s+FROM\s+{_NAME}", re.I)
_MERGE = re.compile(rf"{_SPACE}MERGE\s+INTO\s+{_NAME}", re.I)
_MERGED = ("inserted", "updated", "deleted")
_Kind = Literal["insert", "delete", "merge"]
_KINDS: dict[_Kind, re.Pattern[str]] = {"insert": _INSERT, "delete": _DELETE, "merge": _MERGE}


@dataclass(frozen=True)
class Change:
    """A statement that changes rows: which kind, and the table by a name of two or three quoted parts."""

    kind: _Kind
    table: str


def changed_table(statement: str, namespace: str) -> Change | None:
    """Return what an INSERT, DELETE or MERGE changes; None for everything else.

    `namespace` is where a table without one is, quoted.
    UPDATE rewrites whole files and says no more, so a snapshot cannot tell how many rows it changed.
    """
    for kind, pattern in _KINDS.items():
        if found := pattern.match(statement):
            is_bare = re.fullmatch(_PART, found.group(1)) is not None
            return Change(kind, f"{namespace}.{found.group(1)}" if is_bare else found.group(1))
    return None


def counting_query(change: Change, mark: str) -> str:
    """Return the query for the number of rows that the statement run under `mark` changed, NULL if unknown.

    A DELETE of whole files commits a snapshot without the mark, so no marked snapshot means unknown,
    but for INSERT, which then had no rows.
    """
    merged = " + ".join(_number(f"spark.merge-into.num-target-rows-{what}") for what in _MERGED)
    count = {
        "insert": f"coalesce(sum({_number('added-records')}), 0)",
        "delete": f"sum({_number('deleted-records')} - {_number('added-records')})",
        # A MERGE that only inserts is an append, and says so.
        "merge": f"sum(if(operation = 'append', {_number('added-records')}, {merged}))",
    }[change.kind]
    return f"SELECT {count} FROM {change.table}.snapshots WHERE summary['{_PROPERTY}'] = '{mark}'"


def _number(key: str) -> str:
    return f"coalesce(cast(summary['{key}'] AS bigint), 0)"
