"""Where everything of a cluster behind SSH stands, from what was seen of its nodes. Pure."""

import ipaddress
from collections.abc import Mapping

from rpicluster.design.preview import JAVA_HOME, PATHS, PYTHON
from rpicluster.design.storage import Choice
from rpicluster.errors import FactsIncomplete, SpecError
from rpicluster.model.facts import ClusterFacts, NodeFacts, NodePlacement, Placement, node_facts
from rpicluster.model.java import common_java, java_home, java_of, missing_package, within_reach
from rpicluster.model.machine import MachineFacts
from rpicluster.model.ports import MANAGER_PORTS, SESSION_PORTS, WORKER_PORTS
from rpicluster.model.spec import ClusterSpec, NodeSpec, Role, SshTarget


def target_of(node: NodeSpec) -> SshTarget:
    """Return how a node is reached; a cluster behind SSH has no other nodes."""
    if node.ssh is None:
        raise SpecError(f"node {node.name} has no `ssh`")
    return node.ssh


def session_users(spec: ClusterSpec, manager: MachineFacts | None) -> tuple[str, ...]:
    """Return who has a session: `users:`, by default the login by which the manager is reached."""
    if spec.users:
        return spec.users
    login = manager.login if manager else target_of(spec.manager).user or "pi"
    if login is None or login == "root":
        raise SpecError(
            "cluster.yml does not say who uses the cluster, and nobody's login is known on "
            f"{spec.manager.name}",
            hint="add to cluster.yml:  users: [pi]",
        )
    return (login,)


def without_unseen(spec: ClusterSpec, machines: Mapping[str, MachineFacts | None]) -> ClusterSpec:
    """Return the spec without the workers that were never seen and have no `hardware:`.

    Nobody knows what to plan for them, and the others need not wait. Where nothing would be left of the
    cluster, the spec stays as it is, and sizing says what is missing.
    """
    manager = spec.manager.name
    kept = tuple(
        node
        for node in spec.nodes
        if node.name == manager or machines.get(node.name) or node.hardware is not None
    )
    smaller = spec.model_copy(update={"nodes": kept})
    # A lone manager would become a worker, too, and cease to be one when the others come.
    before = spec.roles
    same_roles = all(before[name] == roles for name, roles in smaller.roles.items())
    return smaller if same_roles and smaller.workers else spec


def cluster_facts(spec: ClusterSpec, machines: Mapping[str, MachineFacts | None]) -> ClusterFacts:
    """Return the facts for sizing; of a node that was never seen, what its `hardware:` says.

    Raises SpecError for a node that was never seen and has no `hardware:`, FactsIncomplete.
    """
    nodes = {}
    for node in spec.nodes:
        machine = machines.get(node.name)
        if machine is not None:
            nodes[node.name] = node_facts(node.name, machine, data_path=PATHS.data)
            continue
        if node.hardware is None:
            raise SpecError(
                f"node {node.name} was never seen and cluster.yml does not say what it is",
                hint=f"switch it on, or add to {node.name}:  hardware: {{memory: 4G, cores: 4}}",
            )
        nodes[node.name] = NodeFacts(
            name=node.name,
            memory_mib=node.hardware.memory,
            cores=node.hardware.cores,
            arch="aarch64",
            observed=False,
        )
    return ClusterFacts(nodes=nodes)


