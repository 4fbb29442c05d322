"""All kinds of findings, in the order of the docs, and the one question: what is wrong?"""

from collections.abc import Callable, Mapping

from rpicluster.errors import RpiclusterError
from rpicluster.health.findings import (
    clocks,
    daemons,
    deployed,
    exposure,
    identity,
    network,
    power,
    r,
    reach,
    software,
    storage,
    system,
)
from rpicluster.health.findings.finding import Finding, Kind, Seen
from rpicluster.health.findings.observation import ClusterObservation
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import ClusterSpec

SUBJECTS: dict[str, tuple[Kind, ...]] = {
    title: tuple(value for value in vars(module).values() if isinstance(value, Kind))
    for title, module in (
        ("Reaching nodes", reach),
        ("Who nodes are", identity),
        ("Clocks", clocks),
        ("Disks and cards", storage),
        ("Power and heat", power),
        ("Memory, control groups, units", system),
        ("System, Java, Python", software),
        ("R and its packages", r),
        ("Network", network),
        ("Open doors and strangers", exposure),
        ("What was put there", deployed),
        ("Daemons", daemons),
    )
}
KINDS: tuple[Kind, ...] = tuple(kind for kinds in SUBJECTS.values() for kind in kinds)
_ORDER = {kind.id: number for number, kind in enumerate(KINDS)}


def diagnose(
    spec: ClusterSpec,
    nodes: Mapping[str, MachineFacts | RpiclusterError],
    cluster: ClusterObservation | None = None,
    *,
    on: Callable[[str, str], str],
    here: str | None = None,
    year_month: tuple[int, int] | None = None,
) -> tuple[Finding, ...]:
    """Return everything that is wrong or worth knowing, the worst first, always in the same order.

    `nodes` has the facts of each node, or the error that explains why there are none. `on` makes the line
    to paste for a command on a node. `here` names the facts that are this machine's own, of a local cluster.
    """
    seen = Seen(
        spec=spec,
        facts={name: facts for name, facts in sorted(nodes.items()) if isinstance(facts, MachineFacts)},
        errors={name: error for name, error in sorted(nodes.items()) if isinstance(error, RpiclusterError)},
        cluster=cluster,
        on=on,
        here=here,
        year_month=year_month,
    )
    found = [finding for kind in KINDS for finding in kind.findings(seen)]
    return tuple(
        sorted(found, key=lambda f: (f.severity.rank, f.node or "", _ORDER[f.id], f.evidence, f.what))
    )
