"""What a rack remembers: its own folder, and a register of all racks of this machine in /run."""

import contextlib
import dataclasses
import ipaddress
import json
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rpicluster.errors import LocalEngineError, RackError, UsageError
from rpicluster.nodes.local.state import STATE_DIR_VARIABLE, state_root, write_file
from rpicluster.nodes.lock import cluster_lock
from rpicluster.nodes.rack.addresses import Names, Network, names_of
from rpicluster.nodes.rack.files import NodeAddresses, cluster_yml
from rpicluster.nodes.rack.request import NodeRequest

# Bridges, tables and cgroups belong to the machine, not to a user: so does the list of who has which.
REGISTER = Path("/run/rpicluster")
STATE_FILE = "rack.json"
DEFAULT_NAME = "rack"
_REGISTER_WAIT_S = 30.0
_REGISTER_TRIES = 10
# What stands in a rack's folder for its user; only cluster.yml is theirs to edit.
USER_FILES = ("cluster.yml", "ssh_config", "known_hosts", "id_ed25519", "id_ed25519.pub")


@dataclass(frozen=True)
class RackState:
    """One rack, written to its folder before anything of it is made in the kernel."""

    name: str
    directory: Path
    suite: str
    network: Network
    nodes: tuple[NodeRequest, ...]
    disk_mib: int
    base: str = ""
    machine_ids: dict[str, str] = field(default_factory=dict)
    whole: bool = False  # False: `up` was broken off before every node answered

    @property
    def names(self) -> Names:
        """What the rack's kernel objects are called."""
        return names_of(self.name)

    @property
    def key(self) -> Path:
        """The private key of the rack's `pi` users."""
        return self.directory / "id_ed25519"

    @property
    def ssh_config(self) -> Path:
        """The OpenSSH configuration that reaches the nodes."""
        return self.directory / "ssh_config"

    def node(self, name: str) -> NodeRequest:
        """Return the node called `name`; raises UsageError that names the rack's nodes."""
        for node in self.nodes:
            if node.name == name:
                return node
        known = ", ".join(node.name for node in self.nodes)
        raise UsageError(f"rack {self.name} has no node {name!r}", hint=f"its nodes are: {known}")

    def number(self, name: str) -> int:
        """Return a node's number, counted from 1."""
        return [node.name for node in self.nodes].index(name) + 1

    def folder(self, node: str) -> Path:
        """Return the folder of a node: disk image, seed, logs."""
        return self.directory / "nodes" / node

    def addresses(self, node: str) -> NodeAddresses:
        """Return how a node is reached."""
        number = self.number(node)
        return NodeAddresses(node, self.network.node4(number), self.network.node6(number))

    @property
    def all_addresses(self) -> list[NodeAddresses]:
        """How each node is reached, in the order of the rack."""
        return [self.addresses(node.name) for node in self.nodes]


def encode(state: RackState) -> str:
    """Return a rack's state as text; `decode` reads it back."""
    document = {
        "schema": 1,
        "name": state.name,
        "suite": state.suite,
        "subnet": str(state.network.v4),
        "subnet6": str(state.network.v6),
        "nodes": [dataclasses.asdict(node) for node in state.nodes],
        "disk_mib": state.disk_mib,
        "base": state.base,
        "machine_ids": state.machine_ids,
        "whole": state.whole,
    }
    return json.dumps(document, indent=1) + "\n"


