"""The R package that this distribution carries, and how it gets into an R library."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

from rpicluster.errors import RpiclusterError, UsageError

_INSTALL_TIMEOUT_S = 300
_ASK_TIMEOUT_S = 60
NEEDED = ("DBI", "dbplyr", "dplyr", "reticulate", "jsonlite", "bit64", "blob")


@contextmanager
def source() -> Iterator[Path]:
    """Yield the folder with the package's source: inside the wheel, or beside `src` in a checkout."""
    checkout = Path(__file__).parents[2] / "r" / "rpicluster"
    if (checkout / "DESCRIPTION").exists():
        yield checkout
        return
    with as_file(files("rpicluster") / "r" / "rpicluster") as folder:
        yield folder


def find_r() -> str:
    """Return the R program; raises UsageError with the line that installs it."""
    program = shutil.which("R")
    if program is None:
        raise UsageError(
            "R is not installed",
            hint="sudo apt-get install r-base-core r-cran-dbi r-cran-dbplyr r-cran-dplyr r-cran-reticulate "
            "r-cran-jsonlite r-cran-bit64 r-cran-blob",
        )
    return program


def missing_packages() -> list[str]:
    """Return which of the packages that ours needs R does not have."""
    names = ", ".join(f'"{name}"' for name in NEEDED)
    return _r(f"cat(setdiff(c({names}), rownames(installed.packages())))").split()


def require_shared_python() -> None:
    """Raise UsageError if this Python cannot be loaded by R: reticulate needs it as a shared library."""
    names = sysconfig.get_config_vars("INSTSONAME", "LIBDIR", "MULTIARCH")
    name, folder, architecture = (str(value or "") for value in names)
    if any(path.exists() for path in (Path(folder, name), Path(folder, architecture, name))):
        return
    of_system = sys.base_prefix == "/usr"
    raise UsageError(
        f"R cannot load this Python ({sys.executable}): {name} is not there",
        hint=f"sudo apt-get install libpython{sys.version_info.major}.{sys.version_info.minor}"
        if of_system
        else "use a Python that was built with --enable-shared, such as your system's",
    )


def install(library: Path | None = None) -> tuple[Path, str]:
    """Install the package into `library` (default: the user's own) and record this Python for it.

    Returns the library and the package's version. Raises UsageError for what is missing, RpiclusterError
    with R's own words if the installation fails.
    """
    program = find_r()
    require_shared_python()
    if missing := missing_packages():
        raise UsageError(
            f"R lacks {', '.join(missing)}",
            hint="sudo apt-get install " + " ".join(f"r-cran-{name.lower()}" for name in missing),
        )
    target = library or Path(_r('cat(path.expand(Sys.getenv("R_LIBS_USER")))').strip())
    target.mkdir(parents=True, exist_ok=True)
    with source() as folder, tempfile.TemporaryDirectory(prefix="rpicluster-") as temporary:
        # R writes into the source folder while it installs, and that may belong to somebody else
        copy = shutil.copytree(folder, Path(temporary) / "rpicluster")
        done = subprocess.run(
            [program, "CMD", "INSTALL", "--no-test-load", f"--library={target}", str(copy)],
            capture_output=True,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    if done.returncode != 0:
        raise RpiclusterError(f"R could not install the package: {_last_words(done.stderr)}")
    record_python(target)
    return target, _version(target)


def record_python(library: Path) -> None:
    """Write into the installed package which Python and which `rpicluster` it belongs to."""
    record = {"python": sys.executable, "rpicluster": str(Path(sys.executable).parent / "rpicluster")}
    path = library / "rpicluster" / "python.json"
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(record), encoding="utf-8")
    temporary.replace(path)


def _version(library: Path) -> str:
    text = (library / "rpicluster" / "DESCRIPTION").read_text(encoding="utf-8")
    return next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("Version:"))


def _r(expression: str) -> str:
    done = subprocess.run(
        [find_r(), "--vanilla", "--slave", "-e", expression],
        capture_output=True,
        text=True,
        timeout=_ASK_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise RpiclusterError(f"R does not work: {_last_words(done.stderr)}", hint="R --version")
    return done.stdout


def _last_words(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:]) or "it said nothing"
