"""The program of sparklyr's gateway: the jar of this machine's own sparklyr, so that both ends match.

R is asked once where sparklyr is; the answer is kept for as long as that folder says the same version.
Where only other machines have sparklyr, the jar of the newest one of a CRAN-like repository serves.
Jars are kept by their content, so that a cluster keeps its gateway while sparklyr is away.
"""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rpicluster.errors import SparklyrMissing, SparklyrUnusable
from rpicluster.runtime import cran
from rpicluster.runtime.store import runtimes_dir

SCALA = "2.13"  # of Spark 4
OLDEST = (1, 9, 1)  # of sparklyr, for Spark 4 as it was released (its NEWS.md)
_JAR = re.compile(rf"sparklyr-(master|[0-9]+(?:\.[0-9]+)*)-{re.escape(SCALA)}\.jar")
_JAR_IN_SOURCE = re.compile(r"sparklyr/inst/java/[^/]+\.jar")
MAIN_CLASS = "sparklyr/Shell.class"
INSTALL = """Rscript -e 'install.packages("sparklyr")'"""
_ASK = """cat("\nfound:", system.file(package = "sparklyr"), "\n", sep = "")"""
_ASK_TIMEOUT_S = 30
_R_VARIABLES = ("R_LIBS", "R_LIBS_USER", "R_LIBS_SITE", "R_HOME", "R_PROFILE_USER", "R_ENVIRON_USER", "HOME")
_ANSWER = "where.json"


@dataclass(frozen=True)
class SparklyrJar:
    """A gateway's program and the version of the sparklyr that it came with."""

    version: str
    sha256: str
    content: bytes


@dataclass(frozen=True)
class _Place:
    """Where R found sparklyr, and what the answer depends on."""

    rscript: str
    variables: dict[str, str | None]
    folder: str
    version: str


def find(*, environment: Mapping[str, str] = os.environ, cache_dir: Path | None = None) -> SparklyrJar:
    """Return the jar of the sparklyr that R on this machine would use, and keep a copy.

    Raises SparklyrMissing where there is no R or no sparklyr, SparklyrUnusable for one that is too old or
    whose jar is damaged.
    """
    folder, version = _where(environment, _cache(cache_dir))
    if _numbers(version) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise SparklyrUnusable(
            f"sparklyr {version} in {folder} is too old: Spark 4 needs {oldest} or newer", hint=INSTALL
        )
    name = _newest(path.name for path in folder.glob("java/*.jar"))
    if name is None:
        raise SparklyrUnusable(
            f"sparklyr {version} in {folder} has no jar for Scala {SCALA}, which Spark 4 needs", hint=INSTALL
        )
    path = folder / "java" / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SparklyrUnusable(f"{path} cannot be read: {error.strerror}", hint=INSTALL) from error
    return _checked(version, content, str(path), cache_dir)


def from_repository(repository: str, *, cache_dir: Path | None = None) -> SparklyrJar:
    """Return the jar of the newest sparklyr that a CRAN-like repository has, and keep a copy.

    Raises SparklyrUnusable where it has none that serves, RPackageError for what the repository does wrong.
    """
    packages = cran.fetch_index(repository).get("sparklyr", ())
    if not packages or _numbers(packages[0].version) < OLDEST:
        has = f"only sparklyr {packages[0].version}" if packages else "no sparklyr"
        raise SparklyrUnusable(
            f"{repository} has {has}, and Spark 4 needs {'.'.join(map(str, OLDEST))} or newer",
            hint="name another `repository:` below `r:` in cluster.yml, or " + INSTALL,
        )
    path, _ = cran.fetch_source(packages[0], repository, cache_dir=cache_dir)
    where = f"{packages[0].file} of {repository}"
    try:
        with tarfile.open(path) as archive:
            found = {Path(each.name).name: each for each in archive if _JAR_IN_SOURCE.fullmatch(each.name)}
            file = archive.extractfile(found[name]) if (name := _newest(found)) else None
            content = file.read() if file is not None else None
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise SparklyrUnusable(f"{where} cannot be read: {error}", hint=INSTALL) from error
    if content is None:
        raise SparklyrUnusable(f"{where} has no jar for Scala {SCALA}, which Spark 4 needs", hint=INSTALL)
    return _checked(packages[0].version, content, where, cache_dir)