def decode(text: str, directory: Path) -> RackState:
    """Return the rack that `text` describes and that stands in `directory`; raises RackError."""
    try:
        document = json.loads(text)
        return RackState(
            name=document["name"],
            directory=directory,
            suite=document["suite"],
            network=Network(
                ipaddress.IPv4Network(document["subnet"]), ipaddress.IPv6Network(document["subnet6"])
            ),
            nodes=tuple(NodeRequest(**node) for node in document["nodes"]),
            disk_mib=document["disk_mib"],
            base=document["base"],
            machine_ids=document["machine_ids"],
            whole=document["whole"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RackError(
            f"{directory / STATE_FILE} is not a rack's state: {error}",
            hint=f"if this folder holds nothing you need: sudo rm -r '{directory}'",
        ) from error


def save(state: RackState) -> None:
    """Write the rack's state, whole or not at all."""
    write_file(state.directory / STATE_FILE, encode(state).encode(), 0o644)


def load(directory: Path) -> RackState | None:
    """Return the rack that stands in `directory`, None if there is none."""
    try:
        text = (directory / STATE_FILE).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise RackError(f"{directory} cannot be read as this user", hint="try again with sudo") from error
    return decode(text, directory)


def written_cluster_yml(rack: RackState) -> str:
    """Return the cluster.yml that a rack writes unless somebody edited it."""
    return cluster_yml(rack.name, rack.nodes, rack.all_addresses, os.cpu_count() or 1, rack.directory)


@dataclass(frozen=True)
class Entry:
    """What the register knows of a rack of this machine."""

    name: str
    directory: Path
    subnet: ipaddress.IPv4Network
    base: str


@contextmanager
def register_lock(root: Path = REGISTER) -> Iterator[None]:
    """Hold the machine's register of racks while subnets, tables or ip_forward are decided."""
    with contextlib.ExitStack() as held:
        for attempt in range(_REGISTER_TRIES):
            (root / "racks").mkdir(mode=0o755, parents=True, exist_ok=True)
            try:
                held.enter_context(
                    cluster_lock(
                        root,
                        cluster="racks",
                        command="rpicluster rack",
                        wait_s=_REGISTER_WAIT_S,
                        what="the register of",
                    )
                )
                break
            except LocalEngineError:  # the last rack of the machine just went, and the register with it
                if attempt + 1 == _REGISTER_TRIES:
                    raise
        yield


def register(state: RackState, root: Path = REGISTER) -> None:
    """Enter a rack, or what changed of it."""
    document = {"directory": str(state.directory), "subnet": str(state.network.v4), "base": state.base}
    write_file(root / "racks" / f"{state.name}.json", json.dumps(document).encode(), 0o644)


def unregister(name: str, root: Path = REGISTER) -> None:
    """Strike a rack out."""
    (root / "racks" / f"{name}.json").unlink(missing_ok=True)


def registered(root: Path = REGISTER) -> list[Entry]:
    """Return all racks of this machine that have anything in the kernel."""
    found = []
    for path in sorted((root / "racks").glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # struck out meanwhile
            document = json.loads(path.read_text())
            subnet = ipaddress.IPv4Network(document["subnet"])
            found.append(Entry(path.stem, Path(document["directory"]), subnet, document["base"]))
    return found


def forget_register_if_empty(root: Path = REGISTER) -> None:
    """Remove the register's folders if no rack is left; the caller holds its lock."""
    with contextlib.suppress(OSError):  # another rack stands in it
        (root / "racks").rmdir()
        (root / "lock").unlink(missing_ok=True)
        root.rmdir()


@contextmanager
def changing(name: str, directory: Path, command: str) -> Iterator[None]:
    """Hold the rack while one command changes it; raises LockHeld, which names the holder."""
    with cluster_lock(directory, cluster=name, command=f"rpicluster rack {command}", what="rack"):
        yield


def require_rack(name: str | None) -> RackState:
    """Return the rack that `--name` means; raises UsageError if there is none."""
    found, directory = find_directory(name)
    rack = load(directory)
    if rack is None:
        raise no_rack(found)
    return rack


def no_rack(name: str) -> UsageError:
    """Return the error for a rack that is not there."""
    return UsageError(f"there is no rack {name}", hint="make one with: sudo rpicluster rack up")


def invoking_user() -> pwd.struct_passwd | None:
    """Return the user who called sudo, None without sudo: what is made for a user is made for them."""
    uid = os.environ.get("SUDO_UID", "")
    if os.geteuid() != 0 or not uid.isdigit() or uid == "0":
        return None
    try:
        return pwd.getpwuid(int(uid))
    except KeyError:
        return None


def default_directory(name: str) -> Path:
    """Return where a rack stands unless `--dir` says otherwise: in the state folder of who asks."""
    user = invoking_user()
    if user and not os.environ.get(STATE_DIR_VARIABLE):
        return Path(user.pw_dir) / ".local/state/rpicluster/racks" / name
    return state_root() / "racks" / name


def find_directory(name: str | None) -> tuple[str, Path]:
    """Return name and folder of the rack meant by `--name`, or of the only one.

    A running rack is found through the register, one that is down in the default folder. Raises
    UsageError if several racks run and none was named.
    """
    entries = registered()
    if name is None:
        if len(entries) > 1:
            raise UsageError(
                f"{len(entries)} racks run on this machine: {', '.join(e.name for e in entries)}",
                hint=f"say which, e.g.: --name {entries[0].name}",
            )
        name = entries[0].name if entries else DEFAULT_NAME
    for entry in entries:
        if entry.name == name:
            return name, entry.directory
    return name, default_directory(name)


def give_to_user(*paths: Path) -> None:
    """Hand files that the user needs without root to whoever called sudo."""
    user = invoking_user()
    for path in paths if user else ():
        assert user is not None  # noqa: S101  the loop above has no rounds without one
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
