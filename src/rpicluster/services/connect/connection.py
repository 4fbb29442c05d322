"""connection.json: where a cluster's session is and how to be let in, for programs that are not the CLI.

The CLI writes it, mode 0600, into the cluster's state directory whenever the session starts. The token is
in a file of its own, because it changes with every session and must not be copied around.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rpicluster.errors import ServiceError, UsageError
from rpicluster.model.ports import LOOPBACK, SPARKLYR_PORTS, SPARKLYR_SESSION
from rpicluster.services.connect.session import ConnectSession

SCHEMA = 1
FILE_NAME = "connection.json"
VARIABLE = "RPICLUSTER_CONNECTION"


@dataclass(frozen=True)
class SparklyrDoor:
    """Where sparklyr's gateway is.

    Its clients' second ports are those up to `last_port`, the same numbers at both ends of a tunnel.
    """

    host: str
    port: int
    last_port: int
    session: int
    version: str  # of the sparklyr whose jar runs, such as 1.9.5

    @classmethod
    def at(cls, port: int, version: str) -> "SparklyrDoor":
        """Return the gateway at `port`, as every session has it."""
        return cls(LOOPBACK, port, port + SPARKLYR_PORTS - 1, SPARKLYR_SESSION, version)

    @property
    def master(self) -> str:
        """What `spark_connect(master =)` takes."""
        return f"sparklyr://{self.host}:{self.port}/{self.session}"


@dataclass(frozen=True)
class Connection:
    """Where a cluster's doors are, as seen from this machine."""

    cluster: str
    connect_port: int
    token_file: str  # "" for a server without a token
    proto_path: str  # the directory that holds pyspark/sql/connect/proto
    user: str
    webhdfs: str  # base URL of the NameNode, such as http://127.0.0.1:9870
    webhdfs_user: str
    connect_host: str = "127.0.0.1"
    namespace: str | None = "rpi.default"
    tunnelled: bool = False  # behind SSH: `Cluster.open_door` must come first
    sleeps: bool = False  # may be asleep: the same
    sparklyr: SparklyrDoor | None = None  # None: the session has no gateway

    @classmethod
    def load(cls, path: Path) -> "Connection":
        """Read a connection file; raises UsageError with its name if there is none or it is not one."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document.pop("schema") != SCHEMA:
                raise ValueError("it is of another version of rpicluster")
            gateway = document.pop("sparklyr", None)
            return cls(**document, sparklyr=SparklyrDoor(**gateway) if gateway else None)
        except FileNotFoundError as error:
            raise UsageError(f"{path} does not exist", hint="rpicluster up") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{path} is not a connection file: {error}", hint="rpicluster connect"
            ) from error

    def save(self, path: Path) -> None:
        """Write the file, readable by its owner only; a reader sees the old one or the new one, whole."""
        document: dict[str, Any] = {"schema": SCHEMA, **asdict(self)}
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
        temporary.replace(path)

    def token(self) -> str | None:
        """Read the token; raises ServiceError if its file cannot be read."""
        if not self.token_file:
            return None
        try:
            return Path(self.token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ServiceError(
                f"the session's token at {self.token_file} cannot be read: {error.strerror}",
                hint="rpicluster status",
            ) from error

    def session(self, *, session_id: str | None = None) -> ConnectSession:
        """Return a session at this door; nothing is sent yet."""
        return ConnectSession(
            host=self.connect_host,
            port=self.connect_port,
            token=self.token(),
            proto_path=Path(self.proto_path),
            user=self.user,
            session_id=session_id,
            namespace=self.namespace,
        )
