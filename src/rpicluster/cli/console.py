"""Every byte that the command line prints: data on stdout, talk on stderr.

rich is imported only where something is drawn, so that `--help` and `--json` stay quick.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from rpicluster.errors import RpiclusterError, UsageError


def styled(text: str, *, fg: str | None = None, bold: bool = False) -> str:
    """Return `text` in colour, unless the user wants none (no-color.org)."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=fg, bold=bold or None)


@contextmanager
def _while_read() -> Iterator[None]:
    """End the program where nobody reads on: `rpicluster ls | head`, whose reader has what it wanted."""
    try:
        yield
    except BrokenPipeError:
        # What is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


class Console:
    """Where output goes and how much of it; one instance, set up by the top-level command."""

    def __init__(self) -> None:
        """Start with everything on; `rpicluster` switches things off by its options."""
        self.quiet = False
        self.debug = False
        self.progress_wanted = not os.environ.get("RPICLUSTER_NO_PROGRESS")

    @property
    def draws(self) -> bool:
        """Whether lines may be redrawn: a terminal on stderr, and nobody asked for quiet."""
        return self.progress_wanted and not self.quiet and sys.stderr.isatty()

    def data(self, text: str) -> None:
        """Print what a program may read, to stdout; ends the program where nobody reads on."""
        with _while_read():
            click.echo(text)

    def raw(self, block: bytes) -> None:
        """Print bytes as they are, to stdout, at once; ends the program where nobody reads on."""
        with _while_read():
            sys.stdout.flush()
            sys.stdout.buffer.write(block)
            sys.stdout.buffer.flush()

    def document(self, document: dict[str, Any]) -> None:
        """Print one JSON document with its schema number, to stdout."""
        self.data(json.dumps({"schema": 1, **document}, indent=2, ensure_ascii=False, default=str))

    def say(self, text: str = "") -> None:
        """Tell the user something, on stderr."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """Tell the user something that wants attention, on stderr, even when quiet."""
        click.echo(styled("warning", fg="yellow", bold=True) + ": " + text, err=True)

    def hint(self, text: str) -> None:
        """Suggest what to type next."""
        self.say("\n" + styled("hint", fg="cyan") + ": " + text)

    def next_step(self, *commands: str) -> None:
        """End a success with what to type next."""
        self.say("\nnext:")
        for command in commands:
            self.say("  " + styled(command, fg="cyan"))

    def error(self, error: RpiclusterError) -> None:
        """Say what went wrong, and the hint behind a blank line."""
        click.echo(styled("error", fg="red", bold=True) + ": " + error.message, err=True)
        if error.hint:
            click.echo("\n" + styled("hint", fg="cyan") + ": " + error.hint, err=True)

    def table(self, headers: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "") -> None:
        """Print aligned columns to stdout; columns named in `right` (space-separated) are right-aligned."""
        cells = [[str(cell) for cell in row] for row in rows]
        widths = [max(len(line[i]) for line in [list(headers), *cells]) for i in range(len(headers))]
        rights = set(right.split())
        for number, line in enumerate([list(headers), *cells]):
            text = "  ".join(
                cell.rjust(width) if header in rights else cell.ljust(width)
                for cell, width, header in zip(line, widths, headers, strict=True)
            ).rstrip()
            self.data(styled(text, bold=True) if number == 0 else text)

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Ask; `yes` answers for the user. Without a terminal and without `yes` this is a UsageError."""
        if yes:
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{question} There is no terminal to ask on", hint="add --yes")
        return click.confirm(question, err=True)

    def confirm_name(self, question: str, name: str, *, given: str | None) -> None:
        """Ask for `name` to be typed; `given` is what came by an option. Raises UsageError if it differs."""
        if given is None:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise UsageError(f"{question} There is no terminal to ask on", hint=f"add --confirm {name}")
            given = click.prompt(
                f"{question} Type {name!r} to go on", err=True, default="", show_default=False
            )
        if given != name:
            raise UsageError(f"{given!r} is not {name!r}, nothing was done")

    @contextmanager
    def bars(self) -> Iterator[Callable[[str, float, float | None, str], None]]:
        """Yield `update(key, done, total, text)`: a bar a key on a terminal, else a line now and then."""
        if self.draws:
            yield from self._rich_bars()
        else:
            yield self._plain_bars()

    def _rich_bars(self) -> Iterator[Callable[[str, float, float | None, str], None]]:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

        with Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            console=RichConsole(stderr=True),
            transient=True,
        ) as progress:
            tasks: dict[str, TaskID] = {}

            def update(key: str, done: float, total: float | None, text: str) -> None:
                if key not in tasks:
                    tasks[key] = progress.add_task(key, total=total, text=text)
                progress.update(tasks[key], completed=done, total=total, text=text)

            yield update

    def _plain_bars(self) -> Callable[[str, float, float | None, str], None]:
        last: dict[str, tuple[float, str]] = {}

        def update(key: str, done: float, total: float | None, text: str) -> None:
            now = time.monotonic()
            said_at, said = last.get(key, (0.0, ""))
            finished = total is not None and done >= total
            if said != text and (finished or now - said_at > 5 or not said):
                last[key] = (now, text)
                if self.progress_wanted:
                    self.say(f"{key}: {text}")

        return update


console = Console()


def human_bytes(count: float) -> str:
    """Return `434 MB`: decimal units, as disks and downloads are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_duration(seconds: float) -> str:
    """Return `0.4 s`, `12 s`, `3 min 20 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"
