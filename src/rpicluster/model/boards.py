"""Raspberry Pi boards: what a revision code says, and what a board of that type has and needs.

Sources: "Raspberry Pi revision codes", "Power supplies" and the product pages of Raspberry Pi's
documentation (raspberrypi.com/documentation/computers/raspberry-pi.html).
"""

from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

_T = TypeVar("_T")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BoardType(_Model):
    """What every board of one type has in common."""

    name: str = Field(description="as Raspberry Pi's documentation calls it, such as 4B")
    supply_ma: int | None = Field(default=None, description="recommended supply at 5.1 V")
    usb_ma: int | None = Field(default=None, description="what all USB devices together may draw")
    active_ma: int | None = Field(default=None, description="the bare board at work")
    ethernet_mbps: int = Field(default=0, description="the socket's link speed; 0 for none")
    has_rtc: bool = Field(default=False, description="keeps time with a battery; without one it does not")
    has_pcie: bool = False
    bits: int = Field(default=64, description="of the processor")


class Revision(_Model):
    """A decoded revision code."""

    code: str
    type: str
    pcb: str | None = None
    memory_mib: int | None = Field(default=None, description="RAM that was soldered on")
    manufacturer: str | None = None
    processor: str | None = None


# Type field of new-style codes (bits 4 to 11).
_TYPES = {
    0x00: "A",
    0x01: "B",
    0x02: "A+",
    0x03: "B+",
    0x04: "2B",
    0x05: "Alpha",
    0x06: "CM1",
    0x08: "3B",
    0x09: "Zero",
    0x0A: "CM3",
    0x0C: "Zero W",
    0x0D: "3B+",
    0x0E: "3A+",
    0x10: "CM3+",
    0x11: "4B",
    0x12: "Zero 2 W",
    0x13: "400",
    0x14: "CM4",
    0x15: "CM4S",
    0x17: "5",
    0x18: "CM5",
    0x19: "500",
    0x1A: "CM5 Lite",
    0x1B: "CM0",
}
_MEMORY_MIB = (256, 512, 1024, 2048, 4096, 8192, 16384)
_MANUFACTURERS = ("Sony UK", "Egoman", "Embest", "Sony Japan", "Embest", "Stadium")
_PROCESSORS = ("BCM2835", "BCM2836", "BCM2837", "BCM2711", "BCM2712")

# Old-style codes: type, PCB revision, MiB, manufacturer. 0015 was sold with 256 and with 512 MB.
_OLD: dict[int, tuple[str, str, int | None, str]] = {
    0x02: ("B", "1.0", 256, "Egoman"),
    0x03: ("B", "1.0", 256, "Egoman"),
    0x04: ("B", "2.0", 256, "Sony UK"),
    0x05: ("B", "2.0", 256, "Qisda"),
    0x06: ("B", "2.0", 256, "Egoman"),
    0x07: ("A", "2.0", 256, "Egoman"),
    0x08: ("A", "2.0", 256, "Sony UK"),
    0x09: ("A", "2.0", 256, "Qisda"),
    0x0D: ("B", "2.0", 512, "Egoman"),
    0x0E: ("B", "2.0", 512, "Sony UK"),
    0x0F: ("B", "2.0", 512, "Egoman"),
    0x10: ("B+", "1.2", 512, "Sony UK"),
    0x11: ("CM1", "1.0", 512, "Sony UK"),
    0x12: ("A+", "1.1", 256, "Sony UK"),
    0x13: ("B+", "1.2", 512, "Embest"),
    0x14: ("CM1", "1.0", 512, "Embest"),
    0x15: ("A+", "1.1", None, "Embest"),
}

_NEW_STYLE = 1 << 23
_OLD_CODE = 0xFFFFFF  # the bits above are flags: overvoltage, OTP, warranty

# Boards that can be a node; older ones are told apart by their type alone.
BOARD_TYPES: dict[str, BoardType] = {
    board.name: board
    for board in (
        BoardType(name="2B", supply_ma=1800, usb_ma=1200, active_ma=350, ethernet_mbps=100, bits=32),
        BoardType(name="3B", supply_ma=2500, usb_ma=1200, active_ma=400, ethernet_mbps=100),
        BoardType(name="3B+", supply_ma=2500, usb_ma=1200, active_ma=500, ethernet_mbps=1000),
        BoardType(name="3A+", supply_ma=2500, active_ma=350),
        BoardType(name="CM3"),
        BoardType(name="CM3+"),
        BoardType(name="Zero 2 W", supply_ma=2000, active_ma=350),
        BoardType(name="4B", supply_ma=3000, usb_ma=1200, active_ma=600, ethernet_mbps=1000),
        BoardType(name="400", supply_ma=3000, usb_ma=1200, active_ma=800, ethernet_mbps=1000),
        BoardType(name="CM4", ethernet_mbps=1000, has_pcie=True),
        BoardType(name="CM4S"),
        # 1.6 A for USB with a 5 A supply, 600 mA with a 3 A one.
        BoardType(
            name="5",
            supply_ma=5000,
            usb_ma=1600,
            active_ma=800,
            ethernet_mbps=1000,
            has_rtc=True,
            has_pcie=True,
        ),
        BoardType(
            name="500",
            supply_ma=5000,
            usb_ma=1600,
            active_ma=800,
            ethernet_mbps=1000,
            has_rtc=True,
        ),
        BoardType(name="CM5", ethernet_mbps=1000, has_rtc=True, has_pcie=True),
        BoardType(name="CM5 Lite", ethernet_mbps=1000, has_rtc=True, has_pcie=True),
        BoardType(name="CM0"),
    )
}


def decode_revision(code: str) -> Revision:
    """Return what a revision code from /proc/cpuinfo says; fields that are unknown here stay None.

    New-style codes are bit fields NOQuuuWuFMMMCCCCPPPPTTTTTTTTRRRR. Raspberry Pi advises to use the
    fields, not the whole code, so that a new board revision is still understood. Raises ValueError
    for what is not hexadecimal.
    """
    value = int(code, 16)
    if not 0 < value < 1 << 32:
        raise ValueError(f"{code!r} is not a revision code")
    if not value & _NEW_STYLE:
        old = _OLD.get(value & _OLD_CODE)
        if old is None:
            return Revision(code=code, type="unknown")
        return Revision(code=code, type=old[0], pcb=old[1], memory_mib=old[2], manufacturer=old[3])
    kind = value >> 4 & 0xFF
    return Revision(
        code=code,
        type=_TYPES.get(kind, f"unknown type 0x{kind:02x}"),
        pcb=f"1.{value & 0xF}",
        memory_mib=_at(_MEMORY_MIB, value >> 20 & 0x7),
        manufacturer=_at(_MANUFACTURERS, value >> 16 & 0xF),
        processor=_at(_PROCESSORS, value >> 12 & 0xF),
    )


def board_type(revision: Revision) -> BoardType | None:
    """Return what boards of this revision's type have and need, None for a type that is not known."""
    return BOARD_TYPES.get(revision.type)


def _at(values: tuple[_T, ...], index: int) -> _T | None:
    return values[index] if index < len(values) else None
