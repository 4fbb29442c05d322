"""Small clusters for the doctor: a healthy one, and for every kind of finding what triggers it and what is
near it and must stay silent.

A case changes the healthy cluster: `pi1={...}` replaces facts of pi1, `daemons=` what daemons say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rpicluster.errors import (
    HostKeyRefused,
    LoginRefused,
    NodeAmbiguous,
    NodeUnreachable,
    RemoteCommandFailed,
    RpiclusterError,
)
from rpicluster.health.findings.finding import Finding
from rpicluster.health.findings.observation import (
    ClusterObservation,
    DataNodeSeen,
    HdfsSeen,
    NodeManagerSeen,
    PartSeen,
    PrivateFile,
)
from rpicluster.health.findings.registry import diagnose
from rpicluster.model.boards import BOARD_TYPES, decode_revision
from rpicluster.model.machine import (
    Address,
    Board,
    Cgroups,
    Clock,
    CloudInit,
    Daemon,
    DeployedFile,
    Disk,
    DiskKind,
    HostKeyFact,
    HostsLine,
    Interface,
    Java,
    Listener,
    Lookup,
    MachineFacts,
    MachineMemory,
    Manifest,
    Mount,
    Names,
    OperatingSystem,
    Partition,
    Power,
    Problem,
    Processor,
    RInstallation,
    Route,
    RPackage,
    Swap,
    SystemdUnit,
    Throttled,
    Wall,
)
from rpicluster.model.spec import ClusterSpec, RSpec

TODAY = (2025, 11)
NODES = ("pi1", "pi2", "pi3")
HASH = "a" * 64
CONF, TOKEN = "/etc/rpicluster/core-site.xml", "/etc/rpicluster/token"

SPEC = ClusterSpec.model_validate(
    {
        "name": "shelf",
        "nodes": [{"name": n, "ssh": {"host": f"10.0.0.{i}", "user": "pi"}} for i, n in enumerate(NODES, 1)],
        "users": ["ana"],
    }
)


def paste(node: str, command: str) -> str:
    return f"ssh {node} {command!r}"


def interface(number: int, **changes: Any) -> Interface:
    found = Interface(
        name="eth0",
        mac=f"dc:a6:32:00:00:0{number}",
        mtu=1500,
        up=True,
        speed_mbps=1000,
        duplex="full",
        hardware=True,
        addresses=(Address(address=f"10.0.0.{number}", prefix=24),),
    )
    return found.model_copy(update=changes)


def disk(**changes: Any) -> Disk:
    found = Disk(
        name="mmcblk0",
        kind=DiskKind.SD,
        size_mib=30000,
        model="SC32G",
        speed_class="C10 U1 A1",
        made="06/2024",
        written_mib=50000,
        partitions=(Partition(name="mmcblk0p2", size_mib=29500, filesystem="ext4"),),
    )
    return found.model_copy(update=changes)


def mount(**changes: Any) -> Mount:
    found = Mount(
        source="/dev/mmcblk0p2",
        path="/",
        filesystem="ext4",
        read_only=False,
        total_mib=29000,
        free_mib=20000,
        used_percent=30,
        disk="mmcblk0",
    )
    return found.model_copy(update=changes)


def unit(name: str, **changes: Any) -> dict[str, SystemdUnit]:
    found = SystemdUnit(
        name=name,
        loaded="loaded",
        active="active",
        sub="running",
        enabled="enabled",
        result="success",
        pid=800,
    )
    return {name: found.model_copy(update=changes)}


def java(*versions: str) -> tuple[Java, ...]:
    return tuple(Java(home=f"/usr/lib/jvm/{v}", version=v, major=int(v.split(".")[0])) for v in versions)


def manifest(mode: int = 0o600, version: str = "1", files: bool = True, **extra: Any) -> Manifest:
    wanted = {
        CONF: DeployedFile(sha256=HASH, mode=0o644, owner="root"),
        TOKEN: DeployedFile(sha256=HASH, mode=mode, owner="rpicluster"),
    }
    return Manifest(
        version=version, files=wanted if files else {}, extra={"cluster": "c1", "runtime": "r1"} | extra
    )


def deployed(**changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts of a node that is set up; `conf` and `token` change what stands there, None removes it."""
    stands = {
        CONF: DeployedFile(sha256=HASH, mode=0o644, owner="root"),
        TOKEN: DeployedFile(sha256=HASH, mode=0o600, owner="rpicluster"),
    }
    for name, path in (("conf", CONF), ("token", TOKEN)):
        if name in changes:
            if changes[name] is None:
                del stands[path]
            else:
                stands[path] = stands[path].model_copy(update=dict(changes[name]))
    lines = tuple(HostsLine(address=f"10.0.0.{i}", names=(name,)) for i, name in enumerate(NODES, 1))
    return {"manifest": manifest(), "deployed": stands, "hosts": lines}


