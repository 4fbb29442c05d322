"""The words of the doctor: finding, severity, kind of finding, and what a kind may look at."""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from rpicluster.errors import RpiclusterError
from rpicluster.health.findings.observation import ClusterObservation
from rpicluster.model.machine import Interface, MachineFacts
from rpicluster.model.spec import ClusterSpec, Role

PAGE = "docs/reference/doctor.md"


class Severity(StrEnum):
    """How bad it is: `problem` breaks work or data, `warning` will or may, `note` is only worth knowing."""

    PROBLEM = "problem"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """0 for the worst, so that sorting puts problems first."""
        return list(Severity).index(self)


PROBLEM, WARNING, NOTE = Severity.PROBLEM, Severity.WARNING, Severity.NOTE


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or worth knowing; `node` None is the cluster as a whole.

    `evidence` holds the very numbers or lines that were seen. `command` can be pasted as it is.
    """

    id: str
    node: str | None
    severity: Severity
    what: str
    cause: str
    evidence: tuple[str, ...]
    fix: str
    command: str
    doc: str

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return {
            "id": self.id,
            "node": self.node,
            "severity": self.severity.value,
            "what": self.what,
            "cause": self.cause,
            "evidence": list(self.evidence),
            "fix": self.fix,
            "command": self.command,
            "doc": self.doc,
        }


@dataclass(frozen=True)
class Trouble:
    """What one kind says about one case; its id, node and default severity come from the kind."""

    what: str
    cause: str
    evidence: tuple[str, ...]
    fix: str
    command: str
    severity: Severity | None = None  # None: the kind's own
    node: str | None = None  # for kinds that look at the whole cluster


@dataclass(frozen=True)
class Seen:
    """All that kinds may look at. `on` makes a line to paste that runs a command on a node.

    `here` names the facts that are this machine's own, of a local cluster. `year_month` is today's,
    None where nobody looked at a calendar.
    """

    spec: ClusterSpec
    facts: Mapping[str, MachineFacts]
    errors: Mapping[str, RpiclusterError]
    cluster: ClusterObservation | None
    on: Callable[[str, str], str]
    here: str | None = None
    year_month: tuple[int, int] | None = None

    @cached_property
    def nodes(self) -> tuple["Node", ...]:
        """The nodes that answered, by name."""
        return tuple(Node(name, self.facts[name], self) for name in sorted(self.facts))

    @property
    def is_deployed(self) -> bool:
        """Whether at least one node carries rpicluster's manifest."""
        return any(node.facts.manifest is not None for node in self.nodes)

    def groups(self, value: Callable[["Node"], Any]) -> dict[Any, list["Node"]]:
        """Return nodes by a value; nodes where it is None, which is "not seen", are left out."""
        found: dict[Any, list[Node]] = {}
        for node in self.nodes:
            if (key := value(node)) is not None:
                found.setdefault(key, []).append(node)
        return dict(sorted(found.items(), key=lambda item: str(item[0])))


@dataclass(frozen=True)
class Node:
    """One node that answered, with what kinds ask about it again and again."""

    name: str
    facts: MachineFacts
    seen: Seen = field(repr=False)

    def run(self, command: str) -> str:
        """Return a line to paste that runs `command` on this node."""
        return self.seen.on(self.name, command)

    @property
    def roles(self) -> tuple[Role, ...]:
        """What cluster.yml says that it does; () for a machine that it does not name."""
        found = next((node for node in self.seen.spec.nodes if node.name == self.name), None)
        return self.seen.spec.roles_of(found) if found else ()

    @property
    def host(self) -> str | None:
        """Where cluster.yml says that it is reached."""
        found = next((node for node in self.seen.spec.nodes if node.name == self.name), None)
        return found.ssh.host if found and found.ssh else None

    def is_unseen(self, fact: str) -> bool:
        """Whether a fact that reads as "none there" was in truth not seen: its answer failed or broke off."""
        return any(problem.fact in (fact, "answer") for problem in self.facts.problems)

    @property
    def is_container(self) -> bool:
        """Whether it shares another machine's kernel, clock and kernel log."""
        return self.facts.virtualization in CONTAINERS

    @property
    def addresses(self) -> frozenset[str]:
        """All addresses of its interfaces."""
        return frozenset(a.address for i in self.facts.interfaces for a in i.addresses)

    @property
    def interface(self) -> Interface | None:
        """What carries the cluster: the interface with cluster.yml's address, else the default route's."""
        interfaces = self.facts.interfaces
        if self.host and is_address(self.host):
            for interface in interfaces:
                if any(address.address == self.host for address in interface.addresses):
                    return interface
        via = next((route.interface for route in self.facts.routes if route.family == 4), None)
        return next((interface for interface in interfaces if interface.name == via), None)


# What systemd-detect-virt(1) calls container technologies.
CONTAINERS = frozenset(
    {"systemd-nspawn", "lxc", "lxc-libvirt", "docker", "podman", "openvz", "rkt", "container-other", "proot"}
)


def is_address(text: str) -> bool:
    """Return whether `text` is an IP address, not a name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


Look = Callable[[Seen], Iterable[Trouble]]


@dataclass(frozen=True)
class Kind:
    """One kind of finding: how it is called, when it is said, and the function that looks for it.

    `severity` is the worst that it can be. `here` kinds also make sense for the machine of a local cluster.
    """

    id: str
    severity: Severity
    title: str
    doc: str
    look: Look = field(repr=False)
    here: bool = False

    def findings(self, seen: Seen) -> Iterator[Finding]:
        """Look, and return what was found."""
        for trouble in self.look(seen):
            yield Finding(
                id=self.id,
                node=trouble.node,
                severity=trouble.severity or self.severity,
                what=trouble.what,
                cause=trouble.cause,
                evidence=trouble.evidence,
                fix=trouble.fix,
                command=trouble.command,
                doc=f"{PAGE}#{self.id}",
            )


NodeLook = Callable[[Node], Iterable[Trouble]]


def node_kind(
    kind_id: str, severity: Severity, title: str, *, here: bool = False
) -> Callable[[NodeLook], Kind]:
    """Make a kind of a function that looks at one node."""

    def make(function: NodeLook) -> Kind:
        def look(seen: Seen) -> Iterator[Trouble]:
            for node in seen.nodes:
                if here or node.name != seen.here:
                    for trouble in function(node):
                        yield _placed(trouble, node.name)

        return Kind(kind_id, severity, title, _first_paragraph(function.__doc__), look, here)

    return make


def cluster_kind(kind_id: str, severity: Severity, title: str) -> Callable[[Look], Kind]:
    """Make a kind of a function that looks at the whole cluster."""

    def make(function: Look) -> Kind:
        return Kind(kind_id, severity, title, _first_paragraph(function.__doc__), function, here=True)

    return make


def _placed(trouble: Trouble, node: str) -> Trouble:
    return Trouble(**{**vars(trouble), "node": node})


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").split())
