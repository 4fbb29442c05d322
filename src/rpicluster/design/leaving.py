"""Nodes that leave: who they are, whether they may, and how far it is. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rpicluster.design import hdfs_files, layout, yarn_files
from rpicluster.design.plan import Action, Step
from rpicluster.design.units import RenderedFile
from rpicluster.model.spec import ClusterSpec, Role, SshTarget

_MIB = 1 << 20
_SILENT_S = 15
_KEPT_FREE_MIB = hdfs_files.DATANODE_FREE_MIB


@dataclass(frozen=True)
class Member:
    """A node of the cluster as the last change left it: enough to move its data and to clear it."""

    name: str
    target: SshTarget
    roles: tuple[Role, ...]
    address: str
    datanode: str = ""  # `address:port` as the NameNode knows it, "" without that role

    def document(self, *, private: bool = False) -> dict[str, Any]:
        """Return it for JSON; a file of this machine's OpenSSH configuration only where it is `private`."""
        hidden = None if private else {"config"}
        return {
            "ssh": self.target.model_dump(exclude_none=True, exclude=hidden),
            "roles": [role.value for role in self.roles],
            "address": self.address,
            "datanode": self.datanode,
        }

    @classmethod
    def read(cls, name: str, document: Mapping[str, Any]) -> "Member":
        """Return what `document` wrote; raises ValueError or KeyError for anything else."""
        return cls(
            name,
            SshTarget.model_validate(document["ssh"]),
            tuple(Role(role) for role in document["roles"]),
            str(document["address"]),
            str(document["datanode"]),
        )


@dataclass(frozen=True)
class Leaver:
    """A member that goes (`whole`), or that stays without being a worker any more."""

    member: Member
    whole: bool

    @property
    def name(self) -> str:
        """Its name."""
        return self.member.name


@dataclass(frozen=True)
class Stored:
    """What the NameNode says of one DataNode; bytes are 0 for a dead one."""

    state: str  # "live", "dead", "decommission in progress", "decommissioned"
    blocks: int = 0
    used_bytes: int = 0
    remaining_bytes: int = 0
    to_copy: int = 0
    open_files: int = 0  # of these, blocks of files that are being written
    silent_s: int = 0  # since its last heartbeat; they come every 3 s

    @property
    def is_out(self) -> bool:
        """Whether every block of it has its copies elsewhere."""
        return self.state == "decommissioned"


@dataclass(frozen=True)
class Storage:
    """HDFS in numbers: DataNodes by `address:port`, copies of a new file, blocks without any."""

    datanodes: Mapping[str, Stored]
    copies: int
    missing: int


def leavers(members: Mapping[str, Member], spec: ClusterSpec) -> tuple[Leaver, ...]:
    """Return who leaves, by name: members that the spec no longer names, or no longer as workers."""
    wanted = spec.roles
    found = []
    for name, member in sorted(members.items()):
        if name not in wanted:
            found.append(Leaver(member, whole=True))
        elif Role.WORKER in member.roles and Role.WORKER not in wanted[name]:
            found.append(Leaver(member, whole=False))
    return tuple(found)


def manager_refusal(members: Mapping[str, Member], spec: ClusterSpec) -> str | None:
    """Return why the manager cannot be another node, None where it is the same."""
    known = next((m.name for m in members.values() if Role.MANAGER in m.roles), None)
    if known is None or known == spec.manager.name:
        return None
    return (
        f"{known} is the manager and cannot become {spec.manager.name}: the names of all files are in its "
        f"NameNode. Make {known} the manager again; or `rpicluster get` what you need, destroy, start anew"
    )


def leave_steps(leaving: Iterable[Leaver], staying: Collection[str], gone: Mapping[str, str]) -> list[Step]:
    """Return the steps for nodes that leave; `gone` says why some do not answer."""
    steps = []
    for leaver in leaving:
        name = leaver.name
        if leaver.member.datanode:
            others = ", ".join(sorted(staying))
            reason = (
                f"does not answer; goes if the other copies of its blocks on {others} are enough"
                if name in gone
                else f"every block of it is copied to {others} first"
            )
            steps.append(Step(Action.LEAVE, name, "datanode", reason))
            if name not in gone:
                steps.append(
                    Step(Action.LEAVE, name, "nodemanager", "gets no new containers; those that run may end")
                )
        if not leaver.whole:
            steps.append(
                Step(Action.CLEAR, name, "datanode", "what is left of its blocks, which are elsewhere")
            )
        elif name in gone:
            steps.append(
                Step(Action.CLEAR, name, "member", f"is forgotten; what is on it stays there: {gone[name]}")
            )
        else:
            steps.append(
                Step(
                    Action.CLEAR,
                    name,
                    "node",
                    "everything of the cluster: daemons, logins, files, data, rules; Debian packages stay",
                )
            )
    return steps


