"""Port numbers of sparklyr's gateways: the same at both ends of a tunnel, so each cluster has its own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rpicluster.errors import RpiclusterError
from rpicluster.model.ports import SPARKLYR_PORT, SPARKLYR_PORTS

LEAST_USERS = 4  # room for some that come later: their sessions' numbers follow on
_END = 32768  # here Linux's own numbers for outgoing connections begin


def free_block(
    clusters: Path, cluster: str, *, users: int, is_free: Callable[[int], bool] = lambda port: True
) -> int:
    """Return the first number of a range for `users` gateways that no other cluster of this user has.

    `clusters` is the folder of all clusters' states. Raises RpiclusterError when there is none.
    """
    size = SPARKLYR_PORTS * users
    taken = {port for block in _blocks(clusters, but=cluster) for port in block}
    for first in range(SPARKLYR_PORT, _END - size, SPARKLYR_PORTS):
        block = range(first, first + size)
        if taken.isdisjoint(block) and all(map(is_free, block)):
            return first
    raise RpiclusterError(
        f"no {size} ports in a row are free for sparklyr's gateway on 127.0.0.1, from {SPARKLYR_PORT} on",
        hint="see who has them: ss -tlnp",
    )


def _blocks(clusters: Path, *, but: str) -> Iterator[range]:
    for folder in clusters.iterdir() if clusters.is_dir() else ():
        if folder.name == but:
            continue
        local, remote = _read(folder / "placement.json"), _read(folder / "cluster.json")
        nodes = local.get("nodes")
        for node in nodes.values() if isinstance(nodes, dict) else ():
            ports = node["ports"]
            if "sparklyr" in ports:
                yield range(ports["sparklyr"], ports["sparklyr"] + SPARKLYR_PORTS)
            if "connect" in ports:
                yield range(ports["connect"], ports["connect"] + 1)
        gateway = remote.get("sparklyr") or {}
        if "first_port" in gateway:
            users = max(LEAST_USERS, len(remote.get("users") or ()))
            yield range(gateway["first_port"], gateway["first_port"] + SPARKLYR_PORTS * users)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a cluster of the other kind, or none yet
        return {}
    return document if isinstance(document, dict) else {}
