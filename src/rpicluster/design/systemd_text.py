"""Words, commands and paths as systemd reads them in a unit file (systemd.service(5), systemd.syntax(7))."""

import re
from collections.abc import Iterable

# Such a word stands for itself everywhere in a unit file.
_PLAIN = re.compile(r"[A-Za-z0-9_@:,./=+-]+")
# systemd looks a program up by this very text, without what it does to later words.
_PATH = re.compile(r"/[A-Za-z0-9_@:,./+-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def word(text: str) -> str:
    """Return `text` as one word that systemd neither splits nor expands. Raises ValueError for NUL."""
    if "\0" in text:
        raise ValueError(f"systemd cannot pass on a NUL: {text!r}")
    if _PLAIN.fullmatch(text):
        return text
    return '"' + "".join(_escaped(character) for character in text.replace("%", "%%")) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    return f"\\x{ord(character):02x}" if ord(character) < 0x20 or ord(character) == 0x7F else character


def command(argv: Iterable[str]) -> str:
    """Return the value of `ExecStart=` that runs exactly `argv`, a word a line.

    Raises ValueError for a program whose path systemd would read as something else.
    """
    program, *arguments = argv
    if not _PATH.fullmatch(program):
        raise ValueError(f"a unit's program must be a plain absolute path, not {program!r}")
    # After the program `$NAME` is a variable, and `$$` a dollar.
    return " \\\n  ".join([program, *(word(argument).replace("$", "$$") for argument in arguments)])


def assignment(name: str, value: str) -> str:
    """Return the value of `Environment=` that sets one variable; `$` is no variable there."""
    return word(f"{name}={value}")


def plain_path(path: str) -> str:
    """Return `path`, for settings that differ in how they read quotes. Raises ValueError if it needs any."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"a path in a unit file must be absolute and plain, not {path!r}")
    return path
