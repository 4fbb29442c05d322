"""What the control machine keeps of a cluster behind SSH: a cache, and the journal of what it has done.

<state>/clusters/NAME/   cluster.yml, cluster.json, facts/NODE.json, before/NODE.json, journal.jsonl,
                         token-USER, runs/
"""

import json
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpicluster.errors import RpiclusterError
from rpicluster.model.machine import MachineFacts
from rpicluster.nodes.local.state import STATE_DIR_VARIABLE, state_root, write_file

_RECORD = "cluster.json"
# What is on a node, list by list: users, units, paths, ports and the like.
Inventory = dict[str, list[str]]
_RUNS_KEPT = 5


@dataclass(frozen=True)
class RemoteState:
    """The folder of one cluster behind SSH."""

    name: str
    directory: Path

    # -- who it is -------------------------------------------------------------------------------------

    def cluster_id(self) -> str | None:
        """Return the identity that this machine knows the cluster by, None before the first `up`."""
        return self._record().get("cluster_id")

    def laptop(self) -> str:
        """Return the name by which this state folder holds a lease; random, made once.

        Only the holder of the folder's lock takes leases under it, so a lease of that name which is there
        when the lock was free belongs to a command that was killed.
        """
        known = self._record().get("laptop")
        if known is None:
            known = secrets.token_hex(8)
            self.remember(laptop=known)
        return str(known)

    def remember(self, **facts: Any) -> None:
        """Keep facts about the cluster that are not in its cluster.yml."""
        record = self._record()
        if {**record, **facts} != record:
            text = json.dumps({"schema": 1, **record, **facts}, indent=1, sort_keys=True)
            write_file(self.directory / _RECORD, text.encode(), 0o600)

    def recall(self, key: str) -> Any:
        """Return a fact that was kept, None if there is none."""
        return self._record().get(key)

    def _record(self) -> dict[str, Any]:
        try:
            document = json.loads((self.directory / _RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # a cache: the nodes know better
            return {}
        return document if isinstance(document, dict) else {}

    # -- what was seen ---------------------------------------------------------------------------------

    def keep_facts(self, node: str, machine: MachineFacts) -> None:
        """Keep what was seen of a node, for when it cannot be asked."""
        path = self.directory / "facts" / f"{node}.json"
        text = machine.model_dump_json(exclude={"deployed", "manifest", "kernel_log", "listeners"})
        write_file(path, text.encode(), 0o600, durable=False)

    def known_facts(self, node: str) -> MachineFacts | None:
        """Return what was last seen of a node, None if it never was."""
        try:
            text = (self.directory / "facts" / f"{node}.json").read_text(encoding="utf-8")
            return MachineFacts.model_validate_json(text)
        except (OSError, ValueError):  # never seen, or by another version of rpicluster
            return None

    def forget_facts(self, node: str) -> None:
        """Forget a node that has left: if it comes back, it is a new one."""
        for folder in ("facts", "before"):
            (self.directory / folder / f"{node}.json").unlink(missing_ok=True)

    def keep_inventory(self, node: str, inventory: Inventory) -> None:
        """Keep what was on a node before the cluster came; the node's own copy goes with the cluster."""
        text = json.dumps({"schema": 1, "inventory": inventory})
        write_file(self.directory / "before" / f"{node}.json", text.encode(), 0o600)

    def known_inventory(self, node: str) -> Inventory | None:
        """Return the inventory that was kept of a node, None if there is none."""
        try:
            text = (self.directory / "before" / f"{node}.json").read_text(encoding="utf-8")
            found: Inventory = json.loads(text)["inventory"]
        except (OSError, ValueError, KeyError, TypeError):  # never kept, or by another version of rpicluster
            return None
        return found

    # -- what was done ---------------------------------------------------------------------------------

    def journal(self, what: str, **about: Any) -> None:
        """Add a line to the journal; it is on the disk when this returns."""
        line = json.dumps({"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "what": what, **about})
        path = self.directory / "journal.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode() + b"\n")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def new_run(self) -> Path:
        """Return the path of a fresh folder for one run of Ansible; the oldest ones are removed."""
        runs = self.directory / "runs"
        runs.mkdir(mode=0o700, exist_ok=True)
        for old in sorted(runs.iterdir())[: -_RUNS_KEPT + 1]:
            shutil.rmtree(old)
        return runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"

    def token_file(self, user: str) -> Path:
        """Return where the token of a user's session is kept."""
        return self.directory / f"token-{user}"

    @property
    def tunnel_key(self) -> Path:
        """The private key by which tunnels log in; made by the first `up`."""
        return self.directory / "tunnel-key"

    def remove(self) -> None:
        """Remove the folder with all it holds."""
        shutil.rmtree(self.directory)


def open_remote_state(name: str, *, root: Path | None = None) -> RemoteState:
    """Return the state of cluster `name`, made if it is new. Raises RpiclusterError if that cannot be."""
    directory = (root or state_root()) / "clusters" / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise RpiclusterError(
            f"cannot keep the state of cluster {name} in {directory}: {error.strerror}",
            hint=f"choose another folder with: export {STATE_DIR_VARIABLE}=…",
        ) from error
    return RemoteState(name, directory.resolve())
