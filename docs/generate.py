"""Writes the reference pages that are generated from the code; `--check` only says which are out of date."""

import json
import sys
from pathlib import Path

import click

from rpicluster.cli.main import COMMANDS, EXIT_CODES, cli
from rpicluster.health.findings.registry import SUBJECTS
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


GENERATED = "<!-- what follows is written by docs/generate.py -->\n"

# Findings whose fault was made by hand on a rack node, or stands in an answer of tests/cases/facts.
ON_RACK = frozenset(
    [
        "node-unreadable",
        "node-unreachable",
        "login-refused",
        "host-key-changed",
        "host-key-unknown",
        "sudo-asks-password",
        "same-machine-twice",
        "machine-id-duplicate",
        "host-key-duplicate",
        "hostname-duplicate",
        "hostname-changes",
        "loopback-hostname",
        "hosts-line-wrong",
        "disk-full",
        "disk-read-only",
        "memory-below-floor",
        "unit-failed",
        "still-setting-up",
        "java-missing",
        "java-old",
        "java-mixed",
        "python-missing",
        "no-default-route",
        "mtu-mismatch",
        "dns-slow",
        "dns-none",
        "own-name-unknown",
        "open-port",
        "port-taken",
        "foreign-hadoop",
        "secret-readable",
        "file-missing",
        "config-drift",
        "runtime-mismatch",
        "node-not-set-up",
        "unit-stopped",
        "unit-restarts",
        "system-degraded",
        "cluster-mixed",
        "address-changed",
        "firewall-missing",
        "other-firewall",
        "runtime-damaged",
        "little-room",
        "address-dynamic",
        "os-mixed",
        "os-unproven",
        "python-mixed",
        "cloud-init-hosts",
    ]
)
IN_FIXTURES = frozenset(
    [
        "clock-skew",
        "no-time-source",
        "disk-errors",
        "swap-on-card",
        "card-old",
        "under-voltage",
        "throttled",
        "hot",
        "supply-weak",
        "cgroup-memory-off",
        "cmdline-lines",
        "userland-32-bit",
        "python-mixed",
        "os-mixed",
        "arch-mixed",
        "os-unproven",
        "address-dynamic",
        "link-slow",
        "wireless",
        "cloud-init-hosts",
    ]
)


def doctor_page() -> str:
    """Return the page of all findings: its first part by hand, then every kind from the registry."""
    head = (REFERENCE / "doctor.md").read_text(encoding="utf-8").partition(GENERATED)[0]
    lines = ["| finding | at worst | when | tried |", "|---|---|---|---|"]
    details = []
    for subject, kinds in SUBJECTS.items():
        details.append(f"\n## {subject}\n")
        for kind in kinds:
            tried = "rack" if kind.id in ON_RACK else "fixture" if kind.id in IN_FIXTURES else "unit"
            lines.append(f"| [{kind.id}](#{kind.id}) | {kind.severity.value} | {kind.title} | {tried} |")
            details.append(f"### {kind.id}\n{kind.title}. {kind.doc}\n")
    return head + GENERATED + "\n".join([*lines, *details]).rstrip() + "\n"


def pages() -> dict[str, str]:
    """Return every generated page by its name below docs/reference."""
    return {
        "cli.md": cli_page(),
        "doctor.md": doctor_page(),
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
