"""Faults that a container cannot have: what a Pi would then answer, written from its documentation.

Each spoils the answer of one node; `together` ones concern several nodes and get a look of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fixture_nodes import Answer
from judging import Expected

Cluster = dict[str, Answer]
CLUSTER_SIZE = 8


@dataclass(frozen=True)
class FixtureFault:
    name: str
    story: str
    spoil: Callable[[Answer], None]
    says: tuple[str, ...]
    note_is_enough: bool = False

    def expected(self, node: str) -> Expected:
        return Expected(self.name, self.story, (node,), self.says, self.note_is_enough)


@dataclass(frozen=True)
class TogetherFault:
    expected: Expected
    spoil: Callable[[Cluster], None]


# -- power, heat -----------------------------------------------------------------------------------------


def under_voltage_now(answer: Answer) -> None:
    answer["throttled"] = "throttled=0x50005\n"


def under_voltage_before(answer: Answer) -> None:
    answer["throttled"] = "throttled=0x10000\n"


def throttled_by_heat(answer: Answer) -> None:
    answer["throttled"] = "throttled=0xe0008\n"
    answer.sub("temperature", r"temp:\d+", "temp:84700")


def pi5_on_three_amperes(answer: Answer) -> None:
    """A Pi 5 on a Pi 4's supply: 3 A, so its USB ports get 600 mA, and the data is on a USB SSD."""
    answer.sub("processor", "c03115", "d04170")
    answer.sub("processor", "Pi 4 Model B Rev 1.5", "Pi 5 Model B Rev 1.0")
    answer.sub("processor", r"CPU part\t: 0xd08", "CPU part\t: 0xd0b")
    serial = answer["device-tree"].partition("serial-number=")[2].partition("\n")[0]
    answer["device-tree"] = (
        "model=Raspberry Pi 5 Model B Rev 1.0\n"
        f"serial-number={serial}\n"
        "system/linux,revision=00d04170\n"
        "chosen/power/max_current=00000bb8\n"
        "chosen/power/usb_max_current_enable=00000000\n"
    )


def poe_with_a_disk(answer: Answer) -> None:
    answer.add("device-tree", "hat/product=PoE HAT")


def poe_beyond_its_budget(answer: Answer) -> None:
    poe_with_a_disk(answer)
    under_voltage_now(answer)


# -- disks -----------------------------------------------------------------------------------------------


def _on_the_card_alone(answer: Answer) -> None:
    answer.sub("mounts", r"/dev/sda1 .*\n", "")
    answer.sub("space", r"/dev/sda1 .*\n", "")
    head, _, _ = answer["disk-ids"].partition("/dev/disk/by-id/usb")
    answer["disk-ids"] = head + "/dev/disk/by-id/mmc-SN32G_0x01b2c3d4 ../../mmcblk0\n"
    text = answer["disks"]
    start = text.index('      {\n         "name": "sda"')
    end = text.index('{\n         "name": "mmcblk0"')
    answer["disks"] = text[:start] + "      " + text[end:]


def slow_card(answer: Answer) -> None:
    """Class 4, no UHS, video or application class; root and data on it."""
    _on_the_card_alone(answer)
    answer.sub("card", r"ssr:\w+", "ssr:" + "0000000000000000" + "02" + "0000000000" + "00" * 10 + "0" * 80)


def card_without_marks(answer: Answer) -> None:
    """Near miss: a good A1 card, alone."""
    _on_the_card_alone(answer)


def worn_card(answer: Answer) -> None:
    """A Compute Module's eMMC at the end of its life."""
    _on_the_card_alone(answer)
    answer["card"] = (
        "/sys/block/mmcblk0/device/type:MMC\n/sys/block/mmcblk0/device/name:BJTD4R\n"
        "/sys/block/mmcblk0/device/date:02/2019\n/sys/block/mmcblk0/device/life_time:0x0b 0x0b\n"
        "/sys/block/mmcblk0/device/pre_eol_info:0x03\n"
        "/sys/fs/ext4/mmcblk0p2/lifetime_write_kbytes:91211444112\n"
    )


def much_written_card(answer: Answer) -> None:
    """95 TB onto a card of 32 GB: 3,000 times its size."""
    answer.sub("card", r"lifetime_write_kbytes:\d+", "lifetime_write_kbytes:92773437500")


