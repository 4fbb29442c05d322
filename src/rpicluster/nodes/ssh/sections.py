"""A node's answer taken apart: named sections of raw command output."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from rpicluster.model.machine import Problem

_T = TypeVar("_T")
_D = TypeVar("_D")
_NOT_FOUND = 127  # a shell's status for a command that is not there
_TIMED_OUT = 124  # timeout(1)

# What a small parser may stumble over in text that it did not expect; pydantic's errors are ValueErrors.
_STUMBLES = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


@dataclass(frozen=True)
class Section:
    """What one command printed, and its exit status."""

    text: str
    status: int


def split_sections(output: str, mark: str) -> dict[str, Section]:
    """Return the sections of a node's answer by name; what stands outside of them is ignored.

    A login that prints a greeting, and an answer that breaks off, leave the whole sections intact.
    """
    pattern = re.compile(
        rf"^{re.escape(mark)} begin (\S+)\n(.*?)\n?^{re.escape(mark)} end (\d+)$", re.M | re.S
    )
    return {match[1]: Section(match[2], int(match[3])) for match in pattern.finditer(output)}


def is_whole(output: str, mark: str) -> bool:
    """Return whether an answer came to its end."""
    return bool(re.search(rf"^{re.escape(mark)} done$", output, re.M))


@dataclass
class Reader:
    """Applies parsers to sections and keeps what went wrong, so that one bad section spoils one fact."""

    sections: dict[str, Section]
    problems: list[Problem] = field(default_factory=list)

    def read(self, name: str, parse: Callable[[str], _T], default: _D) -> _T | _D:
        """Return what `parse` makes of a section, or `default` with a recorded problem."""
        section = self.sections.get(name)
        if section is None:
            self.note(name, "the node sent nothing about it")
            return default
        if not section.text.strip():
            if section.status == _NOT_FOUND:
                self.note(name, "its command is not installed, or not the usual one")
            elif section.status == _TIMED_OUT:
                self.note(name, "its command did not end in time")
            return default
        try:
            return parse(section.text)
        except _STUMBLES as error:
            first = " ".join(section.text.split())[:80]
            self.note(name, f"not understood ({type(error).__name__}: {_short(error)}): {first}")
            return default

    def text(self, name: str) -> str:
        """Return a section's text, "" when there is none."""
        return self.sections[name].text if name in self.sections else ""

    def note(self, name: str, message: str) -> None:
        """Record a problem."""
        self.problems.append(Problem(fact=name, message=message))


def by_file(text: str) -> dict[str, str]:
    """Return what `grep -H ''` printed as {path: content}; several lines of one file stay several."""
    files: dict[str, list[str]] = {}
    for line in text.splitlines():
        # The shortest path that can stand before a colon would cut soc:firmware in two.
        match = re.match(r"(/(?:[^:]|:(?=[\w.-]+/))*):(.*)$", line)
        if match:
            files.setdefault(match[1], []).append(match[2])
    return {path: "\n".join(lines) for path, lines in files.items()}


def number(text: str | None) -> int | None:
    """Return a decimal number, None for anything else."""
    return int(text) if text is not None and re.fullmatch(r"-?[0-9]{1,18}", text.strip()) else None


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:60]
