"""What rendering works from: one cluster's spec, sizes and placement, with the questions that files ask."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from rpicluster.design import layout
from rpicluster.design.sizes import NodeSizes, Sizes
from rpicluster.model.facts import NodePaths, NodePlacement, Placement
from rpicluster.model.ports import EXECUTOR_PORT, LOOPBACK, SPARKLYR_PORT, SPARKLYR_PORTS
from rpicluster.model.spec import ClusterSpec, Gateway, NodeSpec, Role

_T = TypeVar("_T")
_SESSION_STRIDE = 10
_EXECUTOR_PORTS_MIN, _EXECUTOR_PORTS_MAX = 16, 200


@dataclass(frozen=True)
class Inputs:
    """A cluster as the renderers see it. Construct with `Inputs.checked`, which refuses what cannot work."""

    spec: ClusterSpec
    sizes: Sizes
    placement: Placement
    _answers: dict[Callable[..., Any], Any] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @classmethod
    def checked(cls, spec: ClusterSpec, sizes: Sizes, placement: Placement) -> "Inputs":
        """Return the inputs; raises ValueError, naming the node, when they do not fit together."""
        inputs = cls(spec, sizes, placement)
        for node in spec.nodes:
            if node.name not in placement.nodes or node.name not in sizes.nodes:
                raise ValueError(f"node {node.name!r} has no placement or no sizes")
            if not spec.is_local and not inputs.paths(node.name).per_unit:
                raise ValueError(f"node {node.name!r}: paths on a real node need per_unit, see NodePaths")
        runtimes = {inputs.paths(node.name).runtime for node in spec.nodes}
        if len(runtimes) != 1:
            # spark.yarn.jars=local:… is one path for all nodes.
            raise ValueError(f"the runtime must have the same path on every node, not {sorted(runtimes)}")
        sources = Counter(inputs.datanode_source(name) for name in inputs.workers)
        for source, count in sources.items():
            if count > 1:
                raise ValueError(
                    f"two DataNodes reach the NameNode as {source}; on one machine `datanode_data` must "
                    "differ"
                )
        if not spec.is_local:
            for user in sorted(
                {
                    "root",
                    layout.HDFS_USER,
                    layout.YARN_USER,
                    layout.TUNNEL_USER,
                    layout.BUILD_USER,
                }.intersection(spec.users)
            ):
                raise ValueError(f"users: {user!r} cannot have a session: that login is not a person's")
        if len(inputs.users) > sizes.sessions_max:
            raise ValueError(
                f"{len(inputs.users)} users want a session each, and {inputs.manager} holds "
                f"{sizes.sessions_max}"
            )
        return inputs

    def once(self, question: "Callable[[Inputs], _T]") -> _T:
        """Return `question(self)`, worked out the first time: for what is the same on every node."""
        if question not in self._answers:
            self._answers[question] = question(self)
        answer: _T = self._answers[question]
        return answer

    @cached_property
    def manager(self) -> str:
        """Name of the manager."""
        return self.spec.manager.name

    @cached_property
    def workers(self) -> tuple[str, ...]:
        """Names of the workers, in the order of the file."""
        return tuple(node.name for node in self.spec.workers)

    @property
    def users(self) -> tuple[str, ...]:
        """Who has a session: `users:`, or on a local cluster the one who runs it."""
        return (self.placement.login,) if self.spec.is_local else self.spec.users

    @property
    def runtime(self) -> str:
        """Path of the runtime, the same on every node."""
        return self.paths(self.manager).runtime

    def node(self, name: str) -> NodePlacement:
        """Return where node `name` stands."""
        return self.placement.nodes[name]

    @cached_property
    def _specs(self) -> dict[str, NodeSpec]:
        return {node.name: node for node in self.spec.nodes}

    @cached_property
    def _roles(self) -> dict[str, tuple[Role, ...]]:
        return self.spec.roles

    def spec_of(self, name: str) -> NodeSpec:
        """Return what the spec says of node `name`."""
        return self._specs[name]

    def roles_of(self, name: str) -> tuple[Role, ...]:
        """Return the roles of node `name`."""
        return self._roles[name]

    def paths(self, name: str) -> NodePaths:
        """Return the directories of node `name`."""
        return self.placement.nodes[name].paths

    def node_sizes(self, name: str) -> NodeSizes:
        """Return the sizes of node `name`."""
        return self.sizes.nodes[name]

    def at(self, name: str, port: str) -> str:
        """Return `address:port` of a daemon."""
        node = self.placement.nodes[name]
        return f"{node.address}:{node.ports[port]}"

    def session_port(self, user: str, port: str) -> int:
        """Return a session's port: `USER.connect` if the edge gave it one, else ten above the user before."""
        ports = self.placement.nodes[self.manager].ports
        pinned = ports.get(f"{user}.{port}")
        return ports[port] + _SESSION_STRIDE * self.users.index(user) if pinned is None else pinned

    @property
    def has_gateway(self) -> bool:
        """Whether sessions have sparklyr's gateway; the edge has made `on` or `off` of `auto`."""
        return self.spec.sessions.sparklyr is Gateway.ON

    def sparklyr_ports(self, user: str) -> range:
        """Return the ports of a user's gateway: its own, then those of its clients."""
        base = self.placement.nodes[self.manager].ports.get("sparklyr", SPARKLYR_PORT)
        first = base + SPARKLYR_PORTS * self.users.index(user)
        return range(first, first + SPARKLYR_PORTS)

    @property
    def hdfs_superuser(self) -> str:
        """HDFS's superuser: whoever runs the NameNode."""
        return self.placement.login if self.spec.is_local else layout.HDFS_USER

    @property
    def yarn_admin(self) -> str:
        """Who may run YARN's admin commands: whoever runs the ResourceManager."""
        return self.placement.login if self.spec.is_local else layout.YARN_USER

    @cached_property
    def executor_ports(self) -> range:
        """Where executors listen for one another on real nodes, all of a node's in one range.

        Twice as many as the most that fit on a node: those that end still hold theirs.
        """
        size = self.sizes.executor.memory_mib
        most = max(self.node_sizes(name).yarn_memory_mib // size for name in self.workers)
        count = min(_EXECUTOR_PORTS_MAX, max(_EXECUTOR_PORTS_MIN, 2 * most))
        return range(EXECUTOR_PORT, EXECUTOR_PORT + count)

    @property
    def hdfs(self) -> str:
        """URI of the file system."""
        return f"hdfs://{self.at(self.manager, 'namenode_rpc')}"

    @property
    def resourcemanager_url(self) -> str:
        """URL of the ResourceManager's REST interface."""
        return f"http://{self.at(self.manager, 'rm_http')}"

    def datanode_source(self, name: str) -> str:
        """Return `address:port` under which the NameNode knows a DataNode.

        Hadoop takes the address from the connection. Linux sends from 127.0.0.1 to any loopback address,
        so DataNodes on loopback differ in their port alone.
        """
        node = self.placement.nodes[name]
        address = LOOPBACK if node.address.startswith("127.") else node.address
        return f"{address}:{node.ports['datanode_data']}"
