"""Operating system, Java, clock, keys, cgroups and units: text of the node in, facts out."""

import base64
import hashlib
import json
import re
import shlex

from rpicluster.model.machine import (
    Cgroups,
    Clock,
    CloudInit,
    HostKeyFact,
    Java,
    OperatingSystem,
    RInstallation,
    RPackage,
    SystemdUnit,
)
from rpicluster.nodes.ssh.exchange import ClockProbe
from rpicluster.nodes.ssh.sections import by_file

_BOOT_FILES = ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt")


def read_os(text: str) -> OperatingSystem:
    """Return the operating system from os-release(5)."""
    files = by_file(text)
    found = {}
    for line in files["/etc/os-release"].splitlines():
        key, equals, value = line.partition("=")
        if equals:
            found[key] = " ".join(shlex.split(value))
    return OperatingSystem(
        id=found["ID"],
        version=found.get("VERSION_ID", ""),
        codename=found.get("VERSION_CODENAME", ""),
        name=found.get("PRETTY_NAME", found["ID"]),
        raspberry_pi_os="/etc/rpi-issue" in files,
    )


def read_java(text: str) -> tuple[Java, ...]:
    """Return installed Javas, from `HOME<TAB>JAVA_VERSION=...` lines; without a release file the name tells.

    8 and older call themselves 1.8.0_392.
    """
    lines = [line.split("\t", 1) for line in text.splitlines() if "\t" in line]
    on_path = next((value for home, value in lines if home == "PATH"), "")
    javas = []
    for home, release in lines:
        if home == "PATH":
            continue
        said = re.search(r'JAVA_VERSION="?([^"\s]+)', release)
        named = re.search(r"(?:java|jdk|jre|temurin|zulu)-?(\d+)", home.rpartition("/")[2])
        version = said[1] if said else named[1] if named else ""
        major = re.match(r"(?:1\.)?(\d+)", version)
        javas.append(
            Java(
                home=home,
                version=version,
                major=int(major[1]) if major else None,
                on_path=on_path.startswith(f"{home}/"),
            )
        )
    return tuple(javas)


def read_r(text: str) -> RInstallation | None:
    """Return R from lines `LIBRARY/PACKAGE:V:1.2` and `…:B:4.2.2`, in the order in which R searches.

    What rpicluster noted is the line of its file.
    """
    found: dict[tuple[str, str], dict[str, str]] = {}
    done = {}
    for line in text.splitlines():
        if line.startswith("/opt/rpicluster/r/done.json:"):
            done = json.loads(line.partition(":")[2])
            continue
        path, kind, value = line.rsplit(":", 2)
        library, _, name = path.rpartition("/")
        found.setdefault((library, name), {})[kind] = value.strip()
    packages: dict[str, RPackage] = {}
    for (library, name), about in found.items():
        if "V" in about and name not in packages:
            packages[name] = RPackage(version=about["V"], built=about.get("B", ""), library=library)
    if "base" not in packages:
        return None
    return RInstallation(version=packages["base"].version, packages=packages, done=done)


def read_clock(text: str, state: str, probe: ClockProbe | None) -> Clock:
    """Return the node's clock against ours: the node's time minus the middle of the round trip.

    What timedatectl says alone does not count: the offset is measured. busybox's date knows whole
    seconds only, which then adds half of one to the uncertainty.
    """
    seconds, fraction, zone = re.match(r"(\d+)\.(\d*)[%N]*\s*([+-]\d{4})?", text.strip()).groups()  # type: ignore[union-attr]
    offset = uncertainty = None
    if probe is not None:
        node_s = float(f"{seconds}.{fraction or '5'}")
        offset = round(node_s - probe.middle_s, 6)
        uncertainty = round(probe.uncertainty_s + (0 if fraction else 0.5), 6)
    files = by_file(state)
    synchronised, source = _synchronised(state)
    volts = [
        int(value) for path, value in files.items() if path.endswith("battery_voltage") and value.isdigit()
    ]
    return Clock(
        offset_s=offset,
        uncertainty_s=uncertainty,
        synchronised=synchronised,
        source=source,
        rtc=next((value for path, value in files.items() if path.endswith("/name")), None),
        rtc_battery=max(volts) > 1_000_000
        if volts
        else None,  # microvolts; an empty holder shows next to none
        utc_offset=zone,
    )


def _synchronised(state: str) -> tuple[bool | None, str | None]:
    if "timesyncd=synchronised" in state:
        return True, "timesyncd"
    if tracking := re.search(r"^chrony=(.*)$", state, re.M):
        # The last field of `chronyc -c tracking` is the leap status.
        return tracking[1].rpartition(",")[2].strip() != "Not synchronised", "chrony"
    if said := re.search(r"^NTPSynchronized=(yes|no)$", state, re.M):
        return said[1] == "yes", "timedatectl"
    return None, None


def read_host_keys(text: str) -> tuple[HostKeyFact, ...]:
    """Return fingerprints of public keys as ssh-keygen prints them: unpadded base64 of SHA-256."""
    keys = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2:
            digest = hashlib.sha256(base64.b64decode(words[1], validate=True)).digest()
            keys.append(
                HostKeyFact(
                    type=words[0],
                    fingerprint="SHA256:" + base64.b64encode(digest).decode().rstrip("="),
                )
            )
    return tuple(keys)


def read_cgroups(text: str, boot: str) -> Cgroups:
    """Return whether the memory controller is on, and the cmdline.txt that could turn it on.

    Version 2 lists its controllers at the root; version 1 says enabled or not in /proc/cgroups. Linux
    6.12 and newer may leave the v1 line out, so the list of v2 counts first.
    """
    files, boots = by_file(text), by_file(boot)
    unified = files.get("/sys/fs/cgroup/cgroup.controllers")
    if unified is not None:
        version, memory = 2, "memory" in unified.split()
    else:
        version = 1
        memory = bool(re.search(r"^memory\s+\d+\s+\d+\s+1$", files.get("/proc/cgroups", ""), re.M))
    path = next((path for path in _BOOT_FILES if "root=" in boots.get(path, "")), None)
    path = path or next((path for path in _BOOT_FILES if path in boots), None)
    return Cgroups(
        version=version,
        memory=memory,
        kernel_command_line=files.get("/proc/cmdline", ""),
        boot_file=path,
        boot_command_line=boots[path] if path else None,
    )


def read_cloud_init(text: str) -> CloudInit:
    """Return whether cloud-init is done, and whether it writes /etc/hosts at each boot.

    `manage_etc_hosts` may be true, localhost or template; the last one that is set wins.
    """
    said = re.findall(r"^\s*manage_etc_hosts\s*:\s*[\"']?(\w+)", text, re.M)
    return CloudInit(
        finished=bool(re.search(r"^finished$", text, re.M)),
        manages_hosts=bool(said) and said[-1].lower() not in ("false", "no", "off"),
    )


def read_units(text: str) -> dict[str, SystemdUnit]:
    """Return units that exist, by name, from `systemctl show`: blocks of KEY=VALUE between empty lines."""
    units = {}
    for block in re.split(r"\n\s*\n", text.strip()):
        found = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = found.get("Id")
        if not name or found.get("LoadState") == "not-found":
            continue
        pid = int(found.get("MainPID") or 0)
        units[name] = SystemdUnit(
            name=name,
            loaded=found.get("LoadState", ""),
            active=found.get("ActiveState", ""),
            sub=found.get("SubState", ""),
            enabled=found.get("UnitFileState", ""),
            result=found.get("Result", ""),
            restarts=int(found.get("NRestarts") or 0),
            pid=pid or None,
        )
    return units
