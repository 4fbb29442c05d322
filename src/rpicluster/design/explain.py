"""The arithmetic behind sizes as data, for `plan --explain`."""

from dataclasses import dataclass

from rpicluster.design.sizes import NodeSizes, Sizes

CONTAINERS = "containers"


@dataclass(frozen=True)
class Line:
    """One line of the arithmetic: what takes how much, and why."""

    label: str
    memory_mib: int
    reason: str


@dataclass(frozen=True)
class Explanation:
    """What a node's RAM is shared out in: its lines sum to `memory_mib`. CONTAINERS is no node and has 0."""

    name: str
    memory_mib: int
    lines: tuple[Line, ...]


def explain(sizes: Sizes) -> list[Explanation]:
    """Return per node, in the order of cluster.yml, what its RAM is shared out in; last the containers."""
    containers = (
        Line("application master", sizes.application_master.memory_mib, sizes.application_master.reason),
        Line("executor", sizes.executor.memory_mib, sizes.executor.reason),
    )
    return [*(_node(node, sizes) for node in sizes.nodes.values()), Explanation(CONTAINERS, 0, containers)]


def _node(node: NodeSizes, sizes: Sizes) -> Explanation:
    lines = [Line("operating system", node.reserve_mib, node.reserve_reason)]
    lines += [Line(name, daemon.memory_mib, daemon.reason) for name, daemon in node.daemons.items()]
    if node.drivers:
        reason = f"{node.drivers} × {sizes.driver.memory_mib} MiB: {sizes.driver.reason}"
        lines.append(Line("session drivers", node.drivers * sizes.driver.memory_mib, reason))
    if node.yarn_vcores:
        lines.append(Line("YARN containers", node.yarn_memory_mib, node.yarn_reason))
    spare = node.memory_mib - sum(line.memory_mib for line in lines)
    lines.append(Line("not promised", spare, "it stays with the file cache"))
    return Explanation(node.name, node.memory_mib, tuple(lines))
