"""Fetches jars from Maven repositories with jgo as a library, under the user's own jgo configuration."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from rpicluster.errors import RuntimeFetchError
from rpicluster.runtime.lock import Artifact
from rpicluster.runtime.progress import Progress, Report

STALL_TIMEOUT_S = 60
"""Seconds without one byte before a connection counts as dead."""
REPORT_EVERY_BYTES = 1 << 20
_COMPANIONS = ("", ".sha1", ".md5", ".sha256", ".sha512", ".asc", ".lastUpdated")


def fetch_with_jgo(artifact: Artifact, into: Path, report: Report) -> Path:
    """Return the path of the jar: in the user's local repository, else downloaded to a folder under `into`.

    Nothing is ever written to the user's local repository: half a file there, left by a killed download,
    would be taken for a whole one by jgo and by others. The caller checks the hash.
    Raises RuntimeFetchError, and OSError when `into` cannot be written.
    """
    # Slow to import (requests): not before it is needed.
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext, PythonResolver
    from requests import RequestException

    logging.getLogger("jgo").addHandler(logging.NullHandler())
    settings = GlobalSettings.load()
    context = MavenContext(
        repo_cache=into / "repository",
        local_repos=[settings.repo_cache],
        remote_repos={**MavenContext().remote_repos, **settings.repositories},
        timeout=STALL_TIMEOUT_S,
        resolver=PythonResolver(progress_callback=_reporter(artifact, report)),
    )
    report(Progress(str(artifact), 0, artifact.size_bytes, "fetch"))
    wanted = context.project(artifact.group, artifact.name).at_version(artifact.version).artifact()
    try:
        path: Path = wanted.resolve()
    except RequestException as error:  # an OSError too: the network's, not the disk's
        raise RuntimeFetchError(
            f"{artifact} could not be fetched: the network or the Maven repository does not answer, "
            f"or broke off; nothing was installed.\njgo says:\n  {error}",
            hint="check the network and your jgo.conf, then run the same command again",
        ) from error
    except RuntimeError as error:
        raise RuntimeFetchError(
            f"{artifact} is in none of the Maven repositories asked; nothing was installed.\n"
            f"jgo says:\n  {error}",
            hint="check the [repositories] of your jgo.conf, then run the same command again",
        ) from error
    return path


def _reporter(
    artifact: Artifact, report: Report
) -> Callable[[str, int], AbstractContextManager[Callable[[int], None]]]:
    @contextmanager
    def progress(filename: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        done = reported = 0

        def update(more: int) -> None:
            nonlocal done, reported
            done += more
            if done - reported >= REPORT_EVERY_BYTES:
                reported = done
                report(Progress(str(artifact), min(done, artifact.size_bytes), artifact.size_bytes, "fetch"))

        yield update

    return progress


def evict(path: Path) -> list[Path]:
    """Delete a bad jar from the local repository it lies in, with the companions that vouch for it.

    Returns what was deleted. Raises OSError when that is not allowed.
    """
    gone = []
    for candidate in [path.with_name(path.name + suffix) for suffix in _COMPANIONS] + [
        path.with_name("_remote.repositories")
    ]:
        if candidate.exists():
            candidate.unlink()
            gone.append(candidate)
    return gone


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
