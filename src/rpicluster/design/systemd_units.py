"""A node's units as systemd knows them: services of daemons and sessions, the checkpoint's timer."""

from collections.abc import Iterable

from rpicluster.design import daemon_units, firewall, layout, mount_unit
from rpicluster.design.hardening import sandbox
from rpicluster.design.inputs import Inputs
from rpicluster.design.settings import HEADER
from rpicluster.design.systemd_text import assignment, command, plain_path
from rpicluster.design.units import RenderedFile, Unit
from rpicluster.model.facts import NodePaths

TIMER = "rpicluster-checkpoint.timer"
# A daemon that does not stay up is started again after RESTART_S seconds, on systemd 254 and newer after
# growing pauses of up to RESTART_MAX_S; STARTS times in START_WINDOW_S, then it is failed and stays so.
RESTART_S, RESTART_STEPS, RESTART_MAX_S = 5, 4, 30
STARTS, START_WINDOW_S = 30, 1800
# Which process the kernel ends when memory runs out: containers first, with the NodeManager from which they
# inherit it and which is smaller than any of them; then drivers; then, at 0, whatever else is largest.
OOM_SCORES = {"nodemanager": 500, "session": 250}
TASKS = {"nodemanager": 4096, "session": 4096}
TASKS_OF_A_DAEMON = 1024
OPEN_FILES = 65536
_DESCRIPTIONS = {
    "namenode": "HDFS NameNode",
    "datanode": "HDFS DataNode",
    "resourcemanager": "YARN ResourceManager",
    "nodemanager": "YARN NodeManager",
}
Lines = Iterable[tuple[str, str]]


def systemd_files(inputs: Inputs, name: str, units: Iterable[Unit]) -> dict[str, RenderedFile]:
    """Return the systemd files of node `name`, by absolute path; `units` are the node's own."""
    units = list(units)
    files = {layout.systemd_file(unit.name): service(inputs, unit, units) for unit in units}
    files[layout.systemd_file("firewall")] = firewall_service(inputs, name)
    if name == inputs.manager:
        checkpoint = _text(_checkpoint(inputs))
        files[layout.systemd_file(layout.CHECKPOINT)] = checkpoint
        files[f"{layout.SYSTEMD}/{TIMER}"] = _text(_checkpoint_timer())
    return files


def enabled_units(inputs: Inputs, name: str, units: Iterable[Unit]) -> tuple[str, ...]:
    """Return what systemd starts at boot on node `name`, in an order in which it can be started by hand."""
    services = [layout.systemd_unit(unit.name) for unit in units if unit.node == name]
    timer = [TIMER] if name == inputs.manager else []
    return (layout.systemd_unit("firewall"), *services, *timer)


def service(inputs: Inputs, unit: Unit, here: Iterable[Unit]) -> RenderedFile:
    """Return the service of `unit`; `here` are all units of its node."""
    running = {other.name for other in here}
    after = [layout.systemd_unit(other) for other in unit.after if other in running]
    paths, kind = inputs.paths(unit.node), unit.name.partition("-")[0]
    start: Lines = (
        ("StartLimitIntervalSec", str(START_WINDOW_S)),
        ("StartLimitBurst", str(STARTS)),
    )
    return _text(
        {
            "Unit": (*_head(_description(unit), paths, unit.name, after), *start),
            "Service": (
                ("Type", "exec"),
                *_process(unit, paths),
                *_restart(),
                *_ending(unit, kind),
                ("LimitNOFILE", str(OPEN_FILES)),
                ("TasksMax", str(TASKS.get(kind, TASKS_OF_A_DAEMON))),
                *_places(unit, paths),
                *sandbox(unit.name),
            ),
            "Install": (("WantedBy", "multi-user.target"),),
        }
    )


def _description(unit: Unit) -> str:
    return _DESCRIPTIONS.get(unit.name, f"warm Spark session of {unit.user}") + " (rpicluster)"


def _head(description: str, paths: NodePaths, unit: str, after: Iterable[str] = ()) -> Lines:
    guard = layout.systemd_unit("firewall")
    return (
        ("Description", description),
        ("Wants", f"network-online.target {guard}"),
        # The clock: a Pi has none of its own, and what starts earlier sees it jump.
        ("After", " ".join(("network-online.target", "time-sync.target", guard, *after))),
        *mount_unit.required(paths, unit),
    )


def _process(unit: Unit, paths: NodePaths) -> Lines:
    person = unit.name.startswith("session-")
    return (
        ("User", unit.user),
        # A person has a group already, and the services' group is none of theirs.
        *(() if person else (("Group", layout.GROUP),)),
        ("WorkingDirectory", plain_path(unit.directory)),
        *(("Environment", assignment(name, value)) for name, value in unit.environment),
        *_guarded(),
        ("ExecStart", command(unit.argv)),
        *((("ExecReload", command(unit.reload)),) if unit.reload else ()),
    )


def _guarded() -> Lines:
    # `+`: as root. Without the firewall everybody on the network may run anything, so nothing starts.
    check = f"exec {firewall.NFT} list table {firewall.TABLE} >/dev/null"
    return (("ExecStartPre", f'+/bin/sh -c "{check}"'),)


