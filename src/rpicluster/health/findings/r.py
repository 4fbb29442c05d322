"""R on the nodes: what `r:` in cluster.yml asks for, and whether nodes agree."""

from collections.abc import Iterator, Mapping

from rpicluster.design import layout
from rpicluster.health.findings.finding import PROBLEM, WARNING, Node, Seen, Trouble, cluster_kind, node_kind
from rpicluster.model.machine import series

OWN = "rpicluster"  # our own package


def _named(seen: Seen) -> tuple[str, ...]:
    return (*seen.spec.r.packages, OWN) if seen.spec.r is not None else ()


@node_kind("r-missing", PROBLEM, "A node lacks R, or packages that cluster.yml names")
def r_missing(node: Node) -> Iterator[Trouble]:
    """On nodes that are set up: R functions of a job fail there, and only there."""
    if node.seen.spec.r is None or node.facts.manifest is None or node.is_unseen("r"):
        return
    found = node.facts.r
    lost = [name for name in _named(node.seen) if found is None or name not in found.packages]
    if not lost:
        return
    there = f"R {found.version} with {len(found.packages)} packages" if found else "no R in /usr/lib/R"
    yield Trouble(
        what=f"{node.name} has no R" if found is None else f"{node.name} lacks R packages: {', '.join(lost)}",
        cause="they were removed, `r:` was changed and not applied, or an `up` failed there",
        evidence=(there, f"cluster.yml names {', '.join(_named(node.seen)[:-1]) or 'no package'}"),
        fix="`up` installs them",
        command="rpicluster up",
    )


@node_kind("r-built-for-another", PROBLEM, "R packages of a node were built for another R")
def r_built_for_another(node: Node) -> Iterator[Trouble]:
    """R was upgraded since, as with a new release of Debian: packages of another series may not load."""
    found = node.facts.r
    if found is None:
        return
    old = {
        name: package.built
        for name, package in sorted(found.packages.items())
        if package.library == layout.R_LIBRARY and package.built and series(package.built) != found.series
    }
    if old:
        yield Trouble(
            what=f"{node.name} has R {found.version}, and packages that were built for another one",
            cause="R was upgraded after rpicluster built them",
            evidence=tuple(f"{name}: built for R {built}" for name, built in old.items()),
            fix="`up` builds them again",
            command="rpicluster up",
        )


@cluster_kind("r-mixed", WARNING, "Nodes have different versions of R")
def r_mixed(seen: Seen) -> Iterator[Trouble]:
    """By series, such as 4.2, where cluster.yml has `r:`; patches within a series agree."""
    if seen.spec.r is None:
        return
    groups = seen.groups(lambda node: node.facts.r.series if node.facts.r else None)
    if len(groups) > 1:
        yield Trouble(
            what=f"nodes have different versions of R: {', '.join(groups)}",
            cause="nodes run different releases of Debian or Ubuntu",
            evidence=_who(groups),
            fix="use the same release on all nodes: R functions may give other results on some",
            command=next(iter(groups.values()))[0].run("R --version"),
        )


@cluster_kind("r-packages-mixed", WARNING, "Nodes have different versions of an R package")
def r_packages_mixed(seen: Seen) -> Iterator[Trouble]:
    """Of those that cluster.yml names, and rpicluster's own."""
    for name in _named(seen):

        def version(node: Node, name: str = name) -> str | None:
            package = node.facts.r.packages.get(name) if node.facts.r else None
            return package.version if package else None

        groups = seen.groups(version)
        if len(groups) > 1:
            yield Trouble(
                what=f"nodes have different versions of the R package {name}: {', '.join(groups)}",
                cause="releases of Debian or Ubuntu differ, or an `up` did not reach all nodes",
                evidence=_who(groups),
                fix="`up` on all nodes; where their systems differ, use the same release",
                command=_asking(next(iter(groups.values()))[0], name),
            )


def _asking(node: Node, name: str) -> str:
    """Return the line that shows a package's version where R finds it; no R is needed for it."""
    packages = node.facts.r.packages if node.facts.r else {}
    return node.run(f"grep ^Version: {packages[name].library}/{name}/DESCRIPTION")


def _who(groups: Mapping[str, list[Node]]) -> tuple[str, ...]:
    return tuple(f"{version}: {', '.join(n.name for n in nodes)}" for version, nodes in groups.items())
