"""The store: one folder a runtime, named by its content, put there whole or not at all.

<cache>/runtimes/<hash16>/   jars/ hadoop/ bin/ sbin/ python/ connect/ licenses/ … and a manifest
<cache>/runtimes/.new-*      what a fetch in progress has so far; a dead one's is cleaned by the next
"""

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import platformdirs

from rpicluster.errors import RuntimeFetchError
from rpicluster.runtime import layout
from rpicluster.runtime.failures import ELSEWHERE, explained, mib
from rpicluster.runtime.lock import Artifact, Lock, load_lock
from rpicluster.runtime.locking import alone
from rpicluster.runtime.maven_fetch import evict, fetch_with_jgo, sha256_of
from rpicluster.runtime.pip_fetch import end_orphans, fetch_with_pip
from rpicluster.runtime.progress import Progress, Report, ignore
from rpicluster.runtime.unpack import Stored, link_or_copy, unpack_sdist, write_new

MANIFEST = "rpicluster-runtime.json"
RESERVE_BYTES = 64 << 20
"""Left free on the disk after the worst moment of a fetch: file system blocks, logs, other programs."""

Fetch = Callable[[Artifact, Path, Report], Path]
FETCHERS: Mapping[str, Fetch] = {"pypi-sdist": fetch_with_pip, "maven-jar": fetch_with_jgo}

__all__ = [
    "Lock",
    "Progress",
    "Runtime",
    "ensure",
    "installed",
    "load_lock",
    "locked_hash",
    "remove",
    "verify",
]


@dataclass(frozen=True)
class Runtime:
    """An installed runtime: a SPARK_HOME, and the Hadoop daemons' class path in `hadoop/`."""

    path: Path
    content_hash: str
    """Hash of the lock and the layout rules; equal content has an equal hash."""
    size_bytes: int
    """What it takes on disk, hard-linked files counted once."""
    pruned_bytes: int
    """What the unpacked artifacts would have taken more."""


def locked_hash(locked: Lock | None = None) -> str:
    """The content hash of what `ensure` would install, known before anything is fetched."""
    lock = locked or load_lock()
    return sha256(lock.canonical() + b"\0" + layout.rules_bytes()).hexdigest()


def runtimes_dir(cache_dir: Path | None = None) -> Path:
    """Where runtimes are stored: under `cache_dir`, else $RPICLUSTER_CACHE_DIR, else the user's cache."""
    chosen = cache_dir or os.environ.get("RPICLUSTER_CACHE_DIR") or platformdirs.user_cache_path("rpicluster")
    return Path(chosen).expanduser().absolute() / "runtimes"


