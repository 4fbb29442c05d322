"""What is looked at before a script is started: the script itself, and what the manager has for it."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpicluster.design import batch
from rpicluster.errors import UsageError
from rpicluster.model.scripts import (
    R_PARSER,
    Door,
    Language,
    Needs,
    door_of,
    language_of,
    python_needs,
    r_needs_from_parser,
    r_needs_from_text,
)
from rpicluster.nodes.runs import results

_PARSE_S = 60.0
SPARE_MIB = 256
SCRIPT_MIB = 256  # a script itself, beside its driver


@dataclass(frozen=True)
class Script:
    """A script as it is on this machine: what it is, what it takes along, and what it needs."""

    path: Path
    language: Language
    needs: Needs
    door: Door
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Seen:
    """The manager as it was just seen: its name, its Python, and what its program answered."""

    node: str
    is_local: bool
    python: str
    answer: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The manager in words."""
        return "this machine" if self.is_local else self.node


def read_script(path: Path, declared: tuple[Path, ...] = ()) -> Script:
    """Look at a script and say what it needs; starts nothing. Raises UsageError with what is wrong, where."""
    if not path.exists():
        raise UsageError(f"there is no script {path}", hint=f"ls {path.parent}")
    if not path.is_file():
        raise UsageError(f"{path} is no file")
    language = language_of(path.name)
    if not re.fullmatch(r"[^/\x00-\x1f\x7f]{1,200}", path.name) or path.name.startswith("-"):
        raise UsageError(
            f"{path.name!r} is no name that a command takes", hint="letters, digits, dots, dashes"
        )
    try:
        source = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}",
            hint=f"iconv -f latin1 -t utf-8 {path}",
        ) from error
    files_there = results.files_of(path, declared)
    if language is Language.R:
        needs = _r_needs(path, source)
    else:
        own = frozenset(name.split("/")[0].removesuffix(".py") for name in files_there)
        needs = python_needs(source, str(path), own)
    return Script(path, language, needs, door_of(language, needs), files_there)


def _r_needs(path: Path, source: str) -> Needs:
    rscript = shutil.which("Rscript")
    if rscript is None:
        return r_needs_from_text(source)
    done = subprocess.run(
        [rscript, "--vanilla", "-e", R_PARSER, str(path.absolute())],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "LC_ALL": "C.UTF-8"},
        timeout=_PARSE_S,
        check=False,
    )
    if done.returncode != 0:  # an R that does not work here may do so on the manager
        return r_needs_from_text(source)
    return r_needs_from_parser(done.stdout, str(path))


def require_packages(script: Script, seen: Seen) -> None:
    """Raise UsageError for a package that the manager lacks, with the line that brings it."""
    here = seen.answer
    if script.language is Language.R and not here["rscript"]:
        raise UsageError(
            f"there is no R on {seen.where}, and {script.path.name} is an R script; nothing was started",
            hint=_r_hint(script.needs.packages, seen),
        )
    missing = [name for name in script.needs.packages if name in here.get("missing", ())]
    if missing:
        is_r, many = script.language is Language.R, len(missing) > 1
        raise UsageError(
            f"{script.path.name} needs the {'R package' if is_r else 'Python module'}{'s' if many else ''} "
            f"{', '.join(missing)}, and {seen.where} does not have {'them' if many else 'it'}; "
            "nothing was started",
            hint=_r_hint(missing, seen) if is_r else _python_hint(missing, seen),
        )
    if script.door is Door.CONNECT and script.language is Language.R and not here["shared_python"]:
        raise UsageError(
            f"R on {seen.where} cannot load Python {here['python']} without its shared library; "
            "nothing was started",
            hint=f"rpicluster ssh {seen.node} sudo apt-get install -y libpython{here['python']}",
        )


def _r_hint(names: Sequence[str], seen: Seen) -> str:
    listed = [name for name in names if name != "rpicluster"]
    if not seen.is_local:
        return f"write `r: {{packages: [{', '.join(listed)}]}}` in cluster.yml, then: rpicluster up"
    if not listed:
        return "rpicluster r-install"
    quoted = ", ".join(f'"{name}"' for name in listed)
    return f"Rscript -e 'install.packages(c({quoted}))'"


def _python_hint(names: Sequence[str], seen: Seen) -> str:
    if seen.is_local:
        return f"{seen.python} -m pip install {' '.join(names)}"
    listed = " ".join(f"python3-{name.lower().replace('_', '-')}" for name in names)
    return f"rpicluster ssh {seen.node} sudo apt-get install -y {listed}"


# Why the nodes cannot hold so many drivers, "" if they can.
TooSmall = Callable[[int], str]


def no_place(places: batch.Places, running: tuple[str, ...], too_small: TooSmall) -> UsageError:
    """Return the refusal of one more run, with the arithmetic and a way that sizing would accept."""
    return UsageError(
        places.refusal(running), hint=places.hint(running, too_small=too_small(places.drivers + 1))
    )


def require_room(places: batch.Places, script: Script, seen: Seen, too_small: TooSmall) -> None:
    """Raise UsageError where no driver, or not enough memory, is left for one more run.

    On real nodes the manager itself counts the runs of all users once more when it starts this one.
    """
    running = tuple(seen.answer["running"])
    if len(running) >= places.for_runs:
        raise no_place(places, running, too_small)
    driver_mib = 0 if script.door is Door.NONE else places.driver_mib
    wanted = driver_mib + SCRIPT_MIB + SPARE_MIB
    have = seen.answer["available_mib"]
    if have < wanted:
        raise UsageError(
            f"{places.manager} has {have} MiB of memory available, and this run needs {wanted} MiB: its "
            f"driver {driver_mib} + the script {SCRIPT_MIB} + {SPARE_MIB} that stay free; nothing "
            "was started",
            hint="rpicluster jobs list",
        )