def full_root(answer: Answer) -> None:
    answer.sub("space", r"/dev/mmcblk0p2 .*", "/dev/mmcblk0p2    30330812  27905000    1164464      96% /")


def nearly_full_root(answer: Answer) -> None:
    answer.sub("space", r"/dev/mmcblk0p2 .*", "/dev/mmcblk0p2    30330812  25100000    4990812      84% /")


def card_with_errors(answer: Answer) -> None:
    answer["kernel-log"] = (
        "[ 9021.113] mmc0: Timeout waiting for hardware interrupt.\n"
        "[ 9021.220] I/O error, dev mmcblk0, sector 1204224 op 0x1:(WRITE) flags 0x800 phys_seg 1\n"
        "[ 9021.221] EXT4-fs error (device mmcblk0p2): ext4_find_entry:1683: inode #3211: comm java\n"
    )


def root_turned_read_only(answer: Answer) -> None:
    answer.sub("mounts", r"/dev/mmcblk0p2 / ext4 rw", "/dev/mmcblk0p2 / ext4 ro")
    answer["kernel-log"] = (
        "[ 9021.221] EXT4-fs (mmcblk0p2): Remounting filesystem read-only\n"  # fs/ext4/super.c
    )


def usb_disk_resets(answer: Answer) -> None:
    """The well-known UAS trouble of USB bridges on a Pi 4."""
    answer["kernel-log"] = (
        "[  812.101] sd 0:0:0:0: [sda] tag#12 uas_eh_abort_handler 0 uas-tag 13 inflight: CMD OUT\n"
        "[  842.901] scsi host0: uas_eh_device_reset_handler start\n"
        "[  843.021] scsi host0: uas_eh_device_reset_handler success\n"
    )


def swap_on_the_card(answer: Answer) -> None:
    answer.add("swaps", "/swapfile                               file\t\t2097148\t\t523004\t\t-2")
    answer.sub("memory", r"SwapTotal: .*", "SwapTotal:      2097148 kB")
    answer.sub("memory", r"SwapFree: .*", "SwapFree:       1574144 kB")


def swap_in_memory(answer: Answer) -> None:
    answer.add("swaps", "/dev/zram0                              partition\t2097148\t\t0\t\t100")
    answer.sub("memory", r"SwapTotal: .*", "SwapTotal:      2097148 kB")
    answer.sub("memory", r"SwapFree: .*", "SwapFree:       2097148 kB")


# -- kernel and system -----------------------------------------------------------------------------------


def cgroup_memory_off(answer: Answer) -> None:
    """Raspberry Pi's firmware puts cgroup_disable=memory there, and nobody has enabled it."""
    answer.sub("cgroups", r"(/proc/cgroups:memory\t0\t70\t)1", r"\g<1>0")
    answer.sub("cgroups", "cpuset cpu io memory hugetlb", "cpuset cpu io hugetlb")
    answer.sub("cgroups", "cmdline:coherent_pool=1M", "cmdline:coherent_pool=1M cgroup_disable=memory")


def command_line_in_two_lines(answer: Answer) -> None:
    """Somebody added the cgroup words on a line of their own, which the firmware does not read."""
    cgroup_memory_off(answer)
    answer.add("boot-files", "/boot/firmware/cmdline.txt:cgroup_enable=memory cgroup_memory=1")


def thirty_two_bits(answer: Answer) -> None:
    """The 32-bit Raspberry Pi OS, which boots a 64-bit kernel."""
    answer["architecture"] = "Linux 6.12.25+rpt-rpi-v8 aarch64\narmhf\n32\n"


def one_gibibyte(answer: Answer) -> None:
    answer.sub("memory", r"MemTotal: .*", "MemTotal:         931856 kB")
    answer.sub("memory", r"MemFree: .*", "MemFree:          331856 kB")
    answer.sub("memory", r"MemAvailable: .*", "MemAvailable:     631856 kB")
    for section in ("processor", "device-tree"):
        answer.sub(section, "c03115", "a03115")


def killed_for_memory(answer: Answer) -> None:
    answer["kernel-log"] = (
        "[ 7121.417] oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,"
        "global_oom,task_memcg=/system.slice/rpicluster-datanode.service,task=java,pid=2211,uid=997\n"
        "[ 7121.418] Out of memory: Killed process 2211 (java) total-vm:2511420kB, anon-rss:311200kB\n"
    )


