"""The NameNode's own numbers, over JMX: safe mode, DataNodes, blocks, room."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rpicluster.errors import ServiceError
from rpicluster.services.transport import Daemon, Transport, answer_of


@dataclass(frozen=True)
class DataNodeReport:
    """A DataNode as the NameNode sees it; sizes are 0 for a dead one."""

    name: str
    state: str  # "live" | "dead" | "decommissioned" and Hadoop's other admin states, in small letters
    last_contact_s: int
    capacity_bytes: int = 0
    used_bytes: int = 0
    remaining_bytes: int = 0
    blocks: int = 0
    failed_volumes: int = 0
    to_copy: int = 0  # of a node that is being decommissioned: blocks that still lack a copy elsewhere
    open_files: int = 0  # of these, blocks of files that are being written


@dataclass(frozen=True)
class NameNodeReport:
    """HDFS in numbers. `safe_mode` is the NameNode's explanation, "" when it is off."""

    version: str
    safe_mode: str
    capacity_bytes: int
    used_bytes: int
    remaining_bytes: int
    files: int
    blocks: int
    missing_blocks: int
    missing_blocks_of_one_replica: int
    under_replicated_blocks: int
    corrupt_blocks: int
    datanodes: tuple[DataNodeReport, ...]

    @property
    def live(self) -> tuple[DataNodeReport, ...]:
        """Return the DataNodes that send heartbeats."""
        return tuple(node for node in self.datanodes if node.state != "dead")

    @property
    def dead(self) -> tuple[DataNodeReport, ...]:
        """Return the DataNodes that are known and silent."""
        return tuple(node for node in self.datanodes if node.state == "dead")

    def document(self) -> dict[str, Any]:
        """Return what `--json` shows."""
        return asdict(self)


class NameNode:
    """The NameNode's JMX."""

    def __init__(self, transport: Transport, base_url: str) -> None:
        """Talk to the NameNode at `base_url` (`http://host:9870`)."""
        self.transport = transport
        self.daemon = Daemon("NameNode", base_url)

    def report(self) -> NameNodeReport:
        """Return all of it, in two requests. Raises Unreachable, ServiceError while it still starts."""
        info, system = self._bean("NameNodeInfo"), self._bean("FSNamesystem")
        with answer_of(self.daemon, "show the state of HDFS"):
            return _report(info, system)

    def safe_mode(self) -> str:
        """Return why the NameNode is in safe mode, "" when it is not."""
        return str(self._bean("NameNodeInfo").get("Safemode", ""))

    def _bean(self, name: str) -> Mapping[str, Any]:
        query = {"qry": f"Hadoop:service=NameNode,name={name}"}
        answer = self.transport.get_json(self.daemon, "/jmx", query, what=f"show {name}")
        with answer_of(self.daemon, f"show {name}"):
            beans = answer["beans"]
            if beans:
                found: Mapping[str, Any] = beans[0]
                return found
        raise ServiceError(f"{self.daemon} is still starting: it has no {name} yet", hint="rpicluster status")


def _report(info: Mapping[str, Any], system: Mapping[str, Any]) -> NameNodeReport:
    leaving = json.loads(info.get("DecomNodes") or "{}")
    nodes = [
        *(_live(name, found, leaving.get(name, {})) for name, found in json.loads(info["LiveNodes"]).items()),
        *(_dead(name, found) for name, found in json.loads(info["DeadNodes"]).items()),
    ]
    return NameNodeReport(
        version=info["SoftwareVersion"],
        safe_mode=info["Safemode"],
        capacity_bytes=info["Total"],
        used_bytes=info["Used"],
        remaining_bytes=info["Free"],
        files=system["FilesTotal"],
        blocks=info["TotalBlocks"],
        missing_blocks=info["NumberOfMissingBlocks"],
        missing_blocks_of_one_replica=info["NumberOfMissingBlocksWithReplicationFactorOne"],
        under_replicated_blocks=system["UnderReplicatedBlocks"],
        corrupt_blocks=system["CorruptBlocks"],
        datanodes=tuple(sorted(nodes, key=lambda node: node.name)),
    )


def _live(name: str, found: Mapping[str, Any], leaving: Mapping[str, Any]) -> DataNodeReport:
    admin = str(found["adminState"]).lower()
    return DataNodeReport(
        name=name,
        state="live" if admin == "in service" else admin,
        last_contact_s=found["lastContact"],
        capacity_bytes=found["capacity"],
        used_bytes=found["used"],
        remaining_bytes=found["remaining"],
        blocks=found["numBlocks"],
        failed_volumes=found["volfails"],
        to_copy=leaving.get("underReplicatedBlocks", 0),
        open_files=leaving.get("underReplicateInOpenFiles", 0),
    )


def _dead(name: str, found: Mapping[str, Any]) -> DataNodeReport:
    return DataNodeReport(name=name, state="dead", last_contact_s=found["lastContact"])
