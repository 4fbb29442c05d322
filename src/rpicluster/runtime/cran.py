"""A CRAN-like repository: its list of packages, and source packages checked and kept by their hash.

<cache>/r/<sha256>.tar.gz   source packages; what is there was checked when it was written
"""

import gzip
import hashlib
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from rpicluster.design.cran import SourcePackage, read_index
from rpicluster.errors import RPackageError
from rpicluster.runtime import store

_LIST_BYTES = 64 << 20  # CRAN's, unpacked, is a tenth of it
_PACKAGE_BYTES = 256 << 20
_CONNECT_S, _READ_S = 20.0, 60.0
_CHUNK_BYTES = 1 << 20
_HASH = re.compile(r"[0-9a-f]{64}")


def fetch_index(repository: str) -> dict[str, tuple[SourcePackage, ...]]:
    """Return what the repository lists; raises RPackageError."""
    contrib = _contrib(repository)
    for name in ("PACKAGES.gz", "PACKAGES"):
        pieces = _read(f"{contrib}/{name}", _LIST_BYTES)
        if pieces is None:
            continue
        data = b"".join(pieces)
        if name.endswith(".gz"):
            data = _unpacked(data, f"{contrib}/{name}")
        index = read_index(data.decode("utf-8", errors="replace"))
        if not index:
            raise RPackageError(f"{contrib}/{name} lists no package", hint="is `repository:` the right one?")
        return index
    raise RPackageError(
        f"{contrib} has no PACKAGES: it is no repository of R packages",
        hint="`repository:` is what R's options(repos = …) takes, without src/contrib",
    )


def fetch_source(
    package: SourcePackage, repository: str, *, pinned_sha256: str = "", cache_dir: Path | None = None
) -> tuple[Path, str]:
    """Return a source package in the cache, and its SHA-256.

    With a pin nothing else than those bytes will do; else the repository's own hash, where it has one,
    must fit. Raises RPackageError.
    """
    folder = store.runtimes_dir(cache_dir).parent / "r"
    if _HASH.fullmatch(pinned_sha256) and (kept := folder / f"{pinned_sha256}.tar.gz").is_file():
        if _sha256(kept) == pinned_sha256:
            return kept, pinned_sha256
        kept.unlink()
    contrib = _contrib(repository)
    # A version that is no longer the newest is where CRAN keeps those.
    for path in (package.path or package.file, f"Archive/{package.name}/{package.file}"):
        url = f"{contrib}/{path}"
        pieces = _read(url, _PACKAGE_BYTES)
        if pieces is not None:
            return _store(pieces, url, package, pinned_sha256, folder)
    raise RPackageError(
        f"{contrib} lists {package.name} {package.version} and does not have {package.file}",
        hint="its list may be older than its files: try again later",
    )


def _store(
    pieces: Iterator[bytes], url: str, package: SourcePackage, pinned: str, folder: Path
) -> tuple[Path, str]:
    """Write a package beside its place, and rename it when its hashes are right."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=folder)
    fresh = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
                sha256.update(piece)
                md5.update(piece)
            file.flush()
            os.fsync(file.fileno())
        found = sha256.hexdigest()
        _require(url, pinned, found, "this cluster's nodes have it with SHA-256")
        _require(url, package.sha256, found, "the repository's list says SHA-256")
        if not package.sha256:
            _require(url, package.md5, md5.hexdigest(), "the repository's list says MD5")
        target = folder / f"{found}.tar.gz"
        fresh.replace(target)
    except OSError as error:
        raise RPackageError(f"{url} cannot be kept in {folder}: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return target, found


def _require(url: str, wanted: str, found: str, who: str) -> None:
    if wanted and wanted != found:
        raise RPackageError(
            f"{url} is not what it should be: {who} {wanted}, it has {found}; nothing was installed",
            hint="try again; if it stays so, ask the repository's owner, or use another one",
        )


def _contrib(repository: str) -> str:
    return f"{repository.rstrip('/')}/src/contrib"


def _unpacked(data: bytes, url: str) -> bytes:
    try:
        unpacker = zlib.decompressobj(wbits=31)
        text = unpacker.decompress(data, _LIST_BYTES)
        if unpacker.unconsumed_tail:
            raise RPackageError(f"{url} is larger than {_LIST_BYTES >> 20} MiB: no list of packages")
        if not unpacker.eof:
            raise RPackageError(f"{url} breaks off in the middle", hint="try again: rpicluster up")
    except (zlib.error, gzip.BadGzipFile) as error:
        raise RPackageError(f"{url} is not gzip: {error}") from error
    return text


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(url: str, limit_bytes: int) -> Iterator[bytes] | None:
    """Return the pieces of a file, None where there is none. Raises RPackageError."""
    if url.startswith("file://"):
        return _read_file(Path(unquote(url.removeprefix("file://"))), limit_bytes)
    return _read_http(url, limit_bytes)


def _read_file(path: Path, limit_bytes: int) -> Iterator[bytes] | None:
    try:
        if path.stat().st_size > limit_bytes:
            raise RPackageError(f"{path} is larger than {limit_bytes >> 20} MiB")
        return iter([path.read_bytes()])
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RPackageError(f"{path} cannot be read: {error.strerror}") from error


def _read_http(url: str, limit_bytes: int) -> Iterator[bytes] | None:
    import httpx

    pieces, size = [], 0
    try:
        with (
            httpx.Client(
                timeout=httpx.Timeout(_READ_S, connect=_CONNECT_S),
                follow_redirects=True,
                headers={"Accept-Encoding": "identity"},  # a .tar.gz is to arrive as it lies there
            ) as client,
            client.stream("GET", url) as answer,
        ):
            if url.startswith("https://") and answer.url.scheme != "https":
                raise RPackageError(f"{url} leads to {answer.url}, which nothing protects")
            if answer.status_code in (403, 404, 410):
                return None
            if answer.status_code != 200:
                raise RPackageError(
                    f"{url} answers {answer.status_code} {answer.reason_phrase}",
                    hint="try it by hand: curl -I " + url,
                )
            for piece in answer.iter_raw(_CHUNK_BYTES):
                size += len(piece)
                if size > limit_bytes:
                    raise RPackageError(f"{url} is larger than {limit_bytes >> 20} MiB")
                pieces.append(piece)
            length = answer.headers.get("content-length", "")
            if length.isdigit() and int(length) != size:
                raise RPackageError(f"{url} broke off after {size} of {length} bytes")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise RPackageError(
            f"{url} cannot be read: {error or type(error).__name__}",
            hint="does this machine reach it? curl -I " + url,
        ) from error
    return iter(pieces)
