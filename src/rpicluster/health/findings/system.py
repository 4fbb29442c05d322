"""The system on a node: memory, control groups, units."""

from collections.abc import Iterator

from rpicluster.design import layout
from rpicluster.design.daemon_sizes import DAEMONS
from rpicluster.design.sizing import size
from rpicluster.errors import RpiclusterError, SizingRefused
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
from rpicluster.model.facts import ClusterFacts, NodeFacts

_PLENTY_MIB = 1 << 20
# Less of the bought RAM than this: a large GPU share, `total_mem=`, or a 32-bit kernel. Pis show 88 to 97 %.
_RAM_SHARE_MIN = 0.75
_RESTARTS_MAX = 5


@cluster_kind("memory-below-floor", PROBLEM, "A node has too little RAM for its roles")
def memory_below_floor(seen: Seen) -> Iterator[Trouble]:
    """Sizing refuses it; the arithmetic is its own."""
    if seen.spec.is_local:
        return
    known = {node.name: node.facts.memory.total_mib for node in seen.nodes if node.facts.memory}
    plenty: set[str] = set()
    while True:
        facts = {
            node.name: NodeFacts(
                name=node.name,
                memory_mib=_PLENTY_MIB if node.name in plenty else known.get(node.name, _PLENTY_MIB),
                cores=4,
            )
            for node in seen.spec.nodes
        }
        try:
            size(seen.spec, ClusterFacts(nodes=facts))
            return
        except SizingRefused as error:
            if error.node not in known or error.node in plenty:
                return  # what else sizing refuses is `plan`'s to say, not a fault of a node
            plenty.add(error.node)
            yield Trouble(
                what=f"{error.node} is {error.short_mib} MiB short of what its roles need",
                cause="daemons, drivers and containers would not fit beside the operating system",
                evidence=(error.message,),
                fix=error.hint or "use a board with more RAM",
                command="rpicluster plan --explain",
                node=error.node,
            )
        except RpiclusterError:
            return


@node_kind("memory-missing", WARNING, "A node sees much less RAM than its board has")
def memory_missing(node: Node) -> Iterator[Trouble]:
    """Less than three quarters of what was soldered on, by the board's revision code."""
    board = node.facts.board
    bought = board.revision.memory_mib if board and board.revision else None
    if bought is None or node.facts.memory is None:
        return
    if node.facts.memory.total_mib < bought * _RAM_SHARE_MIN:
        yield Trouble(
            what=f"{node.name} uses {node.facts.memory.total_mib} of its {bought} MiB",
            cause="config.txt gives it away (gpu_mem, total_mem), or the kernel is a 32-bit one without LPAE",
            evidence=(
                f"kernel: {node.facts.memory.total_mib} MiB",
                f"revision {board.revision.code if board and board.revision else ''}: {bought} MiB",
            ),
            fix="look for gpu_mem and total_mem in config.txt",
            command=node.run("grep -HnE 'gpu_mem|total_mem' /boot/firmware/config.txt"),
        )


def _enables_memory(line: str) -> bool:
    """Whether a kernel command line switches the memory controller on: of several words the last counts."""
    words = [w for w in line.split() if w in ("cgroup_enable=memory", "cgroup_disable=memory")]
    return bool(words) and words[-1] == "cgroup_enable=memory"


@node_kind("cgroup-memory-off", WARNING, "The kernel does not limit the memory of units")
def cgroup_memory_off(node: Node) -> Iterator[Trouble]:
    """Raspberry Pi's firmware switches the memory controller off; limits of units then do nothing.
    When cmdline.txt already mends it, see reboot-needed.
    """
    groups = node.facts.cgroups
    if groups is None or groups.memory or _enables_memory(_first_line(groups.boot_command_line)):
        return
    file = groups.boot_file or "/boot/firmware/cmdline.txt"
    off = [word for word in groups.kernel_command_line.split() if "cgroup" in word]
    yield Trouble(
        what=f"{node.name} cannot limit the memory of its daemons",
        cause="Raspberry Pi's firmware adds cgroup_disable=memory; cmdline.txt has to take it back",
        evidence=(
            f"cgroup v{groups.version}: no memory controller",
            f"kernel command line: {' '.join(off) or 'nothing about cgroups'}",
        ),
        fix="append to the one line of cmdline.txt, then reboot; `rpicluster up` does it when you let it",
        command=node.run(f"sudo sed -i '1 s/$/ cgroup_enable=memory cgroup_memory=1/' {file} && sudo reboot"),
    )


@node_kind("cmdline-lines", WARNING, "More than one line stands in cmdline.txt")
def cmdline_lines(node: Node) -> Iterator[Trouble]:
    """The firmware reads the first line only."""
    text = node.facts.cgroups.boot_command_line if node.facts.cgroups else None
    lines = [line for line in (text or "").splitlines() if line.strip()]
    file = node.facts.cgroups.boot_file if node.facts.cgroups else None
    if len(lines) > 1 and file:
        yield Trouble(
            what=f"{file} of {node.name} has {len(lines)} lines, and only the first counts",
            cause="something was appended as a line of its own",
            evidence=tuple(f"line {number}: {line}" for number, line in enumerate(lines[1:3], 2)),
            fix="join the lines to one",
            command=node.run(f"sudo sed -i ':a;N;$!ba;s/\\n\\+/ /g' {file}"),
        )


