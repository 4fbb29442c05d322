"""What was seen of nodes behind SSH, as a plan compares it with what was rendered. Pure."""

from collections.abc import Mapping
from typing import Literal

from rpicluster.design import layout
from rpicluster.design.plan import Observed, ObservedFile, ObservedUnit
from rpicluster.errors import UsageError
from rpicluster.model.machine import MachineFacts, SystemdUnit
from rpicluster.nodes.remote.manifest import owner_of, relative, units_of

UnitState = Literal["running", "stopped", "failed"]


def observed(
    machines: Mapping[str, MachineFacts | None],
    unreachable: Mapping[str, str],
    wanted_units: Mapping[str, tuple[str, ...]],
    *,
    manager: str,
    file_system: str,
) -> Observed:
    """Return what stands on the nodes. `wanted_units` names, by node, those that may run there."""
    seen = {name: machine for name, machine in machines.items() if machine and name not in unreachable}
    return Observed(
        files={name: _files(machine) for name, machine in seen.items()},
        units={name: _units(machine, wanted_units.get(name, ())) for name, machine in seen.items()},
        runtime={name: machine.runtime or "" for name, machine in seen.items()},
        namenode=_namenode(seen.get(manager), file_system),
        unreachable=dict(unreachable),
    )


def _files(machine: MachineFacts) -> dict[str, ObservedFile]:
    return {
        relative(path): ObservedFile(sha256=file.sha256, mode=file.mode, owner=file.owner)
        for path, file in machine.deployed.items()
    }


def _units(machine: MachineFacts, wanted: tuple[str, ...]) -> dict[str, ObservedUnit]:
    started = units_of(machine.manifest)
    known = {**dict.fromkeys(wanted, ""), **started}
    found = {}
    for name, config_hash in known.items():
        unit = machine.units.get(layout.systemd_unit(name))
        if unit is None and name not in started:
            continue
        found[name] = ObservedUnit(unit_state(unit), config_hash)
    return found


def unit_state(unit: SystemdUnit | None) -> UnitState:
    """Return a unit's state; one that waits to be started again has failed."""
    if unit is None or unit.loaded == "not-found":
        return "stopped"
    if unit.active == "failed" or unit.sub == "auto-restart":
        return "failed"
    return "running" if unit.active in ("active", "activating", "reloading") else "stopped"


def _namenode(machine: MachineFacts | None, file_system: str) -> Literal["empty", "formatted", "foreign"]:
    if machine is None or machine.file_system is None:
        # An unreachable manager gets no steps at all; nothing is formatted because it was not seen.
        return "empty"
    return "formatted" if machine.file_system == file_system else "foreign"


def require_apart(machines: Mapping[str, MachineFacts | None]) -> None:
    """Raise UsageError if two entries lead to one machine: nothing can be planned for it twice.

    The same machine-id and the same boot: cards that were copied have the first, and each its own boot.
    """
    names: dict[tuple[str, str], str] = {}
    for name, machine in machines.items():
        if machine is None or not machine.machine_id or not machine.boot_id:
            continue
        other = names.setdefault((machine.machine_id, machine.boot_id), name)
        if other != name:
            raise UsageError(
                f"{other} and {name} are one machine: both lead to {machine.names.hostname}",
                hint="leave one of them out of cluster.yml, or mend its address",
            )


def refusals(
    machines: Mapping[str, MachineFacts | None], *, cluster: str, cluster_id: str
) -> tuple[str, ...]:
    """Return why nodes must not be touched: another cluster's, somebody's Hadoop, one machine twice."""
    found = []
    by_machine: dict[str, list[str]] = {}
    for name, machine in machines.items():
        if machine is None:
            continue
        owner = owner_of(machine)
        if owner is not None and owner[1] != cluster_id:
            found.append(
                f"{name} belongs to cluster {owner[0]!r} (id {owner[1]}), which another spec or laptop made; "
                "destroy that one first"
            )
        if owner is None and machine.foreign_daemons:
            classes = ", ".join(
                sorted(
                    {cls.rpartition(".")[2] for daemon in machine.foreign_daemons for cls in daemon.classes}
                )
            )
            found.append(f"{name} already runs somebody else's Hadoop or Spark: {classes}; stop it first")
        if machine.privilege == "none":
            found.append(
                f"{name}: the login {machine.login} cannot become root; sudo wants a password or refuses"
            )
        if machine.machine_id:
            by_machine.setdefault(machine.machine_id, []).append(name)
    found += [
        f"{' and '.join(names)} have one machine-id: two entries of one machine, or a card that was copied"
        for names in by_machine.values()
        if len(names) > 1
    ]
    return tuple(found)