def an_old_ubuntu(answer: Answer) -> None:
    answer.sub("os", "22.04.5 LTS", "20.04.6 LTS")
    answer.sub("os", r"22\.04", "20.04")
    answer.sub("os", r"\(Jammy Jellyfish\)", "(Focal Fossa)")
    answer.sub("os", "jammy", "focal")
    answer.sub("python", r"3\.10", "3.8")


def cloud_init_writes_hosts(answer: Answer) -> None:
    answer.add("cloud-init", "manage_etc_hosts: true")


# -- clock, network --------------------------------------------------------------------------------------


def clock_behind(answer: Answer) -> None:
    answer["clock"] = "@NOW-90.0@ +0000\n"


def clock_nearly_right(answer: Answer) -> None:
    answer["clock"] = "@NOW+0.3@ +0000\n"


def another_time_zone(answer: Answer) -> None:
    answer["clock"] = "@NOW+0.0@ +0900\n"


def nobody_sets_the_clock(answer: Answer) -> None:
    """timesyncd switched off, no other in its place; a Pi 4 has no clock of its own for after a power cut."""
    answer["time"] = "NTPSynchronized=no\nNTP=no\n"
    head, _, tail = answer["units"].partition("Id=systemd-timesyncd.service\n")
    tail = tail.replace("ActiveState=active", "ActiveState=inactive", 1)
    tail = tail.replace("SubState=running", "SubState=dead", 1)
    tail = tail.replace("UnitFileState=enabled", "UnitFileState=disabled", 1)
    answer["units"] = f"{head}Id=systemd-timesyncd.service\n{tail}"


def cable_with_two_pairs(answer: Answer) -> None:
    answer.sub("links", "eth0/speed:1000", "eth0/speed:100")


def half_duplex(answer: Answer) -> None:
    answer.sub("links", "eth0/duplex:full", "eth0/duplex:half")


def wireless_only(answer: Answer) -> None:
    for section in ("addresses", "routes", "links"):
        answer.sections[section] = answer.sections[section].replace("eth0", "wlan0")
    answer.sub("links", r"/sys/class/net/wlan0/(speed|duplex):.*\n", "")
    answer.add("links", "/sys/class/net/wlan0/wireless:yes")


def a_resolver_that_only_times_out(answer: Answer) -> None:
    answer.sub("lookups", r"address 1043\.20 1043\.21 2", "address 1043.20 1044.21 124")


def a_warm_day(answer: Answer) -> None:
    answer.sub("temperature", r"temp:\d+", "temp:66200")


def another_patch_of_java(answer: Answer) -> None:
    answer.sub("java", r"17\.0\.14", "17.0.15")


