"""Machine facts: everything that one look over SSH shows of a node, typed and frozen.

What a doctor or a plan decides, it decides from these alone.
"""

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rpicluster.model.boards import BoardType, Revision


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DiskKind(StrEnum):
    """What a disk is, as far as speed and wear go."""

    SD = "sd"
    EMMC = "emmc"
    NVME = "nvme"
    USB_SSD = "usb-ssd"
    USB_HDD = "usb-hdd"
    USB_STICK = "usb-stick"
    SATA_SSD = "sata-ssd"
    SATA_HDD = "sata-hdd"
    VIRTUAL = "virtual"
    COMPRESSED_MEMORY = "zram"
    OTHER = "other"


class Board(_Model):
    """The board as its firmware names it; `type` is set for a Raspberry Pi."""

    model: str
    serial: str | None = Field(default=None, description="burnt in: tells two boards with cloned cards apart")
    revision: Revision | None = None
    type: BoardType | None = None


class Processor(_Model):
    """Cores and what they can do."""

    cores: int = Field(ge=1)
    model: str | None = None
    features: tuple[str, ...] = Field(default=(), description="what every core has, sorted")


class MachineMemory(_Model):
    """RAM as the node's kernel sees it."""

    total_mib: int
    available_mib: int | None = None


class OperatingSystem(_Model):
    """From os-release(5); Raspberry Pi OS calls itself Debian there, and is told by /etc/rpi-issue."""

    id: str
    version: str = ""
    codename: str = ""
    name: str = ""
    raspberry_pi_os: bool = False


class Java(_Model):
    """An installed Java."""

    home: str
    version: str
    major: int | None = None
    on_path: bool = Field(default=False, description="this one runs when somebody types `java`")


class RPackage(_Model):
    """An installed R package: the one that R would load."""

    version: str
    built: str = Field(default="", description="the R that it was built with")
    library: str = Field(description="the folder it stands in")


class RInstallation(_Model):
    """R, and what it finds."""

    version: str
    packages: dict[str, RPackage] = {}
    done: dict[str, Any] = Field(
        default={}, description="what rpicluster noted when its packages were complete: /opt/rpicluster/r"
    )

    @property
    def series(self) -> str:
        """The version without its last part: packages are built for that, such as 4.2."""
        return series(self.version)


class Clock(_Model):
    """The node's clock against the control machine's, and what keeps it right."""

    offset_s: float | None = Field(default=None, description="positive: the node is ahead")
    uncertainty_s: float | None = Field(default=None, description="half the round trip of the measurement")
    synchronised: bool | None = None
    source: str | None = Field(default=None, description="timesyncd, chrony, or what timedatectl asks")
    rtc: str | None = Field(default=None, description="name of the real-time clock, None for none")
    rtc_battery: bool | None = None
    utc_offset: str | None = Field(default=None, description="of the node's time zone, such as +0200")


class Partition(_Model):
    """A part of a disk, or a whole disk with a file system on it."""

    name: str
    size_mib: int
    filesystem: str | None = None
    label: str | None = None
    uuid: str | None = Field(default=None, description="of its file system")


class Disk(_Model):
    """A block device, never a partition."""

    name: str
    kind: DiskKind
    size_mib: int
    model: str | None = None
    serial: str | None = None
    read_only: bool = False
    removable: bool = False
    partitions: tuple[Partition, ...] = ()
    ids: tuple[str, ...] = Field(default=(), description="its names in /dev/disk/by-id")
    speed_class: str | None = Field(default=None, description="of an SD card: C10, U1, V10, A1 and such")
    made: str | None = Field(default=None, description="month/year, of an SD card or eMMC")
    wear_percent: int | None = Field(default=None, description="of an eMMC: used part of its life, upper end")
    written_mib: int | None = Field(default=None, description="ever written to its ext4 file systems")


class Mount(_Model):
    """A mounted file system; sizes are None where df says nothing."""

    source: str
    path: str
    filesystem: str
    read_only: bool
    no_exec: bool = Field(default=False, description="no program and no library is run from it")
    total_mib: int | None = None
    free_mib: int | None = Field(default=None, description="for ordinary users")
    used_percent: int | None = None
    disk: str | None = Field(default=None, description="name of the disk it lies on")


