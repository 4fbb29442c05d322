"""What is seen of nodes behind SSH, and the one connection to them."""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rpicluster.design import layout
from rpicluster.design.preview import PATHS
from rpicluster.design.storage import Choice
from rpicluster.errors import (
    LoginRefused,
    NodeUnreachable,
    SudoRefused,
)
from rpicluster.model.facts import ClusterFacts, Placement
from rpicluster.model.machine import MachineFacts
from rpicluster.model.ports import LOOPBACK, MANAGER_PORTS, SESSION_PORTS
from rpicluster.model.spec import ClusterSpec, Gateway, SshTarget
from rpicluster.nodes.gateway_ports import LEAST_USERS, free_block
from rpicluster.nodes.remote import observed as seen
from rpicluster.nodes.remote import placement as places
from rpicluster.nodes.remote.change import settle
from rpicluster.nodes.remote.manifest import owner_of
from rpicluster.nodes.remote.place import Look, RemotePlace
from rpicluster.nodes.remote.state import open_remote_state
from rpicluster.nodes.remote.storage import choices, require_named
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.tunnel import Tunnel
from rpicluster.runtime import sparklyr_jar
from rpicluster.sites.doors import Doors
from rpicluster.sites.gateway import GatewayChoice, Record, choose, where_it_fits
from rpicluster.sites.leaving import Daemons, Leaving

if TYPE_CHECKING:
    from rpicluster.nodes.ssh.openssh import HostKey
    from rpicluster.services.transport import Transport

AskPassword = Callable[[str], str]