def _restart() -> Lines:
    return (
        ("Restart", "on-failure"),
        ("RestartSec", str(RESTART_S)),
        # systemd older than 254 says that it does not know these two, and goes on.
        ("RestartSteps", str(RESTART_STEPS)),
        ("RestartMaxDelaySec", str(RESTART_MAX_S)),
    )


def _ending(unit: Unit, kind: str) -> Lines:
    return (
        ("TimeoutStopSec", str(unit.stop_timeout_s)),
        # A session's keeper ends its driver itself. A NodeManager's containers end with it: it does not know
        # them any more when it comes back (recovery is off: ADR 0014), and an orphan would keep its memory.
        ("KillMode", "mixed" if kind == "session" else "control-group"),
        ("SuccessExitStatus", "143"),  # what Java returns after SIGTERM
        ("OOMScoreAdjust", str(OOM_SCORES.get(kind, 0))),
        # One container, or one driver, that was ended for its memory must not end what looks after it.
        ("OOMPolicy", "continue" if kind in OOM_SCORES else "stop"),
    )


def _places(unit: Unit, paths: NodePaths) -> Lines:
    logs = [layout.logs_directory(paths, unit.name)]
    writable = [unit.directory]
    if unit.name == "nodemanager":
        logs.append(layout.container_logs_directory(paths))
    lines = [*_made_by_systemd("Logs", "/var/log/", logs, "0750")]
    if unit.name.startswith("session-"):
        status = [layout.run_directory(paths, unit.name)]
        lines += _made_by_systemd("Runtime", "/run/", status, "0755")
        lines.append(("RuntimeDirectoryPreserve", "yes"))  # who asks later reads that it was stopped
    else:
        writable.append(layout.hadoop_directory(paths))
    return (*lines, ("ReadWritePaths", " ".join(plain_path(path) for path in writable)))


def _made_by_systemd(kind: str, root: str, paths: list[str], mode: str) -> Lines:
    """Return what makes directories when the unit starts: /run is empty at boot, and in RAM /var/log, too."""
    for path in paths:
        if not path.startswith(root):
            raise ValueError(f"{path} must lie below {root} on a real node")
    names = " ".join(plain_path(path).removeprefix(root) for path in paths)
    return ((f"{kind}Directory", names), (f"{kind}DirectoryMode", mode))


def _checkpoint(inputs: Inputs) -> dict[str, Lines]:
    paths = inputs.paths(inputs.manager)
    namenode = layout.systemd_unit("namenode")
    unit = Unit(
        name="namenode",  # its directories, logs and confinement
        node=inputs.manager,
        argv=daemon_units.checkpoint_command(inputs),
        environment=daemon_units.environment(inputs, inputs.manager, layout.HDFS_USER),
        reads=(),
        directory=layout.unit_directory(paths, "namenode"),
        user=layout.HDFS_USER,
    )
    head = _head("merge the NameNode's edits into its image (rpicluster)", paths, "namenode", [namenode])
    return {
        # A NameNode that is down is not started for this.
        "Unit": (*head, ("Requisite", namenode)),
        "Service": (
            ("Type", "oneshot"),
            *_process(unit, paths),
            ("TimeoutStartSec", "1h"),
            ("TasksMax", str(TASKS_OF_A_DAEMON)),
            *_places(unit, paths),
            *sandbox(unit.name),
        ),
    }


def _checkpoint_timer() -> dict[str, Lines]:
    # Not OnCalendar=: a Pi without a clock does not know the hour, and one that is off at night misses it.
    return {
        "Unit": (("Description", "daily checkpoint of the NameNode (rpicluster)"),),
        "Timer": (("OnActiveSec", "30min"), ("OnUnitActiveSec", "1d"), ("AccuracySec", "1min")),
        "Install": (("WantedBy", "timers.target"),),
    }


def firewall_service(inputs: Inputs, name: str) -> RenderedFile:
    """Return the service that loads the firewall of node `name` before any unit of the cluster."""
    rules = plain_path(f"{inputs.paths(name).conf}/{layout.FIREWALL}")
    others = "nftables.service ufw.service firewalld.service"
    return _text(
        {
            "Unit": (
                ("Description", "who may reach the cluster's ports (rpicluster)"),
                # Names of users stand in the rules.
                ("After", f"nss-user-lookup.target {others}"),
                # Debian's nftables.service flushes every table, ours as well: after it ours is loaded again.
                ("PartOf", "nftables.service"),
            ),
            "Service": (
                ("Type", "oneshot"),
                ("RemainAfterExit", "yes"),
                ("ExecStart", f"{firewall.NFT} -f {rules}"),
                ("ExecReload", f"{firewall.NFT} -f {rules}"),
                ("ExecStop", f"-{firewall.NFT} delete table {firewall.TABLE}"),
                ("ProtectSystem", "strict"),
                ("ProtectHome", "yes"),
                ("NoNewPrivileges", "yes"),
                ("CapabilityBoundingSet", "CAP_NET_ADMIN"),
            ),
            "Install": (("WantedBy", "multi-user.target"),),
        }
    )


def _text(sections: dict[str, Lines]) -> RenderedFile:
    lines = [f"# {HEADER}"]
    for section, entries in sections.items():
        lines += ["", f"[{section}]", *(f"{key}={value}" for key, value in entries)]
    return RenderedFile(("\n".join(lines) + "\n").encode())
