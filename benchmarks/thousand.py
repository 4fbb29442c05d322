"""A cluster of generated nodes, as if each had been looked at, and what planning it costs."""

import statistics
import time

from rpicluster.design.inputs import Inputs
from rpicluster.design.plan import make_plan
from rpicluster.design.rendering import render
from rpicluster.design.sizing import size
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.remote.base import base_of
from rpicluster.nodes.remote.change import prepare_steps
from rpicluster.nodes.remote.observed import observed
from rpicluster.nodes.remote.placement import cluster_facts, place_nodes

NODES = 1000
RUNS = 5
_MEMORY_MIB = (2048, 4096, 8192)
_MANAGER_MIB = 16384
_CLUSTER_ID = "c0ffee11"


def address(number: int) -> str:
    return f"10.20.{number // 250}.{number % 250 + 1}"


def spec_text(nodes: int) -> str:
    entries = (f"  - {{name: pi{n}, ssh: {{host: {address(n)}, user: pi}}}}\n" for n in range(nodes))
    return "name: thousand\nusers: [ada]\nnodes:\n" + "".join(entries)


def facts(number: int) -> MachineFacts:
    """Return what a fresh Pi 4 says of itself, as far as a plan asks for it."""
    return MachineFacts.model_validate(
        {
            "machine_id": f"{number:032x}",
            "boot_id": f"boot-{number}",
            "privilege": "sudo",
            "login": "pi",
            "userland_arch": "arm64",
            "kernel_arch": "aarch64",
            "os": {"id": "debian", "codename": "bookworm", "name": "Debian GNU/Linux 12 (bookworm)"},
            "memory": {"total_mib": _MEMORY_MIB[number % 3] if number else _MANAGER_MIB},
            "processor": {"cores": 4},
            "interfaces": (
                {
                    "name": "eth0",
                    "up": True,
                    "hardware": True,
                    "addresses": ({"address": address(number), "prefix": 16},),
                },
            ),
            "routes": ({"family": 4, "gateway": "10.20.255.254", "interface": "eth0"},),
        }
    )


def plan(spec: ClusterSpec, machines: dict[str, MachineFacts | None]) -> int:
    """Do what `rpicluster plan` does between the look and the first printed line; return the steps."""
    placement = place_nodes(spec, machines, cluster_id=_CLUSTER_ID, login="ada")
    sizes = size(spec, cluster_facts(spec, machines))
    rendered = render(spec, sizes, placement, "runtime", keeper_sources={})
    units: dict[str, tuple[str, ...]] = {}
    for unit in rendered.units:
        units[unit.node] = (*units.get(unit.node, ()), unit.name)
    seen = observed(machines, {}, units, manager="pi0", file_system=f"rpicluster-{_CLUSTER_ID}")
    inputs = Inputs.checked(spec, sizes, placement)
    bases = {name: base_of(inputs, name, machine) for name, machine in machines.items()}
    return len(make_plan(spec.name, rendered, seen).steps) + len(prepare_steps(bases, machines, {}))


def median_cpu_and_wall_s(nodes: int = NODES) -> tuple[float, float, float]:
    """Return seconds of CPU and of the clock for a plan, and of CPU for reading its cluster.yml; medians."""
    text = spec_text(nodes)
    reading, cpu, wall = [], [], []
    for _ in range(RUNS):
        started = time.process_time()
        spec = parse_spec(text)
        reading.append(time.process_time() - started)
        machines: dict[str, MachineFacts | None] = {f"pi{n}": facts(n) for n in range(nodes)}
        started, started_wall = time.process_time(), time.perf_counter()
        plan(spec, machines)
        cpu.append(time.process_time() - started)
        wall.append(time.perf_counter() - started_wall)
    return statistics.median(cpu), statistics.median(wall), statistics.median(reading)


if __name__ == "__main__":
    for count in (10, 100, NODES):
        cpu_s, wall_s, reading_s = median_cpu_and_wall_s(count)
        print(f"{count} nodes: {cpu_s:.2f} s of CPU, {wall_s:.2f} s; cluster.yml {reading_s:.2f} s of CPU")
