"""Parsers that turn a node's text into facts, on what real and broken nodes print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpicluster.errors import FactsIncomplete
from rpicluster.model.boards import BOARD_TYPES, board_type, decode_revision
from rpicluster.model.facts import node_facts
from rpicluster.model.machine import DiskKind, MachineFacts, MachineMemory, Mount, Processor
from rpicluster.nodes.ssh.exchange import ClockProbe
from rpicluster.nodes.ssh.machine import read_machine
from rpicluster.nodes.ssh.observe import script
from rpicluster.nodes.ssh.read_deployed import read_daemons, read_deployed, read_manifest
from rpicluster.nodes.ssh.read_hardware import (
    read_board,
    read_processor,
    read_temperature,
    read_throttled,
)
from rpicluster.nodes.ssh.read_network import read_listeners, read_walls
from rpicluster.nodes.ssh.read_storage import disk_kind, speed_class, wear_percent
from rpicluster.nodes.ssh.read_system import read_clock, read_cloud_init, read_java
from rpicluster.nodes.ssh.sections import by_file, split_sections

sys.path.insert(0, str(Path(__file__).parent))
import facts_cases as cases


@pytest.mark.parametrize(
    ("code", "kind", "pcb", "memory_mib", "manufacturer", "processor"),
    [
        ("a02082", "3B", "1.2", 1024, "Sony UK", "BCM2837"),
        ("a32082", "3B", "1.2", 1024, "Sony Japan", "BCM2837"),
        ("a020d3", "3B+", "1.3", 1024, "Sony UK", "BCM2837"),
        ("902120", "Zero 2 W", "1.0", 512, "Sony UK", "BCM2837"),
        ("b03111", "4B", "1.1", 2048, "Sony UK", "BCM2711"),
        ("c03112", "4B", "1.2", 4096, "Sony UK", "BCM2711"),
        ("d03115", "4B", "1.5", 8192, "Sony UK", "BCM2711"),
        ("c03130", "400", "1.0", 4096, "Sony UK", "BCM2711"),
        ("d03140", "CM4", "1.0", 8192, "Sony UK", "BCM2711"),
        ("d04170", "5", "1.0", 8192, "Sony UK", "BCM2712"),
        ("e04171", "5", "1.1", 16384, "Sony UK", "BCM2712"),
        ("d04190", "500", "1.0", 8192, "Sony UK", "BCM2712"),
        ("c041a0", "CM5 Lite", "1.0", 4096, "Sony UK", "BCM2712"),
        ("2a02082", "3B", "1.2", 1024, "Sony UK", "BCM2837"),  # warranty bit
        ("000e", "B", "2.0", 512, "Sony UK", None),
        ("1000000e", "B", "2.0", 512, "Sony UK", None),  # overvolted
    ],
)
def test_a_revision_code_says_what_a_board_is(
    code: str, kind: str, pcb: str, memory_mib: int, manufacturer: str, processor: str | None
) -> None:
    found = decode_revision(code)
    assert (found.type, found.pcb, found.memory_mib) == (kind, pcb, memory_mib)
    assert (found.manufacturer, found.processor) == (manufacturer, processor)


def test_a_board_of_the_future_keeps_the_fields_that_can_be_read() -> None:
    found = decode_revision("f0f7f5")
    assert found.type == "unknown type 0x7f" and found.memory_mib is None and found.pcb == "1.5"
    assert board_type(found) is None


@pytest.mark.parametrize("code", ["", "pi", "0x", "-1", "0", "1ffffffff"])
def test_what_is_no_revision_code_is_refused(code: str) -> None:
    with pytest.raises(ValueError):
        decode_revision(code)


def test_boards_that_can_be_nodes_state_what_a_doctor_weighs() -> None:
    for name in ("3B", "3B+", "4B", "5"):
        board = BOARD_TYPES[name]
        assert board.supply_ma and board.usb_ma and board.active_ma and board.ethernet_mbps
        assert board.usb_ma + board.active_ma <= board.supply_ma


def test_a_kernel_without_the_pi_s_patches_still_gives_the_board() -> None:
    tree = "model=Raspberry Pi 4 Model B Rev 1.5\nserial-number=1000\nsystem/linux,revision=00d03115\n"
    found = read_board(tree, "processor : 0\nFeatures : fp asimd\nCPU part : 0xd08\n")
    assert found and found.revision and found.revision.memory_mib == 8192


def test_another_maker_s_board_has_a_model_and_no_revision() -> None:
    found = read_board("model=Radxa ROCK 5B\n", "processor : 0\n")
    assert found and (found.model, found.revision, found.type) == ("Radxa ROCK 5B", None, None)


def test_features_are_what_every_core_has() -> None:
    found = read_processor("processor : 0\nFeatures : fp asimd atomics\nprocessor : 1\nFeatures : fp asimd\n")
    assert (found.cores, found.features) == (2, ("asimd", "fp"))


@pytest.mark.parametrize(
    ("said", "raw"),
    [
        ("throttled=0x0", 0),
        ("throttled=0x50005\n", 0x50005),
        ("/sys/devices/platform/soc/soc:firmware/get_throttled:50005", 0x50005),
        ("/sys/class/hwmon/hwmon1/in0_lcrit_alarm:1", 1),
    ],
)
def test_throttling_is_read_from_whichever_place_has_it(said: str, raw: int) -> None:
    found = read_throttled(said)
    assert found and found.raw == raw


def test_a_vcgencmd_that_may_not_ask_says_nothing_about_throttling() -> None:
    assert read_throttled("VCHI initialization failed\n") is None


def test_the_processor_s_zone_counts_before_any_other_heat() -> None:
    zones = (
        "/sys/class/thermal/thermal_zone0/type:cpu-thermal\n/sys/class/thermal/thermal_zone0/temp:51000\n"
        "/sys/class/thermal/thermal_zone1/type:battery\n/sys/class/thermal/thermal_zone1/temp:90000\n"
    )
    assert read_temperature(zones) == 51.0


@pytest.mark.parametrize(
    ("entry", "card", "kind"),
    [
        ({"name": "mmcblk0"}, "SD", DiskKind.SD),
        ({"name": "mmcblk0"}, "MMC", DiskKind.EMMC),
        ({"name": "sda", "tran": "usb", "rota": "0"}, "", DiskKind.USB_SSD),
        ({"name": "sda", "tran": "usb", "rota": "1"}, "", DiskKind.USB_HDD),
        ({"name": "sda", "tran": "usb", "rota": True, "rm": "1"}, "", DiskKind.USB_STICK),
        ({"name": "sda", "tran": "sata", "rota": True}, "", DiskKind.SATA_HDD),
        ({"name": "sda", "tran": None, "model": "QEMU HARDDISK", "rota": True}, "", DiskKind.VIRTUAL),
        ({"name": "vda", "rota": True}, "", DiskKind.VIRTUAL),
        ({"name": "sr0", "tran": None}, "", DiskKind.OTHER),
    ],
)
def test_a_disk_is_what_its_bus_and_name_say(entry: dict[str, object], card: str, kind: DiskKind) -> None:
    assert disk_kind(entry, card) is kind


def test_a_card_s_promises_are_read_from_its_status_register() -> None:
    register = bytearray(64)
    register[8], register[14], register[15], register[21] = 4, 0x39, 30, 0x12
    assert speed_class(register.hex()) == "C10 U3 V30 A2"
    assert speed_class(bytes(64).hex()) is None
    assert speed_class("00ff") is None


def test_an_emmc_s_wear_is_the_worse_of_its_two_halves() -> None:
    assert wear_percent("0x01 0x0a") == 100
    assert wear_percent("0x00 0x00") is None


@pytest.mark.parametrize(
    ("line", "major"),
    [
        ('/usr/lib/jvm/java-17-openjdk-arm64\tJAVA_VERSION="17.0.15"', 17),
        ('/usr/lib/jvm/java-8-openjdk-armhf\tJAVA_VERSION="1.8.0_392"', 8),
        ("/usr/lib/jvm/java-11-openjdk-arm64\t", 11),
        ('/opt/jdk-21.0.2\tJAVA_VERSION="21.0.2"', 21),
        ("/opt/coffee\t", None),
    ],
)
def test_a_java_is_known_without_starting_it(line: str, major: int | None) -> None:
    assert [java.major for java in read_java(line)] == [major]


def test_a_clock_that_knows_whole_seconds_is_less_certain() -> None:
    probe = ClockProbe(1000.0, 1000.002)
    fine, coarse = read_clock("1000.001000000 +0200", "", probe), read_clock("1000.%N +0200", "", probe)
    assert (fine.offset_s, fine.uncertainty_s, fine.utc_offset) == (0.0, 0.001, "+0200")
    assert (coarse.uncertainty_s, coarse.utc_offset) == (0.501, "+0200")
    assert coarse.offset_s is not None and abs(coarse.offset_s) <= 0.5
    assert read_clock("1000.5 +0000", "", None).offset_s is None


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ("chrony=C0A80101,192.168.1.1,3,1763899990.1,0.1,0.1,0.1,1,1,1,1,1,64.3,Normal", (True, "chrony")),
        ("chrony=7F7F0101,,0,0.0,0,0,0,0,0,0,1,1,0.0,Not synchronised", (False, "chrony")),
        ("NTP=yes\nNTPSynchronized=no", (False, "timedatectl")),
        ("", (None, None)),
    ],
)
def test_who_keeps_the_time_is_known(state: str, wanted: tuple[bool | None, str | None]) -> None:
    found = read_clock("1.0 +0000", state, None)
    assert (found.synchronised, found.source) == wanted


@pytest.mark.parametrize(
    ("text", "manages"),
    [
        ("finished\n", False),
        ("manage_etc_hosts: true", True),
        ("manage_etc_hosts: localhost", True),
        ("manage_etc_hosts: 'template'", True),
        ("manage_etc_hosts: True\nmanage_etc_hosts: false", False),
    ],
)
def test_the_last_word_on_etc_hosts_counts(text: str, manages: bool) -> None:
    assert read_cloud_init(text).manages_hosts is manages


def test_listeners_are_told_by_address_port_and_owner() -> None:
    text = (
        'LISTEN 0 500 192.168.1.41:8088 0.0.0.0:* users:(("java",pid=990,fd=19)) uid:120 ino:1 sk:1 <->\n'
        "LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:* uid:101 ino:2 sk:2 <->\n"
        "LISTEN 0 4096 [::ffff:10.0.0.7]:8020 *:* ino:3 sk:3 v6only:0 <->\n"
        "LISTEN 0 4096 *:9864 *:* ino:4 sk:4 v6only:0 <->\n"
        "LISTEN 0 128 [fe80::1]%eth0:22 [::]:* ino:5 sk:5 v6only:1 <->\n"
    )
    found = {(item.address, item.port): item for item in read_listeners(text)}
    assert set(found) == {
        ("192.168.1.41", 8088),
        ("127.0.0.53", 53),
        ("10.0.0.7", 8020),
        ("*", 9864),
        ("fe80::1", 22),
    }
    java = found["192.168.1.41", 8088]
    assert (java.process, java.pid, java.uid) == ("java", 990, 120)


def test_a_manifest_says_version_and_files_and_keeps_the_rest() -> None:
    text = json.dumps(
        {"version": 1, "files": {"/a": {"sha256": "0" * 64, "mode": "0640", "owner": "yarn"}}, "runtime": "x"}
    )
    found = read_manifest(text)
    assert (found.version, found.files["/a"].mode, found.extra) == ("1", 0o640, {"runtime": "x"})


def test_a_file_that_may_not_be_read_is_not_called_missing() -> None:
    found = read_deployed("600 root /etc/secret\n644 root /etc/a b\n", f"{'a' * 64}  /etc/a b\n")
    assert (found["/etc/secret"].sha256, found["/etc/a b"].sha256) == ("", "a" * 64)


def test_a_container_of_our_nodemanager_is_ours_though_it_has_no_mark() -> None:
    ours, theirs = read_daemons(
        "7 rpicluster org.apache.spark.executor.X unit=rpicluster-nodemanager.service\n"
        "8 hadoop org.apache.hadoop.hdfs.server.datanode.DataNode unit=\n"
    )
    assert ours.is_ours and not theirs.is_ours


def test_a_path_with_a_colon_keeps_it_and_a_value_with_a_slash_does_too() -> None:
    text = "/sys/soc:firmware/get_throttled:0\n/sys/block/mmcblk0/device/date:08/2021\n/etc/x:a:b\n"
    assert by_file(text) == {
        "/sys/soc:firmware/get_throttled": "0",
        "/sys/block/mmcblk0/device/date": "08/2021",
        "/etc/x": "a:b",
    }


def test_a_login_that_prints_a_greeting_spoils_no_section() -> None:
    noisy = "Welcome to pi1!\nMARK of quality\n" + cases.answer("pi4-ubuntu-22.04") + "logout\n"
    assert read_machine(noisy, cases.MARK).problems == ()


def test_an_answer_that_breaks_off_keeps_its_whole_sections_and_says_so() -> None:
    whole = cases.answer("pi4-ubuntu-22.04")
    found = read_machine(whole[: whole.index("MARK begin swaps") + 40], cases.MARK)
    assert found.memory and found.disks and found.os is None
    assert {"answer", "os", "addresses"} <= {problem.fact for problem in found.problems}


def test_a_missing_command_is_a_problem_by_name_and_spoils_nothing_else() -> None:
    text = re.sub(
        r"MARK begin disks\n.*?MARK end 0",
        "MARK begin disks\n\nMARK end 127",
        cases.answer("x86-debian-12"),
        flags=re.S,
    )
    found = read_machine(text, cases.MARK)
    assert [(p.fact, p.message) for p in found.problems] == [
        ("disks", "its command is not installed, or not the usual one")
    ]
    assert found.disks == () and found.mounts and found.memory


def test_a_command_that_was_cut_off_is_a_problem() -> None:
    text = re.sub(
        r"MARK begin units\n.*?MARK end 0",
        "MARK begin units\n\nMARK end 124",
        cases.answer("x86-debian-12"),
        flags=re.S,
    )
    assert [p.message for p in read_machine(text, cases.MARK).problems] == ["its command did not end in time"]


_SECTIONS = sorted(split_sections(cases.answer("pi4-ubuntu-24.04"), cases.MARK))
_LINES = st.sampled_from(cases.answer("pi4-ubuntu-24.04").splitlines())
_NOISE = st.one_of(
    st.text(max_size=200),
    st.lists(_LINES, max_size=8).map("\n".join),
    st.sampled_from(
        ["[]", "{}", "null", "[null]", '{"blockdevices":[null]}', "[" * 2000, "1e999", "\x00", "=", "/:"]
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(_SECTIONS), _NOISE, min_size=1))
def test_no_text_in_any_section_makes_reading_fail(sections: dict[str, str]) -> None:
    said = "".join(f"\nMARK begin {name}\n{sections.get(name, '')}\nMARK end 0\n" for name in _SECTIONS)
    found = read_machine(said, cases.MARK, ClockProbe(1.0, 1.1))
    assert MachineFacts.model_validate_json(found.model_dump_json()) == found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(cases.answer("rack-debian-12"))), st.text(max_size=20))
def test_no_cut_and_no_splice_in_an_answer_makes_reading_fail(at: int, splice: str) -> None:
    text = cases.answer("rack-debian-12")
    read_machine(text[:at] + splice + text[at + len(splice) :], cases.MARK)


def test_the_deepest_mount_above_a_path_holds_it() -> None:
    def mount(path: str, source: str = "/dev/sda1") -> Mount:
        return Mount(source=source, path=path, filesystem="ext4", read_only=False)

    machine = MachineFacts(mounts=(mount("/"), mount("/srv"), mount("/srv", "/dev/sdb1"), mount("/srvx")))
    found = machine.mount_of("/srv/hdfs")
    assert found and found.source == "/dev/sdb1", "the later of two mounts hides the earlier"
    root = machine.mount_of("/var/lib")
    assert root and root.path == "/"
    assert MachineFacts().mount_of("/") is None


def test_a_machine_without_memory_or_cores_cannot_be_sized_and_says_why() -> None:
    with pytest.raises(FactsIncomplete, match="RAM"):
        node_facts("pi1", MachineFacts(processor=Processor(cores=4)))
    with pytest.raises(FactsIncomplete, match="cores"):
        node_facts("pi1", MachineFacts(memory=MachineMemory(total_mib=1024)))


@pytest.mark.parametrize("shell", ["sh", "dash", "bash", "busybox"])
def test_the_script_gives_facts_in_every_shell_a_node_may_have(shell: str) -> None:
    words = ["busybox", "sh"] if shell == "busybox" else [shell]
    try:
        answer = subprocess.run(
            [*words, "-s", "MARK"], input=script() + b"\n", capture_output=True, timeout=60, check=False
        )
    except FileNotFoundError:
        pytest.skip(f"no {shell} here")
    assert answer.returncode == 0
    found = read_machine(answer.stdout.decode(), "MARK")
    assert found.memory and found.processor and found.os and found.names.hostname
    assert not [p for p in found.problems if p.message.startswith("not understood")]


def test_the_script_without_any_of_the_usual_commands_still_comes_to_its_end(tmp_path: Path) -> None:
    """A node with a shell and next to nothing else: facts are fewer, the answer is whole."""
    text = script().decode()
    pinned = re.search(r"^  PATH=(.*)$", text, re.M)
    assert pinned, "the script sets PATH itself"
    bare = text.replace(pinned[0], f"  PATH={tmp_path}").encode()
    for name in ("cat", "id", "uname", "grep"):
        (tmp_path / name).symlink_to(
            subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        )
    answer = subprocess.run(
        ["/bin/sh", "-s", "MARK"], input=bare + b"\n", capture_output=True, timeout=60, check=True
    )
    found = read_machine(answer.stdout.decode(), "MARK")
    assert found.memory and found.processor
    assert found.disks == () and found.clock.offset_s is None
    facts = {problem.fact: problem.message for problem in found.problems}
    assert facts["disks"] == facts["addresses"] == "its command is not installed, or not the usual one"
    assert "answer" not in facts, "it came to its end"


def test_the_script_writes_nothing_and_names_no_file_to_write() -> None:
    redirections = re.findall(r"(?<![0-9<&-])>{1,2}\s*([^\s;)]+)", script().decode())
    assert set(redirections) <= {"/dev/null", "0"}, "0 is a comparison of awk's"


# As nft 1.0.6 lists them; the last two are as iptables-nft writes the rules of ufw.
RULESET = """\
table inet mine {
\tchain c {
\t\ttype filter hook input priority filter + 5; policy drop;
\t\tct state established,related accept
\t\tiif "lo" accept
\t\ttcp dport 22 accept
\t\tmeta l4proto { icmp, ipv6-icmp } accept
\t}
}
table inet named {
\tset trusted {
\t\ttype ipv4_addr
\t\tflags interval
\t\telements = { 10.0.0.0/8 }
\t}

\tchain input {
\t\ttype filter hook input priority filter; policy accept;
\t\tip saddr { 10.1.2.3, 192.168.1.0/24 } counter accept
\t\tip saddr @trusted accept
\t\tmeta nfproto ipv4 counter reject with icmp port-unreachable
\t}

\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table inet cards {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t\tiifname "eth0" accept
\t}
}
table inet firewalld {
\tchain filter_INPUT {
\t\ttype filter hook input priority filter + 10; policy accept;
\t\tct state { established, related } accept
\t\tiifname "lo" accept
\t\tiifname "eth0" goto filter_IN_trusted
\t\treject with icmpx admin-prohibited
\t}

\tchain filter_IN_trusted {
\t\taccept
\t}
}
table ip counts {
\tchain c {
\t\ttype filter hook input priority filter; policy accept;
\t\tcounter
\t}

\tchain forward {
\t\ttype filter hook forward priority filter; policy drop;
\t}
}
table inet rpicluster {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t}
}
# Warning: table ip filter is managed by iptables-nft, do not touch!
table ip filter {
\tchain ufw-user-input {
\t\ttcp dport 22 counter accept
\t\tip saddr 192.168.1.0/24 counter accept
\t\tip saddr != 10.9.0.0/16 tcp dport 80 counter accept
\t}

\tchain INPUT {
\t\ttype filter hook input priority filter; policy drop;
\t\tcounter jump ufw-user-input
\t}
}
table ip6 filter {
\tchain INPUT {
\t\ttype filter hook input priority filter; policy drop;
\t\tip6 saddr fe80::/10 counter accept
\t}
}
"""


def test_walls_are_the_tables_of_others_that_drop_what_they_do_not_name() -> None:
    assert [(wall.table, wall.lets_in, wall.judged) for wall in read_walls(RULESET)] == [
        ("inet mine", (), True),
        ("inet named", ("10.1.2.3", "192.168.1.0/24", "@trusted"), False),
        ("inet cards", (), False),
        ("inet firewalld", (), False),
        ("ip filter", ("192.168.1.0/24",), True),
        ("ip6 filter", ("fe80::/10",), True),
    ]
    assert read_walls("") == ()