def _checked(version: str, content: bytes, where: str, cache_dir: Path | None) -> SparklyrJar:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            is_whole = archive.testzip() is None and MAIN_CLASS in archive.namelist()
    except zipfile.BadZipFile as error:
        raise SparklyrUnusable(f"{where} cannot be read: {error}", hint=INSTALL) from error
    if not is_whole:
        raise SparklyrUnusable(f"{where} is damaged, or no gateway of sparklyr", hint=INSTALL)
    return keep(version, content, cache_dir=cache_dir)


def keep(version: str, content: bytes, *, cache_dir: Path | None = None) -> SparklyrJar:
    """Keep a jar by its content; return it."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = _cache(cache_dir) / f"{sha256}.jar"
    if not path.exists():
        _write(path, content)
    return SparklyrJar(version, sha256, content)


def kept(version: str, sha256: str, *, cache_dir: Path | None = None) -> SparklyrJar | None:
    """Return a jar that was kept, None if it is not there or no longer what it was."""
    try:
        content = (_cache(cache_dir) / f"{sha256}.jar").read_bytes()
    except OSError:
        return None
    return SparklyrJar(version, sha256, content) if hashlib.sha256(content).hexdigest() == sha256 else None


def _where(environment: Mapping[str, str], cache: Path) -> tuple[Path, str]:
    """Return sparklyr's folder and version; R is started only if what was found before is not there now."""
    rscript = shutil.which("Rscript", path=environment.get("PATH"))
    if rscript is None:
        raise SparklyrMissing("R is not installed on this machine", hint="sudo apt-get install r-base-core")
    variables = {name: environment.get(name) for name in _R_VARIABLES}
    known = _known(cache)
    if known is not None and (known.rscript, known.variables) == (rscript, variables):
        return Path(known.folder), known.version
    folder = _ask(rscript, environment)
    version = _version(folder)
    place = _Place(rscript, variables, str(folder), version)
    _write(cache / _ANSWER, json.dumps(asdict(place), indent=1).encode())
    return folder, version


def _known(cache: Path) -> _Place | None:
    """Return the last answer, None before the first and where sparklyr was taken away or upgraded since."""
    try:
        known = _Place(**json.loads((cache / _ANSWER).read_text(encoding="utf-8")))
        return known if _version(Path(known.folder)) == known.version else None
    except (OSError, ValueError, TypeError, SparklyrMissing):
        return None


def _ask(rscript: str, environment: Mapping[str, str]) -> Path:
    try:
        # With the user's own profile: that may be where their libraries are named.
        done = subprocess.run(
            [rscript, "-e", _ASK],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SparklyrUnusable(f"R does not say where sparklyr is: {error}", hint="R --version") from error
    if done.returncode != 0:
        said = [*done.stderr.strip().splitlines(), "it said nothing"][0]
        raise SparklyrUnusable(f"R does not say where sparklyr is: {said}", hint="R --version")
    found = re.findall(r"^found:(.*)$", done.stdout, re.MULTILINE)  # a profile may print, too
    if not found or not found[-1].strip():
        raise SparklyrMissing("R on this machine has no sparklyr", hint=INSTALL)
    return Path(found[-1].strip())


def _version(folder: Path) -> str:
    try:
        text = (folder / "DESCRIPTION").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise SparklyrMissing(f"{folder} is no R package: {error.strerror}", hint=INSTALL) from error
    found = re.search(r"^Version: *(\d+(?:[.-]\d+)*)\s*$", text, re.MULTILINE)
    if found is None:
        raise SparklyrMissing(f"{folder / 'DESCRIPTION'} names no version", hint=INSTALL)
    return found[1]


def _newest(names: Iterable[str]) -> str | None:
    """Return the newest Spark's jar for our Scala: `master` is sparklyr's name of the newest."""
    found = {match[1]: name for name in names if (match := _JAR.fullmatch(name))}
    if not found:
        return None
    return found.get("master") or found[max(found, key=_numbers)]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def _cache(cache_dir: Path | None) -> Path:
    return runtimes_dir(cache_dir).parent / "sparklyr"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, fresh = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
