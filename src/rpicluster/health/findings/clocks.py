"""Time: how far clocks are off, and what keeps them right."""

from collections.abc import Iterator

from rpicluster.health.findings.finding import (
    PROBLEM,
    WARNING,
    Node,
    Seen,
    Trouble,
    cluster_kind,
    node_kind,
)

# `up` waits for less; beyond it logs of nodes no longer line up.
SKEW_WARNING_S = 2.0
# Half a minute is a clock that nobody sets; tokens and certificates are "not valid yet" after minutes.
SKEW_PROBLEM_S = 30.0
_SETTLING_S = 120.0  # after boot timesyncd and chrony need a minute


def _certain_s(node: Node) -> float | None:
    """The skew that is left when the measurement's uncertainty is taken off, with its sign."""
    offset = node.facts.clock.offset_s
    if offset is None:
        return None
    rest = max(0.0, abs(offset) - (node.facts.clock.uncertainty_s or 0.0))
    return rest if offset >= 0 else -rest


def _all_agree(seen: Seen) -> bool:
    """Whether all nodes are off by the same, so that the control machine is the odd one."""
    offsets = [o for node in seen.nodes if (o := _certain_s(node)) is not None]
    return (
        len(offsets) > 1
        and max(offsets) - min(offsets) <= SKEW_WARNING_S
        and abs(offsets[0]) > SKEW_WARNING_S
    )


@node_kind("clock-skew", PROBLEM, "A node's clock is wrong")
def clock_skew(node: Node) -> Iterator[Trouble]:
    """More than 2 s (warning) or 30 s (problem) off this machine's clock, beyond what the measurement
    may be off. When all nodes agree with each other, see control-clock.
    """
    offset = _certain_s(node)
    if offset is None or abs(offset) <= SKEW_WARNING_S or _all_agree(node.seen):
        return
    clock = node.facts.clock
    yield Trouble(
        what=f"the clock of {node.name} is {abs(offset):.1f} s {'ahead' if offset > 0 else 'behind'}",
        cause="no time server has set it"
        + (", and the board has no clock that runs without power" if clock.rtc is None else ""),
        evidence=(
            f"measured over SSH: {clock.offset_s:+.3f} s, true within {clock.uncertainty_s or 0:.3f} s",
            f"synchronised: {clock.synchronised}, by {clock.source or 'nothing known'}",
        ),
        fix="let it ask a time server",
        command=node.run("sudo timedatectl set-ntp true && sudo systemctl restart systemd-timesyncd"),
        severity=PROBLEM if abs(offset) > SKEW_PROBLEM_S else WARNING,
    )


@cluster_kind("control-clock", WARNING, "This machine's clock differs from all nodes'")
def control_clock(seen: Seen) -> Iterator[Trouble]:
    """The nodes agree with each other, so the odd one is this machine."""
    if _all_agree(seen):
        yield Trouble(
            what="this machine's clock differs from that of all nodes",
            cause="it is this machine that no time server has set, or the nodes follow a wrong one together",
            evidence=tuple(
                f"{n.name}: {n.facts.clock.offset_s:+.3f} s"
                for n in seen.nodes
                if n.facts.clock.offset_s is not None
            ),
            fix="set this machine's clock",
            command="timedatectl",
        )


@node_kind("no-time-source", WARNING, "Nothing keeps a node's clock right")
def no_time_source(node: Node) -> Iterator[Trouble]:
    """No time server has set it, and it has no real-time clock with a battery: after a power cut it
    starts in the past. The first two minutes after boot do not count.
    """
    clock = node.facts.clock
    young = node.facts.uptime_s is not None and node.facts.uptime_s < _SETTLING_S
    # An RTC whose battery cannot be asked about, as in PCs, is taken for one that works.
    keeps_time = clock.rtc is not None and clock.rtc_battery is not False
    if clock.synchronised is not False or keeps_time or young:
        return
    yield Trouble(
        what=f"nothing keeps the clock of {node.name} right",
        cause="its time service is off or reaches no server, and no battery keeps a clock running",
        evidence=(
            f"synchronised: no, asked {clock.source or 'nobody'}",
            f"real-time clock: {clock.rtc or 'none'}" + (", no battery" if clock.rtc else ""),
        ),
        fix="switch the time service on; a network without internet needs a server of its own",
        command=node.run("sudo timedatectl set-ntp true; timedatectl timesync-status"),
    )