def pi4(number: int = 1) -> MachineFacts:
    """A Pi 4 with 4 GB on Raspberry Pi OS with nothing to complain of, and nothing worth a note."""
    return MachineFacts(
        names=Names(
            hostname=f"pi{number}",
            configured=f"pi{number}",
            servers=("10.0.0.254",),
            own_name=Lookup(duration_s=0.0, found=(f"10.0.0.{number}",)),
            own_address=Lookup(duration_s=0.01, found=(f"pi{number}",)),
        ),
        hosts=(HostsLine(address="127.0.0.1", names=("localhost",)),),
        machine_id=f"{number:032x}",
        boot_id=f"00000000-0000-4000-8000-{number:012d}",
        uptime_s=90000.0,
        login="pi",
        privilege="sudo",
        board=Board(
            model="Raspberry Pi 4 Model B Rev 1.2",
            serial=f"10000000{number:08d}",
            revision=decode_revision("c03112"),
            type=BOARD_TYPES["4B"],
        ),
        kernel="6.12.0",
        kernel_arch="aarch64",
        userland_arch="arm64",
        userland_bits=64,
        processor=Processor(cores=4, model="Cortex-A72"),
        memory=MachineMemory(total_mib=3791, available_mib=3300),
        os=OperatingSystem(
            id="debian", version="12", codename="bookworm", name="Debian 12", raspberry_pi_os=True
        ),
        java=java("17.0.14"),
        python="/usr/bin/python3.11",
        clock=Clock(
            offset_s=0.01, uncertainty_s=0.002, synchronised=True, source="timesyncd", utc_offset="+0000"
        ),
        disks=(disk(),),
        mounts=(
            mount(),
            mount(source="/dev/mmcblk0p1", path="/boot/firmware", filesystem="vfat", used_percent=90),
        ),
        interfaces=(interface(number),),
        routes=(Route(family=4, gateway="10.0.0.254", interface="eth0", protocol="static"),),
        host_keys=(HostKeyFact(type="ssh-ed25519", fingerprint=f"SHA256:{number}"),),
        cgroups=Cgroups(
            version=2,
            memory=True,
            kernel_command_line="cgroup_disable=memory cgroup_enable=memory",
            boot_file="/boot/firmware/cmdline.txt",
            boot_command_line="console=tty1 cgroup_enable=memory cgroup_memory=1",
        ),
        power=Power(throttled=Throttled(raw=0)),
        temperature_c=50.0,
        system_state="running",
        units=unit("ssh.service"),
        listeners=(Listener(address="0.0.0.0", port=22, process="sshd", pid=800),),
        firewall_tables=(),
    )


def bits(raw: int) -> Power:
    names = ("under_voltage", "frequency_capped", "throttled", "soft_temperature_limit")
    flags = {name: bool(raw >> n & 1) for n, name in enumerate(names)}
    flags |= {f"{name}_since_boot": bool(raw >> (n + 16) & 1) for n, name in enumerate(names)}
    return Power(throttled=Throttled(raw=raw, **flags))


def hdfs(**changes: Any) -> HdfsSeen:
    live = tuple(DataNodeSeen(node=n, state="live", last_contact_s=1) for n in ("pi2", "pi3"))
    return HdfsSeen(
        **{"capacity_bytes": 100 << 30, "remaining_bytes": 80 << 30, "blocks": 10, "datanodes": live}
        | changes
    )


def daemons(**changes: Any) -> ClusterObservation:
    """A cluster whose daemons are well."""
    running = tuple(NodeManagerSeen(n, "RUNNING") for n in ("pi2", "pi3"))
    return ClusterObservation(**{"hdfs": hdfs(), "nodemanagers": running} | changes)


@dataclass(frozen=True)
class Case:
    """A change to the healthy cluster. `facts` by node, `errors` by node, and what daemons said."""

    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: Mapping[str, RpiclusterError] = field(default_factory=dict)
    daemons: ClusterObservation | None = None
    spec: ClusterSpec = SPEC
    severity: str | None = None

    def nodes(self) -> dict[str, MachineFacts | RpiclusterError]:
        found: dict[str, MachineFacts | RpiclusterError] = {}
        for number, name in enumerate(NODES, 1):
            found[name] = pi4(number).model_copy(update=dict(self.facts.get(name, {})))
        return found | dict(self.errors)

    def findings(self) -> tuple[Finding, ...]:
        return diagnose(self.spec, self.nodes(), self.daemons, on=paste, year_month=TODAY)


ON_SSD = {"path": "/mnt/ssd/rpicluster", "mount": "/mnt/ssd", "disk": "", "uuid": "u", "filesystem": "ext4"}


def on(node: str = "pi2", severity: str | None = None, **facts: Any) -> Case:
    return Case(facts={node: facts}, severity=severity)


def everywhere(**facts: Any) -> Case:
    return Case(facts=dict.fromkeys(NODES, facts))


def fails(error: type[RpiclusterError], cause: str, hint: str | None = "ping -c 3 10.0.0.2") -> Case:
    return Case(errors={"pi2": error(f"pi2: {cause}", node="pi2", cause=cause, hint=hint)})  # type: ignore[call-arg]


def says(severity: str | None = None, **changes: Any) -> Case:
    return Case(daemons=daemons(**changes), severity=severity)


def power(**changes: Any) -> Power:
    return Power(throttled=Throttled(raw=0), **changes)


PI5 = Board(model="Raspberry Pi 5", revision=decode_revision("d04170"), type=BOARD_TYPES["5"])
PI3 = Board(model="Raspberry Pi 3", revision=decode_revision("a02082"), type=BOARD_TYPES["3B"])
SSD = disk(name="sda", kind=DiskKind.USB_SSD)
SSD2 = disk(name="sdb", kind=DiskKind.USB_SSD)
DEB = OperatingSystem(id="debian", version="13", codename="trixie", name="Debian 13")
RPI_DATANODE = "rpicluster-datanode.service"
DUPLEX = {"name": "eth0", "duplex": "half", "speed_mbps": 1000}
OFF = Cgroups(
    version=2,
    memory=False,
    kernel_command_line="cgroup_disable=memory",
    boot_file="/boot/cmdline.txt",
    boot_command_line="console=tty1",
)
FOREIGN = Daemon(pid=77, user="hadoop", classes=("org.apache.hadoop.hdfs.server.datanode.DataNode",))
OURS = Daemon(pid=77, user="rpicluster", classes=FOREIGN.classes, unit=RPI_DATANODE, mark="c1/pi2/datanode")
BOOT = pi4(1).boot_id


