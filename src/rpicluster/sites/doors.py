"""The ways from this machine into a cluster behind SSH, as R, Python and a browser need them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpicluster.errors import UsageError
from rpicluster.model.facts import NodePlacement
from rpicluster.model.ports import LOOPBACK
from rpicluster.nodes.ssh.forwards import Forward, sparklyr_forwards
from rpicluster.nodes.ssh.keeping import Kept
from rpicluster.nodes.ssh.tunnel import Tunnel

# What requests ask for under its own number (RemoteLook._through), and a browser may, too.
_PAGES = {"HDFS": "namenode_http", "YARN": "rm_http", "Spark's page": "spark_ui"}


@dataclass(frozen=True)
class Way:
    """One port of this machine: `state` is open, closed, or taken (by another program)."""

    name: str
    local: int
    leads_to: str
    state: str


@dataclass(frozen=True)
class DoorsState:
    """What is open. `kept`: a process of ours holds it; else a command may have opened the connection."""

    kept: bool
    open: bool
    ways: tuple[Way, ...] = ()
    told: Kept | None = None

    def document(self, now: float) -> dict[str, Any]:
        """Return it as JSON-able values; `now` is in seconds of the epoch."""
        told = self.told
        about: dict[str, Any] = {}
        if told is not None:
            about = {
                "state": told.state,
                "for_s": round(max(0.0, now - told.since), 1),
                "reopened": max(0, told.opened - 1),
                "last_outage_s": told.lost_s,
                "why": told.why,
                "keeper_pid": told.pid,
                "ssh_pid": told.ssh_pid,
            }
        ways = [
            {"name": w.name, "port": w.local, "leads_to": w.leads_to, "state": w.state} for w in self.ways
        ]
        return {"kept": self.kept, "open": self.open, **about, "ways": ways}


class Doors:
    """The doors of one cluster behind SSH; `document` is its connection.json."""

    def __init__(self, tunnel: Tunnel, manager: NodePlacement, document: Path) -> None:
        """Prepare; nothing is opened or read yet."""
        self._tunnel = tunnel
        self._manager = manager
        self._document = document

    @property
    def forwards(self) -> tuple[Forward, ...]:
        """What is to be open; raises UsageError before the first `up`."""
        try:
            document = json.loads(self._document.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UsageError(f"{self._document} does not exist", hint="rpicluster up") from error
        except (OSError, ValueError) as error:
            raise UsageError(f"{self._document} cannot be read: {error}", hint="rpicluster up") from error
        return doors_of(self._manager, document)

    def keep(self) -> DoorsState:
        """Have a process of our own hold them open, beyond this command; raises as `Tunnel.keep` does."""
        self._tunnel.keep(self.forwards)
        return self.state()

    def state(self) -> DoorsState:
        """Return what is open; nothing is changed. Raises why a keeper gave up, if one did."""
        told, job = self._tunnel.told(), self._tunnel.job()
        refusal = self._tunnel.refusal()
        if refusal is not None:
            raise refusal
        if told is None or job is None:
            return DoorsState(kept=False, open=self._tunnel.is_open)
        is_open = told.state == "open"
        ways = tuple(
            Way(
                forward.name,
                forward.local,
                forward.leads_to,
                "taken" if forward.local in told.missing else "open" if is_open else "closed",
            )
            for forward in job.forwards
        )
        return DoorsState(kept=True, open=is_open, ways=ways, told=told)

    def close(self) -> bool:
        """Close them all; return whether anything was open."""
        return self._tunnel.end()

    def command(self) -> str:
        """Return a line for a shell that opens the same by ssh alone."""
        return self._tunnel.command(self.forwards)


def doors_of(manager: NodePlacement, document: Mapping[str, Any]) -> tuple[Forward, ...]:
    """Return the forwards for a manager and its connection document; pure.

    The session's doors are required with equal numbers: Spark's own clients and sparklyr connect to what
    they are told. Pages are seen through the proxy, too. Raises UsageError for a document that is none.
    """
    try:
        connect = int(document["connect_port"])
        found = [Forward("Spark Connect", connect, LOOPBACK, connect, required=True)]
        gateway = document.get("sparklyr")
        if gateway is not None:
            found += sparklyr_forwards(int(gateway["port"]), int(gateway["last_port"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the connection document is of another version: {error!r}", hint="rpicluster up"
        ) from error
    for name, key in _PAGES.items():
        port = manager.ports[key]
        found.append(Forward(name, port, manager.address, port))
    return tuple(found)