def refusals(leaving: Iterable[Leaver], storage: Storage, gone: Collection[str] = ()) -> list[str]:
    """Return why these DataNodes may not leave: too few or too small ones stay, or blocks would be lost.

    A dead DataNode has nothing more to give: it may go as soon as no block is missing. `gone` are nodes that
    do not answer; the NameNode needs two minutes to see that.
    """
    names = {leaver.member.datanode: leaver.name for leaver in leaving if leaver.member.datanode}
    going = {source: stored for source, stored in storage.datanodes.items() if source in names}
    staying = [
        stored
        for source, stored in storage.datanodes.items()
        if source not in names and stored.state == "live"
    ]
    moving = {s: stored for s, stored in going.items() if stored.state not in ("dead", "decommissioned")}
    silent = [names[s] for s, stored in moving.items() if stored.silent_s > _SILENT_S and names[s] in gone]
    if silent:
        return [
            f"{' and '.join(silent)} does not answer, and the NameNode still hopes: it gives one up after "
            "2 minutes of silence. Wait that long, then `rpicluster up` again"
        ]
    dead = " and ".join(sorted(names[s] for s, stored in going.items() if stored.state == "dead"))
    found = _no_room(" and ".join(sorted(names[s] for s in moving)), moving.values(), staying, storage.copies)
    if dead and storage.missing:
        found.append(
            f"{dead} cannot leave: {_count(storage.missing, 'block')} would be lost, because no copy is on a "
            f"DataNode that runs. Switch {dead} on once more, or remove the files that are broken"
        )
    return found


def _no_room(names: str, moving: Collection[Stored], staying: Collection[Stored], copies: int) -> list[str]:
    if not moving:
        return []
    found = []
    if len(staying) < copies:
        found.append(
            f"{names} cannot leave: files are kept in {copies} copies on different DataNodes, and only "
            f"{len(staying)} would be left. Add a worker, `rpicluster up`, then take {names} out; or say "
            f"`hdfs: {{replication: {max(1, len(staying))}}}` and `rpicluster up` before"
        )
    room_mib = sum(max(0, stored.remaining_bytes // _MIB - _KEPT_FREE_MIB) for stored in staying)
    used_mib = sum(stored.used_bytes for stored in moving) // _MIB
    if used_mib > room_mib:
        found.append(
            f"{names} cannot leave: {used_mib} MiB of blocks would have to fit into {room_mib} MiB on the "
            f"other DataNodes, {_KEPT_FREE_MIB} MiB of each kept free. Remove files, or add a worker first"
        )
    return found


def still_to_do(leaver: Leaver, storage: Storage) -> str | None:
    """Return what keeps a DataNode from leaving, in words; None when it may go."""
    stored = storage.datanodes.get(leaver.member.datanode)
    if stored is None or stored.is_out:
        return None
    if stored.state == "dead":
        lost = f"{leaver.name} is dead; without any copy elsewhere: {_count(storage.missing, 'block')}"
        return lost if storage.missing else None
    blocks = _count(stored.blocks, "block")
    if stored.state == "live" or not stored.to_copy:
        return f"{leaver.name}: the NameNode looks at its {blocks}"
    written = f", {stored.open_files} in files that are being written" if stored.open_files else ""
    return f"{leaver.name}: {stored.to_copy} of {blocks} still to copy{written}"


def exclude_files(leaving: Iterable[Leaver]) -> dict[str, RenderedFile]:
    """Return the manager's lists of who leaves, while that lasts."""
    workers = [leaver.member for leaver in leaving if leaver.member.datanode]
    return {
        layout.DFS_EXCLUDED: RenderedFile(hdfs_files.dfs_excluded(m.datanode for m in workers)),
        layout.YARN_EXCLUDED: RenderedFile(yarn_files.yarn_excluded(m.address for m in workers)),
    }


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
