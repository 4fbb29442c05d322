"""An HDFS in a dictionary behind httpx.MockTransport, with faults to order. Paths end in no slash."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

import httpx

from rpicluster.services.filechecksum import ChecksumOfBytes
from rpicluster.services.transport import Transport
from rpicluster.services.webhdfs import WebHdfs

NAMENODE, DATANODE = "nn:9870", "dn:9864"
BLOCK = 4096


@dataclass
class FakeHdfs:
    files: dict[str, bytes] = field(default_factory=dict)
    directories: set[str] = field(default_factory=lambda: {"/"})
    modified_ms: dict[str, int] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)
    on_create: Callable[[str], None] = lambda path: None  # called before the bytes are stored
    on_open: Callable[[str], None] = lambda path: None
    flip: bool = False  # a byte changes between the client and the disk, or back
    trash_interval: int = 1440
    crc_type: str = "CRC32"
    cut_open_at: int | None = None
    batch: int = 2
    denied: str = ""  # nothing may be written below

    def client(self, user: str = "ada", **more: object) -> WebHdfs:
        transport = Transport(http=httpx.MockTransport(self.handle), pause=lambda _s: None)
        return WebHdfs(transport, f"http://{NAMENODE}", user, clock_ms=lambda: 77)

    def names(self) -> list[str]:
        return sorted(self.files)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        raw_path, _, _ = request.url.raw_path.decode().partition("?")
        path = unquote(raw_path.removeprefix("/webhdfs/v1")) or "/"
        params = {key: values[0] for key, values in parse_qs(request.url.query.decode()).items()}
        return getattr(self, "_" + params["op"].lower())(path, params, request)

    # --- answers
    @staticmethod
    def _json(document: object) -> httpx.Response:
        return httpx.Response(200, content=json.dumps(document).encode())

    @staticmethod
    def _refuse(exception: str, message: str, status: int = 403) -> httpx.Response:
        document = {
            "RemoteException": {"exception": exception, "message": message, "javaClassName": f"x.{exception}"}
        }
        return httpx.Response(status, content=json.dumps(document).encode())

    def _missing(self, path: str) -> httpx.Response:
        return self._refuse("FileNotFoundException", f"File does not exist: {path}", 404)

    def _has(self, path: str) -> bool:
        return path in self.files or path in self.directories

    def _describe(self, path: str, suffix: str) -> dict[str, object]:
        is_dir = path in self.directories
        return {
            "type": "DIRECTORY" if is_dir else "FILE",
            "length": 0 if is_dir else len(self.files[path]),
            "modificationTime": self.modified_ms.get(path, 1),
            "owner": "ada",
            "group": "ada",
            "permission": "755" if is_dir else "644",
            "replication": 0 if is_dir else 2,
            "blockSize": 0 if is_dir else BLOCK,
            "fileId": hash(path),
            "pathSuffix": suffix,
        }

    def _parents(self, path: str) -> None:
        while path != "/":
            path = path.rsplit("/", 1)[0] or "/"
            self.directories.add(path)

    def _getfilestatus(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        return (
            self._json({"FileStatus": self._describe(path, "")}) if self._has(path) else self._missing(path)
        )

    def _liststatus_batch(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        if path in self.files:
            names = [""]
        elif path in self.directories:
            below = path.rstrip("/") + "/"
            everything = {p for p in (*self.files, *self.directories) if p.startswith(below) and p != "/"}
            names = sorted({p[len(below) :].split("/")[0] for p in everything}, key=str.encode)
            names = [name for name in names if name > params.get("startAfter", "")]
        else:
            return self._missing(path)
        now, rest = names[: self.batch], names[self.batch :]
        entries = [self._describe(f"{path.rstrip('/')}/{name}" if name else path, name) for name in now]
        listing = {"partialListing": {"FileStatuses": {"FileStatus": entries}}, "remainingEntries": len(rest)}
        return self._json({"DirectoryListing": listing})

    def _getserverdefaults(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        return self._json(
            {
                "FsServerDefaults": {
                    "blockSize": BLOCK,
                    "replication": 2,
                    "bytesPerChecksum": 512,
                    "trashInterval": self.trash_interval,
                }
            }
        )

    def _getstatus(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        return self._json({"FsStatus": {"capacity": 100, "used": 40, "remaining": 60}})

    def _gettrashroot(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        return self._json({"Path": f"/user/{params['user.name']}/.Trash"})

    def _mkdirs(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        above = path
        while above != "/":
            if above in self.files:
                return self._refuse("ParentNotDirectoryException", f"{above} is a file")
            above = above.rsplit("/", 1)[0] or "/"
        self.directories.add(path)
        self._parents(path)
        return self._json({"boolean": True})

    def _rename(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        target = params["destination"]
        if self._has(target) and params["renameoptions"] != "OVERWRITE":
            return self._refuse("FileAlreadyExistsException", f"rename destination {target} already exists")
        if path in self.files:
            self.files[target] = self.files.pop(path)
        for name in [name for name in self.files if name.startswith(path + "/")]:
            self.files[target + name[len(path) :]] = self.files.pop(name)
        for name in [n for n in self.directories if n == path or n.startswith(path + "/")]:
            self.directories.discard(name)
            self.directories.add(target + name[len(path) :])
        return httpx.Response(200)

    def _delete(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        was = self._has(path)
        self.files = {k: v for k, v in self.files.items() if k != path and not k.startswith(path + "/")}
        self.directories = {d for d in self.directories if d != path and not d.startswith(path + "/")}
        return self._json({"boolean": was})

    def _create(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        if request.url.netloc == NAMENODE.encode():
            return self._json(
                {"Location": str(request.url).replace(NAMENODE, DATANODE).replace("noredirect", "x")}
            )
        if self.denied and path.startswith(self.denied):
            return self._refuse("AccessControlException", f"Permission denied: user={params['user.name']}")
        self._parents(path)
        self.files[path] = b"cut"  # a DataNode keeps what has come so far
        self.on_create(path)
        body = request.read()
        assert int(request.headers["content-length"]) == len(body)
        self.files[path] = self._flipped(body)
        return httpx.Response(201)

    def _open(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        if path not in self.files:
            return self._missing(path)
        if params.get("noredirect"):
            return self._json(
                {"Location": str(request.url).replace(NAMENODE, DATANODE).replace("noredirect", "x")}
            )
        self.on_open(path)
        body = self._flipped(self.files[path])
        return httpx.Response(200, stream=httpx.ByteStream(body[: self.cut_open_at]))

    def _getfilechecksum(self, path: str, params: dict[str, str], request: httpx.Request) -> httpx.Response:
        if request.url.netloc == NAMENODE.encode():
            return httpx.Response(307, headers={"location": str(request.url).replace(NAMENODE, DATANODE)})
        data = self.files[path]
        checksum = ChecksumOfBytes(block_size=BLOCK, crc_type=self.crc_type)  # type: ignore[arg-type]
        checksum.update(data)
        crcs_per_block = BLOCK // 512 if len(data) > BLOCK else 0
        raw = struct.pack(">iq", 512 if data else 0, crcs_per_block) + bytes.fromhex(checksum.hexdigest())
        algorithm = f"MD5-of-{crcs_per_block}MD5-of-{512 if data else 0}{self.crc_type}"
        return self._json(
            {"FileChecksum": {"algorithm": algorithm, "bytes": raw.hex() + "00000000", "length": 28}}
        )

    def _flipped(self, data: bytes) -> bytes:
        return bytes([data[0] ^ 1]) + data[1:] if self.flip and data else data
