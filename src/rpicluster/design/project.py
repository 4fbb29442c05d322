"""The files of an R project for a cluster, from templates. Pure.

Templates are named as their files, without the dot that hides some of those on a disk.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import Environment, StrictUndefined

from rpicluster.errors import UsageError

CONFIG_FILE = "config.yml"  # sparklyr's, by way of the R package config
MAX_NAME_BYTES = 100  # with `.Rproj` and a temporary prefix it stays below the 255 of Linux's file systems
# Letters of any script, digits, and what neither a shell, R, JSON nor Markdown takes for something else.
_NAME = re.compile(r"\w(?:[\w .-]*\w)?")
# R, JSON, YAML and Markdown, no HTML; what goes into them is checked by `Project`.
_JINJA = Environment(  # noqa: S701
    undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
)
_HIDDEN = frozenset(["Rprofile", "gitignore", "lintr", "vscode"])


@dataclass(frozen=True)
class Project:
    """What the templates ask for."""

    name: str
    cluster: str | None  # None: whichever `rpicluster` finds
    master: str | None = None  # of sparklyr, where the session has a door for it
    spark_page: str | None = None  # URL of Spark's pages, where a browser sees them without a proxy

    def __post_init__(self) -> None:
        """Raise UsageError for a name that is none."""
        if not _NAME.fullmatch(self.name) or len(self.name.encode()) > MAX_NAME_BYTES:
            raise UsageError(
                f"{self.name!r} is no name for a project: letters, digits, spaces, '.', '_' and '-', at most "
                f"{MAX_NAME_BYTES} bytes, the first and last a letter, digit or '_'",
                hint="rpicluster project new my-analysis",
            )


def project_files(project: Project, templates: Mapping[str, str]) -> dict[str, str]:
    """Return the text of every file by its path in the project; config.yml only where sparklyr has a door."""
    wanted = {name: text for name, text in templates.items() if project.master or name != CONFIG_FILE}
    return {_path(name, project): render(text, project) for name, text in wanted.items()}


def render(template: str, project: Project) -> str:
    """Return one template's text; raises jinja2.UndefinedError for a name that `Project` has not."""
    return _JINJA.from_string(template).render(vars(project))


def _path(template: str, project: Project) -> str:
    if template == "name.Rproj":
        return f"{project.name}.Rproj"
    return f".{template}" if template.partition("/")[0] in _HIDDEN else template
