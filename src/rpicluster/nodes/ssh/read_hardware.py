"""Board, processor, memory, heat and power: text of the node in, facts out."""

import re

from rpicluster.model.boards import board_type, decode_revision
from rpicluster.model.machine import Board, MachineMemory, Power, Processor, Throttled
from rpicluster.nodes.ssh.sections import by_file, number

# Bits of `vcgencmd get_throttled`; the same 16 bits higher: has happened since boot.
# Source: raspberrypi.com/documentation/computers/os.html, "get_throttled".
_UNDER_VOLTAGE, _CAPPED, _THROTTLED, _SOFT_LIMIT = (1 << bit for bit in range(4))
_SINCE_BOOT = 16

_CORTEX = {
    0xD03: "Cortex-A53",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD0B: "Cortex-A76",
    0xC07: "Cortex-A7",
}


def read_processor(text: str) -> Processor:
    """Return cores and features from /proc/cpuinfo; features are what all cores have.

    A 32-bit ARM kernel prints the model of each core, a 64-bit one prints only its part number.
    """
    cores, model = 0, None
    features: set[str] | None = None
    for key, value in _pairs(text):
        if key == "processor" and value.isdigit():
            cores += 1
        elif key in ("model name", "CPU part") and model is None:
            model = _CORTEX.get(int(value, 16), value) if key == "CPU part" else value
        elif key in ("flags", "Features"):
            features = set(value.split()) if features is None else features & set(value.split())
    return Processor(cores=cores, model=model, features=tuple(sorted(features or ())))


def read_board(tree: str, cpuinfo: str) -> Board | None:
    """Return the board from the device tree, or from the last lines of /proc/cpuinfo; None on a PC.

    A kernel without Raspberry Pi's patches (Debian's own) has the revision in the device tree only.
    """
    found = dict(line.split("=", 1) for line in tree.splitlines() if "=" in line)
    last = dict(_pairs(cpuinfo))
    model = found.get("model") or last.get("Model")
    if not model:
        return None
    code = last.get("Revision") or found.get("system/linux,revision", "").lstrip("0")
    revision = decode_revision(code) if "Raspberry Pi" in model and code else None
    return Board(
        model=model,
        serial=found.get("serial-number") or last.get("Serial"),
        revision=revision,
        type=board_type(revision) if revision else None,
    )


def read_memory(text: str) -> MachineMemory:
    """Return RAM from /proc/meminfo, whose kB are KiB (proc(5))."""
    found = dict(_pairs(text))
    available = found.get("MemAvailable")
    return MachineMemory(
        total_mib=_kib(found["MemTotal"]) // 1024,
        available_mib=_kib(available) // 1024 if available else None,
    )


def read_throttled(text: str) -> Throttled | None:
    """Return the throttling bits from `vcgencmd get_throttled`, its file in /sys, or rpi_volt's alarm."""
    said = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", text)
    if said:
        return decode_throttled(int(said[1], 16))
    for path, content in by_file(text).items():
        if path.endswith("get_throttled"):
            return decode_throttled(int(content, 16))
        if path.endswith("in0_lcrit_alarm"):  # only this one bit, and only for now
            return decode_throttled(_UNDER_VOLTAGE if content.strip() == "1" else 0)
    return None


def decode_throttled(raw: int) -> Throttled:
    """Return the meaning of the bits that the firmware gives."""
    before = raw >> _SINCE_BOOT
    return Throttled(
        raw=raw,
        under_voltage=bool(raw & _UNDER_VOLTAGE),
        frequency_capped=bool(raw & _CAPPED),
        throttled=bool(raw & _THROTTLED),
        soft_temperature_limit=bool(raw & _SOFT_LIMIT),
        under_voltage_since_boot=bool(before & _UNDER_VOLTAGE),
        frequency_capped_since_boot=bool(before & _CAPPED),
        throttled_since_boot=bool(before & _THROTTLED),
        soft_temperature_limit_since_boot=bool(before & _SOFT_LIMIT),
    )


def read_power(tree: str, throttled: Throttled | None) -> Power:
    """Return what feeds the board; the supply's offer stands in a Pi 5's device tree, big-endian."""
    found = dict(line.split("=", 1) for line in tree.splitlines() if "=" in line)
    offered = found.get("chosen/power/max_current")
    full = found.get("chosen/power/usb_max_current_enable")
    return Power(
        throttled=throttled,
        supply_ma=int(offered, 16) if offered else None,
        usb_full_current=bool(int(full, 16)) if full else None,
        hat=found.get("hat/product") or None,
    )


def read_temperature(text: str) -> float | None:
    """Return degrees Celsius of the processor's zone, else of the hottest one."""
    files = by_file(text)
    zones = {}
    for path, content in files.items():
        value = number(content)
        if path.endswith("/temp") and value is not None:
            kind = files.get(path.removesuffix("temp") + "type", "")
            zones[kind, path] = value / 1000
    processor = [value for (kind, _), value in zones.items() if "cpu" in kind or kind == "x86_pkg_temp"]
    return max(processor or zones.values(), default=None)


def _pairs(text: str) -> list[tuple[str, str]]:
    lines = (line.partition(":") for line in text.splitlines())
    return [(key.strip(), value.strip()) for key, colon, value in lines if colon]


def _kib(value: str) -> int:
    return int(value.removesuffix("kB"))
