"""R on nodes: what must be done there, told from facts, and what one node gets. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpicluster.design import layout
from rpicluster.design.cran import Offer, Resolution, SourcePackage, r_version, read_needs
from rpicluster.design.plan import Action, Step
from rpicluster.design.preview import PATHS
from rpicluster.model.machine import MachineFacts, RInstallation, series

TARGET = "R"
R = "r-base-core"
COMPILERS = "r-base-dev"
_PREFIX = "r-cran-"
_PACKAGE_S = 3000  # one package on a Pi; a whole run of Ansible has an hour
ARCHIVE = f"{PATHS.data}/r-sources.tar"


@dataclass(frozen=True)
class RRequest:
    """What is wanted of R on every node: names, the repository ("" for none), our own package's source."""

    packages: tuple[str, ...]
    repository: str
    own: SourcePackage

    @property
    def document(self) -> dict[str, Any]:
        """What a node notes, and what the next plan compares with."""
        return {
            "packages": sorted(self.packages),
            "repository": self.repository,
            "own": self.own.sha256,
        }


@dataclass(frozen=True)
class RWork:
    """What one node gets; `files` are the sources that it lacks, on the control machine."""

    debian: tuple[str, ...] = ()
    files: tuple[tuple[str, Path], ...] = ()
    order: Mapping[str, Any] | None = None
    remove: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pin:
    """A source package as a node of the cluster has it: others get the same bytes."""

    package: SourcePackage
    sha256: str


def is_r(step: Step) -> bool:
    """Whether a step of a plan is about R."""
    return step.action is Action.PREPARE and step.target == TARGET


def r_steps(
    request: RRequest | None, machines: Mapping[str, MachineFacts | None], unreachable: Mapping[str, str]
) -> list[Step]:
    """Return a step for each node whose R is not what is wanted, with the reason."""
    return [
        Step(Action.PREPARE, node, TARGET, "; ".join(reasons))
        for node, machine in machines.items()
        if machine is not None and node not in unreachable and (reasons := r_reasons(request, machine.r))
    ]


def r_reasons(request: RRequest | None, there: RInstallation | None) -> list[str]:
    """Return what differs on one node; nothing where all is there, complete, and of this request."""
    done = there.done if there else {}
    if request is None:
        return ["remove rpicluster's R packages; Debian's stay"] if done else []
    listed = ", ".join(request.packages)
    if there is None:
        return [f"install R{' and ' + listed if listed else ''}"]
    if not done:
        return [f"install rpicluster's R package{' and ' + listed if listed else ''}"]
    before = done.get("request", {})
    known = [str(name) for name in before.get("packages", [])]
    added = [name for name in request.packages if name not in known]
    gone = [name for name in known if name not in request.packages]
    lost = [
        name
        for name in (*request.packages, request.own.name)
        if name not in there.packages and name not in added
    ]
    old = sorted(
        {
            package.built
            for package in there.packages.values()
            if package.library == layout.R_LIBRARY and series(package.built) != there.series
        }
    )
    reasons = ["go on where an installation broke off"] if done.get("broken_off") else []
    if added:
        reasons.append("install " + ", ".join(added))
    if gone:
        reasons.append("no longer wanted: " + ", ".join(gone))
    if lost:
        reasons.append("no longer there: " + ", ".join(lost))
    if before.get("repository") != request.repository:
        reasons.append("another repository")
    if before.get("own") != request.own.sha256:
        reasons.append("another version of rpicluster's own R package")
    if old:
        reasons.append(f"built for R {', '.join(old)}, which is {there.version} now")
    return reasons


def offers_of(candidates: Mapping[str, str]) -> dict[str, Offer]:
    """Return what apt offers, by R's names in lower case; versions that R cannot read are left out."""
    return {
        name.removeprefix(_PREFIX): Offer(name, version)
        for name, candidate in candidates.items()
        if name.startswith(_PREFIX) and (version := r_version(candidate)) is not None
    }


def r_of(machine: MachineFacts, candidates: Mapping[str, str]) -> str | None:
    """Return the version of R that a node has or will have; None where its system offers none."""
    if machine.r is not None:
        return machine.r.version
    return r_version(candidates.get(R, ""))


