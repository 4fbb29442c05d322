"""HDFS over WebHDFS: files, directories, the trash, space, and whole files up and down."""

import posixpath
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from rpicluster.errors import RemoteError, ServiceError, UsageError
from rpicluster.services import download, upload
from rpicluster.services.filechecksum import FileChecksum, parse_checksum
from rpicluster.services.transfer import Progress, Transferred
from rpicluster.services.transport import Daemon, Transport

API = "/webhdfs/v1"
# Reading a big directory or summing a tree is the NameNode's work, and it may be on a Pi.
_SLOW_READ_TIMEOUT_S = 60.0
# A DataNode reads all CRCs of a file, 0.8 % of it, from what may be an SD card; no byte comes meanwhile.
_CHECKSUM_TIMEOUT_S = 600.0
# TrashPolicyDefault tries twice, and makes the directories of the trash private.
_TRASH_TRIES = 2
_TRASH_PERMISSION = "700"


@dataclass(frozen=True)
class FileStatus:
    """A file or directory of HDFS; `path` is absolute, `permission` octal as HDFS writes it, e.g. `755`."""

    path: str
    is_dir: bool
    length: int
    modified_ms: int
    owner: str
    group: str
    permission: str
    replication: int
    block_size: int
    file_id: int

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return posixpath.basename(self.path)

    @property
    def modified_s(self) -> float:
        """Return the time of the last change, in seconds since 1970."""
        return self.modified_ms / 1000

    @property
    def mode_text(self) -> str:
        """Return `drwxr-xr-x`, as `ls -l` does."""
        return stat.filemode((stat.S_IFDIR if self.is_dir else stat.S_IFREG) | int(self.permission, 8))

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {**asdict(self), "name": self.name}


@dataclass(frozen=True)
class ContentSummary:
    """A tree in numbers; `space_bytes` counts every replica."""

    length_bytes: int
    space_bytes: int
    files: int
    directories: int


@dataclass(frozen=True)
class Space:
    """HDFS's room in bytes; `fits_bytes` is how much more of one's own data fits, once it is replicated."""

    capacity_bytes: int
    used_bytes: int
    remaining_bytes: int
    replication: int

    @property
    def fits_bytes(self) -> int:
        """Return the remaining bytes divided by the replication of new files."""
        return self.remaining_bytes // max(self.replication, 1)


@dataclass(frozen=True)
class Defaults:
    """What the NameNode gives to new files; `trash_interval_min` is 0 where there is no trash."""

    block_size: int
    replication: int
    bytes_per_checksum: int
    trash_interval_min: int


Entries = list[FileStatus]


