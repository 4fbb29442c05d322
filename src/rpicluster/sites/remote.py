"""A cluster on nodes behind SSH."""

import secrets
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpicluster.design import batch, layout
from rpicluster.design.accounts import hdfs_directories
from rpicluster.design.inputs import Inputs
from rpicluster.design.plan import Plan
from rpicluster.design.sizes import Sizes
from rpicluster.design.sshd_files import SSHD
from rpicluster.design.units import Rendered, RenderedFile
from rpicluster.errors import (
    PartlyApplied,
    RpiclusterError,
    Unreachable,
    UsageError,
)
from rpicluster.health.probes import UnitState
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.local.state import write_file
from rpicluster.nodes.lock import cluster_lock
from rpicluster.nodes.remote import members
from rpicluster.nodes.remote import observed as seen
from rpicluster.nodes.remote.change import Change, Changed, Wanted, require_as_seen
from rpicluster.nodes.remote.lease import lease
from rpicluster.nodes.remote.place import RemoteUnit
from rpicluster.nodes.remote.r_work import RWork, is_r
from rpicluster.nodes.remote.removal import take_away
from rpicluster.runtime import store
from rpicluster.sites.adoption import SPEC_ON_MANAGER
from rpicluster.sites.gateway import Record
from rpicluster.sites.leaving import is_leaving
from rpicluster.sites.r_packages import RPackages
from rpicluster.sites.remote_look import AskPassword
from rpicluster.sites.remote_plan import RemotePlan
from rpicluster.sites.site import Report

if TYPE_CHECKING:
    from rpicluster.nodes.runs.channel import Machine
    from rpicluster.services.connect.connection import Connection

RUN_UNITS = layout.systemd_unit("run-*")  # systemctl takes a pattern for units that it has loaded


