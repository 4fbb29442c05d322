"""Which Java a cluster runs on: one for all its nodes. Pure.

The nodes of one cluster must agree: Java writes some numbers as other text from 19 on, so that the answer
of a query would depend on where it ran. docs/adr/0014 has what was measured.
"""

import re
from collections.abc import Iterable

from rpicluster.model.facts import JAVA_WANTED
from rpicluster.model.machine import MachineFacts

JAVA_USABLE = (17, 21)  # the first is preferred
# Debian 13 and what comes after it have no 17; Debian 11 and 12 no 21; Ubuntu has both from 20.04 on
# (both package searches, openjdk-17-jre-headless and openjdk-21-jre-headless).
_ONLY_21 = frozenset({"trixie", "forky", "duke"})
_BOTH = frozenset({"focal", "jammy", "noble", "resolute"})
_DEBIAN_NAMES = {"aarch64": "arm64", "x86_64": "amd64"}


def installed(machine: MachineFacts) -> frozenset[int]:
    """Return the versions on a machine that daemons can run on."""
    return frozenset(java.major for java in machine.java if java.major in JAVA_USABLE)


def offered(machine: MachineFacts) -> frozenset[int]:
    """Return the versions that a machine's system has packages of."""
    codename = machine.os.codename if machine.os is not None else ""
    if codename in _BOTH:
        return frozenset(JAVA_USABLE)
    return frozenset({21} if codename in _ONLY_21 else {JAVA_WANTED})


def within_reach(machine: MachineFacts) -> frozenset[int]:
    """Return the versions that a machine has or can install."""
    return installed(machine) | offered(machine)


def common_java(machines: Iterable[MachineFacts]) -> int | None:
    """Return the version that all machines are to run on, None where they cannot agree.

    One that all have already, else one that all can have; 17 before 21.
    """
    seen = list(machines)
    for known in (installed, within_reach):
        for major in JAVA_USABLE:
            if all(major in known(machine) for machine in seen):
                return major
    return None


def java_of(machine: MachineFacts, common: int | None) -> int:
    """Return the version for one machine: the common one, else the best that it can have for itself."""
    return common or common_java([machine]) or JAVA_WANTED


def java_home(machine: MachineFacts, major: int) -> str:
    """Return where Java `major` stands on a machine, or will stand when its package is installed."""
    for java in machine.java:
        if java.major == major:
            return java.home
    arch = machine.userland_arch or _DEBIAN_NAMES.get(machine.kernel_arch or "", "arm64")
    return f"/usr/lib/jvm/java-{major}-openjdk-{arch}"


def missing_package(machine: MachineFacts, home: str) -> str | None:
    """Return the Debian package that brings the Java at `home`, None if it is there."""
    if any(java.home == home for java in machine.java):
        return None
    found = re.search(r"java-(\d+)-openjdk", home)
    return package(int(found[1]) if found else JAVA_WANTED)


def package(major: int) -> str:
    """Return the Debian package of a Java without desktop libraries."""
    return f"openjdk-{major}-jre-headless"
