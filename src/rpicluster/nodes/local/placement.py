"""Where a local cluster listens: chosen once and kept, so that the same spec renders the same bytes."""

import getpass
import json
import secrets
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rpicluster.errors import LocalEngineError
from rpicluster.model.facts import NodePaths, NodePlacement, Placement
from rpicluster.model.ports import MANAGER_PORTS, SESSION_PORTS, SPARKLYR_PORTS, WORKER_PORTS
from rpicluster.model.spec import ClusterSpec, Gateway, Role
from rpicluster.nodes.gateway_ports import free_block
from rpicluster.nodes.local.listeners import can_bind, listener_on
from rpicluster.nodes.local.state import ClusterState, write_file

SCHEMA = 1
LOCALHOST = "127.0.0.1"
_FIRST_HOST = 10  # node k of a cluster is 127.N.M.(10 + k)
_MOST_NODES = 240
# Linux sends from 127.0.0.1 to every loopback address, and the NameNode tells DataNodes apart by sender
# and data port: on one machine these ports must differ.
_DATANODE_DATA_STEP = 10
_LOCALHOST_SPREAD = 8000
_ON_LOCALHOST = frozenset({"connect", "sparklyr"})
_UNIT_PORTS = {
    "namenode": ("namenode_rpc", "namenode_http"),
    "resourcemanager": ("rm_scheduler", "rm_tracker", "rm_client", "rm_admin", "rm_http"),
    "datanode": ("datanode_data", "datanode_http", "datanode_ipc"),
    "nodemanager": ("nm_rpc", "nm_localizer", "nm_http"),
    "session": (*SESSION_PORTS, "sparklyr"),
}


@dataclass
class _Allocation:
    """What placement.json holds."""

    cluster_id: str
    network: str  # "127.N.M"
    login: str
    nodes: dict[str, dict[str, Any]] = field(
        default_factory=dict
    )  # name -> {"host": int, "ports": {name: int}}


def allocate(
    state: ClusterState,
    spec: ClusterSpec,
    *,
    java_home: str,
    python: str = sys.executable,
    networks: Iterable[str] | None = None,
) -> Placement:
    """Return where every node of `spec` stands; what was given once stays, new nodes get the next addresses.

    `networks` are candidate /24 networks (`"127.63.7"`), by default random ones. Numbers that other
    clusters of this user hold, and ports that somebody listens on, are avoided. Raises LocalEngineError.
    """
    others = list(_other_allocations(state))
    allocation = _load(state.directory) or _new_allocation(others, networks)
    before = json.dumps(allocation.nodes)
    for node in spec.nodes:
        roles = spec.roles_of(node)
        known = allocation.nodes.get(node.name)
        if known is None:
            known = {"host": _free_host(allocation, node.name), "ports": {}}
            allocation.nodes[node.name] = known
        wanted = (MANAGER_PORTS | SESSION_PORTS if Role.MANAGER in roles else {}) | (
            WORKER_PORTS if Role.WORKER in roles else {}
        )
        for name, standard in wanted.items():
            if name not in known["ports"]:
                address = _listen_address(name, f"{allocation.network}.{known['host']}")
                known["ports"][name] = _free_port(name, standard, address, known, allocation, others)
        if Role.MANAGER in roles and _has_gateway(spec) and "sparklyr" not in known["ports"]:
            known["ports"]["sparklyr"] = free_block(
                state.directory.parent,
                state.name,
                users=1,
                is_free=partial(_is_free, known["ports"]["connect"]),
            )
    if json.dumps(allocation.nodes) != before:
        document = {"schema": SCHEMA, **allocation.__dict__}
        write_file(state.directory / "placement.json", json.dumps(document, indent=1).encode(), 0o600)
    return _placement(state, spec, allocation, java_home, python)


def recorded(state: ClusterState, *, java_home: str = "", python: str = sys.executable) -> Placement | None:
    """Return where all nodes ever placed stand, None for a cluster that never was; for stop and destroy."""
    allocation = _load(state.directory)
    return None if allocation is None else _placement(state, None, allocation, java_home, python)


def _placement(
    state: ClusterState, spec: ClusterSpec | None, allocation: _Allocation, java_home: str, python: str
) -> Placement:
    names = [node.name for node in spec.nodes] if spec else list(allocation.nodes)
    return Placement(
        cluster_id=allocation.cluster_id,
        login=allocation.login,
        nodes={
            name: NodePlacement(
                address=f"{allocation.network}.{allocation.nodes[name]['host']}",
                paths=node_paths(state, name),
                java_home=java_home,
                python=python,
                ports={
                    key: port
                    for key, port in allocation.nodes[name]["ports"].items()
                    if key != "sparklyr" or spec is None or _has_gateway(spec)
                },
            )
            for name in names
        },
    )


def _is_free(own: int, port: int) -> bool:
    return port != own and can_bind(LOCALHOST, port)


