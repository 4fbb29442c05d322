"""A setting with its reason, and the two ways in which Hadoop and Spark read settings."""

import re
from collections.abc import Iterable
from html import escape  # xml.sax.saxutils would load all of urllib.request and email
from typing import NamedTuple

HEADER = "written by rpicluster, changes are overwritten; see plan --diff"
# XML 1.0 knows no other control characters, and neither format survives a line break in a value.
_UNWRITABLE = re.compile(r"[\x00-\x1f\x7f]")


class Setting(NamedTuple):
    """One line of a configuration file; `why` goes to docs/reference/settings.md, not to the file."""

    key: str
    value: str
    why: str


def setting(key: str, value: str | int | float | bool, why: str) -> Setting:
    """Return a Setting with `value` as Java reads it: `true` and `false` in lower case."""
    return Setting(key, str(value).lower() if isinstance(value, bool) else str(value), why)


def _sorted(settings: Iterable[Setting]) -> list[Setting]:
    found: dict[str, Setting] = {}
    for entry in settings:
        if entry.key in found:
            raise ValueError(f"{entry.key} is set twice in one file")
        if _UNWRITABLE.search(entry.value):
            raise ValueError(f"{entry.key} holds a control character: {entry.value!r}")
        found[entry.key] = entry
    return [found[key] for key in sorted(found)]


def as_xml(settings: Iterable[Setting]) -> bytes:
    """Return a Hadoop configuration file, keys sorted. Raises ValueError for a key that comes twice."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f"<!-- {HEADER.replace('--', '- -')} -->",
        "<configuration>",
    ]
    for entry in _sorted(settings):
        key, value = escape(entry.key, quote=False), escape(entry.value, quote=False)
        lines.append(f"  <property><name>{key}</name><value>{value}</value></property>")
    return "\n".join([*lines, "</configuration>", ""]).encode()


def as_properties(settings: Iterable[Setting]) -> bytes:
    """Return a Java properties file as Spark reads it. Raises ValueError for a key that comes twice."""
    lines = [f"# {HEADER}"]
    for entry in _sorted(settings):
        # Backslashes escape in this format; other characters of our keys and values stand for themselves.
        value = entry.value.replace("\\", "\\\\")
        lines.append(f"{entry.key} {value}")
    return ("\n".join(lines) + "\n").encode()