WITH_R = SPEC.model_copy(update={"r": RSpec(packages=("digest", "dplyr"))})


def r(version: str = "4.2.2", *lacking: str, built: str = "4.2.2", **versions: str) -> RInstallation:
    """R with what WITH_R names but for what is lacking, and our own package in our own library."""
    known = {"base": version, "digest": "0.6.31", "dplyr": "1.0.10", "rpicluster": "0.1.0"} | versions
    return RInstallation(
        version=version,
        packages={
            name: RPackage(
                version=number,
                built=built if name == "rpicluster" else version,
                library="/opt/rpicluster/r/library" if name == "rpicluster" else "/usr/lib/R/site-library",
            )
            for name, number in known.items()
            if name not in lacking
        },
    )


def with_r(*found: RInstallation | None, spec: ClusterSpec = WITH_R, set_up: bool = True) -> Case:
    """Three nodes that are set up, with R as it was found on each; one that is not named is well."""
    every = (*found, *(r() for _ in NODES))[: len(NODES)]
    facts = [{**(deployed() if set_up else {}), "r": each} for each in every]
    return Case(facts=dict(zip(NODES, facts, strict=True)), spec=spec)


def eth(**changes: Any) -> tuple[Interface, ...]:
    return (interface(2, **changes),)


def listens(address: str, port: int, pid: int | None = None, **changes: Any) -> Case:
    return on(listeners=(Listener(address=address, port=port, process="java", pid=pid),), **changes)


def offsets(*seconds: float) -> Case:
    clocks = [{"clock": Clock(offset_s=s, uncertainty_s=0.002, synchronised=True)} for s in seconds]
    return Case(facts=dict(zip(NODES, clocks, strict=True)))


