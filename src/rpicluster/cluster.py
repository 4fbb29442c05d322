"""The facade: one cluster, from its spec to its answers. The command line and the demo call nothing else."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpicluster.design import layout
from rpicluster.design.accounts import hdfs_directories
from rpicluster.design.inputs import Inputs
from rpicluster.design.plan import Plan
from rpicluster.design.sizes import Sizes
from rpicluster.design.sizing import explain, size
from rpicluster.design.units import Rendered
from rpicluster.errors import (
    LocalEngineError,
    PartlyApplied,
    ServiceError,
    SizingRefused,
    SpecError,
    Unreachable,
    UsageError,
)
from rpicluster.health.status import DEADLINE_S
from rpicluster.model.facts import ClusterFacts, Placement
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.local.state import cluster_names, state_root, write_file
from rpicluster.runtime import store
from rpicluster.sites.local import LocalSite
from rpicluster.sites.readiness import (
    DAEMONS_TIMEOUT_S,
    PATIENCE_S,
    SESSION_TIMEOUT_S,
    Phases,
    first_missing,
    make_folders,
    prove,
)
from rpicluster.sites.site import Report
from rpicluster.sites.spec_file import SOURCE_FILE, SPEC_FILE, read_spec, spec_file

if TYPE_CHECKING:
    from rpicluster.health.doctor import Examination
    from rpicluster.health.findings.observation import ClusterObservation
    from rpicluster.health.probes import UnitState
    from rpicluster.health.status import Part, Status
    from rpicluster.nodes.ssh.openssh import HostKey
    from rpicluster.services.connect.connection import Connection
    from rpicluster.services.connect.session import ConnectSession
    from rpicluster.services.namenode import NameNode
    from rpicluster.services.spark_rest import SparkRest
    from rpicluster.services.transfer import Progress
    from rpicluster.services.transport import Transport
    from rpicluster.services.webhdfs import WebHdfs
    from rpicluster.services.yarn import Yarn
    from rpicluster.sites.batch import Runs
    from rpicluster.sites.doors import Doors
    from rpicluster.sites.remote import RemoteSite
    from rpicluster.sites.remote_plan import CheckedNode

SSH_CONFIG_FILE = "ssh_config"


@dataclass
class Cluster:
    """A cluster as its owner sees it; everything about it is looked up when it is first needed."""

    spec: ClusterSpec
    spec_path: Path
    ask_password: Callable[[str], str] | None = None  # for sudo, where nodes want one; asked once
    tell: Callable[[str], None] = lambda words: None  # why something takes long that otherwise does not

    # -- finding ---------------------------------------------------------------------------------------

    @classmethod
    def from_file(cls, path: Path) -> "Cluster":
        """Read a cluster.yml; raises SpecError."""
        return cls(read_spec(path), path)

    @classmethod
    def find(cls, which: str | None = None) -> "Cluster":
        """Return the cluster called `which`, a name or a path; without it ./cluster.yml, then the only one.

        Raises SpecError for a file that is none, UsageError if nothing or too much is found.
        """
        return cls.from_file(spec_file(which))

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.spec.name

    # -- what it should be -----------------------------------------------------------------------------

    @cached_property
    def site(self) -> "LocalSite | RemoteSite":
        """Where the cluster stands: this machine, or nodes behind SSH."""
        if self.spec.is_local:
            return LocalSite(self.spec)
        from rpicluster.sites.remote import RemoteSite  # SSH and Ansible: a tenth of a second

        beside = self.spec_path.absolute().parent / SSH_CONFIG_FILE
        config = beside if beside.is_file() else None
        return RemoteSite(self.spec, config=config, ask_password=self.ask_password)

    @property
    def facts(self) -> ClusterFacts:
        """What was observed of the nodes, or declared where nobody could look yet."""
        return self.site.facts

    @cached_property
    def sizes(self) -> Sizes:
        """Memory and cores for everything; raises SizingRefused."""
        facts = self.facts  # first: what the spec says of nodes that were never seen depends on the look
        return size(self.site.spec, facts)

    @property
    def placement(self) -> Placement:
        """Where everything listens and keeps its files."""
        return self.site.placement

    @cached_property
    def rendered(self) -> Rendered:
        """Every file and unit, as bytes."""
        from rpicluster.design.rendering import render

        keeper = {
            file.name: file.read_bytes()
            for file in files("rpicluster.session.keeper").iterdir()
            if file.name.endswith(".py")
        }
        sizes = self.sizes  # first: it looks, and the spec is that of those that take part
        runtime_id = store.locked_hash()[:16]  # its folder in the cache
        jar = self.site.gateway.jar
        try:
            return render(
                self.site.spec,
                sizes,
                self.placement,
                runtime_id,
                keeper_sources=keeper,
                sparklyr_jar=jar.content if jar is not None else None,
            )
        except ValueError as error:
            raise SpecError(f"{self.spec_path}: {error}") from error

    def explain(self) -> dict[str, list[tuple[str, int, str]]]:
        """Return the arithmetic of every node: (what, MiB, reason)."""
        return {
            node.name: [(line.label, line.memory_mib, line.reason) for line in node.lines]
            for node in explain(self.sizes)
        }

    def plan(self, *, texts: bool = False) -> Plan:
        """Compare with what is there; changes nothing. With `texts`, files that change carry their text."""
        return self.site.plan(self.rendered, self.sizes, texts=texts)

    @property
    def new_host_keys(self) -> "dict[str, HostKey]":
        """Host keys that were learnt by looking at the nodes just now."""
        return {} if isinstance(self.site, LocalSite) else self.site.new_host_keys

    @property
    def address_notes(self) -> tuple[str, ...]:
        """What to tell of nodes that have another address than cluster.yml says; none before a look."""
        return () if isinstance(self.site, LocalSite) else self.site.address_notes

    def check(self) -> "list[CheckedNode]":
        """Look at every node and say whether it can be one of the cluster; changes nothing."""
        if isinstance(self.site, LocalSite):
            raise UsageError(f"the nodes of {self.name} are virtual, on this machine", hint="rpicluster plan")
        _ = self.sizes
        return self.site.checked()

    def may_reboot(self, allowed: bool) -> None:
        """Say whether `apply` may reboot boards that need it."""
        if not isinstance(self.site, LocalSite):
            self.site.may_reboot = allowed

    def may_format(self, disks: tuple[str, ...]) -> None:
        """Name the disks that `apply` may format, by their names in /dev/disk/by-id; raises UsageError."""
        if not isinstance(self.site, LocalSite):
            self.site.formats = frozenset(disks)
        elif disks:
            raise UsageError(f"the nodes of {self.name} are virtual, on this machine: they have no disks")

    def ssh_command(self, node: str, command: tuple[str, ...]) -> list[str]:
        """Return the ssh that logs in on a node, or runs a command there; raises UsageError."""
        if isinstance(self.site, LocalSite):
            raise UsageError(f"the nodes of {self.name} are virtual, on this machine: there is no login")
        return self.site.ssh_command(node, command)

    # -- changing it -----------------------------------------------------------------------------------

    def changing(self, command: str) -> AbstractContextManager[None]:
        """Hold the cluster's lock; raises LockHeld, which names the holder."""
        return self.site.changing(command)

    def ensure_runtime(self, report: Callable[[store.Progress], None]) -> None:
        """Fetch the runtime if it is not there, after refusing what could never run."""
        self.site.check()
        _ = self.sizes
        store.ensure(report=report)
        if self.spec.is_local:
            self.site.forget()  # it was made without a runtime

    def apply(self, plan: Plan, *, report: Report, verify: bool = False) -> dict[str, float]:
        """Carry out a plan, then wait until the cluster answers; return seconds by phase.

        Behind SSH a small job proves two workers after every change, and with `verify`. Raises PartlyApplied,
        at the end, where nodes were left out.
        """
        phases = self._phases(report)
        self.remember()
        self.site.carry_out(plan, self.rendered, self.sizes, report=report)
        if plan.steps or self.spec.is_local or not self._all_answer(phases):
            self._wait(phases, without=frozenset(self.site.left_out()))
        if not isinstance(self.site, LocalSite) and (verify or plan.steps or self.site.is_unproven):
            self._prove(phases, report)
            self.site.proven()
        left_out = self.site.left_out()
        if left_out:
            raise PartlyApplied(
                f"the cluster runs without {', '.join(sorted(left_out))}: "
                + "; ".join(error.message for error in left_out.values()),
                hint=next(iter(left_out.values())).hint or "rpicluster up",
            )
        return phases.seconds

    def export_ansible(self, folder: Path, *, replace: bool = False) -> Plan:
        """Write a folder with which Ansible alone makes the cluster; return what differs now."""
        if isinstance(self.site, LocalSite):
            raise UsageError(f"the nodes of {self.name} are virtual, on this machine: Ansible reaches none")
        return self.site.export(folder, self.rendered, self.sizes, replace=replace)

    def start(self, *, report: Report) -> dict[str, float]:
        """Start what was stopped or has crashed, as it was last applied; return seconds by phase."""
        phases = self._phases(report)
        self._require_applied()
        self.site.start()
        self._wait(phases)
        return phases.seconds

    def stop(self, *, report: Report) -> None:
        """Stop every daemon."""
        self._require_applied()
        report("stop", "the session first, then YARN, then HDFS", 0.0)
        self.site.stop()
        report("stop", "stopped", 1.0)

    def destroy(self, *, report: Report) -> list[str]:
        """Stop everything and remove every file; return what is left all the same, in words."""
        return self.site.destroy(report=report)

    def _require_applied(self) -> None:
        if not (self.site.directory / SPEC_FILE).exists():
            raise UsageError(f"{self.name} was never brought up", hint="rpicluster up")

    def remember(self) -> None:
        """Keep in the state: cluster.yml, and where it was."""
        folder, source = self.site.directory, str(self.spec_path.absolute()).encode()
        for path, content in (
            (folder / SPEC_FILE, self.spec_path.read_bytes()),
            (folder / SOURCE_FILE, source),
        ):
            if not path.exists() or path.read_bytes() != content:
                write_file(path, content, 0o600)

    def _phases(self, report: Report) -> Phases:
        where = f"; logs are in {self.site.directory}/logs" if self.spec.is_local else ""
        hint = f"rpicluster status --cluster {self.name}{where}"
        return Phases(report, started=time.monotonic(), hint=hint)

    def _wait(self, phases: Phases, without: frozenset[str] = frozenset()) -> None:
        """Wait for HDFS and YARN, then for the session's first answer."""
        phases.wait(
            "daemons",
            "HDFS and YARN",
            lambda: first_missing(self._ask_parts(PATIENCE_S)[:-1], without),
            timeout_s=DAEMONS_TIMEOUT_S,
            said="HDFS out of safe mode and all NodeManagers running",
        )
        from rpicluster.services.webhdfs import WebHdfs

        superuser = self.site.hdfs_superuser
        hdfs = WebHdfs(self.transport, self._url("namenode_http"), superuser)
        make_folders(hdfs, hdfs_directories(Inputs(self.site.spec, self.sizes, self.placement)), superuser)
        self.site.open_sessions()
        connection = self.site.connection(self.name, store.installed())
        connection.save(self.connection_path)
        phases.wait(
            "session",
            "the warm session",
            self._session_missing,
            timeout_s=SESSION_TIMEOUT_S,
            said="first select 1 answered",
        )

    def _all_answer(self, phases: Phases) -> bool:
        """Ask every part once; what an `up` without changes needs to know."""
        units = self.site.seen_units() if not isinstance(self.site, LocalSite) else None
        if not self.connection_path.exists() or any(p.state != "ok" for p in self._ask_parts(units=units)):
            return False
        phases.note("nothing to change, every part answers")
        return True

    def _session_missing(self) -> str | None:
        part = self._ask_parts(PATIENCE_S)[-1]
        if part.state != "ok":
            return part.detail
        with self.session() as session:
            session.sql("select 1").rows()
        return None

    def _prove(self, phases: Phases, report: Report) -> None:
        workers = len([node for node in self.spec.workers if node.name not in self.site.left_out()])
        with self.session() as session:
            _, busy = prove(session, self.spark, workers=min(2, workers), report=report)
        phases.note(f"a job ran on {len(busy)} workers")

    # -- asking it -------------------------------------------------------------------------------------

    @property
    def login(self) -> str:
        """The user whose session this is."""
        return self.placement.login

    @cached_property
    def transport(self) -> "Transport":
        """How requests reach the daemons."""
        self._require_applied()
        return self.site.transport()

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
        return self.site.directory / "connection.json"

    @property
    def connection(self) -> "Connection":
        """Where the session is, in a script that `run` started its own; UsageError before the first `up`."""
        from rpicluster.services.connect.connection import VARIABLE, Connection

        if os.environ.get(VARIABLE) and os.environ.get("RPICLUSTER_UNIT", "").startswith(
            f"{self.placement.cluster_id}/"
        ):
            return Connection.load(Path(os.environ[VARIABLE]))
        return Connection.load(self.connection_path)

    def open_door(self) -> None:
        """Make sure that the session's door can be reached from this machine, and wake who sleeps behind it.

        Raises what opening a tunnel raises, and Unhealthy if the session does not wake.
        """
        self.site.open_door()
        if self.site.spec.sessions.sleep_after_s:
            from rpicluster.health.waking import wake

            door = self.connection
            wake(door.connect_host, door.connect_port, self.site.session_report, tell=self.tell)

    def doors(self) -> "Doors | None":
        """Return the doors that a tunnel holds open here; None where the session is on this machine."""
        if isinstance(self.site, LocalSite):
            return None
        self._require_applied()
        return self.site.doors(self.connection_path)

    def pages(self) -> tuple[dict[str, str], int | None]:
        """Return the daemons' pages by name, and the port of the SOCKS proxy that they are seen through.

        Without a proxy they are on this machine. Raises what opening a tunnel raises.
        """
        found = {
            "YARN": f"{self._url('rm_http')}/cluster",
            # The runtime has Hadoop's REST for HDFS, and not its HTML.
            "HDFS": f"{self._url('namenode_http')}/webhdfs/v1/?op=LISTSTATUS&user.name={self.login}",
            "Spark": f"{self._url('spark_ui')}/jobs/",
        }
        return found, self.site.socks_port()

    def session(self) -> "ConnectSession":
        """Return a new SQL session in the warm application; nothing is sent yet."""
        connection = self.connection
        self.open_door()
        return connection.session()

    def status(self) -> "Status":
        """Ask every part at once; answers within 2 s whatever is dead."""
        from rpicluster.health.status import Status

        self._require_applied()
        return Status(self.name, self._ask_parts())

    def _ask_parts(
        self, deadline_s: float = DEADLINE_S, *, units: "Sequence[UnitState] | None" = None
    ) -> "tuple[Part, ...]":
        """Ask every part; `units` are the processes' states where they were just seen."""
        from rpicluster.health.probes import ClusterProbes
        from rpicluster.health.status import Part, ask_all

        try:
            units = self.site.unit_states(deadline_s) if units is None else units
        except LocalEngineError as error:
            return (Part("supervisord", "this machine", "frozen", error.message),)
        probes = ClusterProbes(
            self.site.spec,
            self.placement,
            units,
            self.namenode,
            self.yarn,
            self.site.session_report,
            self.site.is_frozen,
        )
        return ask_all(probes.all(), deadline_s=deadline_s)

    def doctor(self) -> "Examination":
        """Look at every node and daemon, and return what is wrong with cause, evidence and fix."""
        from rpicluster.health import doctor

        was_up = (self.site.directory / SPEC_FILE).exists()
        ask = self._look_at_daemons if was_up else None
        if not isinstance(self.site, LocalSite):
            place = self.site.place
            return doctor.examine_nodes(self.spec, ssh=place.nodes.ssh, daemons=ask, find=place.finder.found)
        return doctor.examine_here(self.spec, self.site.directory, ask)

    def _look_at_daemons(self) -> "ClusterObservation":
        from rpicluster.health.looking import look_at_daemons

        token = [Path(self.connection.token_file)] if self.connection_path.exists() else []
        return look_at_daemons(
            self.spec,
            self.placement,
            namenode=self.namenode,
            yarn=self.yarn,
            parts=self._ask_parts(),
            private=token,
        )

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

    @property
    def runs(self) -> "Runs":
        """The scripts of this user that the manager runs by itself."""
        from rpicluster.design.batch import runs_directory
        from rpicluster.sites.batch import Runs

        self._require_applied()
        paths = self.placement.nodes[self.spec.manager.name].paths
        return Runs(
            self.site.runs_machine(),
            user=self.login,
            root=runs_directory(paths, self.login),
            state=self.site.directory,
            inputs=lambda: Inputs.checked(self.site.spec, self.sizes, self.placement),
            is_local=self.spec.is_local,
            sparklyr=lambda: door.version if (door := self.connection.sparklyr) is not None else "",
            too_small=self._too_small_for,
        )

    def _too_small_for(self, sessions: int) -> str:
        """Return why the nodes cannot hold so many drivers, "" if they can."""
        asked = self.site.spec.sessions.model_copy(update={"max": sessions})
        try:
            size(self.site.spec.model_copy(update={"sessions": asked}), self.facts)
        except SizingRefused as error:
            return error.message
        return ""

    def _url(self, port: str) -> str:
        manager = self.placement.nodes[self.spec.manager.name]
        return f"http://{manager.address}:{manager.ports[port]}"


def running_clusters() -> list[str]:
    """Return the names of this user's local clusters of which something runs."""
    running = []
    for name in cluster_names(state_root()):
        with contextlib.suppress(SpecError, UsageError, LocalEngineError):
            cluster = Cluster.find(name)
            if cluster.spec.is_local and any(
                unit.state == "running" for unit in cluster.site.unit_states(DEADLINE_S)
            ):
                running.append(name)
    return running