def installed(cache_dir: Path | None = None, *, locked: Lock | None = None) -> Runtime | None:
    """The runtime that this version of rpicluster wants, if it is there; reads one manifest only."""
    content_hash = locked_hash(locked)
    path = runtimes_dir(cache_dir) / content_hash[:16]
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if manifest["content_hash"] != content_hash:
            return None
        return Runtime(path, content_hash, manifest["size_bytes"], manifest["pruned_bytes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ensure(
    cache_dir: Path | None = None,
    *,
    report: Report = ignore,
    locked: Lock | None = None,
    fetchers: Mapping[str, Fetch] = FETCHERS,
) -> Runtime:
    """Return the locked runtime, fetching, checking and storing it first if it is not there or not whole.

    Raises RuntimeFetchError with nothing installed and nothing left over; LockHeld when another process
    fetches for more than an hour.
    """
    lock = locked or load_lock()
    found = installed(cache_dir, locked=lock)
    if found and not _incomplete(found):
        return found
    root = runtimes_dir(cache_dir)
    with explained(root), alone(root, report):
        found = installed(cache_dir, locked=lock)
        if found and not _incomplete(found):
            return found  # another process fetched it while this one waited
        _clear_leftovers(root)
        _check_space(root, lock)
        with _staging(root) as staging:
            tree = _build(lock, staging, report, fetchers)
            _put_in_place(tree, root / locked_hash(lock)[:16], staging)
        stored = installed(cache_dir, locked=lock)
    if stored is None:
        raise RuntimeFetchError(
            f"the runtime vanished from {root} as soon as it was stored", hint="run the same command again"
        )
    return stored


def verify(runtime: Runtime) -> list[str]:
    """Hash every file again; names those that differ from the manifest, are missing, or do not belong there.

    Python's own `__pycache__` folders are passed over. Raises RuntimeFetchError when files cannot be read.
    """
    with explained(runtime.path):
        known = _recorded(runtime)
        bad = [p for p, f in known.items() if not _is_whole(runtime.path / p, f, hashed=True)]
        present = {
            str(p.relative_to(runtime.path))
            for p in runtime.path.rglob("*")
            if (p.is_symlink() or not p.is_dir()) and "__pycache__" not in p.parts
        }
    return sorted({*bad, *(present - known.keys() - {MANIFEST})})


def remove(cache_dir: Path | None = None) -> int:
    """Delete every stored runtime of any version and every leftover; returns the bytes freed.

    A fetch that another process has under way fails with an error of its own.
    Raises RuntimeFetchError when the disk refuses.
    """
    root = runtimes_dir(cache_dir)
    if not root.is_dir():
        return 0
    with explained(root):
        freed = _disk_usage(root)
        _clear_leftovers(root)
        _delete(root)
    return freed


# ── Building ────────────────────────────────────────────────────────────────────────────────────────


def _build(lock: Lock, staging: Path, report: Report, fetchers: Mapping[str, Fetch]) -> Path:
    """Fetch and check every artifact, then lay the runtime out in a folder; returns that folder."""
    # Jars first: they are small, and a missing network or a bad cached jar shows before the long download.
    fetched = {a: _fetch_checked(a, staging, report, fetchers[a.kind]) for a in (*lock.jars, lock.sdist)}
    tree = staging / "tree"
    tree.mkdir()
    sdist = fetched[lock.sdist]
    files, unpacked_bytes = unpack_sdist(sdist, lock.sdist, tree, report)
    sdist.unlink()
    for artifact in lock.jars:
        files.update(_place_jar(artifact, fetched[artifact], tree))
    files["RELEASE"] = _write_release(lock, tree)
    size_bytes = sum(f.size_bytes for f in files.values() if f.same_as is None)
    manifest = {
        "schema": 1,
        "content_hash": locked_hash(lock),
        "size_bytes": size_bytes,
        "pruned_bytes": unpacked_bytes + sum(a.size_bytes for a in lock.jars) - size_bytes,
        "versions": {a.name: a.version for a in lock.artifacts},
        "files": {path: asdict(files[path]) for path in sorted(files)},
    }
    (tree / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _to_disk(tree, size_bytes, report)
    return tree


def _fetch_checked(artifact: Artifact, staging: Path, report: Report, fetch: Fetch) -> Path:
    """Fetch one artifact into `staging` and check it there, where nobody else writes."""
    into = staging / "fetched" / artifact.name
    into.mkdir(parents=True)
    got = fetch(artifact, into, report)
    size_bytes = artifact.size_bytes
    report(Progress(str(artifact), size_bytes, size_bytes, "fetch"))
    mine = staging / artifact.filename
    if got.is_relative_to(staging):
        got.replace(mine)
    else:
        shutil.copyfile(got, mine)
    report(Progress(str(artifact), 0, size_bytes, "verify"))
    actual = sha256_of(mine)
    if actual != artifact.sha256:
        raise _wrong_hash(artifact, got, actual, cached=not got.is_relative_to(staging))
    report(Progress(str(artifact), size_bytes, size_bytes, "verify"))
    shutil.rmtree(into)
    return mine


def _wrong_hash(artifact: Artifact, got: Path, actual: str, *, cached: bool) -> RuntimeFetchError:
    told = f"SHA-256 {actual} where the lock says {artifact.sha256}; nothing was installed"
    if not cached:
        return RuntimeFetchError(
            f"{artifact.filename} was fetched with {told}",
            hint="run the same command again; if it stays so, your mirror serves another file",
        )
    try:
        evict(got)
    except OSError as error:
        return RuntimeFetchError(
            f"{got} has {told}. It could not be deleted: {error.strerror}",
            hint=f"delete {got}, then run this again",
        )
    return RuntimeFetchError(
        f"{got} had {told}. The bad copy was deleted from the local repository",
        hint="run the same command again: it fetches a fresh copy",
    )


def _place_jar(artifact: Artifact, jar: Path, tree: Path) -> dict[str, Stored]:
    first, *others = (f"{folder}/{artifact.filename}" for folder in artifact.into)
    (tree / first).parent.mkdir(parents=True, exist_ok=True)
    jar.replace(tree / first)
    (tree / first).chmod(0o644)
    stored = {first: Stored(artifact.sha256, artifact.size_bytes, 0o644)}
    for other in others:
        link_or_copy(tree / first, tree / other)
        stored[other] = Stored(artifact.sha256, artifact.size_bytes, 0o644, same_as=first)
    return stored


def _write_release(lock: Lock, tree: Path) -> Stored:
    """Spark's own RELEASE line: sparklyr reads it, and else starts a JVM to learn the version."""
    spark, hadoop = lock.version("pyspark"), lock.version("hadoop-client-api")
    with tempfile.SpooledTemporaryFile() as text:
        text.write(f"Spark {spark} built for Hadoop {hadoop}\n".encode())
        text.seek(0)
        return write_new(text, tree / "RELEASE", 0o644)


def _to_disk(tree: Path, size_bytes: int, report: Report) -> None:
    """Have the disk hold every byte before the rename: a cut power line must not leave half a runtime."""
    done = 0
    for folder, _, names in os.walk(tree, topdown=False):
        for path in [*(Path(folder) / name for name in names), Path(folder)]:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
                done += os.fstat(handle).st_size if path.is_file() else 0
            finally:
                os.close(handle)
        report(Progress("the runtime", min(done, size_bytes), size_bytes, "store"))


def _put_in_place(tree: Path, target: Path, staging: Path) -> None:
    if target.exists():  # there, but not whole
        target.replace(staging / "replaced")
    for folder, _, _ in os.walk(tree):
        Path(folder).chmod(0o755)
    tree.replace(target)
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ── Disk ────────────────────────────────────────────────────────────────────────────────────────────


def _check_space(root: Path, lock: Lock) -> None:
    """Refuse before fetching when the worst moment would not fit.

    pip holds the sdist, its unpacked members and the copy it hands over at the same time; unpacking into the
    store needs less than that.
    """
    sdist = lock.sdist
    jars_bytes = sum(a.size_bytes for a in lock.jars)
    largest_copied = max((a.size_bytes for a in lock.jars), default=0)
    needed = jars_bytes + max(2 * sdist.size_bytes + sdist.unpacked_bytes, largest_copied) + RESERVE_BYTES
    free = shutil.disk_usage(root).free
    if free < needed:
        raise RuntimeFetchError(
            f"{root}: {mib(needed)} must be free to fetch and unpack the runtime, and {mib(free)} are; "
            "nothing was fetched",
            hint=f"free {mib(needed - free)} there, or: {ELSEWHERE}",
        )


@contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """A private folder beside the target, gone at the end whatever happens."""
    staging = Path(tempfile.mkdtemp(prefix=".new-", dir=root))
    try:
        yield staging
    finally:
        _delete(staging)


def _clear_leftovers(root: Path) -> None:
    for leftover in root.glob(".new-*"):
        end_orphans(leftover)
        _delete(leftover)


def _delete(folder: Path) -> None:
    """Delete a folder that may be gone already, with all it holds."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)


def _disk_usage(folder: Path) -> int:
    """Bytes of all files under `folder`, hard-linked ones counted once."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode):
            found[status.st_ino] = status.st_size
    return sum(found.values())


# ── Checking ────────────────────────────────────────────────────────────────────────────────────────


def _recorded(runtime: Runtime) -> dict[str, Stored]:
    manifest = json.loads((runtime.path / MANIFEST).read_text(encoding="utf-8"))
    return {path: Stored(**file) for path, file in manifest["files"].items()}


def _incomplete(runtime: Runtime) -> bool:
    """True if a file of the manifest is missing or has another size: cheap enough for every start."""
    try:
        return not all(_is_whole(runtime.path / p, f, hashed=False) for p, f in _recorded(runtime).items())
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _is_whole(path: Path, file: Stored, *, hashed: bool) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    right = stat.S_ISREG(status.st_mode) and status.st_size == file.size_bytes
    if not hashed or not right:
        return right
    return stat.S_IMODE(status.st_mode) == file.mode and sha256_of(path) == file.sha256
