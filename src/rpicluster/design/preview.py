"""What a plan assumes of nodes behind SSH that nobody has looked at yet.

So a cluster can be planned before its boards are bought.
"""

from rpicluster.errors import SpecError
from rpicluster.model.facts import ClusterFacts, NodeFacts, NodePaths, NodePlacement, Placement
from rpicluster.model.ports import MANAGER_PORTS, SESSION_PORTS, WORKER_PORTS
from rpicluster.model.spec import ClusterSpec, Role

PATHS = NodePaths(
    conf="/etc/rpicluster",
    data="/var/lib/rpicluster",
    logs="/var/log/rpicluster",
    run="/run/rpicluster",
    runtime="/opt/rpicluster/runtime",
    per_unit=True,
)
JAVA_HOME = "/usr/lib/jvm/java-17-openjdk-arm64"
PYTHON = "/usr/bin/python3"


def assumed_facts(spec: ClusterSpec) -> ClusterFacts:
    """Return the facts that `hardware:` states; raises SpecError for a node without it."""
    nodes = {}
    for node in spec.nodes:
        if node.hardware is None:
            raise SpecError(
                f"node {node.name} was never observed and cluster.yml does not say what it is",
                hint=f"add to {node.name}:  hardware: {{memory: 4G, cores: 4}}",
            )
        nodes[node.name] = NodeFacts(
            name=node.name,
            memory_mib=node.hardware.memory,
            cores=node.hardware.cores,
            arch="aarch64",
            observed=False,
        )
    return ClusterFacts(nodes=nodes)


def assumed_placement(spec: ClusterSpec) -> Placement:
    """Return where everything will stand behind SSH: the paths are fixed, the address is the host."""
    nodes, roles_of = {}, spec.roles
    for node in spec.nodes:
        if node.ssh is None:
            raise ValueError(f"{node.name} is a local node, which has a real placement")
        roles = roles_of[node.name]
        ports = MANAGER_PORTS | SESSION_PORTS if Role.MANAGER in roles else {}
        ports = ports | WORKER_PORTS if Role.WORKER in roles else ports
        nodes[node.name] = NodePlacement(
            address=node.ssh.host, paths=PATHS, java_home=JAVA_HOME, python=PYTHON, ports=ports
        )
    manager = spec.manager.ssh
    login = spec.users[0] if spec.users else (manager and manager.user) or "pi"
    return Placement(cluster_id=spec.name, nodes=nodes, login=login)
