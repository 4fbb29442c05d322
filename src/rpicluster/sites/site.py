"""The Protocol of a site: everything in which a local cluster and one behind SSH differ."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rpicluster.design.plan import Plan
from rpicluster.design.sizes import Sizes
from rpicluster.design.units import Rendered
from rpicluster.errors import RpiclusterError
from rpicluster.health.probes import UnitState
from rpicluster.model.facts import ClusterFacts, Placement
from rpicluster.model.spec import ClusterSpec
from rpicluster.sites.gateway import GatewayChoice

if TYPE_CHECKING:
    from rpicluster.nodes.runs.channel import Machine
    from rpicluster.runtime import store
    from rpicluster.services.connect.connection import Connection
    from rpicluster.services.transport import Transport

Report = Callable[[str, str, float], None]  # (part, what it does, share done 0–1)


class Site(Protocol):
    """Where a cluster stands. What it looks up it keeps; `forget` makes it look again."""

    spec: ClusterSpec

    @property
    def directory(self) -> Path:
        """The folder of the cluster's state on this machine."""
        ...

    @property
    def facts(self) -> ClusterFacts:
        """What was observed of the nodes, or declared where nobody could look yet."""
        ...

    @property
    def placement(self) -> Placement:
        """Where everything listens and keeps its files."""
        ...

    @property
    def gateway(self) -> GatewayChoice:
        """The sessions' gateway for sparklyr."""
        ...

    @property
    def hdfs_superuser(self) -> str:
        """Who may do everything in HDFS."""
        ...

    def check(self) -> None:
        """Raise RpiclusterError for what could never run here, before anything is fetched."""
        ...

    def forget(self) -> None:
        """Look again at the next question."""
        ...

    def plan(self, rendered: Rendered, sizes: Sizes, *, texts: bool = False) -> Plan:
        """Compare with what is there; changes nothing. With `texts`, files that change carry their text."""
        ...

    def changing(self, command: str) -> AbstractContextManager[None]:
        """Hold the right to change the cluster; raises LockHeld, which names the holder."""
        ...

    def carry_out(self, plan: Plan, rendered: Rendered, sizes: Sizes, *, report: Report) -> None:
        """Carry a plan out up to what must wait for HDFS. Raises RpiclusterError where nothing can go on."""
        ...

    def open_sessions(self) -> None:
        """Start the sessions that `carry_out` left; HDFS has their folders now."""
        ...

    def left_out(self) -> dict[str, RpiclusterError]:
        """Return the nodes that the last change did not reach, with the reason."""
        ...

    def start(self) -> None:
        """Start what was stopped or has crashed, as it was last applied, but the sessions."""
        ...

    def stop(self) -> None:
        """Stop every daemon."""
        ...

    def destroy(self, *, report: Report) -> list[str]:
        """Remove everything; return what is left all the same, in words."""
        ...

    def unit_states(self, deadline_s: float) -> Sequence[UnitState]:
        """Return every unit's state, within `deadline_s` and a little, whatever is dead."""
        ...

    def is_frozen(self, pid: int) -> bool:
        """Whether a process was stopped by a signal; False where that cannot be seen."""
        ...

    def session_report(self) -> dict[str, Any] | None:
        """Return what the session's keeper last wrote; None before it wrote anything."""
        ...

    def transport(self) -> "Transport":
        """Return how requests reach the daemons."""
        ...

    def open_door(self) -> None:
        """Make sure that the session's door can be reached."""
        ...

    def socks_port(self) -> int | None:
        """Return the port on 127.0.0.1 of the proxy that a browser needs; None where it needs none."""
        ...

    def connection(self, name: str, runtime: "store.Runtime | None") -> "Connection":
        """Return how programs reach the session."""
        ...

    def runs_machine(self) -> "Machine":
        """Return the manager as runs see it."""
        ...
