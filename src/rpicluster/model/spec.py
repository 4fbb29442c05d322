"""The spec: what a user writes in cluster.yml."""

import re
from collections import Counter
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rpicluster.model.memory import MemoryMib

_NAME = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_USER = r"^[a-z_][a-z0-9_-]{0,31}$"
_HOST = r"^[A-Za-z0-9_:]([A-Za-z0-9._:%-]{0,252})$"
_FILE = r"^(/|~/)[^\x00-\x1f\x7f]+$"
# What Hadoop's lists, Java's class path and systemd's unit files all take as it is.
_FOLDER = r"^(/[A-Za-z0-9_@.+-]+)+$"
_DISK = r"^[A-Za-z0-9][A-Za-z0-9_@:,.+=#-]{0,254}$"
_SPARK_KEY = r"^spark\.[A-Za-z0-9_.-]+$"
# "Writing R Extensions", 1.1.1: ASCII letters, numbers and dot, at least two, first a letter, last no dot.
_R_PACKAGE = r"^[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]$"
# What runs on the nodes comes from there: only over TLS, from a disk, or from this machine itself.
_R_REPOSITORY = (
    r"^(https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~%/+-]*)?"
    r"|http://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?(/[A-Za-z0-9._~%/+-]*)?"
    r"|file:///[A-Za-z0-9._~%/+-]*)$"
)
# What is R itself, and comes with it ("base" priority).
R_ITSELF = frozenset(
    {"base", "compiler", "datasets", "graphics", "grDevices", "grid", "methods", "parallel", "splines"}
    | {"stats", "stats4", "tcltk", "tools", "utils"}
)

# A DNS label (RFC 1123): it becomes a host name, a file name and part of a unit's name.
Name = Annotated[str, Field(pattern=_NAME)]
# What useradd accepts on Debian; it becomes a login and an HDFS home.
UserName = Annotated[str, Field(pattern=_USER)]
# What OpenSSH takes as a destination: a host name, an alias of ~/.ssh/config, or an address.
# It never starts with a dash, so it can never be read as an option.
Host = Annotated[str, Field(pattern=_HOST)]

# YAML's `true` is no number, though Python would take it for 1.
Whole = Annotated[int, Field(strict=True)]

# How the patterns above are said to a person.
PATTERNS_IN_WORDS = {
    _NAME: "lower-case letters, digits and dashes, at most 63, first and last no dash",
    _USER: "a login: lower-case letters, digits, _ and -, at most 32, no digit first",
    _HOST: "a host name, an alias of your OpenSSH configuration, or an address",
    _FILE: "a file by its whole path, starting with / or ~/",
    _FOLDER: "a folder by its whole path, of letters, digits and _@.+-, without a / at its end",
    _DISK: "the name of a disk, as `ls /dev/disk/by-id` on the node shows it",
    _SPARK_KEY: "a Spark setting, such as spark.sql.shuffle.partitions",
    _R_PACKAGE: "the name of an R package: two or more letters, digits and dots, a letter first, no dot last",
    _R_REPOSITORY: "a CRAN-like repository: https://…, file:///…, or http:// on this machine alone; without "
    "a password in it",
}


class Gateway(StrEnum):
    """Whether sessions have sparklyr's gateway: `auto` is on for nodes where this machine has sparklyr."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Role(StrEnum):
    """What a node does: the manager runs NameNode and ResourceManager, workers DataNode and NodeManager."""

    MANAGER = "manager"
    WORKER = "worker"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalBudget(_Model):
    """A virtual node on this machine: what it may use of the machine's memory and cores."""

    memory: MemoryMib
    cores: Whole = Field(default=1, ge=1, le=1024)


class SshTarget(_Model):
    """How a real node is reached; everything else comes from the user's own OpenSSH configuration."""

    host: Host
    user: UserName | None = None
    port: Whole | None = Field(default=None, ge=1, le=65535)
    config: str | None = Field(
        default=None,
        pattern=_FILE,
        description="an OpenSSH configuration to use instead of yours, as `ssh -F` does",
    )