def place_nodes(
    spec: ClusterSpec,
    machines: Mapping[str, MachineFacts | None],
    *,
    cluster_id: str,
    login: str,
    storage: Mapping[str, Choice] | None = None,
    reached: Mapping[str, str] | None = None,
) -> Placement:
    """Return where everything stands; raises FactsIncomplete for a node whose address nobody knows.

    `storage` says where nodes keep their data, by default below /var/lib; `reached` are addresses of nodes
    that are not where the spec says.
    """
    manager = machines.get(spec.manager.name)
    networks = _networks(manager) if manager else []
    nodes, roles_of = {}, spec.roles
    homes = java_homes(machines)
    for node in spec.nodes:
        roles, machine = roles_of[node.name], machines.get(node.name)
        target = target_of(node)
        if reached and node.name in reached:
            target = target.model_copy(update={"host": reached[node.name]})
        ports = MANAGER_PORTS | SESSION_PORTS if Role.MANAGER in roles else {}
        ports = ports | WORKER_PORTS if Role.WORKER in roles else ports
        chosen = storage.get(node.name) if storage is not None else None
        nodes[node.name] = NodePlacement(
            address=cluster_address(node.name, target, machine, networks),
            paths=PATHS.model_copy(update={"disk": chosen.disk if chosen is not None else None}),
            java_home=homes.get(node.name, JAVA_HOME),
            python=PYTHON,
            ports=ports,
        )
    return Placement(cluster_id=cluster_id, nodes=nodes, login=login)


def cluster_address(
    name: str,
    target: SshTarget,
    machine: MachineFacts | None,
    networks: list[ipaddress.IPv4Network],
) -> str:
    """Return the address under which the other nodes reach a node, from its own interfaces.

    First the one by which we reach it, if that is its own; then one in a network of the manager; then the
    one of its default route. Raises FactsIncomplete when it has none.
    """
    if machine is None:
        return target.host
    own = _addresses(machine)
    if target.host in own:
        return target.host
    for address in own:
        if any(ipaddress.IPv4Address(address) in network for network in networks):
            return address
    if own:
        return own[0]
    raise FactsIncomplete(
        f"{name} has no IPv4 address but loopback, so other nodes cannot reach it",
        hint=f"look at it: rpicluster ssh {name} ip addr",
    )


def _addresses(machine: MachineFacts) -> list[str]:
    """Return a node's IPv4 addresses: of its default route first, cable before radio, real cards first."""
    routed = {route.interface for route in machine.routes if route.family == 4}
    interfaces = sorted(
        (interface for interface in machine.interfaces if interface.up),
        key=lambda i: (i.name not in routed, i.wireless, not i.hardware),
    )
    return [
        address.address
        for interface in interfaces
        for address in interface.addresses
        if address.scope == "global" and ":" not in address.address
    ]


def _networks(machine: MachineFacts) -> list[ipaddress.IPv4Network]:
    return [
        ipaddress.IPv4Network(f"{address.address}/{address.prefix}", strict=False)
        for interface in machine.interfaces
        for address in interface.addresses
        if address.scope == "global" and ":" not in address.address
    ]


def java_homes(machines: Mapping[str, MachineFacts | None]) -> dict[str, str]:
    """Return, for each node that was seen, the Java that it has or that will be installed."""
    seen = {name: machine for name, machine in machines.items() if machine is not None}
    common = common_java(seen.values())
    return {name: java_home(machine, java_of(machine, common)) for name, machine in seen.items()}


def mixed_java(machines: Mapping[str, MachineFacts | None]) -> tuple[str, ...]:
    """Return why nodes cannot run on one Java: a line for each that differs from most."""
    seen = {name: machine for name, machine in machines.items() if machine is not None}
    if common_java(seen.values()) is not None:
        return ()
    groups: dict[frozenset[int], list[str]] = {}
    for name, machine in seen.items():
        groups.setdefault(within_reach(machine), []).append(name)
    most = max(groups, key=lambda versions: len(groups[versions]))
    wanted = min(most)
    return tuple(
        f"{name}: its system has Java {_either(versions)} and the other nodes have {_either(most)}, and a "
        "cluster runs on one: some numbers become other text in Java 21 than in 17; unpack a Java "
        f"{wanted} below /opt on {name}, or write the same image to all cards"
        for versions, names in groups.items()
        for name in names
        if wanted not in versions
    )


def _either(versions: frozenset[int]) -> str:
    return " or ".join(str(version) for version in sorted(versions))


def packages(machine: MachineFacts, home: str) -> tuple[str, ...]:
    """Return the Debian packages that a node lacks, with those of the Java at `home`."""
    java = missing_package(machine, home)
    missing = [java] if java else []
    if machine.firewall_tables is None:
        missing.append("nftables")
    return tuple(missing)
