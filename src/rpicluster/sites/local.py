"""A cluster on this machine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpicluster.design import layout
from rpicluster.design.plan import Plan, make_plan
from rpicluster.design.sizes import Sizes
from rpicluster.design.units import Rendered
from rpicluster.errors import RpiclusterError, UsageError
from rpicluster.health.probes import UnitState
from rpicluster.model.facts import ClusterFacts, Placement
from rpicluster.model.spec import ClusterSpec, Gateway
from rpicluster.nodes.local.facts import Java, cluster_facts, find_java
from rpicluster.nodes.local.placement import allocate, recorded
from rpicluster.nodes.local.processes import is_stopped
from rpicluster.nodes.local.state import ClusterState, open_state
from rpicluster.nodes.lock import cluster_lock
from rpicluster.runtime import sparklyr_jar, store
from rpicluster.sites.gateway import GatewayChoice, risk
from rpicluster.sites.site import Report

if TYPE_CHECKING:
    from rpicluster.nodes.local.engine import LocalPlace
    from rpicluster.nodes.runs.channel import Machine
    from rpicluster.services.connect.connection import Connection
    from rpicluster.services.transport import Transport


class LocalSite:
    """Virtual nodes on this machine; see `site.Site`."""

    def __init__(self, spec: ClusterSpec) -> None:
        """Stand for the virtual nodes of `spec`; nothing is looked up yet."""
        self.spec = spec

    @cached_property
    def state(self) -> ClusterState:
        """The local cluster's state folder."""
        return open_state(self.spec.name)

    @cached_property
    def java(self) -> Java:
        """The Java that daemons run on; raises LocalEngineError if there is none that will do."""
        return find_java(cache=self.state.directory / "java.json")

    @property
    def directory(self) -> Path:
        """The state folder."""
        return self.state.directory

    @cached_property
    def facts(self) -> ClusterFacts:
        """What this machine has."""
        return cluster_facts(self.spec, self.java, self.state.directory)

    @cached_property
    def placement(self) -> Placement:
        """Where everything listens: chosen once and kept."""
        return allocate(self.state, self.spec, java_home=self.java.home)

    @cached_property
    def gateway(self) -> GatewayChoice:
        """The sessions' gateway: only where cluster.yml says `on`. Raises SparklyrMissing."""
        if self.spec.sessions.sparklyr is not Gateway.ON:
            return GatewayChoice(None)
        port = self.placement.nodes[self.spec.manager.name].ports["sparklyr"]
        return GatewayChoice(sparklyr_jar.find(), (risk(self.placement.login, port),))

    @property
    def hdfs_superuser(self) -> str:
        """Who runs the daemons."""
        return self.placement.login

    @cached_property
    def place(self) -> "LocalPlace":
        """The local engine."""
        from rpicluster.nodes.local.engine import LocalPlace

        runtime = store.installed()
        return LocalPlace(self.state, self.placement, runtime.path if runtime else None)

    def check(self) -> None:
        """Raise LocalEngineError where there is no Java."""
        _ = self.java

    def forget(self) -> None:
        """Look again: the place may have been made without a runtime."""
        self.__dict__.pop("place", None)

    def plan(self, rendered: Rendered, sizes: Sizes, *, texts: bool = False) -> Plan:
        """Compare with what is there; texts are always at hand."""
        warnings = [*sizes.notes, *self.gateway.notes, *([self.java.warning] if self.java.warning else [])]
        return make_plan(self.spec.name, rendered, self.place.observe(), warnings=tuple(warnings))

    @contextmanager
    def changing(self, command: str) -> Iterator[None]:
        """Hold the state folder's lock."""
        with cluster_lock(self.directory, cluster=self.spec.name, command=f"rpicluster {command}"):
            yield

    def carry_out(self, plan: Plan, rendered: Rendered, sizes: Sizes, *, report: Report) -> None:
        """Carry out step by step; sessions are started with the daemons."""
        self._make_token()
        for number, step in enumerate(plan.steps):
            report("apply", f"{step.action.value} {step.target} on {step.node}", number / len(plan.steps))
            self.place.apply(step)
        report("apply", f"{len(plan.steps)} steps", 1.0)

    def open_sessions(self) -> None:
        """Do nothing: they run, and wait for HDFS by themselves."""

    def left_out(self) -> dict[str, RpiclusterError]:
        """Return nothing: there is one machine."""
        return {}

    def start(self) -> None:
        """Start what was stopped or has crashed."""
        self.place.start_all()

    def stop(self) -> None:
        """Stop every daemon."""
        self.place.stop_all()

    def destroy(self, *, report: Report) -> list[str]:
        """Stop everything and remove every file; return what is left."""
        from rpicluster.nodes.local.engine import LocalPlace

        placement = recorded(self.state)  # also of nodes that have left cluster.yml; needs no Java
        if placement is None:
            raise UsageError(f"{self.spec.name} was never brought up", hint="rpicluster up")
        place = LocalPlace(self.state, placement)
        with self.changing("destroy"):
            report("destroy", "stopping and removing", 0.0)
            place.destroy()
        report("destroy", "looking for what is left", 0.9)
        return place.leftovers()

    def unit_states(self, deadline_s: float) -> Sequence[UnitState]:
        """Return what supervisord says."""
        return self.place.statuses()

    def is_frozen(self, pid: int) -> bool:
        """Whether a process was stopped by a signal."""
        return is_stopped(pid)

    def session_report(self) -> dict[str, Any] | None:
        """Read the keeper's file."""
        from rpicluster.health.probes import read_session

        return read_session(self.placement, self.spec)

    def transport(self) -> "Transport":
        """Return the plain way: everything is on loopback."""
        from rpicluster.services.transport import Transport

        return Transport()

    def open_door(self) -> None:
        """Do nothing: it is on loopback."""

    def socks_port(self) -> int | None:
        """Return None: a browser of this machine reaches the daemons by itself."""
        return None

    def connection(self, name: str, runtime: store.Runtime | None) -> "Connection":
        """Return how programs reach the session, and tell housekeeping the same."""
        from rpicluster.services.connect.connection import Connection, SparklyrDoor

        manager = self.placement.nodes[self.spec.manager.name]
        login = self.placement.login
        connection = Connection(
            cluster=name,
            connect_port=manager.ports["connect"],
            token_file=layout.token_file(manager.paths, login),
            proto_path=f"{manager.paths.runtime}/connect",
            user=login,
            webhdfs=f"http://{manager.address}:{manager.ports['namenode_http']}",
            webhdfs_user=login,
            sleeps=self.spec.sessions.sleep_after_s is not None,
            sparklyr=SparklyrDoor.at(manager.ports["sparklyr"], self.gateway.jar.version)
            if self.gateway.jar is not None
            else None,
        )
        connection.save(Path(layout.connection_file(manager.paths, login)))
        return connection

    def runs_machine(self) -> "Machine":
        """Return this machine."""
        from rpicluster.nodes.runs.local import LocalMachine

        name = self.spec.manager.name
        return LocalMachine(name, self.placement.nodes[name].python)

    def _make_token(self) -> None:
        from rpicluster.session.connect_token import create_token

        token = Path(
            layout.token_file(self.placement.nodes[self.spec.manager.name].paths, self.placement.login)
        )
        if not token.exists():
            token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_token(token)