@node_kind("reboot-needed", WARNING, "A node waits for a reboot")
def reboot_needed(node: Node) -> Iterator[Trouble]:
    """cmdline.txt switches the memory controller on, and the running kernel was booted without it."""
    groups = node.facts.cgroups
    if groups is None or groups.memory or not _enables_memory(_first_line(groups.boot_command_line)):
        return
    days = f", up for {node.facts.uptime_s / 86400:.1f} days" if node.facts.uptime_s is not None else ""
    yield Trouble(
        what=f"{node.name} has to be rebooted once",
        cause="cmdline.txt was changed after the kernel was booted",
        evidence=(f"{groups.boot_file}: cgroup_enable=memory; the running kernel: off{days}",),
        fix="reboot it when nothing runs",
        command=node.run("sudo reboot"),
    )


def _first_line(text: str | None) -> str:
    return next((line for line in (text or "").splitlines() if line.strip()), "")


@node_kind("unit-failed", PROBLEM, "A systemd unit has failed")
def unit_failed(node: Node) -> Iterator[Trouble]:
    """One of rpicluster's is a problem; one of those that it relies on (time, network, apt) a warning."""
    for name in sorted(node.facts.units):
        unit = node.facts.units[name]
        if unit.active == "failed":
            ours = name.startswith("rpicluster")
            yield Trouble(
                what=f"{name} on {node.name} has failed",
                cause="its process ended with an error, or could not be started",
                evidence=(
                    f"{name}: {unit.active} ({unit.sub}), result {unit.result}, {unit.restarts} restarts",
                ),
                fix="read why, then start it",
                command=node.run(f"sudo journalctl -u {name} -n 50 --no-pager"),
                severity=PROBLEM if ours else WARNING,
            )


@node_kind("unit-stopped", PROBLEM, "A unit that should run does not")
def unit_stopped(node: Node) -> Iterator[Trouble]:
    """A daemon of rpicluster's that is enabled, and was stopped. Its helpers may run once and end."""
    for name in sorted(node.facts.units):
        unit = node.facts.units[name]
        part = name.removeprefix("rpicluster-").removesuffix(".service")
        is_daemon = name.startswith("rpicluster-") and (part in DAEMONS or part.startswith("session"))
        if is_daemon and unit.enabled == "enabled" and unit.active == "inactive":
            yield Trouble(
                what=f"{name} on {node.name} does not run",
                cause="somebody stopped it, or it ended",
                evidence=(f"{name}: enabled, {unit.active} ({unit.sub})",),
                fix="start it, or `rpicluster start` for the whole cluster",
                command=node.run(f"sudo systemctl start {name}"),
            )


@node_kind("unit-disabled", WARNING, "A unit runs, and will not after the next boot")
def unit_disabled(node: Node) -> Iterator[Trouble]:
    """A unit of rpicluster's that its manifest names is active, and disabled or masked."""
    manifest = node.facts.manifest
    for part in sorted(manifest.extra.get("units", {})) if manifest is not None else ():
        name = layout.systemd_unit(part)
        unit = node.facts.units.get(name)
        if unit is not None and unit.active == "active" and unit.enabled in ("disabled", "masked"):
            yield Trouble(
                what=f"{name} on {node.name} will not come back after a boot",
                cause="somebody disabled it",
                evidence=(f"{name}: {unit.active}, {unit.enabled}",),
                fix="enable it again",
                command=node.run(f"sudo systemctl unmask {name} && sudo systemctl enable {name}"),
            )


@node_kind("unit-restarts", WARNING, "A unit is started again and again")
def unit_restarts(node: Node) -> Iterator[Trouble]:
    """Five restarts or more: systemd has restarted one of rpicluster's units that often."""
    for name in sorted(node.facts.units):
        unit = node.facts.units[name]
        if name.startswith("rpicluster") and unit.restarts >= _RESTARTS_MAX and unit.active != "failed":
            yield Trouble(
                what=f"{name} on {node.name} was restarted {unit.restarts} times",
                cause="it dies soon after it starts, most often for memory or a wrong file",
                evidence=(f"{name}: {unit.active}, {unit.restarts} restarts, result {unit.result}",),
                fix="read why it ends",
                command=node.run(f"sudo journalctl -u {name} -n 100 --no-pager"),
            )


@node_kind("system-degraded", NOTE, "A node is degraded, says systemd")
def system_degraded(node: Node) -> Iterator[Trouble]:
    """Some unit has failed that rpicluster does not look at."""
    if node.facts.system_state == "degraded" and not any(
        u.active == "failed" for u in node.facts.units.values()
    ):
        yield Trouble(
            what=f"a unit on {node.name} has failed, none that rpicluster needs",
            cause="see the list",
            evidence=("systemctl is-system-running: degraded",),
            fix="see which",
            command=node.run("systemctl --failed"),
        )


@node_kind("still-setting-up", NOTE, "A node is still being set up")
def still_setting_up(node: Node) -> Iterator[Trouble]:
    """cloud-init's first run has not finished, or apt is at work and holds its lock."""
    init = node.facts.cloud_init
    lines = [f"at work: {line}" for line in node.facts.package_managers]
    if init is not None and not init.finished:
        lines.insert(0, "cloud-init has not finished")
    if lines:
        yield Trouble(
            what=f"{node.name} is still at work on itself",
            cause="its first boot, or unattended upgrades",
            evidence=tuple(lines),
            fix="wait; `up` waits for apt's lock as well",
            command=node.run("cloud-init status --wait; ps -C apt,apt-get,dpkg"),
        )
