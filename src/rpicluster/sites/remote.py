"""A cluster on nodes behind SSH."""

import secrets
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpicluster.design import layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.plan import Observed, Plan, make_plan
from rpicluster.design.sizes import Sizes
from rpicluster.design.units import Rendered, RenderedFile
from rpicluster.errors import PartlyApplied, RpiclusterError, SudoRefused, Unreachable, UsageError
from rpicluster.health.probes import UnitState
from rpicluster.model.facts import ClusterFacts, Placement
from rpicluster.model.machine import MachineFacts
from rpicluster.model.ports import MANAGER_PORTS, SESSION_PORTS
from rpicluster.model.spec import ClusterSpec, SshTarget
from rpicluster.nodes.local.state import write_file
from rpicluster.nodes.lock import cluster_lock
from rpicluster.nodes.remote import members
from rpicluster.nodes.remote import observed as seen
from rpicluster.nodes.remote import placement as places
from rpicluster.nodes.remote.base import base_of
from rpicluster.nodes.remote.change import Change, Changed, Wanted, prepare_steps
from rpicluster.nodes.remote.lease import lease
from rpicluster.nodes.remote.manifest import owner_of
from rpicluster.nodes.remote.place import Look, RemotePlace, RemoteUnit
from rpicluster.nodes.remote.removal import take_away
from rpicluster.nodes.remote.state import open_remote_state
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.tunnel import LOOPBACK, Tunnel
from rpicluster.runtime import store
from rpicluster.sites.adoption import SPEC_ON_MANAGER
from rpicluster.sites.leaving import Daemons, Leaving, is_leaving
from rpicluster.sites.site import Report

if TYPE_CHECKING:
    from rpicluster.nodes.ssh.openssh import HostKey
    from rpicluster.services.connect.connection import Connection
    from rpicluster.services.transport import Transport

TRUST = "users of one cluster trust each other: containers run as the NodeManager's user"
AskPassword = Callable[[str], str]


@dataclass(frozen=True)
class CheckedNode:
    """One node, as `check` shows it; `state` is `ready`, `member`, `unreachable` or `refused`."""

    name: str
    address: str
    system: str
    memory_mib: int
    cores: int
    java: int | None
    state: str
    detail: str