class RemoteSite(RemotePlan):
    """Nodes behind SSH; see `site.Site`."""

    def __init__(
        self, spec: ClusterSpec, *, config: Path | None = None, ask_password: AskPassword | None = None
    ) -> None:
        """Stand for the nodes of `spec`; see `RemoteLook`."""
        super().__init__(spec, config=config, ask_password=ask_password)
        self.may_reboot = False
        self._changed = Changed()
        self._change: Change | None = None

    # -- changing --------------------------------------------------------------------------------------

    @contextmanager
    def changing(self, command: str) -> Iterator[None]:
        """Hold the lock of this machine; the manager's is taken when something is to be changed."""
        with cluster_lock(self.directory, cluster=self._written.name, command=f"rpicluster {command}"):
            yield

    def carry_out(self, plan: Plan, rendered: Rendered, sizes: Sizes, *, report: Report) -> None:
        """Carry the plan out but for starting sessions; nodes that fail are left out, but not the manager."""
        self._changed = Changed()
        self.state.remember(
            users=list(self.spec.users),
            placement=self.placement.model_dump(),
            left_out=self._absent,
            sparklyr=self._gateway_document,
        )
        if not plan.steps:
            if not all(self.state.token_file(user).exists() for user in self.spec.users):
                self._let_in()  # nodes that somebody's Ansible made, from an export
            return
        wanted = self._wanted(rendered, sizes)
        staying = members.members_of(self.spec, self.placement)
        members.remember(self.state, self.leaving.members(staying))
        self._change = Change(self.place.nodes, self.state, wanted, self._machines)
        with self._lease("rpicluster up", when_lost=self._change.cancel.set):
            require_as_seen(self.place.nodes, self._machines, self.look.unreachable)
            r, failed = self._r_work(plan, report)
            self.state.remember(unproven=True)
            self.leaving.move_out(report=report)
            rest = replace(plan, steps=tuple(step for step in plan.steps if not is_leaving(step)))
            self._changed = self._change.carry_out(rest, report=report, r=r)
            self._changed.failed.update(failed)
            if any((step.node, step.target) == (self.manager, SSHD) for step in plan.steps):
                self.tunnel.close()  # its sshd goes on with the list of ports that it began with
            if self.manager in self._changed.failed:
                raise self._changed.failed[self.manager]
            self._changed.failed.update(self.leaving.clear(staying, report=report))
            spec = (self.directory / "cluster.yml").read_bytes()
            members.place(self.place.nodes, self.manager, {SPEC_ON_MANAGER: RenderedFile(spec, 0o600)})
        self._let_in()

    def _r_work(
        self, plan: Plan, report: Report
    ) -> tuple[Mapping[str, RWork], Mapping[str, RpiclusterError]]:
        """Return what nodes get of R, and errors by node; raises RPackageError before any is changed."""
        names = [step.node for step in plan.steps if is_r(step)]
        if not names:
            return {}, {}
        about = RPackages(self.place.nodes, self._machines, self._r_request)
        return about.work(names, report=report)

    def _r_of_export(self) -> Mapping[str, RWork]:
        """Return all that nodes get of R, whatever they have; only their apt is asked."""
        if self._r_request is None:
            return {}
        about = RPackages(self.place.nodes, self._machines, self._r_request)
        names = [node.name for node in self.spec.nodes]
        found, failed = about.work(names, report=lambda *_: None, whole=True)
        for error in failed.values():
            raise error
        return found

    def _wanted(self, rendered: Rendered, sizes: Sizes) -> Wanted:
        runtime = store.installed()
        if runtime is None:
            raise UsageError("the runtime is not in the cache", hint="rpicluster runtime fetch")
        belonging = self.leaving.members(members.members_of(self.spec, self.placement))
        return Wanted(
            cluster=self._written.name,
            rendered=rendered,
            placement=self.placement,
            bases=self._bases(sizes),
            file_system=self._file_system,
            runtime=runtime.path,
            may_reboot=self.may_reboot,
            manifest_more={
                self.manager: {
                    **members.manifest_entry(belonging),
                    "users": list(self.spec.users),
                    **({"sparklyr": gateway} if (gateway := self._gateway_document) else {}),
                }
            },
        )

    def export(self, folder: Path, rendered: Rendered, sizes: Sizes, *, replace: bool) -> Plan:
        """Write a folder with which Ansible alone makes the cluster; return what the plan is now."""
        from rpicluster.nodes.remote.export import Exporting, write_export

        plan = self.plan(rendered, sizes)
        if plan.refusals:
            raise UsageError("nothing was written: " + "; ".join(plan.refusals))
        if self.look.errors:
            first = next(iter(self.look.errors.values()))
            raise Unreachable(
                "nothing was written, because not all nodes answer: "
                + "; ".join(self.look.unreachable.values()),
                hint=first.hint,
            )
        self.state.remember(
            users=list(self.spec.users),
            placement=self.placement.model_dump(),
            sparklyr=self._gateway_document,
        )
        key = self.state.tunnel_key
        _make_key(key)
        about = Exporting(
            wanted=self._wanted(rendered, sizes),
            plan=plan,
            machines=self._machines,
            targets=self.place.nodes.targets,
            ssh_config=self.place.nodes.ssh.config,
            manager=self.manager,
            workers=len(self.spec.workers),
            users=self.spec.users,
            folders=hdfs_directories(Inputs.checked(self.spec, sizes, self.placement)),
            superuser=self.hdfs_superuser,
            r=self._r_of_export(),
            tunnel_key=key.with_name(key.name + ".pub").read_text().strip(),
            elsewhere=self.place.finder.places,
        )
        write_export(folder, about, replace=replace)
        return plan

    def join(self, *, cluster_id: str, users: tuple[str, ...]) -> None:
        """Be a control machine, too, of a cluster that another one set up: remember it, be let in."""
        self.check()
        self.state.remember(cluster_id=cluster_id, **({"users": list(users)} if users else {}))
        there = self._last_gateway
        self.state.remember(
            placement=self.placement.model_dump(), sparklyr=there.as_document() if there is not None else {}
        )
        members.remember(self.state, members.known_members(self.state, self._machines[self.manager]))
        self._let_in()

    def _lease(
        self, command: str, *, when_lost: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        return lease(
            self.place.nodes,
            self.manager,
            cluster=self._written.name,
            command=command,
            laptop=self.state.laptop(),
            when_lost=when_lost,
        )

    def proven(self) -> None:
        """Note that a job has run after the last change."""
        self.state.remember(unproven=False)
        self.state.journal("proven")

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
        """End the runs and stop every daemon."""
        self._end_runs()
        failed = self.place.stop(self.place.started_units(self.look))
        self.tunnel.end()
        self._complain(failed, "stopped")

    def _end_runs(self) -> None:
        """End the scripts that run on the manager; where it does not answer, they are not ours to end."""
        if self.manager not in self.look.errors:
            # By the first signal a run knows that it was asked, and that the manager does not shut down.
            ask = f"systemctl kill --kill-who=main --signal=SIGINT '{RUN_UNITS}'"
            ask += f" || true; systemctl stop '{RUN_UNITS}'"
            self.place.nodes.root(self.manager, ["sh", "-c", ask], deadline_s=batch.STOP_TIMEOUT_S + 20.0)

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
        silent = {name: e for name, e in self.look.errors.items() if self._machines[name] is not None}
        if silent or self.manager in self.look.errors:  # a node that was never seen has nothing of ours
            first = next(iter({**silent, **self.look.errors}.values()))
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
            self._lease("rpicluster destroy"),
        ):
            self._settle()
            self._end_runs()
            self.tunnel.end()
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
        disks = {
            name: placed.paths.disk.mount
            for name, placed in self.placement.nodes.items()
            if placed.paths.disk is not None
        }
        units, unreachable = self.place.statuses(wanted, disks=disks, deadline_s=deadline_s)
        silent = [
            RemoteUnit(node, unit, "unknown", None, why)
            for node, why in unreachable.items()
            for unit in wanted[node]
        ]
        return [*units, *silent]

    def seen_units(self) -> Sequence[UnitState]:
        """Return every unit's state as the look saw it, without asking again."""
        return self.place.seen_units(self._units_by_node(), self.look)

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

    def connection(self, name: str, runtime: store.Runtime | None) -> "Connection":
        """Return how programs reach the session."""
        from rpicluster.services.connect.connection import Connection, SparklyrDoor

        if runtime is None:
            raise UsageError("the runtime is not in the cache", hint="rpicluster runtime fetch")
        login, manager = self.placement.login, self.placement.nodes[self.manager]
        gateway = Record.of(self.state.recall("sparklyr"))
        return Connection(
            cluster=name,
            connect_port=manager.ports["connect"],
            token_file=str(self.state.token_file(login)),
            proto_path=str(runtime.path / "connect"),
            user=login,
            webhdfs=f"http://{manager.address}:{manager.ports['namenode_http']}",
            webhdfs_user=login,
            sleeps=self.spec.sessions.sleep_after_s is not None,
            tunnelled=True,
            sparklyr=SparklyrDoor.at(gateway.first_port, gateway.version) if gateway else None,
        )

    def runs_machine(self) -> "Machine":
        """Return the manager."""
        from rpicluster.nodes.runs.remote import RemoteMachine

        return RemoteMachine(self.place.nodes, self.manager, self.placement.login)


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
