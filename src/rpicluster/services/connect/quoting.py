"""Names and text inside SQL: only what stands here may put a value into a statement."""

import re
from collections import Counter
from collections.abc import Sequence

from rpicluster.errors import UsageError

# Spark replaces ${key} and ${prefix:key} anywhere in a statement, also inside quotes, before it parses it
# (spark.sql.variable.substitute, on by default).
_SUBSTITUTED = re.compile(r"\$\{\S+?\}")


def quote_identifier(name: str) -> str:
    """Return `name` as one quoted SQL identifier.

    Raises UsageError for a name that no Spark SQL statement can carry: an empty one, one that is not
    valid Unicode, and one that holds `${…}`, which Spark would replace by a setting.
    """
    _encodable(name)
    if not name:
        raise UsageError("a table or column name is empty", hint="give it a name of one letter or more")
    if _SUBSTITUTED.search(name):
        raise UsageError(
            f"the name {name!r} holds ${{…}}, which Spark replaces before it reads the statement",
            hint="choose a name without ${",
        )
    return "`" + name.replace("`", "``") + "`"


def quote_qualified(parts: str | Sequence[str]) -> str:
    """Return a name of one or several parts (catalog, namespace, table), each quoted."""
    return ".".join(quote_identifier(part) for part in ([parts] if isinstance(parts, str) else parts))


def quote_string(text: str) -> str:
    """Return `text` as a SQL string literal.

    `$` is written as an escape so that `${…}` stays text. Raises UsageError for text that is not
    valid Unicode.
    """
    _encodable(text)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\u0024")
    return f"'{escaped}'"


def _encodable(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{text!r} is not valid Unicode: {error.reason} at {error.start}") from error


def alike(names: Sequence[str]) -> list[str]:
    """Return those of `names` that Spark, which ignores case, cannot tell from another one."""
    counts = Counter(name.lower() for name in names)
    return [name for name in names if counts[name.lower()] > 1]
