"""What feeds and heats a board."""

import re
from collections.abc import Iterator

from rpicluster.health.findings.finding import PROBLEM, WARNING, Node, Trouble, node_kind
from rpicluster.model.machine import DiskKind, Throttled

# Raspberry Pi: "the firmware starts to throttle at 80 °C"; PC processors stand more.
HOT_C, TOO_HOT_C = 75.0, 80.0
PC_HOT_C, PC_TOO_HOT_C = 90.0, 95.0
_VOLTS = 5.1
# What a PoE HAT gives out on an 802.3af port: 5 V at 2.5 A; a PoE+ HAT on an 802.3at port: 5 V at 4 A.
# Source: Raspberry Pi's product briefs of the PoE HAT and the PoE+ HAT.
_POE_HAT_W, _POE_PLUS_HAT_W = 12.5, 20.0
# What a disk draws when it is written to; between what makers of SATA, NVMe and 2.5" drives state.
_DISK_W = {
    DiskKind.USB_SSD: 3.0,
    DiskKind.NVME: 4.0,
    DiskKind.USB_HDD: 4.5,
    DiskKind.SATA_SSD: 3.0,
    DiskKind.USB_STICK: 1.0,
}


def _bits(node: Node) -> Throttled | None:
    return None if node.is_container else node.facts.power.throttled


@node_kind("under-voltage", PROBLEM, "A board gets too little voltage", here=True)
def under_voltage(node: Node) -> Iterator[Trouble]:
    """A problem while it lasts; a warning when it has happened since boot and is over."""
    bits = _bits(node)
    if bits is None or not (bits.under_voltage or bits.under_voltage_since_boot):
        return
    now = bits.under_voltage
    yield Trouble(
        what=(
            f"{node.name} {'gets' if now else 'got'} too little "
            f"voltage{'' if now else ' at some time since it was booted'}"
        ),
        cause="the supply, its cable or the PoE HAT is too weak for the board and what hangs on it",
        evidence=(
            f"throttled=0x{bits.raw:x}: under-voltage now: {_yes(now)}, since boot: "
            f"{_yes(bits.under_voltage_since_boot)}",
            *(line.strip() for line in node.facts.kernel_log[-40:] if re.search("[Uu]nder-?voltage", line)),
        )[:3],
        fix="use the official supply with its own cable, and feed disks by a powered hub",
        command=node.run("vcgencmd get_throttled"),
        severity=PROBLEM if now else WARNING,
    )


@node_kind("throttled", PROBLEM, "A board runs slower than it could", here=True)
def throttled(node: Node) -> Iterator[Trouble]:
    """The firmware lowers the clock for heat or voltage: a problem while it lasts, a warning when it was
    since boot, or at the soft limit. What under-voltage explains is told there.
    """
    bits = _bits(node)
    if bits is None:
        return
    now = bits.throttled or bits.frequency_capped
    if now and not bits.under_voltage:
        state, severity = "is slowed down", PROBLEM
    elif bits.soft_temperature_limit and not now:
        state, severity = "is slowed down a little by heat (soft limit)", WARNING
    elif not now and not bits.under_voltage_since_boot and _was(bits):
        state, severity = "was slowed down at some time since it was booted", WARNING
    else:
        return
    heat = "" if node.facts.temperature_c is None else f", processor at {node.facts.temperature_c:.1f} °C now"
    yield Trouble(
        what=f"{node.name} {state}",
        cause="too hot: no heat sink, a fan that stands, or boards stacked too close",
        evidence=(f"throttled=0x{bits.raw:x}: {_named(bits)}{heat}",),
        fix="cool it; every job waits for the slowest node",
        command=node.run("vcgencmd get_throttled; vcgencmd measure_temp"),
        severity=severity,
    )


def _was(bits: Throttled) -> bool:
    return (
        bits.throttled_since_boot
        or bits.frequency_capped_since_boot
        or bits.soft_temperature_limit_since_boot
    )


