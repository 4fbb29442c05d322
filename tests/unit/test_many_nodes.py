"""A plan's work grows with its nodes, and not with their square: counted, not timed."""

import cProfile
import pstats

from rpicluster.design.inputs import Inputs
from rpicluster.design.plan import Observed, make_plan
from rpicluster.design.rendering import render
from rpicluster.design.sizing import size
from rpicluster.model.memory import format_memory
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.remote.base import base_of
from rpicluster.nodes.remote.change import prepare_steps
from rpicluster.nodes.remote.placement import cluster_facts, place_nodes

MEMORIES_MIB = (2048, 4096, 8192)


def spec_of(nodes: int) -> ClusterSpec:
    return ClusterSpec.model_validate(
        {
            "name": "many",
            "users": ("ada",),
            "nodes": tuple(
                {
                    "name": f"pi{number}",
                    "ssh": {"host": f"10.0.{number // 250}.{number % 250 + 1}"},
                    "hardware": {"memory": format_memory(MEMORIES_MIB[number % 3] if number else 16384)},
                }
                for number in range(nodes)
            ),
        }
    )


def plan(spec: ClusterSpec) -> int:
    """Plan a fresh cluster and return how many steps that takes."""
    machines = {node.name: None for node in spec.nodes}
    placement = place_nodes(spec, machines, cluster_id="c0ffee", login="ada")
    sizes = size(spec, cluster_facts(spec, machines))
    rendered = render(spec, sizes, placement, "runtime", keeper_sources={})
    inputs = Inputs.checked(spec, sizes, placement)
    prepare_steps({node.name: base_of(inputs, node.name, None) for node in spec.nodes}, machines, {})
    return len(make_plan(spec.name, rendered, Observed()).steps)


def calls(nodes: int) -> int:
    profile = cProfile.Profile()
    assert profile.runcall(plan, spec_of(nodes)) > 10 * nodes
    stats = pstats.Stats(profile)
    return int(stats.total_calls)  # type: ignore[attr-defined]


def test_twice_the_nodes_are_at_most_little_more_than_twice_the_work() -> None:
    few = calls(60)  # above what does not depend on the number of nodes
    assert calls(240) < 4.4 * few