def _has_gateway(spec: ClusterSpec) -> bool:
    # No firewall keeps other users of this machine from it: only where somebody wrote `on`.
    return spec.sessions.sparklyr is Gateway.ON


def node_paths(state: ClusterState, node: str) -> NodePaths:
    """Return a node's directories, all through the alias."""
    alias = state.alias
    return NodePaths(
        conf=f"{alias}/conf/{node}",
        data=f"{alias}/state/data/{node}",
        logs=f"{alias}/state/logs/{node}",
        run=f"{alias}/state/run/{node}",
        runtime=f"{alias}/runtime",
    )


def unit_ports(placement: Placement, node: str, unit: str) -> dict[str, tuple[str, int]]:
    """Return `{name: (address, port)}` of what unit `unit` listens on."""
    kind = "session" if unit.startswith("session") else unit
    where = placement.nodes[node]
    return {
        name: (_listen_address(name, where.address), where.ports[name])
        for name in _UNIT_PORTS.get(kind, ())
        if name in where.ports
    }


def check_ports(placement: Placement, node: str, unit: str) -> None:
    """Raise LocalEngineError that names port, purpose and owner if a port of a stopped unit is taken."""
    for name, (address, port) in unit_ports(placement, node, unit).items():
        owner = listener_on(address, port)
        if owner is not None:
            raise LocalEngineError(
                f"{unit} on {node} needs {address}:{port} ({name}), which is taken by {owner.describe()}",
                hint="stop that program, then: rpicluster up",
            )


def _listen_address(port_name: str, address: str) -> str:
    return LOCALHOST if port_name in _ON_LOCALHOST else address


def _load(directory: Path) -> _Allocation | None:
    try:
        document = json.loads((directory / "placement.json").read_text())
        if document.pop("schema") != SCHEMA:
            raise ValueError("unknown schema")
        return _Allocation(**document)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise LocalEngineError(
            f"{directory / 'placement.json'} is damaged: {error}",
            hint="restore it from a backup, or remove the cluster's folder",
        ) from error


def _other_allocations(state: ClusterState) -> Iterator[_Allocation]:
    for folder in state.directory.parent.iterdir():
        if folder != state.directory and folder.is_dir() and (found := _load(folder)):
            yield found


def _new_allocation(others: list[_Allocation], networks: Iterable[str] | None) -> _Allocation:
    taken = {other.network for other in others}
    for network in networks if networks is not None else _random_networks():
        first = f"{network}.{_FIRST_HOST}"
        # Clusters of other users are known only by their listeners.
        busy = any(
            (owner := listener_on(first, port)) is not None and owner.address == first
            for port in (*MANAGER_PORTS.values(), *WORKER_PORTS.values())
        )
        if network not in taken and not busy:
            return _Allocation(secrets.token_hex(8), network, getpass.getuser())
    raise LocalEngineError(
        "no loopback network is left for another cluster", hint="destroy a cluster: rpicluster destroy"
    )


def _random_networks(tries: int = 100) -> Iterator[str]:
    # 127.0.0.x has localhost, 127.0.1.1 is the host name on Debian, 127.0.0.53 systemd-resolved.
    for _ in range(tries):
        yield f"127.{64 + secrets.randbelow(190)}.{secrets.randbelow(256)}"


def _free_host(allocation: _Allocation, name: str) -> int:
    used = {node["host"] for node in allocation.nodes.values()}
    for host in range(_FIRST_HOST, _FIRST_HOST + _MOST_NODES):
        if host not in used:
            return host
    raise LocalEngineError(f"node {name}: a local cluster has at most {_MOST_NODES} nodes")


def _free_port(
    name: str,
    standard: int,
    address: str,
    node: dict[str, Any],
    allocation: _Allocation,
    others: list[_Allocation],
) -> int:
    siblings = [*allocation.nodes.values()]
    used = {int(port) for port in node["ports"].values()}
    first, step = standard, 1
    if name == "datanode_data":
        used |= {other["ports"].get(name, 0) for other in siblings}
        step = _DATANODE_DATA_STEP
    if name in _ON_LOCALHOST:
        everyone = siblings + [other_node for other in others for other_node in other.nodes.values()]
        used |= {other["ports"].get(name, 0) for other in everyone}
        for gateway in (other["ports"]["sparklyr"] for other in everyone if "sparklyr" in other["ports"]):
            used |= set(range(gateway, gateway + SPARKLYR_PORTS))
        # All clusters of this machine share 127.0.0.1, and one that is stopped does not show its number.
        first += int(allocation.cluster_id[:4], 16) % _LOCALHOST_SPREAD
    # A number that another daemon has as its standard would move that daemon too.
    used |= ({*MANAGER_PORTS.values(), *WORKER_PORTS.values(), *SESSION_PORTS.values()}) - {standard}
    for port in range(first, 65536, step):
        if port not in used and can_bind(address, port):
            return port
    raise LocalEngineError(f"no port from {first} upwards is free on {address} for {name}")
