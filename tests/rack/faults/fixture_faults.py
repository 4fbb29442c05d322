"""Faults that a container cannot have, and what a right answer to each says.

Each spoils the answer of one node; `together` ones concern several nodes and get a look of their own.
"""

from collections.abc import Callable
from dataclasses import dataclass

from fixture_nodes import Answer
from judging import Expected
from spoiling import (
    a_resolver_that_only_times_out,
    a_warm_day,
    an_old_ubuntu,
    another_patch_of_java,
    another_time_zone,
    cable_with_two_pairs,
    card_with_errors,
    card_without_marks,
    cgroup_memory_off,
    clock_behind,
    clock_nearly_right,
    cloud_init_writes_hosts,
    command_line_in_two_lines,
    full_root,
    half_duplex,
    killed_for_memory,
    much_written_card,
    nearly_full_root,
    nobody_sets_the_clock,
    one_gibibyte,
    pi5_on_three_amperes,
    poe_beyond_its_budget,
    poe_with_a_disk,
    root_turned_read_only,
    slow_card,
    swap_in_memory,
    swap_on_the_card,
    thirty_two_bits,
    throttled_by_heat,
    under_voltage_before,
    under_voltage_now,
    usb_disk_resets,
    wireless_only,
    worn_card,
)

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
