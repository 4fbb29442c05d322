"""Every answer of a node against the facts it must give.

After a wanted change: RPICLUSTER_REGENERATE=1, then read the git diff.
"""

import json
import sys
from pathlib import Path

import pytest

from rpicluster.model.facts import node_facts
from rpicluster.model.machine import DiskKind, MachineFacts

sys.path.insert(0, str(Path(__file__).parent))
import facts_cases as cases


@pytest.mark.parametrize("name", cases.NAMES)
def test_an_answer_gives_the_very_facts_of_its_golden_file(name: str) -> None:
    found = cases.facts(name)
    text = json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
    if cases.REGENERATE:
        cases.expected_file(name).write_text(text)
        pytest.skip("regenerated: read the git diff")
    assert text == cases.expected_file(name).read_text()
    assert MachineFacts.model_validate_json(text) == found, "facts survive being written down"


@pytest.mark.parametrize("name", cases.NAMES)
def test_every_case_says_whether_it_was_recorded_or_written(name: str) -> None:
    said = cases.origin(name)
    assert said["origin"] in cases.ORIGINS
    assert said["machine"]
    if said["origin"] == "written from documentation":
        assert said["sources"]


def test_the_machines_that_were_promised_have_cases() -> None:
    assert {
        "pi4-ubuntu-20.04",
        "pi4-ubuntu-22.04",
        "pi4-ubuntu-24.04",
        "pi4-rpios-bookworm",
        "pi5-rpios-bookworm",
        "pi4-rpios-trixie",
        "pi5-rpios-trixie",
        "pi3-rpios-bookworm-32bit",
        "x86-debian-12",
        "rack-debian-12",
    } <= set(cases.NAMES)


@pytest.mark.parametrize("name", cases.NAMES)
def test_a_whole_answer_is_understood_without_a_problem(name: str) -> None:
    assert cases.facts(name).problems == ()


def test_a_32_bit_userland_on_a_64_bit_kernel_is_seen() -> None:
    found = cases.facts("pi3-rpios-bookworm-32bit")
    assert (found.kernel_arch, found.userland_arch, found.userland_bits) == ("aarch64", "armhf", 32)


def test_a_revision_code_says_what_was_bought_and_meminfo_what_the_kernel_has() -> None:
    found = cases.facts("pi4-ubuntu-20.04")
    assert found.board and found.board.revision and found.board.type and found.memory
    assert (found.board.revision.type, found.board.revision.pcb) == ("4B", "1.2")
    assert found.board.revision.memory_mib == 4096 > found.memory.total_mib
    assert (found.board.type.supply_ma, found.board.type.usb_ma) == (3000, 1200)


def test_the_memory_cgroup_counts_by_its_controller_not_by_proc_cgroups() -> None:
    # Linux 6.12 does not list memory in /proc/cgroups any more, on or off.
    on, off = cases.facts("pi5-rpios-bookworm").cgroups, cases.facts("pi4-rpios-trixie").cgroups
    assert on and off
    assert "memory" not in _section(cases.answer("pi5-rpios-bookworm"), "cgroups").split("cmdline")[0]
    assert (on.version, on.memory) == (2, True)
    assert (off.version, off.memory) == (2, False)


def test_boot_cmdline_txt_that_only_says_it_moved_is_not_the_boot_file() -> None:
    found = cases.facts("pi4-rpios-bookworm").cgroups
    assert found and found.boot_file == "/boot/firmware/cmdline.txt"
    assert found.boot_command_line and "\n" not in found.boot_command_line


def test_a_second_line_in_cmdline_txt_is_kept_so_that_it_can_be_found() -> None:
    found = cases.facts("pi4-ubuntu-24.04").cgroups
    assert found and found.boot_command_line
    assert found.boot_command_line.splitlines()[1] == "cgroup_enable=memory cgroup_memory=1"


def test_disks_are_told_apart_by_what_they_are() -> None:
    kinds = {(name, disk.name): disk.kind for name in cases.NAMES for disk in cases.facts(name).disks}
    assert kinds["pi4-ubuntu-22.04", "sda"] is DiskKind.USB_SSD
    assert kinds["pi4-ubuntu-24.04", "sda"] is DiskKind.USB_HDD
    assert kinds["pi4-rpios-bookworm", "sda"] is DiskKind.USB_STICK
    assert kinds["pi5-rpios-bookworm", "nvme0n1"] is DiskKind.NVME
    assert kinds["pi5-rpios-trixie", "sda"] is DiskKind.USB_SSD, "its bridge says rotating, its name SSD"
    assert kinds["pi4-rpios-trixie", "mmcblk0"] is DiskKind.SD
    assert kinds["pi4-rpios-trixie", "zram0"] is DiskKind.COMPRESSED_MEMORY
    assert kinds["x86-debian-12", "sda"] is DiskKind.SATA_SSD
    assert kinds["rack-debian-12", "vda"] is DiskKind.VIRTUAL


