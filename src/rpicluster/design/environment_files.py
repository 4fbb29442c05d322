"""How logins and other services learn what the cluster's units are told; the kernel's settings."""

import re

from rpicluster.design import layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import HEADER
from rpicluster.design.units import RenderedFile

PROFILE = "/etc/profile.d/rpicluster.sh"
USER_SERVICES = "/etc/environment.d/60-rpicluster.conf"
# For services of the node's owner: `EnvironmentFile=/etc/rpicluster/env/rpicluster.env`.
SERVICES = "env/rpicluster.env"
SYSCTL = "/etc/sysctl.d/60-rpicluster.conf"
# Linux takes the local port of an outgoing connection from here (ip-sysctl: ip_local_port_range).
EPHEMERAL = range(32768, 61000)
_PLAIN = re.compile(r"/[A-Za-z0-9_@:,./+-]+")


def environment_files(inputs: Inputs, name: str) -> dict[str, RenderedFile]:
    """Return the files that carry the environment of node `name`, and its kernel's settings."""
    values = variables(inputs, name)
    return {
        PROFILE: RenderedFile(_profile(values)),
        USER_SERVICES: RenderedFile(_user_services(values)),
        SERVICES: RenderedFile(_services(values)),
        SYSCTL: RenderedFile(_sysctl(inputs, name)),
    }


def variables(inputs: Inputs, name: str) -> dict[str, str]:
    """Return what tools of Java, Hadoop and Spark look for, without PATH.

    Raises ValueError for a path that needs quotes: four programs read these values, each with rules of its
    own, and the scripts that start containers with none.
    """
    node = inputs.node(name)
    values = {
        "JAVA_HOME": node.java_home,
        "SPARK_HOME": node.paths.runtime,
        "HADOOP_CONF_DIR": f"{node.paths.conf}/hadoop",
        "SPARK_CONF_DIR": f"{node.paths.conf}/spark",
    }
    if inputs.spec.r is not None:
        values["R_LIBS_SITE"] = ":".join(layout.R_LIBRARIES)
    for key, value in values.items():
        if not _PLAIN.fullmatch(value):
            raise ValueError(f"{name}: {key} must be a plain path, not {value!r}")
    return values


def _profile(values: dict[str, str]) -> bytes:
    # /etc/profile is read by dash, bash and their like: nothing but POSIX sh, nothing that prints or fails.
    lines = [f"# {HEADER}", *(f"export {key}={value}" for key, value in values.items())]
    for directory in ("$JAVA_HOME/bin", "$SPARK_HOME/bin"):
        # Last, so that nothing of the system is replaced; once, however often this is read.
        lines.append(
            f'case ":$PATH:" in *":{directory}:"*) ;; *) PATH="${{PATH:+$PATH:}}{directory}" ;; esac'
        )
    lines.append("export PATH")
    return ("\n".join(lines) + "\n").encode()


def _user_services(values: dict[str, str]) -> bytes:
    # environment.d(5): `systemd --user` expands ${NAME} here.
    lines = [f"# {HEADER}", *(f"{key}={value}" for key, value in values.items())]
    lines.append("PATH=${PATH}:${JAVA_HOME}/bin:${SPARK_HOME}/bin")
    return ("\n".join(lines) + "\n").encode()


def _services(values: dict[str, str]) -> bytes:
    lines = [f"# {HEADER}", *(f"{key}={value}" for key, value in values.items())]
    return ("\n".join(lines) + "\n").encode()


def _sysctl(inputs: Inputs, name: str) -> bytes:
    ports = sorted(port for port in set(inputs.node(name).ports.values()) if port in EPHEMERAL)
    lines = [
        f"# {HEADER}",
        "# A leading - means: where the kernel refuses, as containers' do, go on.",
        "# A heap that was swapped to an SD card answers in seconds; a container that needs more is ended.",
        "-vm.swappiness = 1",
    ]
    if ports:
        lines += [
            "# Daemons listen on these: no outgoing connection may hold one when they start.",
            f"-net.ipv4.ip_local_reserved_ports = {','.join(map(str, ports))}",
        ]
    return ("\n".join(lines) + "\n").encode()