ALONE = (
    FixtureFault(
        "under-voltage now", "a thin USB cable: throttled=0x50005", under_voltage_now, (r"under-?voltage",)
    ),
    FixtureFault(
        "under-voltage earlier",
        "throttled=0x10000: it happened since boot, not now",
        under_voltage_before,
        (r"under-?voltage", r"since|earlier|boot|has been|was\b|before"),
    ),
    FixtureFault(
        "heat",
        "no fan, 84.7 °C, the soft limit reached",
        throttled_by_heat,
        (r"°|temperature|\bhot\b|heat", r"84|85|slow|throttl|limit"),
    ),
    FixtureFault(
        "weak supply",
        "a Pi 5 on 3 A with the data on a USB SSD",
        pi5_on_three_amperes,
        (r"supply|power", r"3(\.0)? ?A\b|3000 ?mA|600 ?mA|5(\.0)? ?A\b"),
    ),
    FixtureFault(
        "PoE HAT with a disk",
        "the first PoE HAT, with a USB SSD to feed",
        poe_with_a_disk,
        (r"\bPoE\b",),
        True,
    ),
    FixtureFault(
        "PoE budget",
        "the same, and under-voltage comes of it",
        poe_beyond_its_budget,
        (r"\bPoE\b", r"volt|power|budget"),
    ),
    FixtureFault(
        "slow card",
        "a class 4 card with system and data",
        slow_card,
        (r"\bcard\b|\bSD\b", r"class|slow|speed|MB/s"),
    ),
    FixtureFault(
        "worn flash",
        "eMMC whose life is used up: life_time 0x0b, pre_eol 0x03",
        worn_card,
        (r"wear|worn|life|end of",),
    ),
    FixtureFault(
        "much written card",
        "95 TB written to a card of 32 GB",
        much_written_card,
        (r"written|wrote|wear|worn", r"\bcard\b|\bSD\b|mmcblk0"),
        True,
    ),
    FixtureFault("disk 96 % full", "logs have filled the card", full_root, (r"9[4-7] ?%|full",)),
    FixtureFault(
        "errors of the card",
        "the kernel's log: I/O errors of mmcblk0",
        card_with_errors,
        (r"I/O error|mmc", r"error|timeout|fail"),
    ),
    FixtureFault(
        "root read-only",
        "ext4 has seen an error and gave up writing",
        root_turned_read_only,
        (r"read-?only",),
    ),
    FixtureFault(
        "USB disk resets",
        "uas_eh_abort_handler in the kernel's log",
        usb_disk_resets,
        (r"uas|USB|sda", r"reset|abort|error"),
    ),
    FixtureFault(
        "swap on the card", "2 GiB swap file on the card, in use", swap_on_the_card, (r"swap", r"card|SD|mmc")
    ),
    FixtureFault(
        "memory cgroup off", "cgroup_disable=memory", cgroup_memory_off, (r"cgroup|control group", r"memory")
    ),
    FixtureFault(
        "cmdline.txt in two lines",
        "the cgroup words on a second line",
        command_line_in_two_lines,
        (r"cmdline", r"(two|2|several|one|single|second) lines?\b|more than one|split"),
    ),
    FixtureFault("32-bit userland", "armhf on a 64-bit kernel", thirty_two_bits, (r"32[ -]?bit|armhf",)),
    FixtureFault(
        "1 GB of RAM",
        "a board of 1 GB in the box",
        one_gibibyte,
        (
            r"memory|RAM|MiB",
            r"too (little|small|few)|below|less than|at least|needs?\b|floor|not enough|no room|does not fit",
        ),
    ),
    FixtureFault(
        "killed for memory",
        "the kernel's log: Out of memory, java",
        killed_for_memory,
        (r"out of memory|oom|killed",),
    ),
    FixtureFault(
        "cloud-init writes hosts",
        "manage_etc_hosts: true",
        cloud_init_writes_hosts,
        (r"cloud-init", r"hosts"),
        True,
    ),
    FixtureFault(
        "clock behind",
        "90 s behind",
        clock_behind,
        (r"clock|time\b", r"behind|ahead|differ|skew|off\b|slow|wrong"),
    ),
    FixtureFault(
        "nobody sets the clock",
        "timesyncd disabled, no RTC on the board",
        nobody_sets_the_clock,
        (r"clock|time\b", r"not|no\b|nobody|nothing|off\b|disabled"),
    ),
    FixtureFault("100 Mb/s", "a cable with two good pairs", cable_with_two_pairs, (r"\b100 ?M",)),
    FixtureFault("half duplex", "the switch's port is fixed to half duplex", half_duplex, (r"half",)),
    FixtureFault("Wi-Fi only", "no cable at all", wireless_only, (r"wi-?fi|wireless|wlan",)),
    FixtureFault(
        "reverse lookups time out",
        "the router never answers for 192.168.1",
        a_resolver_that_only_times_out,
        (r"DNS|name server|resolv|look-?up|lookup",),
    ),
    FixtureFault("near miss: 84 % full", "4.8 GiB are free", nearly_full_root, ()),
    FixtureFault("near miss: zram", "2 GiB of swap in memory", swap_in_memory, ()),
    FixtureFault("near miss: 0.3 s ahead", "a clock as Wi-Fi leaves it", clock_nearly_right, ()),
    FixtureFault("near miss: time zone", "a Pi that was set up in Tokyo", another_time_zone, ()),
    FixtureFault("near miss: 66 °C", "a warm day", a_warm_day, ()),
    FixtureFault("near miss: Java 17.0.15", "others have 17.0.14", another_patch_of_java, ()),
    FixtureFault("near miss: A1 card", "everything on a good card", card_without_marks, ()),
)


# -- of several nodes ------------------------------------------------------------------------------------


def _cloned(cluster: Cluster) -> None:
    """pi3's card is a copy of pi2's; somebody gave it a name, and no more."""
    machine_id, _, _ = cluster["pi2"]["identity"].partition("\n")
    cluster["pi3"].sub("identity", r"/etc/machine-id:\w+", machine_id)
    cluster["pi3"]["host-keys"] = cluster["pi2"]["host-keys"]


