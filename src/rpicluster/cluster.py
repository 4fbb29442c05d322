"""The facade: one cluster, from its spec to its answers. The command line and the demo call nothing else."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpicluster.design import layout
from rpicluster.design.plan import Observed, Plan, make_plan
from rpicluster.design.preview import assumed_facts, assumed_placement
from rpicluster.design.rendering import render
from rpicluster.design.sizes import Sizes
from rpicluster.design.sizing import explain, size
from rpicluster.design.units import Rendered
from rpicluster.errors import LocalEngineError, ServiceError, SpecError, Unreachable, UsageError
from rpicluster.model.facts import ClusterFacts, Placement
from rpicluster.model.spec import ClusterSpec
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.local.facts import Java, cluster_facts, find_java
from rpicluster.nodes.local.placement import allocate
from rpicluster.nodes.local.state import ClusterState, cluster_names, open_state, state_root, write_file
from rpicluster.nodes.lock import cluster_lock
from rpicluster.runtime import store

if TYPE_CHECKING:
    from rpicluster.health.doctor import Examination
    from rpicluster.health.status import Part, Status
    from rpicluster.nodes.local.engine import LocalPlace
    from rpicluster.services.connect.connection import Connection
    from rpicluster.services.connect.session import ConnectSession
    from rpicluster.services.namenode import NameNode
    from rpicluster.services.spark_rest import SparkRest
    from rpicluster.services.transfer import Progress
    from rpicluster.services.transport import Transport
    from rpicluster.services.webhdfs import WebHdfs
    from rpicluster.services.yarn import Yarn

SPEC_FILE = "cluster.yml"
SOURCE_FILE = "cluster.yml.path"
CLUSTER_VARIABLE = "RPICLUSTER_CLUSTER"
# A Pi with an SD card that starts everything at once needs minutes; a laptop seconds.
DAEMONS_TIMEOUT_S = 180.0
SESSION_TIMEOUT_S = 300.0
Report = Callable[[str, str, float], None]  # (part, what it does, share done 0–1)


@dataclass
class Cluster:
    """A cluster as its owner sees it; everything about it is looked up when it is first needed."""

    spec: ClusterSpec
    spec_path: Path

    # -- finding ---------------------------------------------------------------------------------------

    @classmethod
    def from_file(cls, path: Path) -> "Cluster":
        """Read a cluster.yml; raises SpecError."""
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise SpecError(f"{path} is no file", hint="rpicluster init")
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise SpecError(f"{path} does not exist", hint="rpicluster init") from None
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(f"{path} cannot be read: {error}") from error
        return cls(parse_spec(text, str(path)), path)

    @classmethod
    def find(cls, which: str | None = None) -> "Cluster":
        """Return the cluster called `which`, a name or a path; without it ./cluster.yml, then the only one.

        Raises SpecError for a file that is none, UsageError if nothing or too much is found.
        """
        which = which or (None if Path(SPEC_FILE).exists() else os.environ.get(CLUSTER_VARIABLE))
        if which is None and Path(SPEC_FILE).exists():
            return cls.from_file(Path(SPEC_FILE))
        known = cluster_names(state_root())
        if which is None:
            if len(known) == 1:
                return cls._by_name(known[0])
            raise UsageError(
                f"there is no {SPEC_FILE} here, and "
                + (f"several clusters: {', '.join(known)}" if known else "no cluster"),
                hint=f"rpicluster status --cluster {known[0]}" if known else "rpicluster init",
            )
        if "/" in which or which.endswith((".yml", ".yaml")):
            return cls.from_file(Path(which))
        if which in known:
            return cls._by_name(which)
        raise UsageError(
            f"no cluster is called {which!r}" + (f", known: {', '.join(known)}" if known else ""),
            hint="name a cluster.yml, or make one with `rpicluster init`",
        )

    @classmethod
    def _by_name(cls, name: str) -> "Cluster":
        folder = state_root() / "clusters" / name
        with contextlib.suppress(OSError):
            source = Path((folder / SOURCE_FILE).read_text(encoding="utf-8"))
            if source.exists():
                return cls.from_file(source)
        return cls.from_file(folder / SPEC_FILE)

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.spec.name

    # -- what it should be -----------------------------------------------------------------------------

    @cached_property
    def state(self) -> ClusterState:
        """The local cluster's state folder."""
        return open_state(self.name)

    @cached_property
    def java(self) -> Java:
        """The Java that daemons run on; raises LocalEngineError if there is none that will do."""
        return find_java(cache=self.state.directory / "java.json")

    @cached_property
    def facts(self) -> ClusterFacts:
        """What was observed of the nodes, or declared where nobody could look yet."""
        if not self.spec.is_local:
            return assumed_facts(self.spec)
        return cluster_facts(self.spec, self.java, self.state.directory)

    @cached_property
    def sizes(self) -> Sizes:
        """Memory and cores for everything; raises SizingRefused."""
        return size(self.spec, self.facts)

    @cached_property
    def placement(self) -> Placement:
        """Where everything listens and keeps its files."""
        if not self.spec.is_local:
            return assumed_placement(self.spec)
        return allocate(self.state, self.spec, java_home=self.java.home)

    @cached_property
    def rendered(self) -> Rendered:
        """Every file and unit, as bytes."""
        keeper = {
            file.name: file.read_bytes()
            for file in files("rpicluster.session.keeper").iterdir()
            if file.name.endswith(".py")
        }
        try:
            return render(self.spec, self.sizes, self.placement, _runtime_id(), keeper_sources=keeper)
        except ValueError as error:
            raise SpecError(f"{self.spec_path}: {error}") from error

    def explain(self) -> dict[str, list[tuple[str, int, str]]]:
        """Return the arithmetic of every node: (what, MiB, reason)."""
        return {
            node.name: [(line.label, line.memory_mib, line.reason) for line in node.lines]
            for node in explain(self.sizes)
        }

    def plan(self) -> Plan:
        """Compare with what is there; changes nothing."""
        observed = self.place.observe() if self.spec.is_local else Observed()
        warnings = self.sizes.notes
        if self.spec.is_local and self.java.warning:
            warnings = (*warnings, self.java.warning)
        if not self.spec.is_local:
            warnings = (
                *warnings,
                "these nodes were not looked at: the plan assumes what `hardware:` says of them",
                "users of one cluster trust each other: containers run as the NodeManager's user",
            )
        return make_plan(self.name, self.rendered, observed, warnings=tuple(warnings))

    # -- changing it -----------------------------------------------------------------------------------

    @cached_property
    def place(self) -> "LocalPlace":
        """Where the cluster stands. Raises UsageError for nodes behind SSH, which cannot be changed yet."""
        from rpicluster.nodes.local.engine import LocalPlace

        self._require_local()
        runtime = store.installed()
        return LocalPlace(self.state, self.placement, runtime.path if runtime else None)

    @contextlib.contextmanager
    def changing(self, command: str) -> Iterator[None]:
        """Hold the cluster's lock; raises LockHeld, which names the holder."""
        self._require_local()
        with cluster_lock(self.state.directory, cluster=self.name, command=f"rpicluster {command}"):
            yield

    def ensure_runtime(self, report: Callable[[store.Progress], None]) -> None:
        """Fetch the runtime if it is not there, after refusing what could never run."""
        _ = self.java, self.sizes
        store.ensure(report=report)
        self.__dict__.pop("place", None)  # it was made without a runtime

    def apply(self, plan: Plan, *, report: Report) -> dict[str, float]:
        """Carry out a plan, then wait until the cluster answers; return seconds by phase."""
        started = time.monotonic()
        self._remember()
        for number, step in enumerate(plan.steps):
            report("apply", f"{step.action.value} {step.target} on {step.node}", number / len(plan.steps))
            self.place.apply(step)
        report("apply", f"{len(plan.steps)} steps", 1.0)
        return self._wait(started, report)

    def start(self, *, report: Report) -> dict[str, float]:
        """Start what was stopped or has crashed, as it was last applied; return seconds by phase."""
        started = time.monotonic()
        self._require_applied()
        self.place.start_all()
        return self._wait(started, report)

    def stop(self, *, report: Report) -> None:
        """Stop every daemon."""
        self._require_applied()
        report("stop", "the session first, then YARN, then HDFS", 0.0)
        self.place.stop_all()
        report("stop", "stopped", 1.0)

    def destroy(self, *, report: Report) -> list[str]:
        """Stop everything and remove every file; return what is left all the same, in words."""
        from rpicluster.nodes.local.engine import LocalPlace
        from rpicluster.nodes.local.placement import recorded

        placement = recorded(self.state)  # also of nodes that have left cluster.yml; needs no Java
        if placement is None:
            raise UsageError(f"{self.name} was never brought up", hint="rpicluster up")
        place = LocalPlace(self.state, placement)
        with self.changing("destroy"):
            report("destroy", "stopping and removing", 0.0)
            place.destroy()
        report("destroy", "looking for what is left", 0.9)
        return place.leftovers()

    def _require_local(self) -> None:
        if not self.spec.is_local:
            raise UsageError(
                "nodes behind SSH can be planned, and not yet changed, by this version",
                hint="try a cluster on this machine first: rpicluster demo",
            )

    def _require_applied(self) -> None:
        if not (self.state.directory / SPEC_FILE).exists():
            raise UsageError(f"{self.name} was never brought up", hint="rpicluster up")

    def _remember(self) -> None:
        """Keep in the state: cluster.yml, where it was, the session's token and how to reach the session."""
        from rpicluster.services.connect.connection import Connection
        from rpicluster.session.connect_token import create_token

        folder = self.state.directory
        write_file(folder / SPEC_FILE, self.spec_path.read_bytes(), 0o600)
        write_file(folder / SOURCE_FILE, str(self.spec_path.absolute()).encode(), 0o600)
        manager = self.placement.nodes[self.spec.manager.name]
        token = Path(layout.token_file(manager.paths, self.login))
        if not token.exists():
            token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_token(token)
        connection = Connection(
            cluster=self.name,
            connect_port=manager.ports["connect"],
            token_file=str(token),
            proto_path=f"{manager.paths.runtime}/connect",
            user=self.login,
            webhdfs=self._url("namenode_http"),
            webhdfs_user=self.login,
        )
        connection.save(self.connection_path)
        connection.save(Path(layout.connection_file(manager.paths, self.login)))

    def _wait(self, started: float, report: Report) -> dict[str, float]:
        """Wait for HDFS and YARN, then for the session's first answer; return seconds since `started`."""
        from rpicluster.health.readiness import wait_for

        def phase(name: str, what: str, missing: Callable[[], str | None], timeout_s: float) -> float:
            wait_for(
                what,
                missing,
                timeout_s=timeout_s,
                report=lambda text: report(name, f"waiting: {text}", 0.0),
                hint=f"rpicluster status --cluster {self.name}; logs are in {self.state.directory}/logs",
            )
            report(name, what, 1.0)
            return time.monotonic() - started

        timings = {
            "HDFS out of safe mode and all NodeManagers running": phase(
                "daemons", "HDFS and YARN", self._daemons_missing, DAEMONS_TIMEOUT_S
            )
        }
        self._make_hdfs_folders()
        timings["first select 1 answered"] = phase(
            "session", "the warm session", self._session_missing, SESSION_TIMEOUT_S
        )
        return timings

    def _daemons_missing(self) -> str | None:
        parts = self._ask_parts()
        return next((f"{p.name} on {p.where}: {p.detail}" for p in parts[:-1] if p.state != "ok"), None)

    def _session_missing(self) -> str | None:
        part = self._ask_parts()[-1]
        if part.state != "ok":
            return part.detail
        with self.session() as session:
            session.sql("select 1").rows()
        return None

    def _make_hdfs_folders(self) -> None:
        """Make what Hadoop expects and nobody creates; safe to repeat."""
        for path, permission in (
            ("/tmp", "1777"),  # noqa: S108  in HDFS
            (layout.CONTAINER_LOGS, "1777"),
            ("/user", "755"),
            (layout.home(self.login), "700"),
            (layout.WAREHOUSE, "1777"),
            (f"{layout.WAREHOUSE}/default", "1777"),
        ):
            if not self.webhdfs.exists(path):
                self.webhdfs.mkdirs(path, permission=permission)

    # -- asking it -------------------------------------------------------------------------------------

    @property
    def login(self) -> str:
        """The user whose session this is."""
        return self.placement.login

    @cached_property
    def transport(self) -> "Transport":
        """How requests reach the daemons."""
        from rpicluster.services.transport import Transport

        self._require_applied()
        return Transport()

    @cached_property
    def webhdfs(self) -> "WebHdfs":
        """HDFS as this user sees it."""
        from rpicluster.services.webhdfs import WebHdfs

        return WebHdfs(self.transport, self._url("namenode_http"), self.login)

    @cached_property
    def namenode(self) -> "NameNode":
        """The NameNode's own numbers."""
        from rpicluster.services.namenode import NameNode

        return NameNode(self.transport, self._url("namenode_http"))

    @cached_property
    def yarn(self) -> "Yarn":
        """YARN as this user sees it."""
        from rpicluster.services.yarn import Yarn

        return Yarn(self.transport, self._url("rm_http"), self.login)

    @cached_property
    def spark(self) -> "SparkRest":
        """The warm session's own pages, as data."""
        from rpicluster.services.spark_rest import SparkRest

        return SparkRest(self.transport, self._url("spark_ui"))

    @property
    def connection_path(self) -> Path:
        """The file from which R and Python learn where the session is."""
        return self.state.directory / "connection.json"

    @property
    def connection(self) -> "Connection":
        """Where the session is; raises UsageError before the first `up`."""
        from rpicluster.services.connect.connection import Connection

        return Connection.load(self.connection_path)

    def session(self) -> "ConnectSession":
        """Return a new SQL session in the warm application; nothing is sent yet."""
        return self.connection.session()

    def status(self) -> "Status":
        """Ask every part at once; answers within 2 s whatever is dead."""
        from rpicluster.health.status import Status

        self._require_applied()
        return Status(self.name, self._ask_parts())

    def _ask_parts(self) -> "tuple[Part, ...]":
        from rpicluster.health.probes import ClusterProbes
        from rpicluster.health.status import Part, ask_all

        try:
            units = self.place.statuses()
        except LocalEngineError as error:
            return (Part("supervisord", "this machine", "frozen", error.message),)
        probes = ClusterProbes(self.spec, self.placement, units, self.namenode, self.yarn)
        return ask_all(probes.all())

    def doctor(self) -> "Examination":
        """Look at every node and daemon, and return what is wrong with cause, evidence and fix."""
        from rpicluster.health import doctor, looking

        if not self.spec.is_local:
            return doctor.examine_nodes(self.spec)
        if not (self.state.directory / SPEC_FILE).exists():
            return doctor.examine_here(self.spec, self.state.directory, None)
        token = Path(layout.token_file(self.placement.nodes[self.spec.manager.name].paths, self.login))
        look = partial(looking.look_at_daemons, self.spec, self.placement, private=[token])
        ask = partial(look, namenode=self.namenode, yarn=self.yarn, parts=self._ask_parts())
        return doctor.examine_here(self.spec, self.state.directory, ask)

    def check_door(self) -> dict[str, Any]:
        """Ask the session's door; return Spark's version, the application and how long the answer took."""
        with self.session() as session:
            started = time.monotonic()
            session.sql("select 1").rows()
            took = time.monotonic() - started
            return {"spark_version": session.version(), "application": session.app_id(), "answer_s": took}

    def busy_nodes(self) -> list[str]:
        """Return the names of the nodes that run tasks of the session now; none if Spark does not say."""
        names = {placed.address: name for name, placed in self.placement.nodes.items()}
        try:
            executors = self.spark.executors(self.spark.application().id)
        except (ServiceError, Unreachable):
            return []
        return sorted({names.get(e.node, e.node) for e in executors if e.active_tasks and not e.is_driver})

    def hdfs_path(self, path: str, *, default_name: str | None = None) -> str:
        """Return the absolute path for what a user typed: relative to the home; a folder gets the name."""
        absolute = self.webhdfs.absolute(path)
        if default_name is not None and (path == "" or path.endswith("/")):
            return self.webhdfs.absolute(f"{absolute}/{default_name}")
        return absolute

    def put(self, local: Path, remote: str, *, overwrite: bool, progress: "Progress") -> int:
        """Copy a file or folder to HDFS; return its bytes."""
        put = self.webhdfs.put_tree if local.is_dir() else self.webhdfs.put
        return put(local, remote, overwrite=overwrite, progress=progress).bytes

    def job_logs(self, application: str) -> str:
        """Return what an application has logged, as text."""
        from rpicluster.services.joblogs import application_logs, as_text

        logs = application_logs(self.yarn, self.webhdfs, application, directory=layout.CONTAINER_LOGS)
        return as_text(logs)

    def _url(self, port: str) -> str:
        manager = self.placement.nodes[self.spec.manager.name]
        return f"http://{manager.address}:{manager.ports[port]}"


def _runtime_id() -> str:
    return store.locked_hash()[:16]  # the name of its folder in the cache


def running_clusters() -> list[str]:
    """Return the names of this user's local clusters of which something runs."""
    running = []
    for name in cluster_names(state_root()):
        with contextlib.suppress(SpecError, UsageError, LocalEngineError):
            if any(unit.state == "running" for unit in Cluster.find(name).place.statuses()):
                running.append(name)
    return running