class RemoteLook:
    """Nodes behind SSH as they are, and the way to their daemons; what was seen is kept until `forget`."""

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
        self._passwords: dict[str, str] = {}
        self._learnt: dict[str, HostKey] = {}
        self.formats: frozenset[str] = frozenset()  # disks that may be formatted, typed by name
        self.place = RemotePlace(spec, self.state, OpenSsh(config=config), self._passwords)

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
        self.__dict__.pop("spec", None)  # who takes part may be known only now
        return found

    @property
    def new_host_keys(self) -> "dict[str, HostKey]":
        """Keys that were learnt in this look: show them."""
        return self._learnt

    @property
    def address_notes(self) -> tuple[str, ...]:
        """What to tell of nodes that are not where cluster.yml says, and of those that were looked for."""
        return self.place.finder.notes()

    def forget(self) -> None:
        """Look again at the next question."""
        for name in ("look", "facts", "placement", "spec", "leaving", "storage", "gateway"):
            self.__dict__.pop(name, None)

    @property
    def manager(self) -> str:
        """Name of the manager."""
        return self._written.manager.name

    @cached_property
    def spec(self) -> ClusterSpec:
        """The spec of those that take part, with the users that are there by default."""
        spec = self._taking_part
        sessions = spec.sessions.model_copy(update={"sparklyr": self._gateway_setting})
        spec = spec.model_copy(update={"sessions": sessions})
        if spec.users:
            return spec
        known = self.state.recall("users")
        users = tuple(known) if known else places.session_users(spec, self._machines[self.manager])
        return spec.model_copy(update={"users": users})

    @property
    def _gateway_setting(self) -> Gateway:
        """Whether sessions have sparklyr's gateway; for questions to a running cluster, as it was set up."""
        if "look" not in self.__dict__:
            return Gateway.ON if Record.of(self.state.recall("sparklyr")) else Gateway.OFF
        return self.gateway.setting

    @cached_property
    def gateway(self) -> GatewayChoice:
        """The gateway of the sessions. Raises what `choose` raises where it must be."""
        r = self._written.r
        choice = choose(
            self._written.sessions.sparklyr,
            self._last_gateway,
            find=sparklyr_jar.find,
            bring=self._bring_jar,
            fetch=partial(sparklyr_jar.from_repository, r.repository) if r and r.repository else None,
        )
        return where_it_fits(choice, self._taking_part, self.facts)

    @property
    def _last_gateway(self) -> Record | None:
        """What the manager has, as it says itself, else as this machine remembers."""
        machine = self._machines[self.manager]
        extra = machine.manifest.extra if machine is not None and machine.manifest is not None else {}
        return Record.of(extra.get("sparklyr")) or Record.of(self.state.recall("sparklyr"))

    def _bring_jar(self, last: Record) -> sparklyr_jar.SparklyrJar | None:
        """Return the gateway's program as this machine keeps it, else as it stands on the manager."""
        found = sparklyr_jar.kept(last.version, last.sha256)
        if found is not None or self.manager in self.look.errors:
            return found
        path = f"{PATHS.conf}/{layout.SPARKLYR_JAR}"
        answer = self.place.nodes.ssh.run(
            self.place.nodes.targets[self.manager], ["cat", path], node=self.manager, deadline_s=30.0
        )
        if hashlib.sha256(answer.stdout).hexdigest() != last.sha256:
            return None
        return sparklyr_jar.keep(last.version, answer.stdout)

    @property
    def _gateway_document(self) -> Mapping[str, Any]:
        """What is remembered of the gateway, as a document; empty without one."""
        record = self._gateway_record
        return record.as_document() if record is not None else {}

    @property
    def _gateway_record(self) -> Record | None:
        """What is to be remembered of the gateway; None without one."""
        jar = self.gateway.jar
        if jar is None:
            return None
        last = self._last_gateway
        if last is not None:
            return Record(last.first_port, jar.version, jar.sha256)
        users = max(LEAST_USERS, len(self.spec.users))
        first = free_block(self.directory.parent, self._written.name, users=users)
        return Record(first, jar.version, jar.sha256)

    @property
    def _taking_part(self) -> ClusterSpec:
        """The spec without workers that nobody has ever seen; they join when an `up` first reaches them."""
        if "look" not in self.__dict__:
            # Questions to a running cluster need no look: who took part in the last `up` is known.
            absent = set(self.state.recall("left_out") or ())
            names = [node.name for node in self._written.nodes if node.hardware is None]
            if all(name in absent or self.state.known_facts(name) is not None for name in names):
                kept = [node for node in self._written.nodes if node.name not in absent]
                return self._written.model_copy(update={"nodes": tuple(kept)})
        return places.without_unseen(self._written, self._machines)

    @property
    def _absent(self) -> list[str]:
        """Nodes that take no part, because they were never seen."""
        taking_part = {node.name for node in self._taking_part.nodes}
        return [node.name for node in self._written.nodes if node.name not in taking_part]

    @property
    def _machines(self) -> dict[str, MachineFacts | None]:
        return self.look.machines

    @cached_property
    def facts(self) -> ClusterFacts:
        """What was observed, now or before, or what `hardware:` says.

        Raises why a node that is there does not let us see it (one that is off may be planned all the same),
        and UsageError where two entries are one machine.
        """
        seen.require_apart(self._machines)
        errors, spec = self.look.errors, self._taking_part
        for node in spec.nodes:
            error = errors.get(node.name)
            is_off = isinstance(error, NodeUnreachable) and not isinstance(error, LoginRefused)
            if error is not None and not is_off and self._machines[node.name] is None:
                raise error
        return places.cluster_facts(spec, self._machines)

    @cached_property
    def placement(self) -> Placement:
        """Where everything stands; for questions to a running cluster, as the last `up` left it."""
        known = self.state.recall("placement")
        if known is not None and "look" not in self.__dict__:
            placement = Placement.model_validate(known)
            wanted = [node.name for node in self._taking_part.nodes]
            if set(placement.nodes) >= set(wanted):  # it may still have nodes that were taken out since
                return placement.model_copy(update={"nodes": {n: placement.nodes[n] for n in wanted}})
        placement = places.place_nodes(
            self.spec,
            self._machines,
            cluster_id=self._cluster_id(),
            login=self.spec.users[0],
            storage=self.storage,
            reached=self.place.finder.reached,
        )
        gateway = self._gateway_record
        if gateway is None:
            return placement
        manager = placement.nodes[self.manager]
        placed = manager.model_copy(update={"ports": {**manager.ports, "sparklyr": gateway.first_port}})
        return placement.model_copy(update={"nodes": {**placement.nodes, self.manager: placed}})

    @cached_property
    def storage(self) -> dict[str, Choice]:
        """Where the data of every node go, or are; UsageError for a disk to format that is not named."""
        require_named(self._written, self.formats)
        return choices(
            self.spec,
            self._machines,
            self.look.unreachable,
            recorded=self.state.recall("placement"),
            cluster_id=self._cluster_id(),
            formats=self.formats,
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
        """Raise where nothing could be done at all: the manager does not answer.

        After an `up` that was broken off, wait until nothing of it is at work on the nodes.
        """
        if self.manager in self.look.errors:
            raise self.look.errors[self.manager]
        self._settle()

    def _settle(self) -> None:
        if self.is_unproven:
            settle(self.place.nodes, [node for node in self._machines if node not in self.look.unreachable])
            self.forget()  # what was seen may be from before its end

    @property
    def is_unproven(self) -> bool:
        """Whether a change was begun after which no job has run yet: an `up` that was broken off."""
        return bool(self.state.recall("unproven"))

    # -- reaching --------------------------------------------------------------------------------------

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

    def doors(self, document: Path) -> Doors:
        """Return the doors that a connection document names, to be opened, kept and closed."""
        return Doors(self.tunnel, self.placement.nodes[self.manager], document)

    def open_door(self) -> None:
        """Have the session's door at 127.0.0.1, under its own number."""
        self.tunnel.local_port(LOOPBACK, self._port("connect"), wanted=self._port("connect"))

    def socks_port(self) -> int | None:
        """Return the port of a SOCKS proxy through the tunnel; it leads to the cluster's pages alone."""
        return self.tunnel.socks_port()