def pins_of(machines: Mapping[str, MachineFacts | None], repository: str) -> dict[str, Pin]:
    """Return the sources that nodes already have from this repository: a node that joins later gets the same.

    Of two versions, which only a broken-off change leaves, the one that more nodes have.
    """
    found: dict[str, list[Pin]] = {}
    for machine in machines.values():
        done = machine.r.done if machine is not None and machine.r is not None else {}
        if done.get("request", {}).get("repository") != repository:
            continue
        for name, about in done.get("sources", {}).items():
            found.setdefault(name, []).append(_pin(name, about))
    return {name: max(pins, key=pins.count) for name, pins in found.items()}


def _pin(name: str, about: Mapping[str, Any]) -> Pin:
    package = SourcePackage(
        name=name,
        version=str(about["version"]),
        needs=read_needs({"Imports": ", ".join(about["needs"])}),
        compiles=bool(about["compiles"]),
        path=str(about["path"]),
    )
    return Pin(package, str(about["sha256"]))


def with_pins(
    index: Mapping[str, tuple[SourcePackage, ...]], pins: Mapping[str, Pin]
) -> dict[str, tuple[SourcePackage, ...]]:
    """Return the index with what nodes have already first, so that it is chosen if it will do."""
    first = {name: pin.package for name, pin in pins.items()}
    return {
        **index,
        **{
            name: (package, *(other for other in index.get(name, ()) if other.version != package.version))
            for name, package in first.items()
        },
    }


def shared_python(python: str | None) -> tuple[str, ...]:
    """Return the Debian package by which R loads the system's Python, as `rpicluster run x.R` does."""
    found = re.fullmatch(r"/usr/bin/python(3\.[0-9]+)", python or "")
    return (f"libpython{found[1]}",) if found else ()


def work_of(
    request: RRequest,
    resolution: Resolution,
    sources: Mapping[str, tuple[Path, str]],
    there: RInstallation | None,
    python: str | None = None,
) -> RWork:
    """Return what one node gets; `sources` are paths and SHA-256 on the control machine, by name.

    `python` is the path of the node's python3.
    """
    known = there.done.get("sources", {}) if there is not None else {}
    own = request.own.name
    noted = {name: str(about.get("sha256")) for name, about in known.items()}
    if there is not None:
        noted[own] = str(there.done.get("request", {}).get("own"))
    needed = []
    for package in resolution.sources:
        path, sha256 = sources[package.name]
        installed = there.packages.get(package.name) if there is not None else None
        is_there = (
            installed is not None
            and there is not None
            and installed.library == layout.R_LIBRARY
            and series(installed.built) == there.series
            and noted.get(package.name) == sha256
        )
        if not is_there:
            needed.append((package, path))
    compilers = (COMPILERS,) if any(package.compiles for package, _ in needed) else ()
    return RWork(
        debian=(R, *compilers, *shared_python(python), *resolution.debian),
        files=tuple((package.file, path) for package, path in needed),
        order={
            "folder": layout.R_FOLDER,
            "archive": ARCHIVE,
            "user": layout.BUILD_USER,
            "group": layout.GROUP,
            "libraries": list(layout.R_LIBRARIES[1:]),
            "sources": [
                {
                    "name": package.name,
                    "version": package.version,
                    "file": package.file,
                    "sha256": sources[package.name][1],
                }
                for package in resolution.sources
            ],
            "wanted": [*request.packages, own],
            "done": {
                "schema": 1,
                "request": request.document,
                "sources": {
                    package.name: {
                        "version": package.version,
                        "sha256": sources[package.name][1],
                        "needs": [str(need) for need in package.needs],
                        "compiles": package.compiles,
                        "path": package.path,
                    }
                    for package in resolution.sources
                    if package.name != own
                },
            },
            "timeout_s": _PACKAGE_S,
        },
    )


def removal() -> RWork:
    """Return what a node gets where R is no longer asked for."""
    return RWork(remove=(layout.R_FOLDER,))


def variables(work: RWork | None, archive: str) -> dict[str, Any]:
    """Return what the role `r` is told; `archive` is where the sources lie that a node lacks."""
    work = work or RWork()
    return {
        "rpicluster_r_packages": list(work.debian),
        "rpicluster_r_archive": archive if work.files else "",
        "rpicluster_r_order": dict(work.order or {}),
        "rpicluster_r_remove": list(work.remove),
    }