def _named(bits: Throttled) -> str:
    flags = {name: on for name, on in bits.model_dump().items() if on and name != "raw"}
    return ", ".join(name.replace("_", " ") for name in flags)


@node_kind("hot", PROBLEM, "A processor is too hot", here=True)
def hot(node: Node) -> Iterator[Trouble]:
    """A Pi from 75 °C on is a warning, from 80 °C, where its firmware slows it, a problem; a PC from 90
    and 95 °C.
    """
    temperature = node.facts.temperature_c
    is_pi = node.facts.board is not None and node.facts.board.revision is not None
    warm, too_hot = (HOT_C, TOO_HOT_C) if is_pi else (PC_HOT_C, PC_TOO_HOT_C)
    if temperature is None or temperature < warm or node.is_container:
        return
    yield Trouble(
        what=f"{node.name} is at {temperature:.1f} °C",
        cause="no heat sink, a fan that stands, or boards stacked too close",
        evidence=(f"processor: {temperature:.1f} °C, slowed down from {too_hot:.0f} °C on",),
        fix="cool it: a heat sink with a fan takes about 30 °C off",
        command=node.run("cat /sys/class/thermal/thermal_zone*/temp"),
        severity=PROBLEM if temperature >= too_hot else WARNING,
    )


@node_kind("supply-weak", WARNING, "A supply offers less than the board wants")
def supply_weak(node: Node) -> Iterator[Trouble]:
    """Only a Pi 5 negotiates and tells. With less than 5 A it gives all USB devices together 600 mA."""
    supply = node.facts.power.supply_ma
    board = node.facts.board.type if node.facts.board else None
    if supply is None or board is None or board.supply_ma is None or supply >= board.supply_ma:
        return
    yield Trouble(
        what=(
            f"the supply of {node.name} offers {supply / 1000:g} A, the board wants "
            f"{board.supply_ma / 1000:g} A"
        ),
        cause="a supply that is not made for this board: USB disks get less current, and may fail when busy",
        evidence=(
            f"negotiated: {supply} mA, recommended: {board.supply_ma} mA",
            *([] if node.facts.power.usb_full_current is not False else ["USB limited to 600 mA"]),
        ),
        fix="use the official 27 W supply, or feed disks by a powered hub",
        command=node.run("vcgencmd pmic_read_adc EXT5V_V"),
    )


@node_kind("poe-budget", WARNING, "A PoE HAT may be too weak for board and disks")
def poe_budget(node: Node) -> Iterator[Trouble]:
    """An estimate: what the board may draw by its data sheet and what such disks draw when written to,
    against what the HAT gives out. What the switch gives all ports together is not known here.
    """
    hat, board = node.facts.power.hat, node.facts.board.type if node.facts.board else None
    if not hat or "poe" not in hat.lower() or board is None or not board.supply_ma:
        return
    gives = _POE_PLUS_HAT_W if "poe+" in hat.lower() else _POE_HAT_W
    own = (board.supply_ma - (board.usb_ma or 0)) / 1000 * _VOLTS
    disks = [(disk.name, _DISK_W[disk.kind]) for disk in node.facts.disks if disk.kind in _DISK_W]
    needs = own + sum(watts for _, watts in disks)
    if needs <= gives:
        return
    parts = [f"board {own:.1f} W", *(f"{name} {watts:g} W" for name, watts in disks)]
    yield Trouble(
        what=f"{node.name} may need {needs:.1f} W, its {hat} gives {gives:g} W",
        cause="board and disks together want more than the HAT can pass on when all are busy",
        evidence=(f"estimated: {' + '.join(parts)} = {needs:.1f} W", f"{hat}: {gives:g} W at most"),
        fix="feed the disks by a powered hub, or use a PoE+ HAT (802.3at) on a port that gives it",
        command=node.run("vcgencmd get_throttled; lsblk"),
    )


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"