class Swap(_Model):
    """A swap device or file and the disk it lies on."""

    path: str
    size_mib: int
    used_mib: int
    disk: str | None = None
    kind: DiskKind | None = None


class Address(_Model):
    """One address of an interface."""

    address: str
    prefix: int
    scope: str = "global"
    dynamic: bool = Field(default=False, description="has a lifetime: from DHCP or a router's announcement")


class Interface(_Model):
    """A network interface, loopback left out."""

    name: str
    mac: str | None = None
    mtu: int | None = None
    up: bool = False
    speed_mbps: int | None = None
    duplex: str | None = None
    wireless: bool = False
    hardware: bool = Field(default=False, description="a card or adapter, no bridge, tunnel or veth")
    addresses: tuple[Address, ...] = ()


class Route(_Model):
    """A default route."""

    family: int = Field(description="4 or 6")
    gateway: str | None = None
    interface: str | None = None
    protocol: str | None = Field(default=None, description="who set it: dhcp, static, ra, boot")


class Lookup(_Model):
    """One question to the node's resolver about itself."""

    duration_s: float
    found: tuple[str, ...] = ()
    timed_out: bool = False


class HostsLine(_Model):
    """A line of /etc/hosts."""

    address: str
    names: tuple[str, ...]


class Names(_Model):
    """How the node calls itself and finds names."""

    hostname: str | None = None
    configured: str | None = Field(default=None, description="in /etc/hostname: the name after the next boot")
    servers: tuple[str, ...] = ()
    own_name: Lookup | None = None
    own_address: Lookup | None = None


class HostKeyFact(_Model):
    """A public host key of the node's sshd."""

    type: str
    fingerprint: str


class Cgroups(_Model):
    """Whether memory limits of systemd units bite."""

    version: int = Field(description="2, or 1 also where both are mounted")
    memory: bool = Field(description="the memory controller is there and enabled")
    kernel_command_line: str = ""
    boot_file: str | None = Field(default=None, description="the cmdline.txt that counts")
    boot_command_line: str | None = Field(default=None, description="its content, line breaks kept")


class Throttled(_Model):
    """Decoded `vcgencmd get_throttled`; `..._since_boot` stays set until the next boot."""

    raw: int
    under_voltage: bool = False
    frequency_capped: bool = False
    throttled: bool = False
    soft_temperature_limit: bool = False
    under_voltage_since_boot: bool = False
    frequency_capped_since_boot: bool = False
    throttled_since_boot: bool = False
    soft_temperature_limit_since_boot: bool = False


class Power(_Model):
    """What feeds the board."""

    throttled: Throttled | None = None
    supply_ma: int | None = Field(default=None, description="what the supply offers, negotiated: Pi 5 only")
    usb_full_current: bool | None = Field(default=None, description="1.6 A for USB is on: Pi 5 only")
    hat: str | None = Field(default=None, description="product name of an attached HAT, such as a PoE one")


class Wall(_Model):
    """A table of nftables, not rpicluster's, whose input drops what no rule of it accepts.

    `lets_in` are the sources that a rule accepts. `judged` is False where named sets or whole network cards
    are let in, too: what that comes to is not known.
    """

    table: str
    lets_in: tuple[str, ...] = ()
    judged: bool = True


class Listener(_Model):
    """A listening TCP socket; `process` and `pid` only where the login may see them."""

    address: str
    port: int
    process: str | None = None
    pid: int | None = None
    uid: int | None = None


class Daemon(_Model):
    """A running Hadoop or Spark process; nothing else of its command line is kept."""

    pid: int
    user: str
    classes: tuple[str, ...]
    unit: str | None = Field(default=None, description="systemd unit it runs in")
    mark: str | None = Field(default=None, description="CLUSTER_ID/NODE/UNIT, where rpicluster started it")

    @property
    def is_ours(self) -> bool:
        """Whether rpicluster started it, or one of rpicluster's NodeManagers as a container."""
        return self.mark is not None or (self.unit or "").startswith("rpicluster")


class SystemdUnit(_Model):
    """A unit as `systemctl show` tells it."""

    name: str
    loaded: str
    active: str
    sub: str = ""
    enabled: str = ""
    result: str = ""
    restarts: int = 0
    pid: int | None = None