class RemoteSite:
    """Nodes behind SSH; see `site.Site`."""

    def __init__(
        self, spec: ClusterSpec, *, config: Path | None = None, ask_password: AskPassword | None = None
    ) -> None:
        """Stand for the nodes of `spec`; nobody is asked yet.

        `config` is the OpenSSH configuration of nodes that name none. `ask_password` is asked once for the
        password of sudo, where a node wants one.
        """
        self._written = spec
        self.state = open_remote_state(spec.name)
        self.ask_password = ask_password
        self.may_reboot = False
        self._passwords: dict[str, str] = {}
        self._learnt: dict[str, HostKey] = {}
        self.place = RemotePlace(spec, self.state, OpenSsh(config=config), self._passwords)
        self._changed = Changed()
        self._change: Change | None = None

    # -- looking ---------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """The state folder."""
        return self.state.directory

    @cached_property
    def look(self) -> Look:
        """One look at all nodes. Raises HostKeyRefused, and SudoRefused where no password will do."""
        found = self.place.look(first_contact=True)
        self._learnt.update(found.new_host_keys)
        wanting = [
            name
            for name, machine in found.machines.items()
            if machine is not None and machine.privilege == "none" and name not in found.unreachable
        ]
        if wanting and self.ask_password is not None and not self._passwords:
            password = self.ask_password(", ".join(wanting))
            self._passwords.update(dict.fromkeys(wanting, password))
            found = self.place.look()
            refused = next((e for e in found.errors.values() if isinstance(e, SudoRefused)), None)
            if refused is not None:
                raise refused
        return found

    @property
    def new_host_keys(self) -> "dict[str, HostKey]":
        """Keys that were learnt in this look: show them."""
        return self._learnt

    def forget(self) -> None:
        """Look again at the next question."""
        for name in ("look", "facts", "placement", "spec", "leaving"):
            self.__dict__.pop(name, None)

    @property
    def manager(self) -> str:
        """Name of the manager."""
        return self._written.manager.name

    @cached_property
    def spec(self) -> ClusterSpec:
        """The spec, with the users that are there by default."""
        if self._written.users:
            return self._written
        known = self.state.recall("users")
        users = tuple(known) if known else places.session_users(self._written, self._machines[self.manager])
        return self._written.model_copy(update={"users": users})

    @property
    def _machines(self) -> dict[str, MachineFacts | None]:
        return self.look.machines

    @cached_property
    def facts(self) -> ClusterFacts:
        """What was observed, now or before, or what `hardware:` says."""
        return places.cluster_facts(self._written, self._machines)

    @cached_property
    def placement(self) -> Placement:
        """Where everything stands; for questions to a running cluster, as the last `up` left it."""
        known = self.state.recall("placement")
        if known is not None and "look" not in self.__dict__:
            placement = Placement.model_validate(known)
            wanted = [node.name for node in self._written.nodes]
            if set(placement.nodes) >= set(wanted):  # it may still have nodes that were taken out since
                return placement.model_copy(update={"nodes": {n: placement.nodes[n] for n in wanted}})
        return places.place_nodes(
            self.spec, self._machines, cluster_id=self._cluster_id(), login=self.spec.users[0]
        )

    def _cluster_id(self) -> str:
        machine = self._machines[self.manager]
        owner = owner_of(machine) if machine is not None else None
        if owner is not None and owner[0] == self._written.name:
            return owner[1]
        known = self.state.cluster_id()
        if known is None:
            known = secrets.token_hex(4)
            self.state.remember(cluster_id=known)
        return known

    @property
    def hdfs_superuser(self) -> str:
        """The NameNode's own login."""
        return layout.HDFS_USER

    @cached_property
    def leaving(self) -> Leaving:
        """Members of the cluster that the spec no longer names, or no longer as workers."""
        return Leaving(self._written, self.state, self.place.nodes, self._machines, self._daemons)

    def _daemons(self) -> Daemons:
        from rpicluster.services.namenode import NameNode
        from rpicluster.services.webhdfs import WebHdfs
        from rpicluster.services.yarn import Yarn

        transport, manager = self.transport(), self.placement.nodes[self.manager]
        hdfs = f"http://{manager.address}:{manager.ports['namenode_http']}"
        yarn = f"http://{manager.address}:{manager.ports['rm_http']}"
        return Daemons(
            NameNode(transport, hdfs),
            WebHdfs(transport, hdfs, self.hdfs_superuser),
            Yarn(transport, yarn, self.placement.login),
        )

    def check(self) -> None:
        """Raise where nothing could be done at all: the manager does not answer."""
        if self.manager in self.look.errors:
            raise self.look.errors[self.manager]

    # -- planning --------------------------------------------------------------------------------------

    def plan(self, rendered: Rendered, sizes: Sizes, *, texts: bool = False) -> Plan:
        """Compare with what is there; changes nothing."""
        found = make_plan(
            self._written.name, rendered, self._observed(rendered), warnings=self._warnings(sizes)
        )
        steps = prepare_steps(self._bases(sizes), self._machines, self._left_out)
        refusals = seen.refusals(
            {n: m for n, m in self._machines.items() if n not in self.look.unreachable},
            cluster=self._written.name,
            cluster_id=self.placement.cluster_id,
        )
        changes = self.place.with_texts(found.steps) if texts else found.steps
        leaves = self.leaving.steps()
        return replace(
            found,
            steps=(*leaves, *steps, *changes),
            refusals=(*found.refusals, *refusals, *self.leaving.refusals()),
        )

    def ssh_command(self, node: str, command: tuple[str, ...]) -> list[str]:
        """Return the ssh that logs in on a node, or runs a command there."""
        target = self.place.nodes.targets.get(node)
        if target is None:
            raise UsageError(
                f"no node is called {node!r}", hint="there are " + ", ".join(self.place.nodes.targets)
            )
        words = shlex.join(command) if command else ""
        return ["ssh", *self.place.nodes.ssh.where(target), "--", target.host, *([words] if words else [])]

    def _observed(self, rendered: Rendered) -> Observed:
        units: dict[str, tuple[str, ...]] = {}
        for unit in rendered.units:
            units[unit.node] = (*units.get(unit.node, ()), unit.name)
        return seen.observed(
            self._machines, self._left_out, units, manager=self.manager, file_system=self._file_system
        )

    @property
    def _left_out(self) -> dict[str, str]:
        """Why nodes get no steps; none, while the manager was never seen: it may not be bought yet."""
        return self.look.unreachable if self._machines[self.manager] is not None else {}

    def _warnings(self, sizes: Sizes) -> tuple[str, ...]:
        guessed = [n for n, machine in self._machines.items() if machine is None]
        notes = [*sizes.notes, TRUST]
        if guessed:
            notes.append(f"{', '.join(guessed)}: never seen, the plan assumes what `hardware:` says")
        if not self._left_out:
            notes += [f"{name} does not answer: {why}" for name, why in self.look.unreachable.items()]
        for name, machine in self._machines.items():
            wanted = places.java_home(machine) if machine else ""
            if machine is not None and "-21-" in wanted and not machine.java:
                notes.append(f"{name}: its system has no Java 17, Java 21 is installed")
        return tuple(notes)

    @property
    def _file_system(self) -> str:
        return f"rpicluster-{self.placement.cluster_id}"

    def _bases(self, sizes: Sizes) -> dict[str, Any]:
        inputs = Inputs.checked(self.spec, sizes, self.placement)
        return {node.name: base_of(inputs, node.name, self._machines[node.name]) for node in self.spec.nodes}

    def checked(self) -> list[CheckedNode]:
        """Return every node with what matters of it."""
        refusals = seen.refusals(
            self._machines, cluster=self._written.name, cluster_id=self.placement.cluster_id
        )
        return [self._checked(node.name, refusals) for node in self._written.nodes]

    def _checked(self, name: str, refusals: tuple[str, ...]) -> CheckedNode:
        machine, facts = self._machines[name], self.facts.nodes[name]
        reasons = [reason for reason in refusals if name in reason.partition(" ")[0]]
        state, detail = "ready", ""
        if name in self.look.errors:
            state, detail = "unreachable", self.look.errors[name].message
        elif reasons:
            state, detail = "refused", "; ".join(reasons)
        elif machine is not None and owner_of(machine) is not None:
            state = "member"
        return CheckedNode(
            name=name,
            address=self.placement.nodes[name].address,
            system=facts.os,
            memory_mib=facts.memory_mib,
            cores=facts.cores,
            java=facts.java_major,
            state=state,
            detail=detail,
        )

    # -- changing --------------------------------------------------------------------------------------

    @contextmanager
    def changing(self, command: str) -> Iterator[None]:
        """Hold the lock of this machine; the manager's is taken when something is to be changed."""
        with cluster_lock(self.directory, cluster=self._written.name, command=f"rpicluster {command}"):
            yield

    def carry_out(self, plan: Plan, rendered: Rendered, sizes: Sizes, *, report: Report) -> None:
        """Carry the plan out but for starting sessions; nodes that fail are left out, but not the manager."""
        self._changed = Changed()
        self.state.remember(users=list(self.spec.users), placement=self.placement.model_dump())
        if not plan.steps:
            return
        runtime = store.installed()
        if runtime is None:
            raise UsageError("the runtime is not in the cache", hint="rpicluster runtime fetch")
        staying = members.members_of(self.spec, self.placement)
        belonging = self.leaving.members(staying)
        members.remember(self.state, belonging)
        more = {**members.manifest_entry(belonging), "users": list(self.spec.users)}
        wanted = Wanted(
            cluster=self._written.name,
            rendered=rendered,
            placement=self.placement,
            bases=self._bases(sizes),
            file_system=self._file_system,
            runtime=runtime.path,
            may_reboot=self.may_reboot,
            manifest_more={self.manager: more},
        )
        self._change = Change(self.place.nodes, self.state, wanted, self._machines)
        with lease(self.place.nodes, self.manager, cluster=self._written.name, command="rpicluster up"):
            self.leaving.move_out(report=report)
            rest = replace(plan, steps=tuple(step for step in plan.steps if not is_leaving(step)))
            self._changed = self._change.carry_out(rest, report=report)
            if self.manager in self._changed.failed:
                raise self._changed.failed[self.manager]
            failed = self.leaving.clear(staying, report=report)
            self._changed.failed.update(failed)
            # The manifest is written once more, when sessions have started: who left must not come back.
            more.update(members.manifest_entry(self.leaving.remaining(staying, failed)))
            spec = (self.directory / "cluster.yml").read_bytes()
            members.place(self.place.nodes, self.manager, {SPEC_ON_MANAGER: RenderedFile(spec, 0o600)})
        self._let_in()

    def join(self, *, cluster_id: str, users: tuple[str, ...]) -> None:
        """Be a control machine, too, of a cluster that another one set up: remember it, be let in."""
        self.check()
        self.state.remember(cluster_id=cluster_id, **({"users": list(users)} if users else {}))
        self.state.remember(placement=self.placement.model_dump())
        members.remember(self.state, members.known_members(self.state, self._machines[self.manager]))
        self._let_in()

    def open_sessions(self) -> None:
        """Start the sessions that wait; HDFS has their folders now."""
        if self._change is not None and self._changed.sessions:
            self._change.start_sessions(self._changed.sessions)
        self._change = None

    def left_out(self) -> dict[str, RpiclusterError]:
        """Return the nodes that do not answer, or where the last change failed."""
        errors = self.look.errors if "look" in self.__dict__ else {}
        return {**errors, **self._changed.failed}

    def _let_in(self) -> None:
        """Make sure that this machine may tunnel, and that it has the sessions' tokens."""
        key = self.state.tunnel_key
        _make_key(key)
        paths = self.placement.nodes[self.manager].paths
        wanted = {
            "tunnel_keys": layout.tunnel_keys(paths),
            "key": key.with_name(key.name + ".pub").read_text().strip(),
            "tokens": {
                user: {"path": layout.token_file(paths, user), "token": secrets.token_urlsafe(32)}
                for user in self.spec.users
            },
        }
        answer = self.place.let_in(self.manager, wanted)
        for user, token in answer.items():
            write_file(self.state.token_file(user), token.encode() + b"\n", 0o600)

    # -- the whole cluster -----------------------------------------------------------------------------

    def start(self) -> None:
        """Start what was stopped, as it was last applied; sessions wait for HDFS by themselves."""
        self._complain(self.place.start(self.place.started_units(self.look)), "started")

    def stop(self) -> None:
        """Stop every daemon."""
        failed = self.place.stop(self.place.started_units(self.look))
        self.tunnel.close()
        self._complain(failed, "stopped")

    def _complain(self, failed: dict[str, RpiclusterError], what: str) -> None:
        errors = {**self.look.errors, **failed}
        if errors:
            first = next(iter(errors.values()))
            raise PartlyApplied(
                f"not {what}: " + "; ".join(e.message for e in errors.values()), hint=first.hint
            )

    def destroy(self, *, report: Report) -> list[str]:
        """Remove everything from every node, look what is left, and forget the cluster.

        Raises Unreachable, with nothing changed, when a node does not answer: it would keep its part.
        """
        if self.look.errors:
            first = next(iter(self.look.errors.values()))
            raise Unreachable(
                "nothing was removed, because not all nodes answer: "
                + "; ".join(self.look.unreachable.values()),
                hint=first.hint,
            )
        refused = seen.refusals(self._machines, cluster=self._written.name, cluster_id=self._cluster_id())
        if refused:
            raise UsageError("nothing was removed: " + "; ".join(refused))
        with (
            self.changing("destroy"),
            lease(self.place.nodes, self.manager, cluster=self._written.name, command="rpicluster destroy"),
        ):
            self.tunnel.close()
            left, failed = take_away(self.place.nodes, self.state, self._machines, report=report)
            left_too, failed_too = self.leaving.take_all_away(report=report)
        left, failed = {**left, **left_too}, {**failed, **failed_too}
        found = [f"{node}: {entry}" for node, entries in left.items() for entry in entries]
        found += [error.message for error in failed.values()]
        if not found:
            self.state.remove()
        return found

    # -- asking ----------------------------------------------------------------------------------------

    def unit_states(self, deadline_s: float) -> Sequence[UnitState]:
        """Ask systemd on every node; of one that does not answer, what its daemons say must do."""
        wanted = self._units_by_node()
        units, unreachable = self.place.statuses(wanted, deadline_s=deadline_s)
        silent = [
            RemoteUnit(node, unit, "unknown", None, why)
            for node, why in unreachable.items()
            for unit in wanted[node]
        ]
        return [*units, *silent]

    def _units_by_node(self) -> dict[str, tuple[str, ...]]:
        units = {}
        for name, placed in self.placement.nodes.items():
            daemons = [
                daemon
                for daemon, port in (
                    ("namenode", "namenode_rpc"),
                    ("resourcemanager", "rm_client"),
                    ("datanode", "datanode_data"),
                    ("nodemanager", "nm_rpc"),
                )
                if port in placed.ports
            ]
            sessions = [layout.session_unit(user) for user in self.spec.users] if name == self.manager else []
            units[name] = (*daemons, *sessions)
        return units

    def is_frozen(self, pid: int) -> bool:
        """Return False: what a node's process does is not seen from here."""
        return False

    def session_report(self) -> dict[str, Any] | None:
        """Read the keeper's file on the manager."""
        return self.place.session_report(self.placement.login)

    @cached_property
    def tunnel(self) -> Tunnel:
        """The one connection through which daemons are reached."""
        manager = self.place.nodes.targets[self.manager]
        target = SshTarget(
            host=manager.host, user=layout.TUNNEL_USER, port=manager.port, config=manager.config
        )
        return Tunnel(
            self.place.nodes.ssh,
            target,
            node=self.manager,
            record=self.directory / "tunnel.json",
            key=self.state.tunnel_key,
        )

    def transport(self) -> "Transport":
        """Return the way through the tunnel; redirects to nodes go through it, too."""
        from rpicluster.services.transport import Transport

        return Transport(resolve=self._through)

    def _through(self, host: str, port: int) -> tuple[str, int]:
        equal = {self._port(name): name for name in (*MANAGER_PORTS, *SESSION_PORTS)}
        is_manager = host == self.placement.nodes[self.manager].address
        wanted = port if is_manager and port in equal else None
        return LOOPBACK, self.tunnel.local_port(host, port, wanted=wanted)

    def _port(self, name: str) -> int:
        return self.placement.nodes[self.manager].ports[name]

    def open_door(self) -> None:
        """Have the session's door at 127.0.0.1, under its own number."""
        self.tunnel.local_port(LOOPBACK, self._port("connect"), wanted=self._port("connect"))

    def connection(self, name: str, runtime: store.Runtime | None) -> "Connection":
        """Return how programs reach the session."""
        from rpicluster.services.connect.connection import Connection

        if runtime is None:
            raise UsageError("the runtime is not in the cache", hint="rpicluster runtime fetch")
        login, manager = self.placement.login, self.placement.nodes[self.manager]
        return Connection(
            cluster=name,
            connect_port=manager.ports["connect"],
            token_file=str(self.state.token_file(login)),
            proto_path=str(runtime.path / "connect"),
            user=login,
            webhdfs=f"http://{manager.address}:{manager.ports['namenode_http']}",
            webhdfs_user=login,
            tunnelled=True,
        )


def _make_key(path: Path) -> None:
    """Make the key by which this machine tunnels, if there is none; it opens nothing else."""
    if path.exists():
        return
    try:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "rpicluster-tunnel", "-f", str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RpiclusterError(
            f"no key for the tunnel could be made in {path}: {error}", hint="is ssh-keygen installed?"
        ) from error
