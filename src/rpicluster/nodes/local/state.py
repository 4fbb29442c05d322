"""A cluster's state folder, and the short private alias under which Hadoop, supervisor and sockets see it.

A user's home may hold spaces, `%`, any UTF-8, and be long. Hadoop reads paths as URIs, supervisor expands
`%`, and a Unix socket's path ends at 107 bytes. So everything is reached through a directory such as
`/var/tmp/rpicluster-1000/3f9a11c2`, which holds links to the real folders and the supervisor's socket.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_state_path

from rpicluster.errors import LocalEngineError

STATE_DIR_VARIABLE = "RPICLUSTER_STATE_DIR"
ALIAS_BASES = (Path("/var/tmp"), Path("/tmp"))  # noqa: S108  ownership and sticky bit are checked below
# What survives URIs, the Java class path, supervisor's `%` and a shell without quoting.
_SAFE_PATH = re.compile(r"^[A-Za-z0-9._/+@=-]+$")


def state_root(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that holds all clusters' states: $RPICLUSTER_STATE_DIR or the user's state folder."""
    given = environment.get(STATE_DIR_VARIABLE)
    return Path(given).absolute() if given else user_state_path("rpicluster")


def cluster_names(root: Path) -> list[str]:
    """Return the names of the clusters that have state under `root`."""
    folder = root / "clusters"
    # `plan` reserves addresses for a cluster that is not one yet: `up` then leaves its cluster.yml here.
    return sorted(found.parent.name for found in folder.glob("*/cluster.yml"))


@dataclass(frozen=True)
class ClusterState:
    """Where one local cluster keeps everything: the real folder, and its alias."""

    name: str
    directory: Path
    alias: Path

    @property
    def socket(self) -> Path:
        """The supervisor's Unix socket."""
        return self.alias / "supervisor.sock"

    @property
    def conf(self) -> Path:
        """The real folder of rendered files, one subfolder a node."""
        return self.directory / "conf"

    @property
    def conf_is_mirrored(self) -> bool:
        """Whether daemons read a copy of `conf` inside the alias.

        The JVM resolves links in its class path and Spark's YARN client then opens the percent-encoded
        URL of `log4j2.properties` as a file name, so configuration must really stand in a plain path.
        """
        return _SAFE_PATH.match(str(self.directory)) is None

    def ensure_alias(self) -> None:
        """Create or repair the alias, which a reboot may empty. Raises LocalEngineError if it is not ours."""
        private_directory(self.alias.parent)
        private_directory(self.alias)
        self._point("state", self.directory)
        runtime = self.directory / "runtime"
        if runtime.is_symlink():
            _replace_link(self.alias / "runtime", runtime.readlink())
        self.conf.mkdir(mode=0o700, exist_ok=True)
        if self.conf_is_mirrored:
            self._mirror_conf()
        else:
            _replace_link(self.alias / "conf", self.conf)

    def set_runtime(self, runtime: Path) -> None:
        """Point both runtime links at `runtime`, each atomically."""
        _replace_link(self.directory / "runtime", runtime)
        _replace_link(self.alias / "runtime", runtime)

    def runtime(self) -> Path | None:
        """Return the runtime that daemons use now, None before the first `up`."""
        link = self.directory / "runtime"
        return link.readlink() if link.is_symlink() else None

    def remove(self) -> None:
        """Remove the alias and every file of the cluster; the record of what it is goes last."""
        for entry in sorted(self.directory.iterdir(), key=lambda path: path.name in _KEPT_LONGEST):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name not in _KEPT_LONGEST:
                entry.unlink()
        if self.alias.is_dir() and not self.alias.is_symlink():
            shutil.rmtree(self.alias)
        with contextlib.suppress(OSError):  # another cluster's alias keeps the common parent
            self.alias.parent.rmdir()
        shutil.rmtree(self.directory)

    def _point(self, name: str, target: Path) -> None:
        link = self.alias / name
        if link.is_symlink() and (there := link.readlink()) != target and there.is_dir():
            raise LocalEngineError(
                f"{self.directory} is a copy of {there}: both claim the alias {self.alias}, "
                "and two clusters over one identity would damage each other",
                hint=f"remove one of them, e.g.: rm -r '{self.directory}'",
            )
        _replace_link(link, target)

    def _mirror_conf(self) -> None:
        mirror = self.alias / "conf"
        if mirror.is_symlink():
            mirror.unlink()
        mirror.mkdir(mode=0o700, exist_ok=True)
        kept = {path.relative_to(self.conf) for path in self.conf.rglob("*") if path.is_file()}
        for path in list(mirror.rglob("*")):
            if path.is_file() and path.relative_to(mirror) not in kept:
                path.unlink()
        for relative in kept:
            source, copy = self.conf / relative, mirror / relative
            content, mode = source.read_bytes(), stat.S_IMODE(source.stat().st_mode)
            if (
                not copy.is_file()
                or copy.read_bytes() != content
                or stat.S_IMODE(copy.stat().st_mode) != mode
            ):
                write_file(copy, content, mode)


