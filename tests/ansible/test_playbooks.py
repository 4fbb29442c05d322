"""The playbooks as they stand in the wheel: syntax, argument specs, lint, and what Python tells the roles."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from rpicluster.nodes.ansible.rundir import playbooks

FOLDER = playbooks()
ROLES = sorted(path.name for path in (FOLDER / "roles").iterdir())
BUILTIN = "ansible.builtin."
# What a task may say besides its one module.
KEYWORDS = {"name", "when", "loop", "loop_control", "register", "changed_when", "retries", "delay", "until"}


def load(path: Path) -> object:
    return YAML(typ="safe").load(path.read_text())


def tasks(role: str) -> list[dict[str, object]]:
    return [task for path in sorted((FOLDER / "roles" / role / "tasks").glob("*.yml")) for task in load(path)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("playbook", ["apply.yml", "destroy.yml"])
def test_a_playbook_has_no_syntax_error(playbook: str, tmp_path: Path) -> None:
    environment = {**os.environ, "ANSIBLE_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "playbook", "--syntax-check", "-i", "pi1,", str(FOLDER / playbook)],
        env=environment,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_role_uses_modules_that_come_with_ansible_core_alone(role: str) -> None:
    used = {key for task in tasks(role) for key in task if key not in KEYWORDS}
    assert used, role
    assert {module for module in used if not module.startswith(BUILTIN)} == set()


@pytest.mark.parametrize("role", ROLES)
def test_a_role_documents_every_variable_that_it_uses_and_no_other(role: str) -> None:
    text = "".join(path.read_text() for path in (FOLDER / "roles" / role / "tasks").glob("*.yml"))
    used = set(re.findall(r"\brpicluster_\w+", text))
    spec = load(FOLDER / "roles" / role / "meta" / "argument_specs.yml")
    documented = set(spec["argument_specs"]["main"]["options"])  # type: ignore[index]
    assert used == documented


def test_every_role_stands_in_a_playbook_and_in_the_readme() -> None:
    imported = re.findall(r"name: (\w+)\n\s+rolespec", (FOLDER / "apply.yml").read_text())
    assert sorted([*imported, "remove"]) == ROLES
    assert sorted(re.findall(r"^\| `(\w+)` \|", (FOLDER / "README.md").read_text(), re.M)) == ROLES


def test_ansible_lint_finds_nothing_for_production(tmp_path: Path) -> None:
    lint = shutil.which("ansible-lint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if lint is None:
        pytest.skip("ansible-lint is not installed")
    copy = shutil.copytree(FOLDER, tmp_path / "ansible", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [lint, "--offline", "--nocolor", "--profile", "production", "."],
        cwd=copy,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path / "home"), "LC_ALL": "C.UTF-8"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