class Hardware(_Model):
    """What `plan` assumes of a node that has not been observed yet."""

    memory: MemoryMib
    cores: Whole = Field(default=4, ge=1, le=1024)


# What services do not see (their own /tmp, no homes), and what is the system's alone.
NOT_FOR_DATA = (
    *("/boot", "/dev", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/usr"),
    *("/tmp", "/var/tmp"),  # noqa: S108  named to be refused
    *("/var/lib/rpicluster", "/var/log", "/opt/rpicluster", "/srv/rpicluster"),
)


def is_plain_folder(path: str) -> bool:
    """Return whether everything that gets a folder's path takes it as it is."""
    return re.fullmatch(_FOLDER, path) is not None and not {".", ".."} & set(path.split("/"))


class Storage(_Model):
    """Where a node keeps HDFS's blocks, the NameNode's image and what containers spill; a path for short.

    Exactly one of the two: a folder on a file system that you have mounted, or a disk.
    """

    path: str | None = Field(
        default=None, pattern=_FOLDER, description="an existing folder on a mounted disk"
    )
    disk: str | None = Field(
        default=None,
        pattern=_DISK,
        description="a name of /dev/disk/by-id; its file system is mounted at /srv/rpicluster",
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_and_possible(self) -> Self:
        if (self.path is None) == (self.disk is None):
            raise ValueError("a folder, or `disk:` with a name of /dev/disk/by-id")
        if self.path is not None and not is_plain_folder(self.path):
            raise ValueError(f"{self.path!r} is not a plain path")
        above = next((top for top in NOT_FOR_DATA if f"{self.path}/".startswith(f"{top}/")), None)
        if above is not None:
            raise ValueError(
                f"data cannot lie below {above}: the services do not see it, or it is not theirs"
            )
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Return both ways to write it, for editors."""
        written = handler.resolve_ref_schema(handler(core_schema))
        return {"anyOf": [{"type": "string", "pattern": _FOLDER}, written], "title": "Storage"}


class NodeSpec(_Model):
    """One machine of the cluster: exactly one of `local` and `ssh` says where it is."""

    name: Name
    roles: tuple[Role, ...] = Field(
        default=(), description="default: the first node manages, the others work"
    )
    local: LocalBudget | None = None
    ssh: SshTarget | None = None
    hardware: Hardware | None = Field(default=None, description="for `ssh` nodes that were not observed yet")
    storage: Storage | None = Field(
        default=None,
        description="for `ssh` nodes: where data lie; default: the largest mounted disk that it "
        "does not boot from, else the one it boots from",
    )
    reserve: MemoryMib | None = Field(
        default=None, description="memory left to everything that is not the cluster; default: computed"
    )

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.local is None) == (self.ssh is None):
            raise ValueError(f"node {self.name!r} needs exactly one of `local` and `ssh`")
        if self.local and self.hardware:
            raise ValueError(f"node {self.name!r} is local: `local` already states its memory and cores")
        if self.local and self.storage:
            raise ValueError(f"node {self.name!r} is local: its data lie in the state folder of this machine")
        if len(set(self.roles)) != len(self.roles):
            raise ValueError(f"node {self.name!r} names a role twice")
        return self


class Sessions(_Model):
    """Warm Spark sessions, one driver a user, on the manager."""

    max: Whole | None = Field(default=None, ge=1, le=64, description="default: as many as fit, at most 4")
    idle_timeout_s: Whole = Field(
        default=120, ge=30, description="after this long without work, executors above the warm one go back"
    )
    sleep_after_s: Whole | None = Field(
        default=None,
        ge=60,
        description="after this long without a client or a task, the session's driver ends, too, and its "
        "memory is free; the next connection starts it again; default: it stays",
    )
    sparklyr: Gateway = Field(
        default=Gateway.AUTO,
        description="R's sparklyr comes in by a gateway: auto is on for nodes behind SSH when this machine "
        "has sparklyr, and off on this machine itself, where any local user could run code through it",
    )

    @field_validator("sparklyr", mode="before")
    @classmethod
    def _yaml_1_1(cls, value: Any) -> Any:
        """Take `on` and `off` also where YAML reads them as true and false."""
        return {True: Gateway.ON, False: Gateway.OFF}.get(value, value) if isinstance(value, bool) else value


class Hdfs(_Model):
    """How files are stored."""

    replication: Whole | None = Field(
        default=None, ge=1, le=10, description="default: 2, or 1 with one DataNode"
    )
    block_size: MemoryMib = Field(default="64M", validate_default=True)
    trash_interval_s: Whole = Field(default=86400, ge=60, description="how long `rm` can be undone")


class Tables(_Model):
    """What is kept of persistent tables' past."""

    keep_snapshots_s: Whole = Field(default=7 * 86400, ge=60)
    keep_orphan_files_s: Whole = Field(
        default=3 * 86400,
        ge=86400,
        description="Iceberg refuses less than a day: a running write looks like an orphan",
    )


class RSpec(_Model):
    """R on every node, for functions that run there; `r: {}` is R with rpicluster's own package."""

    packages: tuple[Annotated[str, Field(pattern=_R_PACKAGE)], ...] = Field(
        default=(), description="by their names in R; as Debian packages where the node's system has them"
    )
    repository: str | None = Field(
        default=None,
        pattern=_R_REPOSITORY,
        description="the CRAN-like repository for packages that Debian does not have; compiled on each node",
    )

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for name in self.packages:
            if self.packages.count(name) > 1:
                raise ValueError(f"{name!r} is named twice")
            if name in R_ITSELF:
                raise ValueError(f"{name!r} is a part of R and always there; take it out")
        return self


class ClusterSpec(_Model):
    """Everything a user decides about a cluster."""

    name: Name
    nodes: tuple[NodeSpec, ...] = Field(min_length=1, max_length=1000)
    users: tuple[UserName, ...] = ()
    sessions: Sessions = Sessions()
    hdfs: Hdfs = Hdfs()
    tables: Tables = Tables()
    r: RSpec | None = Field(default=None, description="R on nodes behind SSH; without it none is installed")
    spark: dict[Annotated[str, Field(pattern=_SPARK_KEY)], str] = Field(
        default={},
        description="extra Spark settings; memory, ports and secrets are computed and refused here",
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [node.name for node in self.nodes]
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise ValueError(f"two nodes are called {twice!r}")
        if any(n.local for n in self.nodes) and any(n.ssh for n in self.nodes):
            raise ValueError("a cluster is either local or reached by SSH, not both")
        managers = [name for name, roles in self.roles.items() if Role.MANAGER in roles]
        if len(managers) != 1:
            raise ValueError(f"exactly one node is the manager, here: {', '.join(managers) or 'none'}")
        if not self.workers:
            raise ValueError("no node has the role worker, so nothing could run a job")
        if self.r is not None and self.is_local:
            raise ValueError("`r` is for nodes behind SSH; here your own R does the work: take `r` out")
        return self

    def roles_of(self, node: NodeSpec) -> tuple[Role, ...]:
        """Return a node's roles; by default the first manages, the others work, a lone one does both."""
        return node.roles or self.roles[node.name]

    @property
    def roles(self) -> dict[str, tuple[Role, ...]]:
        """The roles of all nodes by name, see `roles_of`; who asks for many asks here once."""
        first: tuple[Role, ...] = (Role.WORKER,)
        if len(self.nodes) == 1:
            first = (Role.MANAGER, Role.WORKER)
        elif not any(Role.MANAGER in node.roles for node in self.nodes):
            first = (Role.MANAGER,)
        return {
            node.name: node.roles or ((Role.WORKER,) if number else first)
            for number, node in enumerate(self.nodes)
        }

    @property
    def manager(self) -> NodeSpec:
        """The one node that runs NameNode, ResourceManager and session drivers."""
        roles = self.roles
        return next(node for node in self.nodes if Role.MANAGER in roles[node.name])

    @property
    def workers(self) -> tuple[NodeSpec, ...]:
        """The nodes that run DataNode and NodeManager, in the order of the file."""
        roles = self.roles
        return tuple(node for node in self.nodes if Role.WORKER in roles[node.name])

    @property
    def is_local(self) -> bool:
        """Whether every node is virtual, on this machine."""
        return self.nodes[0].local is not None
