"""The lock: which files make the runtime, and the SHA-256 that each must have."""

import json
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

from rpicluster.errors import RuntimeFetchError

Kind = Literal["pypi-sdist", "maven-jar"]
SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """One file to fetch: where it is published, its size in bytes and its hash."""

    kind: Kind
    name: str
    version: str
    filename: str
    sha256: str
    size_bytes: int
    group: str = ""
    """The Maven group; empty for PyPI."""
    into: tuple[str, ...] = ()
    """The folders of the runtime that hold a jar; empty for the sdist, which is unpacked."""
    unpacked_bytes: int = 0
    """What the sdist takes when unpacked, so that free space can be counted before fetching."""

    def __str__(self) -> str:
        """Name and version, as a user would say them."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Lock:
    """All artifacts of one runtime, in the order in which they are fetched."""

    artifacts: tuple[Artifact, ...]

    @property
    def sdist(self) -> Artifact:
        """The one artifact that is unpacked."""
        return next(a for a in self.artifacts if a.kind == "pypi-sdist")

    @property
    def jars(self) -> tuple[Artifact, ...]:
        """The artifacts that are stored as they come."""
        return tuple(a for a in self.artifacts if a.kind == "maven-jar")

    def version(self, name: str) -> str:
        """Version of the artifact called `name`; KeyError if the lock has none."""
        return {a.name: a.version for a in self.artifacts}[name]

    def canonical(self) -> bytes:
        """The same bytes for the same lock, for hashing."""
        return json.dumps([asdict(a) for a in self.artifacts], sort_keys=True).encode()


def parse_lock(text: str) -> Lock:
    """Read a lock file. Raises RuntimeFetchError when it is not one."""
    try:
        document: dict[str, Any] = json.loads(text)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']}, expected {SCHEMA}")
        artifacts = tuple(Artifact(**{**a, "into": tuple(a.get("into", ()))}) for a in document["artifacts"])
        if [a.kind for a in artifacts].count("pypi-sdist") != 1:
            raise ValueError("it must name exactly one sdist")
        for artifact in artifacts:
            _check(artifact)
    except (ValueError, KeyError, TypeError) as error:
        raise RuntimeFetchError(
            f"the runtime's lock file is not valid: {error}", hint="reinstall rpicluster"
        ) from error
    return Lock(artifacts)


def _check(artifact: Artifact) -> None:
    if artifact.kind not in ("pypi-sdist", "maven-jar"):
        raise ValueError(f"{artifact.name}: unknown kind {artifact.kind!r}")
    if len(artifact.sha256) != 64 or artifact.size_bytes <= 0:
        raise ValueError(f"{artifact.name}: needs a SHA-256 and a size")
    if "/" in artifact.filename or artifact.filename.startswith("."):
        raise ValueError(f"{artifact.name}: {artifact.filename!r} is not a plain file name")


def load_lock() -> Lock:
    """The lock that came with this version of rpicluster."""
    return parse_lock(files("rpicluster.runtime").joinpath("lock.json").read_text(encoding="utf-8"))
