"""The software on a node before rpicluster's own: system, architecture, Java, Python."""

from collections.abc import Iterator

from rpicluster.health.findings.finding import (
    NOTE,
    PROBLEM,
    WARNING,
    Node,
    Seen,
    Trouble,
    cluster_kind,
    node_kind,
)
from rpicluster.model.facts import JAVA_WANTED
from rpicluster.model.java import common_java, installed, java_of, package
from rpicluster.model.machine import OperatingSystem


@node_kind("userland-32-bit", PROBLEM, "A node runs a 32-bit system")
def userland_32_bit(node: Node) -> Iterator[Trouble]:
    """The kernel may be a 64-bit one: what counts is what programs are built for."""
    facts = node.facts
    if facts.userland_bits == 32:
        bits = facts.board.type.bits if facts.board and facts.board.type else 64
        can = "the board can run a 64-bit one" if bits == 64 else "the board can run no other"
        yield Trouble(
            what=f"{node.name} runs a 32-bit system",
            cause=f"the 32-bit image was written to its card; {can}",
            evidence=(
                f"userland {facts.userland_arch or 'unknown'}, 32 bits, on a kernel for {facts.kernel_arch}",
            ),
            fix="write the 64-bit image to its card; rpicluster's natives and heaps need 64 bits",
            command=node.run("dpkg --print-architecture; getconf LONG_BIT"),
        )


def _is_set_up(node: Node) -> bool:
    return node.facts.manifest is not None


def _package_for(node: Node) -> str:
    return package(java_of(node.facts, None))


@node_kind("java-missing", PROBLEM, "A node has no Java")
def java_missing(node: Node) -> Iterator[Trouble]:
    """A problem on a node that is set up; before that a note, for `up` installs it."""
    if node.facts.java or node.is_unseen("java"):
        return
    yield Trouble(
        what=f"{node.name} has no Java",
        cause="it was removed" if _is_set_up(node) else "nothing has installed it yet",
        evidence=("no bin/java below /usr/lib/jvm or /opt",),
        fix="`rpicluster up` installs it; or by hand",
        command=node.run(f"sudo apt-get install -y {_package_for(node)}"),
        severity=PROBLEM if _is_set_up(node) else NOTE,
    )


@node_kind("java-old", PROBLEM, "A node's newest Java is too old")
def java_old(node: Node) -> Iterator[Trouble]:
    """Spark 4 and Hadoop 3.5 need Java 17. A warning on a node that is not set up yet."""
    majors = [java.major for java in node.facts.java if java.major is not None]
    if not majors or max(majors) >= JAVA_WANTED:
        return
    yield Trouble(
        what=f"{node.name} has only Java {max(majors)}",
        cause=f"an older system's default; Java {JAVA_WANTED} is needed",
        evidence=tuple(f"{java.home}: {java.version}" for java in node.facts.java),
        fix="install a newer one; it stands beside the old one",
        command=node.run(f"sudo apt-get install -y {_package_for(node)}"),
        severity=PROBLEM if _is_set_up(node) else WARNING,
    )


@cluster_kind("java-mixed", PROBLEM, "Nodes would run different Java versions")
def java_mixed(seen: Seen) -> Iterator[Trouble]:
    """Nodes agree when one version that rpicluster runs on is on all of them.

    Some numbers become other text in Java 21 than in 17, so that answers depend on where they are computed.
    """
    # Nodes that have none yet get the one that all can have; `java-missing` names them.
    groups = seen.groups(lambda node: installed(node.facts) or None)
    if len(groups) < 2 or frozenset.intersection(*groups):
        return
    few = min(groups.values(), key=len)
    said = {_versions(group): nodes for group, nodes in groups.items()}
    common = common_java(seen.facts.values())
    yield Trouble(
        what=f"nodes have different Java versions: {', '.join(said)}",
        cause="nodes run different releases of Debian or Ubuntu",
        evidence=tuple(f"Java {v}: {', '.join(n.name for n in nodes)}" for v, nodes in said.items()),
        fix=f"`rpicluster up` runs all of them on Java {common}"
        if common
        else "no version is offered for all of them: write the same image to all cards, or unpack the Java "
        f"of the other nodes below /opt of {few[0].name}",
        command="rpicluster up" if common else few[0].run("ls -d /usr/lib/jvm/* /opt/*"),
    )