def test_swap_is_traced_to_its_disk_also_when_it_is_a_file() -> None:
    on_card, in_memory = cases.facts("pi4-rpios-bookworm").swaps, cases.facts("pi4-rpios-trixie").swaps
    assert [(swap.path, swap.disk, swap.kind) for swap in on_card] == [("/var/swap", "mmcblk0", DiskKind.SD)]
    assert [swap.kind for swap in in_memory] == [DiskKind.COMPRESSED_MEMORY]


def test_a_mount_point_with_a_space_has_its_name_and_its_sizes() -> None:
    found = cases.facts("pi4-ubuntu-22.04")
    mount = found.mount_of("/srv/data disk/hdfs")
    assert mount and mount.path == "/srv/data disk" and mount.disk == "sda" and mount.free_mib == 221761


def test_a_disk_that_became_read_only_is_seen() -> None:
    mount = cases.facts("pi4-ubuntu-24.04").mount_of("/srv/hdfs")
    assert mount and mount.read_only


def test_throttling_bits_are_decoded_for_now_and_for_before() -> None:
    bits = cases.facts("pi4-rpios-bookworm").power.throttled
    assert bits and bits.under_voltage and bits.throttled and bits.under_voltage_since_boot
    assert not bits.frequency_capped and not bits.soft_temperature_limit_since_boot
    quiet = cases.facts("pi4-ubuntu-20.04").power.throttled
    assert quiet and quiet.raw == 0, "read from /sys where vcgencmd is not installed"


def test_an_rtc_without_a_battery_is_no_clock_that_survives_a_power_cut() -> None:
    without, with_one = cases.facts("pi5-rpios-bookworm").clock, cases.facts("pi5-rpios-trixie").clock
    assert (without.rtc is not None, without.rtc_battery) == (True, False)
    assert with_one.rtc_battery is True
    assert cases.facts("pi4-rpios-bookworm").clock.rtc is None


def test_the_clock_is_measured_and_not_asked_for() -> None:
    behind, ahead = cases.facts("pi4-ubuntu-20.04").clock, cases.facts("pi4-ubuntu-24.04").clock
    assert behind.offset_s and abs(behind.offset_s + 3671.4) < 0.01 and behind.synchronised is False
    assert ahead.offset_s and abs(ahead.offset_s - 2.7) < 0.01 and ahead.synchronised is True
    assert ahead.uncertainty_s == 0.002


def test_daemons_of_others_are_foreign_and_our_containers_are_not() -> None:
    found = cases.facts("pi4-ubuntu-24.04")
    assert [daemon.pid for daemon in found.foreign_daemons] == [990]
    assert len(found.daemons) == 3


def test_drift_is_what_the_manifest_says_against_what_stands_there() -> None:
    found = cases.facts("pi4-ubuntu-24.04")
    assert found.manifest
    keeper = "/etc/rpicluster/keeper.json"
    assert found.manifest.files[keeper] != found.deployed[keeper]
    assert (found.deployed[keeper].mode, found.deployed[keeper].owner) == (0o640, "rpicluster")
    assert set(found.manifest.files) - set(found.deployed) == {"/etc/rpicluster/hadoop/dfs-hosts"}
    assert found.manifest.extra["runtime"] == "sha256:9c1d"


def test_a_resolver_that_does_not_answer_is_seen_as_slow() -> None:
    found = cases.facts("pi4-rpios-bookworm").names
    assert found.own_address and found.own_address.timed_out
    assert found.own_name and found.own_name.found == ("127.0.1.1",)
    quick = cases.facts("pi4-ubuntu-20.04").names
    assert quick.own_address and quick.own_address.found == ("ubuntu",)
    assert quick.servers == ("192.168.1.1",), "the servers behind systemd's stub"


def test_cloud_init_that_writes_hosts_anew_is_seen() -> None:
    assert cases.facts("pi4-ubuntu-22.04").cloud_init.manages_hosts  # type: ignore[union-attr]
    assert not cases.facts("pi4-ubuntu-20.04").cloud_init.manages_hosts  # type: ignore[union-attr]
    assert not cases.facts("pi4-rpios-trixie").cloud_init.finished  # type: ignore[union-attr]
    assert cases.facts("x86-debian-12").cloud_init is None


def test_an_address_from_dhcp_is_told_from_a_fixed_one() -> None:
    def dynamic(name: str) -> list[bool]:
        return [
            address.dynamic
            for interface in cases.facts(name).interfaces
            for address in interface.addresses
            if address.scope == "global"
        ]

    assert dynamic("pi4-rpios-bookworm") == [True]
    assert dynamic("pi4-ubuntu-24.04") == [False]


def test_sizing_gets_what_it_needs_from_a_machine() -> None:
    derived = node_facts("pi3", cases.facts("pi4-ubuntu-24.04"), data_path="/srv/hdfs/data")
    assert (derived.memory_mib, derived.cores, derived.arch) == (7807, 4, "aarch64")
    assert (derived.java_major, derived.java_home) == (17, "/usr/lib/jvm/java-17-openjdk-arm64")
    assert derived.free_disk_mib == 2770644
    assert node_facts("pi8", cases.facts("pi3-rpios-bookworm-32bit")).java_major == 8


def _section(answer: str, name: str) -> str:
    return answer.split(f"begin {name}\n")[1].split("\nMARK end", maxsplit=1)[0]
