"""The first cluster.yml of a machine."""

import json

from rpicluster.design.sizing import default_local_budgets, size
from rpicluster.model.facts import ClusterFacts, NodeFacts
from rpicluster.model.memory import format_memory
from rpicluster.model.spec import NodeSpec
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.local.facts import host_facts

_WORKERS = 2  # how many `default_local_budgets` gives
# Where RAM allows it, budgets are rounded up: a later version may need a few MiB more of a node.
_ROOMY_MIB, _STEP_MIB = 8192, 128


def initial_spec(*, name: str, workers: int, memory: str | None) -> str:
    """Return the text of a cluster.yml for this machine that `up` accepts; raises what `size` refuses."""
    host = host_facts()
    budgets = default_local_budgets(host)
    if workers != _WORKERS and len(budgets) > 1:
        _, worker_mib, cores = budgets[1]
        budgets = [budgets[0], *((f"worker{n + 1}", worker_mib, cores) for n in range(workers))]
    lines = [
        "# What the cluster is. `rpicluster plan --explain` shows what follows from it.",
        f"name: {name if name.replace('-', '').isalnum() else json.dumps(name)}",
        "nodes:",
    ]
    for number, (node, memory_mib, cores) in enumerate(budgets):
        step_mib = _STEP_MIB if host.memory_mib >= _ROOMY_MIB else 1
        amount = memory if memory and number else format_memory(-(-memory_mib // step_mib) * step_mib)
        lines.append(f"  - name: {node}")
        lines.append(f"    local: {{memory: {amount}, cores: {cores}}}")
    text = "\n".join(lines) + "\n"
    spec = parse_spec(text, "the new cluster.yml")
    nodes = {node.name: NodeFacts(name=node.name, **_budget(node)) for node in spec.nodes}
    size(spec, ClusterFacts(nodes=nodes, host=host))
    return text


def _budget(node: NodeSpec) -> dict[str, int]:
    return {"memory_mib": node.local.memory, "cores": node.local.cores} if node.local else {}