class WebHdfs:
    """One user's view of HDFS. Paths are absolute, or relative to `/user/NAME`."""

    def __init__(
        self, transport: Transport, base_url: str, user: str, *, clock_ms: Callable[[], int] | None = None
    ) -> None:
        """Talk to the NameNode at `base_url` (`http://host:9870`) as `user`."""
        self.transport = transport
        self.namenode = Daemon("NameNode", base_url, sends_to="DataNode")
        self.user = user
        self._clock_ms = clock_ms or (lambda: int(time.time() * 1000))

    # --- paths -----------------------------------------------------------------------------------
    def absolute(self, path: str) -> str:
        """Return `path` as HDFS will know it. Raises UsageError for one that cannot be."""
        joined = posixpath.join(f"/user/{self.user}", path)
        parts = [part for part in joined.split("/") if part]
        try:
            joined.encode()
        except UnicodeEncodeError as error:
            raise UsageError(
                f"{path!r} is not UTF-8, so HDFS cannot hold it", hint="rename the file first"
            ) from error
        for part in parts:
            # DFSUtil.isValidName, plus NUL, which Linux cannot give back.
            if part in (".", "..") or ":" in part or "\0" in part:
                raise UsageError(
                    f"{path!r} cannot be a path in HDFS: a part of it is {part!r}",
                    hint="HDFS allows no `:` in names, and neither `.` nor `..`",
                )
        return "/" + "/".join(parts)

    # --- looking ---------------------------------------------------------------------------------
    def status(self, path: str) -> FileStatus:
        """Return what stands at `path`. Raises RemoteError (FileNotFoundException) where nothing does."""
        path = self.absolute(path)
        return _status(path, self._ask("GETFILESTATUS", path, what=f"look at {path}")["FileStatus"])

    def find(self, path: str) -> FileStatus | None:
        """Return what stands at `path`, None for nothing."""
        try:
            return self.status(path)
        except RemoteError as error:
            if error.exception == "FileNotFoundException":
                return None
            raise

    def exists(self, path: str) -> bool:
        """Return whether something stands at `path`."""
        return self.find(path) is not None

    def list(self, path: str) -> "Entries":
        """Return a directory's entries by name, or the one file at `path`."""
        return [*self.iterate(path)]

    def iterate(self, path: str, *, after: str = "") -> Iterator[FileStatus]:
        """Yield a directory's entries in the order of their names' bytes, those after the name `after` only.

        Asks for a batch at a time (`dfs.ls.limit`, 1000), so a large directory costs no memory.
        """
        path = self.absolute(path)
        while True:
            params = {"startAfter": after} if after else {}
            listing = self._ask("LISTSTATUS_BATCH", path, params, what=f"list {path}")["DirectoryListing"]
            entries = listing["partialListing"]["FileStatuses"]["FileStatus"]
            for entry in entries:
                after = entry["pathSuffix"]
                if "/" in after or after in (".", ".."):
                    raise ServiceError(f"{self.namenode} lists {after!r} in {path}, which cannot be a name")
                yield _status(posixpath.join(path, after) if after else path, entry)
            if not entries or not listing["remainingEntries"]:
                return

    def content_summary(self, path: str) -> ContentSummary:
        """Return how many files and bytes stand below `path`."""
        path = self.absolute(path)
        found = self._ask("GETCONTENTSUMMARY", path, what=f"sum up {path}", slow=True)["ContentSummary"]
        return ContentSummary(
            found["length"],
            found["spaceConsumed"],
            files=found["fileCount"],
            directories=found["directoryCount"],
        )

    def df(self, *, replication: int | None = None) -> Space:
        """Return HDFS's room; `replication` is that of new files, by default the NameNode's."""
        found = self._ask("GETSTATUS", "/", what="tell its capacity")["FsStatus"]
        copies = self.defaults().replication if replication is None else replication
        return Space(found["capacity"], found["used"], found["remaining"], copies)

    def defaults(self) -> Defaults:
        """Return what the NameNode gives to new files."""
        found = self._ask("GETSERVERDEFAULTS", "/", what="tell its defaults")["FsServerDefaults"]
        return Defaults(
            found["blockSize"], found["replication"], found["bytesPerChecksum"], found["trashInterval"]
        )

    def checksum(self, path: str) -> FileChecksum:
        """Return a file's checksum, made by the DataNodes of what they have stored."""
        path = self.absolute(path)
        url, what = self.url("GETFILECHECKSUM", path), f"compute the checksum of {path}"
        return parse_checksum(
            self.transport.get_json(self.namenode, url, what=what, read_timeout_s=_CHECKSUM_TIMEOUT_S)
        )

    # --- changing --------------------------------------------------------------------------------
    def mkdirs(self, path: str, *, permission: str | None = None) -> None:
        """Make a directory and those above it; one that exists is fine. `permission` is octal, e.g. `700`."""
        path = self.absolute(path)
        params = {"permission": permission} if permission else {}
        if not self._do("PUT", "MKDIRS", path, params, what=f"make the directory {path}")["boolean"]:
            raise ServiceError(f"{self.namenode} did not make the directory {path}")

    def set_owner(self, path: str, owner: str) -> None:
        """Give a file or directory to another user, which only HDFS's superuser may."""
        path = self.absolute(path)
        url, what = self.url("SETOWNER", path, {"owner": owner}), f"give {path} to {owner}"
        self.transport.request_json(self.namenode, "PUT", url, what=what, idempotent=True)

    def rename(self, source: str, target: str, *, overwrite: bool = False) -> None:
        """Give `source` the name `target`, in one step that is seen whole or not at all.

        `target` is the full new name. `overwrite` replaces a file or an empty directory.
        Raises RemoteError (FileAlreadyExistsException, FileNotFoundException, …).
        """
        source, target = self.absolute(source), self.absolute(target)
        params = {"destination": target, "renameoptions": "OVERWRITE" if overwrite else "NONE"}
        self._do("PUT", "RENAME", source, params, what=f"rename {source} to {target}")

    def delete(self, path: str, *, recursive: bool = False, skip_trash: bool = False) -> str | None:
        """Move `path` to the trash and return where it is now; None when it was deleted for good.

        `rename` brings it back. `skip_trash` deletes at once; so does deleting what is in the trash already,
        as Hadoop does. A directory needs `recursive`. Raises UsageError for `/`, for what holds the trash
        itself, and where the cluster has no trash; RemoteError.
        """
        path = self.absolute(path)
        if path == "/":
            raise UsageError("the root of HDFS is not deleted", hint="name a directory in it")
        found = self.status(path)
        if found.is_dir and not recursive:
            raise UsageError(f"{path} is a directory", hint=f"rpicluster rm -r {path}")
        trash = str(self._ask("GETTRASHROOT", path, what="tell where its trash is")["Path"])
        if _within(trash, path) and path != trash:
            raise UsageError(f"{path} holds your trash, {trash}", hint="delete what is in it, one by one")
        if skip_trash or _within(path, trash):
            self.delete_now(path, recursive=recursive)
            return None
        if self.defaults().trash_interval_min <= 0:
            raise UsageError(
                f"this cluster keeps no trash, so {path} was not deleted",
                hint=f"to delete it for good: rpicluster rm --skip-trash {path}",
            )
        return self._move_to_trash(path, trash + "/Current")

    def delete_now(self, path: str, *, recursive: bool = False) -> bool:
        """Delete `path` for good and return whether it was there."""
        path = self.absolute(path)
        params = {"recursive": "true" if recursive else "false"}
        answer = self._do("DELETE", "DELETE", path, params, what=f"delete {path}", idempotent=True)
        return bool(answer["boolean"])

    def _move_to_trash(self, path: str, current: str) -> str:
        """Do what TrashPolicyDefault.moveToTrash does, names that collide included."""
        base = current + posixpath.dirname(path).rstrip("/")
        for tries_left in reversed(range(_TRASH_TRIES)):
            try:
                self.mkdirs(base, permission=_TRASH_PERMISSION)
                break
            except RemoteError as error:
                if error.exception not in ("FileAlreadyExistsException", "ParentNotDirectoryException"):
                    raise
                if not tries_left:
                    raise
                # A file was deleted under the name of a directory that is needed now: stand beside it.
                taken = base
                while not self.exists(taken):
                    taken = posixpath.dirname(taken)
                base = f"{taken}{self._clock_ms()}{base[len(taken) :]}"
        wanted = kept_at = posixpath.join(base, posixpath.basename(path))
        while True:
            try:
                self.rename(path, kept_at)
                return kept_at
            except RemoteError as error:
                if error.exception != "FileAlreadyExistsException" or not self.exists(kept_at):
                    raise
            kept_at = f"{wanted}{self._clock_ms()}"

    # --- whole files -----------------------------------------------------------------------------
    def put(
        self, local: Path, remote: str, *, overwrite: bool = False, progress: Progress | None = None
    ) -> Transferred:
        """Store the file `local` as `remote`: verified, then renamed; never half under its name.

        Raises TransferError, UsageError, RemoteError, Unreachable.
        """
        return upload.put_file(self, local, self.absolute(remote), overwrite=overwrite, progress=progress)

    def put_tree(
        self, local: Path, remote: str, *, overwrite: bool = False, progress: Progress | None = None
    ) -> Transferred:
        """Store the directory `local` as `remote`, which appears when all of it is there and verified.

        `overwrite` moves what was there to the trash. Raises as `put` does.
        """
        return upload.put_tree(self, local, self.absolute(remote), overwrite=overwrite, progress=progress)

    def get(
        self, remote: str, local: Path, *, overwrite: bool = False, progress: Progress | None = None
    ) -> Transferred:
        """Fetch a file or a directory to `local`: verified, then renamed. Raises as `put` does."""
        return download.get(self, self.absolute(remote), local, overwrite=overwrite, progress=progress)

    def read(self, path: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Return a piece of a file; for small ones."""
        path = self.absolute(path)
        params = {"offset": str(offset)} | ({} if length is None else {"length": str(length)})
        url = self.url("OPEN", path, params)
        with self.transport.stream(self.namenode, "GET", url, what=f"read {path}") as response:
            response.read()
            return response.content

    # --- the wire --------------------------------------------------------------------------------
    def url(self, operation: str, path: str, params: Mapping[str, str] | None = None) -> str:
        """Return the NameNode's URL for `operation` on an absolute `path`, percent-encoded."""
        query = urlencode({"op": operation, "user.name": self.user, **(params or {})})
        return f"{self.namenode.base_url.rstrip('/')}{API}{quote(path, safe='/')}?{query}"

    def datanode_url(
        self, method: str, operation: str, path: str, params: Mapping[str, str], *, what: str
    ) -> str:
        """Return where the NameNode sends us with a file's bytes; nothing is written yet."""
        answer = self._do(
            method, operation, path, {**params, "noredirect": "true"}, what=what, idempotent=True
        )
        return str(answer["Location"])

    def _ask(
        self,
        operation: str,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        what: str,
        slow: bool = False,
    ) -> Any:
        timeout_s = _SLOW_READ_TIMEOUT_S if slow else None
        url = self.url(operation, path, params)
        return self.transport.get_json(self.namenode, url, what=what, read_timeout_s=timeout_s)

    def _do(
        self,
        method: str,
        operation: str,
        path: str,
        params: Mapping[str, str],
        *,
        what: str,
        idempotent: bool = False,
    ) -> Any:
        url = self.url(operation, path, params)
        return self.transport.request_json(
            self.namenode, method, url, what=what, idempotent=idempotent, read_timeout_s=_SLOW_READ_TIMEOUT_S
        )


def _within(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def _status(path: str, found: Mapping[str, Any]) -> FileStatus:
    return FileStatus(
        path=path,
        is_dir=found["type"] == "DIRECTORY",
        length=found["length"],
        modified_ms=found["modificationTime"],
        owner=found["owner"],
        group=found["group"],
        permission=found["permission"],
        replication=found["replication"],
        block_size=found["blockSize"],
        file_id=found["fileId"],
    )
