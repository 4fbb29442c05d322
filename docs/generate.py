"""Writes the reference pages that are generated from the code; `--check` only says which are out of date."""

import json
import sys
from pathlib import Path

import click

from rpicluster.cli.main import COMMANDS, EXIT_CODES, cli
from rpicluster.model.specfile import spec_json_schema

REFERENCE = Path(__file__).parent / "reference"


def cli_page() -> str:
    """Return the page of all commands: what `--help` prints, at 90 columns."""
    parts = [
        "# Commands\n\nGenerated from `--help` by `make docs`. stdout is data, stderr is talk; "
        f'`--json` documents carry `"schema": 1`.\n\nExit codes: {EXIT_CODES}\n'
    ]
    top = click.Context(cli, info_name="rpicluster", help_option_names=["-h", "--help"])
    for name in COMMANDS:
        command = cli.get_command(top, name) or cli
        parts.append(_section(command, f"rpicluster {name}", top))
        if isinstance(command, click.Group):
            for key, subcommand in sorted(command.commands.items()):
                parts.append(_section(subcommand, f"rpicluster {name} {key}", top))
    return "\n".join(parts)


def _section(command: click.Command, name: str, top: click.Context) -> str:
    context = click.Context(
        command,
        info_name=name,
        terminal_width=90,
        max_content_width=90,
        help_option_names=top.help_option_names,
    )
    return f"## {name}\n\n```\n{command.get_help(context).rstrip()}\n```\n"


def pages() -> dict[str, str]:
    """Return every generated page by its name below docs/reference."""
    return {
        "cli.md": cli_page(),
        "cluster.schema.json": json.dumps(spec_json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def main() -> int:
    """Write the pages, or with --check say which differ and return 1."""
    stale = []
    for name, text in pages().items():
        path = REFERENCE / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print(("out of date: " if "--check" in sys.argv else "written: ") + (", ".join(stale) or "none"))
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