class CloudInit(_Model):
    """What cloud-init does on this node."""

    finished: bool
    manages_hosts: bool = Field(description="it writes /etc/hosts anew at each boot")


class DeployedFile(_Model):
    """A file as the manifest lists it, or as it stands there now."""

    sha256: str = Field(description='"" for a file that the login may not read')
    mode: int
    owner: str = ""


class Manifest(_Model):
    """What rpicluster says it put on this node: /var/lib/rpicluster/manifest.json."""

    version: str
    files: dict[str, DeployedFile] = {}
    extra: dict[str, Any] = Field(default={}, description="whatever else the file says, as it says it")


class Problem(_Model):
    """A fact that could not be read, and why; the facts beside it are good."""

    fact: str
    message: str


def series(version: str) -> str:
    """Return the first two numbers of a version of R."""
    return ".".join(version.split(".")[:2])


class MachineFacts(_Model):
    """One node as one look over SSH shows it. None and () mean "not seen"; `problems` says why."""

    names: Names = Names()
    hosts: tuple[HostsLine, ...] = ()
    machine_id: str | None = None
    boot_id: str | None = None
    uptime_s: float | None = None
    login: str | None = None
    privilege: Literal["root", "sudo", "sudo-password", "none"] = Field(
        default="none", description="how the login becomes root; sudo: without a password"
    )
    board: Board | None = None
    virtualization: str | None = Field(
        default=None, description="as systemd-detect-virt says; None: a machine"
    )
    kernel: str | None = None
    kernel_arch: str | None = None
    userland_arch: str | None = Field(default=None, description="as dpkg calls it, such as arm64")
    userland_bits: int | None = None
    processor: Processor | None = None
    memory: MachineMemory | None = None
    os: OperatingSystem | None = None
    java: tuple[Java, ...] = ()
    python: str | None = Field(default=None, description="path of python3, its version in the name")
    r: RInstallation | None = None
    clock: Clock = Clock()
    disks: tuple[Disk, ...] = ()
    mounts: tuple[Mount, ...] = ()
    swaps: tuple[Swap, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    host_keys: tuple[HostKeyFact, ...] = ()
    cgroups: Cgroups | None = None
    power: Power = Power()
    temperature_c: float | None = None
    cloud_init: CloudInit | None = None
    system_state: str | None = Field(default=None, description="as `systemctl is-system-running` says")
    units: dict[str, SystemdUnit] = {}
    daemons: tuple[Daemon, ...] = ()
    listeners: tuple[Listener, ...] | None = None
    package_managers: tuple[str, ...] = Field(default=(), description="apt and dpkg at work now")
    firewall_tables: tuple[str, ...] | None = None
    walls: tuple[Wall, ...] = Field(default=(), description="other firewalls that drop what they do not name")
    kernel_log: tuple[str, ...] = Field(default=(), description="lines about power, disks, memory, network")
    runtime: str | None = Field(default=None, description="name of the runtime's folder that is in use")
    runtime_damage: tuple[str, ...] = Field(
        default=(), description="its files that are missing or cut short, the first twenty"
    )
    file_system: str | None = Field(
        default=None, description="clusterID in the NameNode's directory, `unknown` for anything else in it"
    )
    manifest: Manifest | None = None
    deployed: dict[str, DeployedFile] = Field(
        default={}, description="the manifest's files as they stand there now; a missing one is missing here"
    )
    secrets: dict[str, DeployedFile] = Field(default={}, description="sessions' tokens: mode and owner alone")
    problems: tuple[Problem, ...] = ()

    def mount_of(self, path: str) -> Mount | None:
        """Return the file system that holds `path`, or would hold it: the longest mount point above it."""
        above = [m for m in self.mounts if m.path == "/" or f"{path}/".startswith(f"{m.path}/")]
        # The last of several mounts on one path hides the others.
        return max(reversed(above), key=lambda mount: len(mount.path), default=None)

    def disk(self, name: str | None) -> Disk | None:
        """Return the disk of that name."""
        return next((disk for disk in self.disks if disk.name == name), None)

    @property
    def foreign_daemons(self) -> tuple[Daemon, ...]:
        """Hadoop and Spark processes that rpicluster did not start."""
        return tuple(daemon for daemon in self.daemons if not daemon.is_ours)