# kind -> (what triggers it, what is near it and must stay silent)
CASES: dict[str, tuple[list[Case], list[Case]]] = {
    "node-unreachable": (
        [fails(NodeUnreachable, "no answer to the connection")],
        [fails(LoginRefused, "login refused")],
    ),
    "login-refused": (
        [fails(LoginRefused, "login refused")],
        [fails(LoginRefused, "key file readable by others")],
    ),
    "host-key-changed": (
        [fails(HostKeyRefused, "host key changed")],
        [fails(HostKeyRefused, "host key unknown")],
    ),
    "host-key-unknown": (
        [fails(HostKeyRefused, "host key unknown")],
        [fails(HostKeyRefused, "host key changed")],
    ),
    "node-unreadable": (
        [Case(errors={"pi2": RemoteCommandFailed("pi2: no shell", node="pi2", status=1)})],
        [fails(NodeUnreachable, "connection refused")],
    ),
    "sudo-asks-password": (
        [on(privilege="none")],
        [on(privilege="sudo-password"), on(privilege="none", login=None)],
    ),
    "not-seen": (
        [
            on(problems=(Problem(fact="disks", message="not understood"),)),
            on(memory=None),
            on(listeners=None),
            on(temperature_c=None),
        ],
        # A PC has no throttling bits, and a board without a sensor of ours is none of Raspberry Pi's.
        [on(board=None, power=Power(), temperature_c=None), on(listeners=())],
    ),
    "same-machine-twice": (
        [on(boot_id=BOOT)],
        [on(boot_id=None), Case(facts={"pi1": {"boot_id": None}, "pi2": {"boot_id": None}})],
    ),
    "machine-id-duplicate": (
        [on(machine_id=pi4(1).machine_id)],
        [
            on(machine_id=pi4(1).machine_id, boot_id=BOOT),
            everywhere(machine_id=None),
            everywhere(machine_id="uninitialized"),
        ],
    ),
    "host-key-duplicate": (
        [
            on(host_keys=pi4(1).host_keys),
            Case(errors={"pi2": NodeAmbiguous("10.0.0.5 and 10.0.0.6: machines of pi2", node="pi2")}),
        ],
        [on(host_keys=pi4(1).host_keys, boot_id=BOOT), everywhere(host_keys=())],
    ),
    "hostname-duplicate": (
        [on(names=pi4(1).names)],
        [on(names=pi4(1).names, boot_id=BOOT), everywhere(names=Names())],
    ),
    "hostname-changes": (
        [on(names=Names(hostname="pi2", configured="raspberrypi"))],
        [
            on(names=Names(hostname="pi2.lan", configured="pi2")),
            on(names=Names(hostname="pi2", configured=None)),
        ],
    ),
    "loopback-hostname": (
        [
            on(
                names=Names(
                    hostname="pi2", configured="pi2", own_name=Lookup(duration_s=0, found=("127.0.1.1",))
                )
            )
        ],
        [
            on(names=Names(hostname="pi2", own_name=Lookup(duration_s=0, found=("10.0.0.2", "127.0.1.1")))),
            on(names=Names(hostname="pi2", own_name=None)),
        ],
    ),
    "hosts-line-wrong": (
        [on("pi1", hosts=(HostsLine(address="10.0.0.99", names=("pi2.lan", "pi2")),))],
        [
            on("pi1", hosts=(HostsLine(address="10.0.0.2", names=("pi2",)),)),
            on(hosts=(HostsLine(address="127.0.1.1", names=("pi2",)),)),
            on("pi1", hosts=(HostsLine(address="10.0.0.99", names=("printer", "pi2.example.org")),)),
            on(  # the address that it was set up with: address-changed says it
                "pi1",
                hosts=(HostsLine(address="10.0.0.22", names=("pi2",)),),
                manifest=manifest(members={"pi2": {"address": "10.0.0.22"}}),
            ),
        ],
    ),
    "hosts-lines-gone": (
        [on(**deployed() | {"hosts": (HostsLine(address="127.0.1.1", names=("pi2",)),)})],
        [
            on(**deployed() | {"hosts": (HostsLine(address="10.0.0.1", names=("pi1",)),)}),
            on(hosts=()),  # not set up yet
        ],
    ),
    "address-changed": (
        [
            on("pi1", **deployed() | {"manifest": manifest(members={"pi2": {"address": "10.0.0.22"}})}),
            on(**deployed() | {"manifest": manifest(members={"pi2": {"address": "10.0.0.22"}})}),
        ],
        [
            on("pi1", **deployed() | {"manifest": manifest(members={"pi2": {"address": "10.0.0.2"}})}),
            on("pi1", **deployed() | {"manifest": manifest(members={"pi9": {"address": "10.0.0.22"}})}),
            on("pi1", **deployed() | {"manifest": manifest(members={"pi2": {"address": "pi2.lan"}})}),
            on("pi1", **deployed() | {"manifest": manifest(members="no list")}),
            on(
                **deployed() | {"manifest": manifest(members={"pi2": {"address": "10.0.0.22"}})},
                interfaces=(),
            ),
        ],
    ),
    "clock-skew": (
        [
            Case(facts=offsets(0, 31, 0).facts, severity="problem"),
            Case(facts=offsets(0, -2.1, 0).facts, severity="warning"),
        ],
        # Just below the limit; and far off, but measured no better than that.
        [
            offsets(0, 2.002, 0),
            offsets(0, -2.0, 0),
            on(clock=Clock(offset_s=3.0, uncertainty_s=1.5)),
            on(clock=Clock()),
        ],
    ),
    "control-clock": ([offsets(100, 100.5, 101)], [offsets(1, 1.5, 2), offsets(100, 100.5, 0)]),
    "no-time-source": (
        [
            on(clock=Clock(offset_s=0, synchronised=False)),
            on(clock=Clock(offset_s=0, synchronised=False, rtc="rpi-rtc", rtc_battery=False)),
        ],
        [
            on(clock=Clock(offset_s=0, synchronised=True)),
            on(clock=Clock(offset_s=0, synchronised=None)),
            on(clock=Clock(offset_s=0, synchronised=False, rtc="rpi-rtc", rtc_battery=True)),
            on(clock=Clock(offset_s=0, synchronised=False), uptime_s=60.0),
        ],
    ),
    "disk-full": (
        [
            on(mounts=(mount(used_percent=86, free_mib=4000),), severity="warning"),
            on(mounts=(mount(used_percent=99, free_mib=300),), severity="problem"),
            on(mounts=(mount(), mount(path="/media/x", used_percent=99, free_mib=3)), severity="warning"),
        ],
        [
            on(mounts=(mount(used_percent=85),)),
            on(mounts=(mount(), mount(path="/boot/firmware", used_percent=99, filesystem="vfat"))),
            on(mounts=(mount(), mount(path="/snap/core20/1", used_percent=100, filesystem="squashfs"))),
            on(mounts=(mount(), mount(path="/media/x", used_percent=None))),
        ],
    ),
    "little-room": (
        [
            on(mounts=(mount(total_mib=7000, free_mib=4095, used_percent=40),)),
            on(manifest=manifest(storage=ON_SSD), mounts=(mount(), mount(path="/mnt/ssd", free_mib=4095))),
        ],
        [
            on(mounts=(mount(free_mib=4096),)),
            on(mounts=(mount(free_mib=None),)),
            on(mounts=(mount(free_mib=1000), mount(path="/var/lib/rpicluster", free_mib=90000))),
            on(
                manifest=manifest(storage=ON_SSD),
                mounts=(mount(free_mib=1000), mount(path="/mnt/ssd", free_mib=90000)),
            ),
        ],
    ),
    "data-disk-away": (
        [
            on(manifest=manifest(storage=ON_SSD)),
            on(manifest=manifest(storage={**ON_SSD, "mount": "/srv/rpicluster", "disk": "usb-T7-0:0"})),
        ],
        [
            on(manifest=manifest(storage=ON_SSD), mounts=(mount(), mount(path="/mnt/ssd"))),
            on(manifest=manifest()),
            # What is mounted was not seen at all.
            on(manifest=manifest(storage=ON_SSD), mounts=()),
        ],
    ),
    "disk-read-only": (
        [
            on(mounts=(mount(), mount(path="/srv/hdfs", read_only=True)), severity="warning"),
            on(mounts=(mount(read_only=True),), severity="problem"),
            on(
                mounts=(mount(), mount(path="/srv/hdfs", read_only=True)),
                kernel_log=("EXT4-fs (sda1): Remounting filesystem read-only",),
                severity="problem",
            ),
        ],
        [on(mounts=(mount(), mount(path="/snap/x/1", filesystem="squashfs", read_only=True)))],
    ),
    "disk-errors": (
        [
            on(kernel_log=("[ 9.1] EXT4-fs error (device sda1): ext4_find_entry",)),
            on(kernel_log=("mmc0: timeout waiting",)),
        ],
        [
            on(kernel_log=("[ 9.1] hwmon hwmon1: Undervoltage detected!",)),
            on(kernel_log=("blk_update_request: I/O error, dev sda",), virtualization="systemd-nspawn"),
        ],
    ),
    "out-of-memory": (
        [on(kernel_log=("Out of memory: Killed process 812 (java)",))],
        [on(kernel_log=("Out of memory: Killed process 812 (java)",), virtualization="lxc")],
    ),
    "swap-on-card": (
        [on(swaps=(Swap(path="/var/swap", size_mib=199, used_mib=0, disk="mmcblk0", kind=DiskKind.SD),))],
        [
            on(swaps=(Swap(path="/dev/zram0", size_mib=2047, used_mib=5, kind=DiskKind.COMPRESSED_MEMORY),)),
            on(swaps=(Swap(path="/dev/sda3", size_mib=900, used_mib=0, disk="sda", kind=DiskKind.USB_SSD),)),
            on(swaps=(Swap(path="/swap", size_mib=900, used_mib=0, kind=None),)),
        ],
    ),
    "card-slow": (
        [on(disks=(disk(speed_class="C4"),))],
        [
            on(disks=(disk(speed_class="C10"),)),
            on(disks=(disk(speed_class="U1"),)),
            on(disks=(disk(speed_class=None),)),
            on(disks=(disk(), disk(name="mmcblk1", speed_class="C4"))),
        ],
    ),
    "card-worn": (
        [on(disks=(disk(kind=DiskKind.EMMC, wear_percent=80),)), on(disks=(disk(written_mib=300 * 30000),))],
        [
            on(disks=(disk(kind=DiskKind.EMMC, wear_percent=70),)),
            on(disks=(disk(written_mib=300 * 30000 - 1),)),
            on(disks=(disk(written_mib=None),)),
        ],
    ),
    "card-old": (
        [on(disks=(disk(made="10/2019"),))],
        [on(disks=(disk(made="11/2019"),)), on(disks=(disk(made=None),)), on(disks=(disk(made="00/x"),))],
    ),
    "under-voltage": (
        [on(power=bits(0x50001), severity="problem"), on(power=bits(0x10000), severity="warning")],
        [
            on(power=bits(0x20000)),
            on(power=Power()),
            on(power=bits(0x50001), virtualization="systemd-nspawn"),
        ],
    ),
    "throttled": (
        [
            on(power=bits(0x4), severity="problem"),
            on(power=bits(0x40000), severity="warning"),
            on(power=bits(0x8), severity="warning"),
        ],
        # What under-voltage explains is told there; and nothing was set.
        [on(power=bits(0x50005)), on(power=bits(0x50000)), on(power=bits(0))],
    ),
    "hot": (
        [on(temperature_c=80.0, severity="problem"), on(temperature_c=75.0, severity="warning")],
        [on(temperature_c=74.9), on(board=None, temperature_c=85.0)],
    ),
    "supply-weak": (
        [on(board=PI5, power=power(supply_ma=3000))],
        [on(board=PI5, power=power(supply_ma=5000)), on(board=PI5, power=power(supply_ma=None))],
    ),
    "poe-budget": (
        [
            on(power=power(hat="PoE HAT"), disks=(disk(), SSD, SSD2)),
            on(board=PI5, power=power(hat="PoE HAT")),
        ],
        [
            on(power=power(hat="PoE HAT"), disks=(disk(), SSD)),
            on(power=power(hat="PoE+ HAT"), disks=(disk(), SSD, SSD2)),
            on(power=power(hat="Sense HAT"), disks=(disk(), SSD, SSD2)),
        ],
    ),
    "memory-below-floor": (
        [on(memory=MachineMemory(total_mib=1400)), on("pi1", memory=MachineMemory(total_mib=1600))],
        [on(memory=MachineMemory(total_mib=1500)), on(memory=None)],
    ),
    "memory-missing": (
        [on(memory=MachineMemory(total_mib=3071))],
        [on(memory=MachineMemory(total_mib=3072)), on(board=None, memory=MachineMemory(total_mib=3071))],
    ),
    "cgroup-memory-off": (
        [
            on(cgroups=OFF),
            # Of two words the last one counts.
            on(
                cgroups=OFF.model_copy(
                    update={"boot_command_line": "cgroup_enable=memory cgroup_disable=memory"}
                )
            ),
        ],
        [
            on(cgroups=None),
            on(cgroups=OFF.model_copy(update={"boot_command_line": "x cgroup_enable=memory"})),
        ],
    ),
    "cmdline-lines": (
        [on(cgroups=OFF.model_copy(update={"boot_command_line": "console=tty1\ncgroup_enable=memory"}))],
        [on(cgroups=OFF.model_copy(update={"boot_command_line": "console=tty1\n\n"}))],
    ),
    "reboot-needed": (
        [on(cgroups=OFF.model_copy(update={"boot_command_line": "console=tty1 cgroup_enable=memory"}))],
        [on(cgroups=OFF), on(uptime_s=400 * 86400.0)],
    ),
    "userland-32-bit": (
        [on(userland_bits=32, userland_arch="armhf")],
        [on(userland_bits=None), on(kernel_arch="armv7l")],
    ),
    "java-missing": (
        [on(java=(), severity="note"), on(java=(), **deployed(), severity="problem")],
        [on(java=(), problems=(Problem(fact="java", message="cut off"),))],
    ),
    "java-old": (
        [
            on(java=java("11.0.2"), severity="warning"),
            on(java=java("11.0.2"), **deployed(), severity="problem"),
        ],
        [on(java=java("11.0.2", "17.0.1")), on(java=(Java(home="/opt/x", version="?"),))],
    ),
    "java-mixed": (
        [on(java=java("21.0.8"))],
        [
            on(java=java("17.0.1", "21.0.8")),
            on(java=()),
            on(java=java("17.0.99")),
            Case(
                facts={"pi1": {"java": java("17.0.1", "21.0.8")}, "pi2": {"java": java("17.0.1", "21.0.8")}}
            ),
        ],
    ),
    "python-missing": (
        [on(python=None)],
        [on(python=None, os=None), on(python=None, problems=(Problem(fact="python", message="x"),))],
    ),
    "python-mixed": ([on(python="/usr/bin/python3.13")], [on(python=None), on(python="/usr/local/python3")]),
    "r-missing": (
        [with_r(None), with_r(r("4.2.2", "dplyr")), with_r(r("4.2.2", "rpicluster"))],
        [
            with_r(None, spec=SPEC),
            with_r(None, set_up=False),
            with_r(),
            Case(
                facts={"pi2": {**deployed(), "problems": (Problem(fact="r", message="x"),)}}
                | {name: {**deployed(), "r": r()} for name in ("pi1", "pi3")},
                spec=WITH_R,
            ),
        ],
    ),
    "r-built-for-another": (
        [with_r(r("4.5.0", built="4.2.2"))],
        [with_r(r("4.2.3", built="4.2.2")), with_r(r("4.2.2", built="")), with_r(None)],
    ),
    "r-mixed": (
        [with_r(r("4.5.0", built="4.5.0"))],
        [with_r(r("4.2.3")), with_r(None), with_r(r("4.5.0", built="4.5.0"), spec=SPEC)],
    ),
    "r-packages-mixed": (
        [with_r(r(dplyr="1.1.4")), with_r(r(rpicluster="0.2.0"))],
        [with_r(r(tibble="3.2.1"), r(tibble="3.1.8")), with_r(r("4.2.2", "dplyr")), with_r(None)],
    ),
    "os-mixed": (
        [on(os=DEB)],
        [
            on(os=None),
            on(os=OperatingSystem(id="debian", version="12", codename="bookworm", name="plain Debian")),
            on(os=OperatingSystem(id="raspbian", version="12", codename="bookworm")),
        ],
    ),
    "arch-mixed": (
        [on(userland_arch="amd64", kernel_arch="x86_64")],
        [on(userland_arch=None, kernel_arch=None), on(userland_arch=None)],
    ),
    "os-unproven": (
        [
            on(os=OperatingSystem(id="ubuntu", version="20.04")),
            on(os=OperatingSystem(id="fedora", version="41")),
        ],
        [
            on(os=OperatingSystem(id="ubuntu", version="22.04")),
            on(os=OperatingSystem(id="debian", version="")),
            on(os=None),
        ],
    ),
    "unit-failed": (
        [
            on(units=unit(RPI_DATANODE, active="failed", result="exit-code"), severity="problem"),
            on(units=unit("apt-daily.service", active="failed"), severity="warning"),
        ],
        [on(units=unit(RPI_DATANODE, active="activating")), on(units={})],
    ),
    "unit-stopped": (
        [on(units=unit(RPI_DATANODE, active="inactive", sub="dead", pid=None))],
        [
            on(units=unit(RPI_DATANODE, active="inactive", enabled="disabled")),
            on(units=unit("rpicluster-limits.service", active="inactive", sub="dead")),
            on(units=unit("nftables.service", active="inactive")),
        ],
    ),
    "unit-disabled": (
        [
            on(
                **deployed() | {"manifest": manifest(units={"datanode": "h"})},
                units=unit(RPI_DATANODE, enabled="disabled"),
            ),
            on(
                **deployed() | {"manifest": manifest(units={"datanode": "h"})},
                units=unit(RPI_DATANODE, enabled="masked"),
            ),
        ],
        [
            on(**deployed() | {"manifest": manifest(units={"datanode": "h"})}, units=unit(RPI_DATANODE)),
            on(**deployed(), units=unit("rpicluster-mine.service", enabled="disabled")),  # not ours
        ],
    ),
    "unit-restarts": (
        [on(units=unit(RPI_DATANODE, restarts=5))],
        [on(units=unit(RPI_DATANODE, restarts=4)), on(units=unit("ssh.service", restarts=9))],
    ),
    "system-degraded": (
        [on(system_state="degraded")],
        [on(system_state="degraded", units=unit("ssh.service", active="failed")), on(system_state=None)],
    ),
    "still-setting-up": (
        [on(package_managers=("88 apt-get",)), on(cloud_init=CloudInit(finished=False, manages_hosts=False))],
        [on(cloud_init=CloudInit(finished=True, manages_hosts=False))],
    ),
    "no-ipv4": (
        [on(interfaces=eth(addresses=(Address(address="fe80::1", prefix=64, scope="link"),)))],
        [on(interfaces=()), on(interfaces=(*eth(), interface(2, name="eth1", addresses=())))],
    ),
    "no-default-route": (
        [on(routes=()), on(routes=(Route(family=6, gateway="fe80::1", interface="eth0"),))],
        [on(routes=(), problems=(Problem(fact="routes", message="x"),)), on(routes=(), interfaces=())],
    ),
    "address-dynamic": (
        [on(interfaces=eth(addresses=(Address(address="10.0.0.2", prefix=24, dynamic=True),)))],
        # Another interface's address, and IPv6, which always has a lifetime.
        [
            on(
                interfaces=(
                    *eth(),
                    interface(
                        2, name="wlan0", addresses=(Address(address="10.1.0.2", prefix=24, dynamic=True),)
                    ),
                )
            ),
            on(
                interfaces=eth(
                    addresses=(
                        *interface(2).addresses,
                        Address(address="2001:db8::1", prefix=64, dynamic=True),
                    )
                )
            ),
        ],
    ),
    "mtu-mismatch": (
        [on(interfaces=eth(mtu=9000))],
        [
            on(interfaces=eth(mtu=None)),
            on(interfaces=(*eth(), interface(2, name="tun0", mtu=1420, addresses=()))),
        ],
    ),
    "link-slow": (
        [on(interfaces=eth(speed_mbps=100))],
        [
            on(interfaces=eth(speed_mbps=100), board=PI3),
            on(interfaces=eth(speed_mbps=None)),
            on(interfaces=eth(speed_mbps=1000)),
            on(interfaces=eth(speed_mbps=10, hardware=False)),
        ],
    ),
    "half-duplex": (
        [on(interfaces=eth(duplex="half"))],
        [on(interfaces=eth(duplex="unknown")), on(interfaces=eth(duplex="half", up=False))],
    ),
    "wireless": (
        [on(interfaces=eth(wireless=True, name="wlan0"))],
        [
            on(
                interfaces=(
                    *eth(),
                    interface(
                        2, name="wlan0", wireless=True, addresses=(Address(address="10.1.0.2", prefix=24),)
                    ),
                )
            )
        ],
    ),
    "dns-slow": (
        [
            on(names=Names(hostname="pi2", own_name=Lookup(duration_s=0.51))),
            on(names=Names(hostname="pi2", own_address=Lookup(duration_s=0.2, timed_out=True))),
        ],
        [on(names=Names(hostname="pi2", own_name=Lookup(duration_s=0.5)))],
    ),
    "dns-none": (
        [on(names=Names(hostname="pi2", own_name=Lookup(duration_s=0.01, found=("127.0.1.1",))))],
        [
            on(names=Names(hostname="pi2", own_name=Lookup(duration_s=0.01), servers=("10.0.0.254",))),
            on(names=Names(hostname="pi2")),  # nobody could look
        ],
    ),
    "own-name-unknown": (
        [on(names=Names(hostname="pi2", own_name=Lookup(duration_s=0.01)))],
        [
            on(names=Names(hostname="pi2", own_name=Lookup(duration_s=0.01, found=("10.0.0.2",)))),
            on(names=Names(hostname="pi2", own_name=Lookup(duration_s=1.0, timed_out=True))),
        ],
    ),
    "cloud-init-hosts": (
        [on(cloud_init=CloudInit(finished=True, manages_hosts=True))],
        [on(cloud_init=CloudInit(finished=True, manages_hosts=False))],
    ),
    "open-port": (
        [
            listens("0.0.0.0", 8088, severity="problem"),
            listens("*", 50070),
            listens("::", 8042, 9),
            listens("0.0.0.0", 8088, firewall_tables=("table inet rpicluster",), severity="warning"),
        ],
        [listens("10.0.0.2", 8088), listens("0.0.0.0", 8089), listens("127.0.0.1", 8042)],
    ),
    "port-taken": (
        [listens("10.0.0.2", 8042, 9)],
        [
            listens("10.0.0.2", 8042, None),
            listens("10.0.0.2", 8042, 77, daemons=(OURS,)),
            listens("10.0.0.2", 8088, 9),  # pi2 is no manager
            listens("10.0.0.2", 8042, 800, units=unit("rpicluster-nodemanager.service")),
        ],
    ),
    "foreign-hadoop": ([on(daemons=(FOREIGN,))], [on(daemons=(OURS,))]),
    "runtime-damaged": (
        [on(runtime="abc", runtime_damage=("jars/a.jar",)), on(runtime="abc", runtime_damage=("a", "b"))],
        [on(runtime="abc"), on(runtime=None, runtime_damage=("jars/a.jar",))],
    ),
    "other-firewall": (
        [
            on(walls=(Wall(table="inet mine"),)),
            on(
                walls=(Wall(table="ip filter", lets_in=("10.0.0.8", "10.1.0.0/16")),),
                units=unit("ufw.service"),
            ),
        ],
        [
            on(walls=()),
            on(walls=(Wall(table="inet mine", lets_in=("10.0.0.0/24",)),)),
            on(walls=(Wall(table="inet mine", lets_in=("10.0.0.1-10.0.0.9",)),)),
            on(walls=(Wall(table="ip6 filter", lets_in=("fe80::/10",)), Wall(table="bridge filter"))),
            on(walls=(Wall(table="inet mine", lets_in=("@trusted",), judged=False),)),
        ],
    ),
    "firewall-missing": (
        [
            on(
                manifest=Manifest(
                    version="1", files={"/etc/rpicluster/rules.nft": DeployedFile(sha256=HASH, mode=0o644)}
                ),
                deployed={"/etc/rpicluster/rules.nft": DeployedFile(sha256=HASH, mode=0o644)},
            )
        ],
        [
            on(
                manifest=Manifest(
                    version="1", files={"/etc/rpicluster/rules.nft": DeployedFile(sha256=HASH, mode=0o644)}
                ),
                firewall_tables=("table inet rpicluster",),
            ),
            on(
                manifest=Manifest(
                    version="1", files={"/etc/rpicluster/rules.nft": DeployedFile(sha256=HASH, mode=0o644)}
                ),
                firewall_tables=None,
            ),
            on(**deployed()),
        ],
    ),
    "secret-readable": (
        [
            on(**deployed(token={"mode": 0o640})),
            fails(LoginRefused, "key file readable by others", "chmod 600 /home/ana/.ssh/id_ed25519"),
            says(private_files=(PrivateFile("/home/ana/token", 0o644),)),
            on(secrets={"/var/lib/rpicluster/session-ana/token": DeployedFile(sha256="", mode=0o604)}),
        ],
        [
            on(**deployed(conf={"mode": 0o666})),
            on(secrets={"/var/lib/rpicluster/session-ana/token": DeployedFile(sha256="", mode=0o600)}),
            on(**deployed()),
            says(private_files=(PrivateFile("/home/ana/token", 0o600),)),
        ],
    ),
    "file-missing": (
        [on(**deployed(conf=None)), on(**deployed() | {"deployed": {}})],
        [on(**deployed() | {"deployed": {}, "privilege": "none"}), on(**deployed())],
    ),
    "config-drift": (
        [
            on(**deployed(conf={"sha256": "b" * 64})),
            on(**deployed(conf={"owner": "pi"})),
            on(**deployed(conf={"mode": 0o600})),
        ],
        [on(**deployed(conf={"sha256": ""})), on(**deployed(token={"mode": 0o644}))],
    ),
    "runtime-mismatch": (
        [Case(facts={"pi1": deployed(), "pi2": deployed() | {"manifest": manifest(runtime="r2")}})],
        [
            Case(facts={"pi1": deployed(), "pi2": deployed() | {"manifest": manifest(runtime=None)}}),
            on(**deployed()),
        ],
    ),
    "runtime-other": (
        [on(**deployed(), runtime="r0")],
        [on(**deployed(), runtime="r1"), on(**deployed(), runtime=None), on(runtime="r0")],
    ),
    "cluster-mixed": (
        [Case(facts={"pi1": deployed(), "pi2": deployed() | {"manifest": manifest(cluster="other")}})],
        [everywhere(**deployed())],
    ),
    "node-not-set-up": (
        [Case(facts={"pi1": deployed(), "pi2": deployed()})],
        [
            everywhere(**deployed()),
            Case(),
            Case(facts={"pi1": deployed(), "pi2": deployed(), "pi3": {"privilege": "none"}}),
        ],
    ),
    "daemons-not-asked": ([on(**deployed())], [Case(), Case(facts={"pi2": deployed()}, daemons=daemons())]),
    "daemon-down": (
        [says(parts=(PartSeen("pi1", "namenode", "frozen", "process 9 was stopped"),))],
        [
            says(
                parts=(
                    PartSeen("pi1", "namenode", "starting", "safe mode"),
                    PartSeen("pi2", "datanode", "ok", ""),
                )
            )
        ],
    ),
    "namenode-silent": (
        [says(hdfs=None, hdfs_error="connection refused")],
        [
            Case(),
            says(hdfs=None),
            says(
                hdfs=None, hdfs_error="refused", parts=(PartSeen("pi1", "namenode", "down", "it is stopped"),)
            ),
        ],
    ),
    "resourcemanager-silent": (
        [says(nodemanagers=None, yarn_error="connection refused")],
        [
            says(nodemanagers=None),
            says(nodemanagers=None, yarn_error="x", parts=(PartSeen("pi1", "resourcemanager", "down", ""),)),
        ],
    ),
    "safe-mode": ([says(hdfs=hdfs(safe_mode="Safe mode is ON."))], [says()]),
    "datanode-dead": (
        [
            says(hdfs=hdfs(datanodes=(DataNodeSeen("pi2", "dead", 900), DataNodeSeen("pi3", "live")))),
            says(hdfs=hdfs(datanodes=(DataNodeSeen("pi3", "live"),))),
        ],
        [
            says(
                hdfs=hdfs(datanodes=(DataNodeSeen("pi2", "decommissioned"), DataNodeSeen("pi3", "live", 9)))
            ),
            says(hdfs=None),
        ],
    ),
    "datanode-disk-failed": (
        [says(hdfs=hdfs(datanodes=(DataNodeSeen("pi2", "live", 1, 1), DataNodeSeen("pi3", "live"))))],
        [says()],
    ),
    "nodemanager-unhealthy": (
        [
            says(
                nodemanagers=(
                    NodeManagerSeen("pi2", "UNHEALTHY", "1/1 local-dirs are bad"),
                    NodeManagerSeen("pi3", "RUNNING"),
                )
            ),
            says(nodemanagers=(NodeManagerSeen("pi2", "LOST"), NodeManagerSeen("pi3", "RUNNING"))),
            says(nodemanagers=()),
        ],
        [
            says(nodemanagers=(NodeManagerSeen("pi2", "DECOMMISSIONED"), NodeManagerSeen("pi3", "RUNNING"))),
            says(nodemanagers=None),
        ],
    ),
    "blocks-missing": (
        [says(hdfs=hdfs(missing_blocks=1)), says(hdfs=hdfs(corrupt_blocks=2))],
        [says(hdfs=hdfs(under_replicated_blocks=5))],
    ),
    "blocks-under-replicated": ([says(hdfs=hdfs(under_replicated_blocks=1))], [says(hdfs=hdfs(blocks=99))]),
    "hdfs-full": (
        [says(hdfs=hdfs(remaining_bytes=14 << 30))],
        [says(hdfs=hdfs(remaining_bytes=15 << 30)), says(hdfs=hdfs(capacity_bytes=0, remaining_bytes=0))],
    ),
}
