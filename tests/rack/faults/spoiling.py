"""What a Pi in trouble would answer, written from its documentation: each function spoils one answer."""

from fixture_nodes import Answer

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