def _versions(group: frozenset[int]) -> str:
    return " and ".join(str(version) for version in sorted(group))


@node_kind("python-missing", PROBLEM, "A node has no Python")
def python_missing(node: Node) -> Iterator[Trouble]:
    """Ansible and the session's keeper need python3."""
    # A node that showed neither system nor python was not really seen.
    if node.facts.python is None and node.facts.os is not None and not node.is_unseen("python"):
        yield Trouble(
            what=f"{node.name} has no python3",
            cause="a minimal image",
            evidence=("`command -v python3` finds nothing",),
            fix="install it",
            command=node.run("sudo apt-get install -y python3"),
        )


@cluster_kind("python-mixed", WARNING, "Nodes have different Python versions")
def python_mixed(seen: Seen) -> Iterator[Trouble]:
    """Python functions in Spark need the same minor version everywhere."""
    groups = seen.groups(
        lambda node: node.facts.python if node.facts.python and "." in node.facts.python else None
    )
    if len(groups) > 1:
        yield Trouble(
            what="nodes have different Python versions",
            cause="nodes run different releases of Debian or Ubuntu",
            evidence=tuple(f"{path}: {', '.join(n.name for n in nodes)}" for path, nodes in groups.items()),
            fix="use the same release on all nodes, or no Python functions in Spark",
            command=next(iter(groups.values()))[0].run("python3 --version"),
        )


def _release(node: Node) -> str | None:
    system = node.facts.os
    if system is None:
        return None
    # Raspberry Pi OS is Debian, with another kernel: its release says all.
    name = "debian" if system.id == "raspbian" else system.id
    return f"{name} {system.version}".strip()


@cluster_kind("os-mixed", WARNING, "Nodes run different systems")
def os_mixed(seen: Seen) -> Iterator[Trouble]:
    """Different releases have different Java and Python; Raspberry Pi OS counts as its Debian."""
    groups = seen.groups(_release)
    if len(groups) > 1:
        yield Trouble(
            what=f"nodes run different systems: {', '.join(groups)}",
            cause="cards were written at different times",
            evidence=tuple(f"{name}: {', '.join(n.name for n in nodes)}" for name, nodes in groups.items()),
            fix="it works where Java and Python agree; best write one image to all cards",
            command=next(iter(groups.values()))[0].run("cat /etc/os-release"),
        )


_DEBIAN_NAMES = {"aarch64": "arm64", "x86_64": "amd64"}


def _architecture(node: Node) -> str | None:
    kernel = node.facts.kernel_arch
    return node.facts.userland_arch or (_DEBIAN_NAMES.get(kernel, kernel) if kernel else None)


@cluster_kind("arch-mixed", WARNING, "Nodes have different processors")
def arch_mixed(seen: Seen) -> Iterator[Trouble]:
    """The runtime runs on arm64 and amd64; packages with native code of your own do not travel."""
    groups = seen.groups(_architecture)
    if len(groups) > 1:
        yield Trouble(
            what=f"nodes have different architectures: {', '.join(groups)}",
            cause="boards and PCs in one cluster, or 32-bit and 64-bit systems",
            evidence=tuple(f"{name}: {', '.join(n.name for n in nodes)}" for name, nodes in groups.items()),
            fix="keep to one for Python and R packages with native code",
            command=next(iter(groups.values()))[0].run("uname -m"),
        )


_OLDEST = {"debian": 12, "raspbian": 12, "ubuntu": 22}


@node_kind("os-unproven", WARNING, "A node's system is not one that was tried")
def os_unproven(node: Node) -> Iterator[Trouble]:
    """Debian and Raspberry Pi OS from 12 (bookworm) on and Ubuntu from 22.04 on are."""
    system = node.facts.os
    if system is None or _is_proven(system):
        return
    yield Trouble(
        what=f"{node.name} runs {system.name or system.id}",
        cause="rpicluster was not tried on it",
        evidence=(f"os-release: ID={system.id} VERSION_ID={system.version}",),
        fix="use Debian or Raspberry Pi OS from bookworm on, or Ubuntu from 22.04 on",
        command=node.run("cat /etc/os-release"),
    )


def _is_proven(system: OperatingSystem) -> bool:
    major = system.version.split(".")[0]
    oldest = _OLDEST.get(system.id)
    return oldest is not None and (not major.isdigit() or int(major) >= oldest)