_KEPT_LONGEST = ("placement.json", "alias", "lock")


def open_state(name: str, *, root: Path | None = None, bases: Sequence[Path] = ALIAS_BASES) -> ClusterState:
    """Return the state of cluster `name`, created if it is new; the alias is chosen once and kept in it.

    Raises LocalEngineError if the folder cannot be written or no base for an alias is safe.
    """
    directory = (root or state_root()) / "clusters" / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise LocalEngineError(
            f"cannot keep the state of cluster {name} in {directory}: {error.strerror}",
            hint=f"choose another folder with: export {STATE_DIR_VARIABLE}=…",
        ) from error
    directory = directory.resolve()
    record = directory / "alias"
    try:
        alias = Path(record.read_text())
    except FileNotFoundError:
        token = hashlib.sha256(os.fsencode(directory)).hexdigest()[:8]
        alias = _safe_base(bases) / f"rpicluster-{os.getuid()}" / token
        _remove_dangling(alias.parent)
        write_file(record, str(alias).encode(), 0o600)
    state = ClusterState(name, directory, alias)
    state.ensure_alias()
    return state


def _safe_base(bases: Sequence[Path]) -> Path:
    """Return the first base in which nobody else can rename or remove what is ours."""
    for base in bases:
        try:
            status = base.stat()
        except OSError:
            continue
        others_write = status.st_mode & 0o022
        if not os.access(base, os.W_OK | os.X_OK) or status.st_uid not in (0, os.getuid()):
            continue
        if others_write and not status.st_mode & stat.S_ISVTX:
            continue
        return base
    names = " and ".join(str(base) for base in bases)
    raise LocalEngineError(
        f"neither {names} can hold a private directory: each must be writable, and sticky so that nobody "
        "else can rename what is in it",
        hint=f"sudo chmod 1777 {bases[0]}",
    )


def _remove_dangling(folder: Path) -> None:
    """Remove aliases whose state somebody deleted by hand, unless a supervisord still holds them."""
    if not folder.is_dir() or folder.is_symlink() or folder.stat().st_uid != os.getuid():
        return
    for alias in folder.iterdir():
        link = alias / "state"
        if link.is_symlink() and not link.exists() and not is_locked(alias):
            shutil.rmtree(alias, ignore_errors=True)  # another command may be removing it too


def is_locked(directory: Path) -> bool:
    """Return whether a process holds an exclusive lock on `directory`; False if it is not there."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def private_directory(path: Path) -> None:
    """Make sure that `path` is a directory of this user, mode 0700, and no link that somebody laid."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        what = (
            "a link"
            if stat.S_ISLNK(status.st_mode)
            else "a directory"
            if stat.S_ISDIR(status.st_mode)
            else "a file"
        )
        raise LocalEngineError(
            f"{path} is {what} of user {user_name(status.st_uid)}; the cluster needs that name for its own "
            "private directory and does not use what others put there",
            hint=f"look at it with: ls -ld {path}  and let its owner or root remove it: sudo rm -rf {path}",
        )
    if stat.S_IMODE(status.st_mode) != 0o700:
        path.chmod(0o700)


def user_name(uid: int) -> str:
    """Return the login of `uid`, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def write_file(path: Path, content: bytes, mode: int, *, durable: bool = True) -> None:
    """Write `path` whole or not at all, also in a power cut: temporary file, fsync, rename, fsync.

    Without `durable` a power cut may leave it empty: for what is written often and can be made again.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


TEMPORARY_PREFIX = ".rpicluster-new-"  # what a killed write leaves; the next look removes it


def sync_directory(path: Path) -> None:
    """Make renames in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace_link(link: Path, target: Path) -> None:
    if link.is_symlink() and link.readlink() == target:
        return
    fresh = link.with_name(f"{TEMPORARY_PREFIX}{link.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(link)
