"""The documentation says what the program does."""

import importlib.util
import re
from pathlib import Path

import click
import pytest

from rpicluster.cli.main import COMMANDS, cli

ROOT = Path(__file__).parents[2]


def load_generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_up_to_date():
    for name, text in load_generator().pages().items():
        path = ROOT / "docs" / "reference" / name
        assert path.exists() and path.read_text(encoding="utf-8") == text, f"{name} is stale: run `make docs`"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name):
    command = cli.get_command(click.Context(cli), name)
    assert command.help, name
    assert "Examples:" in (command.epilog or ""), name
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, f"{name} {parameter.name}"


def test_every_local_link_in_the_documentation_leads_somewhere():
    dead = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                dead.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not dead


def test_every_decision_record_has_its_four_parts():
    records = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
    assert records
    for record in records:
        text = record.read_text(encoding="utf-8").lower()
        for part in ("## context", "## decision", "## rejected", "## consequences"):
            assert part in text, f"{record.name} lacks {part}"