def _one_name(cluster: Cluster) -> None:
    for section in ("names", "hosts"):
        cluster["pi3"][section] = cluster["pi2"][section]


def _one_is_newer(cluster: Cluster) -> None:
    answer = cluster["pi3"]
    answer.sub("os", r"22\.04\.5 LTS", "24.04.2 LTS")
    answer.sub("os", r"22\.04", "24.04")
    answer.sub("os", "Jammy Jellyfish", "Noble Numbat")
    answer.sub("os", "jammy", "noble")
    answer.sub("python", r"3\.10", "3.12")


def _all_are_old(cluster: Cluster) -> None:
    for answer in cluster.values():
        an_old_ubuntu(answer)


def _one_is_a_pc(cluster: Cluster) -> None:
    answer = cluster["pi3"]
    answer["architecture"] = "Linux 5.15.0-140-generic x86_64\namd64\n64\n"
    answer["device-tree"] = ""
    answer["processor"] = "".join(
        f"processor\t: {n}\nmodel name\t: Intel(R) N100\nflags\t\t: fpu sse4_2 avx2 aes\n" for n in range(4)
    )
    answer.sub("java", "arm64", "amd64")
    answer["throttled"], answer["boot-files"] = "", ""


def _javas_differ(cluster: Cluster) -> None:
    answer = cluster["pi3"]
    answer.sub("java", "java-17-openjdk-arm64", "java-21-openjdk-arm64")
    answer.sub("java", r"17\.0\.14", "21.0.7")


def _boards_differ(cluster: Cluster) -> None:
    """Near miss: 8 GB instead of 4, an older revision of the board."""
    answer = cluster["pi3"]
    answer.sub("memory", r"MemTotal: .*", "MemTotal:        7998000 kB")
    answer.sub("memory", r"MemAvailable: .*", "MemAvailable:    7100000 kB")
    for section in ("processor", "device-tree"):
        answer.sub(section, "c03115", "d03114")
        answer.sub(section, "Rev 1.5", "Rev 1.4")


BOTH = ("pi2", "pi3")
EVERYBODY = tuple(f"pi{number}" for number in range(1, CLUSTER_SIZE + 1))
TOGETHER = (
    TogetherFault(
        Expected(
            "cloned card: machine-id",
            "pi3's card is a copy of pi2's",
            BOTH,
            (r"machine-?id", r"pi2[\s\S]*pi3|pi3[\s\S]*pi2|same|both|twice|clone|copied"),
        ),
        _cloned,
    ),
    TogetherFault(
        Expected(
            "cloned card: host key",
            "the same copy: its SSH host key",
            BOTH,
            (r"host.?key", r"same|both|share|twice|clone|cop(y|ied)"),
        ),
        _cloned,
    ),
    TogetherFault(
        Expected(
            "one name twice",
            "pi3 calls itself pi2",
            BOTH,
            (r"name", r"\bpi2\b", r"same|both|twice|duplicate|two|also|called|calls? (it|them)sel"),
        ),
        _one_name,
    ),
    TogetherFault(
        Expected(
            "mixed systems",
            "pi3 has Ubuntu 24.04, the others 22.04",
            BOTH,
            (r"22\.04|jammy", r"24\.04|noble"),
            True,
            EVERYBODY,
        ),
        _one_is_newer,
    ),
    TogetherFault(
        Expected(
            "old Ubuntu",
            "all nodes have Ubuntu 20.04, never upgraded",
            EVERYBODY,
            (r"20\.04|focal",),
        ),
        _all_are_old,
    ),
    TogetherFault(
        Expected(
            "mixed architectures",
            "pi3 is a PC",
            BOTH,
            (r"x86|amd64", r"arm64|aarch64"),
            True,
            EVERYBODY,
        ),
        _one_is_a_pc,
    ),
    TogetherFault(
        Expected(
            "mixed Java",
            "pi3 has Java 21 alone, the others 17",
            BOTH,
            (r"java", r"\b17\b", r"\b21\b"),
            True,
            EVERYBODY,
        ),
        _javas_differ,
    ),
    TogetherFault(
        Expected("near miss: boards differ", "8 GB and revision 1.4 instead of 4 GB and 1.5", BOTH),
        _boards_differ,
    ),
)
