"""Which disk a node's data go to, and what never happens to one."""

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
import facts_cases

from rpicluster.design.preview import PATHS
from rpicluster.design.storage import Choice, choose
from rpicluster.errors import SpecError, UsageError
from rpicluster.model.facts import DataDisk, kept_disk
from rpicluster.model.machine import Disk, DiskKind, MachineFacts, Manifest, Mount, Partition, Swap
from rpicluster.model.spec import ClusterSpec, NodeSpec
from rpicluster.model.specfile import parse_spec, spec_json_schema
from rpicluster.nodes.remote.storage import Kept, choices, format_steps, kept_of, order, require_named
from rpicluster.nodes.ssh.read_storage import disk_of

T7, WWN = "usb-Samsung_PSSD_T7_S5SXNS0T-0:0", "wwn-0x5002538f00000000"
STICK = "usb-SanDisk_Ultra_4C53-0:0"


def card(name: str = "mmcblk0") -> Disk:
    return Disk(
        name=name,
        kind=DiskKind.SD,
        size_mib=30436,
        partitions=(Partition(name=f"{name}p2", size_mib=29900, filesystem="ext4", uuid="root-uuid"),),
        ids=("mmc-SD32G_0x1",),
    )


def ssd(*partitions: Partition, name: str = "sda", size_mib: int = 953869) -> Disk:
    return Disk(
        name=name,
        kind=DiskKind.USB_SSD,
        size_mib=size_mib,
        model="PSSD T7",
        partitions=partitions,
        ids=(T7, WWN) if name == "sda" else (f"usb-{name}",),
    )


def stick(*partitions: Partition, name: str = "sdb", size_mib: int = 2_000_000) -> Disk:
    return Disk(name=name, kind=DiskKind.USB_STICK, size_mib=size_mib, partitions=partitions, ids=(STICK,))


def part(name: str, filesystem: str | None = "ext4", **about: object) -> Partition:
    known = {"size_mib": 900_000, "uuid": f"uuid-of-{name}", "label": None}
    return Partition.model_validate({"name": name, "filesystem": filesystem, **known, **about})


def mounted(source: str, path: str, disk: str | None, **about: object) -> Mount:
    known = {"filesystem": "ext4", "read_only": False, "total_mib": 900_000, "free_mib": 800_000}
    return Mount.model_validate({"source": f"/dev/{source}", "path": path, "disk": disk, **known, **about})


ROOT = mounted("mmcblk0p2", "/", "mmcblk0", total_mib=29000)


def pi(*disks: Disk, mounts: tuple[Mount, ...] = (), **about: object) -> MachineFacts:
    return MachineFacts.model_validate({"disks": (card(), *disks), "mounts": (ROOT, *mounts), **about})


def node(storage: object = None) -> NodeSpec:
    about = {} if storage is None else {"storage": storage}
    return NodeSpec.model_validate({"name": "pi2", "ssh": {"host": "pi2"}, **about})


def fresh(storage: object, machine: MachineFacts | None, *formats: str) -> Choice:
    return choose(node(storage), machine, None, has_data=False, cluster_id="c1", formats=frozenset(formats))


def again(storage: object, machine: MachineFacts | None, kept: DataDisk | None, *formats: str) -> Choice:
    return choose(node(storage), machine, kept, has_data=True, cluster_id="c1", formats=frozenset(formats))


# -- cluster.yml ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("relative", "'relative' is not a folder by its whole path"),
        ("/mnt/my disk", "is not a folder by its whole path"),
        ("/mnt/ssd/", "is not a folder by its whole path"),
        ("/mnt/../etc", "is not a plain path"),
        ("/home/pi/data", "data cannot lie below /home"),
        ("/var/lib/rpicluster/x", "data cannot lie below /var/lib/rpicluster"),
        ("{disk: /dev/sda}", "is not the name of a disk, as `ls /dev/disk/by-id`"),
        ("{disk: '../sda'}", "is not the name of a disk"),
        ("{}", "a folder, or `disk:`"),
        ("{disk: usb-x, path: /mnt/x}", "a folder, or `disk:`"),
        ("{disc: usb-x}", "unknown key"),
    ],
)
def test_a_storage_that_cannot_be_is_refused_with_its_line(said: str, complaint: str) -> None:
    text = f"name: lab\nnodes:\n  - name: pi1\n    ssh: {{host: pi1}}\n    storage: {said}\n"
    with pytest.raises(SpecError, match=r"cluster\.yml:5:") as caught:
        parse_spec(text)
    assert complaint in caught.value.message


def test_both_ways_to_write_it_are_read_and_survive_being_written_down() -> None:
    text = (
        "name: lab\nnodes:\n  - {name: pi1, ssh: {host: pi1}, storage: /mnt/ssd}\n"
        f"  - {{name: pi2, ssh: {{host: pi2}}, storage: {{disk: '{T7}'}}}}\n"
    )
    spec = parse_spec(text)
    assert spec.nodes[0].storage.path == "/mnt/ssd"
    assert spec.nodes[1].storage.disk == T7
    assert ClusterSpec.model_validate_json(spec.model_dump_json()) == spec


def test_editors_are_told_of_both_ways() -> None:
    kinds = spec_json_schema()["$defs"]["Storage"]["anyOf"]
    assert [kind["type"] for kind in kinds] == ["string", "object"]


def test_a_virtual_node_has_no_disks() -> None:
    text = "name: lab\nnodes:\n  - {name: a, local: {memory: 4G}, storage: /mnt/ssd}\n"
    with pytest.raises(SpecError, match="its data lie in the state folder"):
        parse_spec(text)


# -- by default ----------------------------------------------------------------------------------------


def test_the_largest_mounted_disk_that_is_not_booted_from_is_taken() -> None:
    machine = pi(
        ssd(part("sda1")),
        ssd(part("sdc1"), name="sdc"),
        mounts=(
            mounted("sdc1", "/mnt/small", "sdc", total_mib=100_000),
            mounted("sda1", "/mnt/large", "sda"),
        ),
    )
    choice = fresh(None, machine)
    assert choice.disk == DataDisk(
        path="/mnt/large/rpicluster", mount="/mnt/large", uuid="uuid-of-sda1", filesystem="ext4"
    )
    assert "data go to /mnt/large (sda, usb-ssd, 931 GiB)" in choice.warnings[0]


def test_a_larger_stick_does_not_beat_an_ssd_but_the_card_that_is_booted_from() -> None:
    on_stick = mounted("sdb1", "/mnt/stick", "sdb", total_mib=1_900_000)
    both = pi(ssd(part("sda1")), stick(part("sdb1")), mounts=(on_stick, mounted("sda1", "/mnt/ssd", "sda")))
    assert fresh(None, both).disk.mount == "/mnt/ssd"
    alone = fresh(None, pi(stick(part("sdb1")), mounts=(on_stick,)))
    assert alone.disk.mount == "/mnt/stick"
    assert "an SSD is better" in alone.warnings[0]


@pytest.mark.parametrize(
    ("about", "path", "why"),
    [
        ({"filesystem": "exfat"}, "/mnt/x", "exfat, and it knows no owners"),
        ({"filesystem": "ntfs3"}, "/mnt/x", "ntfs3, and it keeps no owners"),
        ({"read_only": True}, "/mnt/x", "mounted read-only"),
        ({"no_exec": True}, "/mnt/x", "noexec"),
        ({"total_mib": 7000}, "/mnt/x", "it has 7000 MiB"),
        ({"total_mib": None}, "/mnt/x", "it has 0 MiB"),
        ({}, "/mnt/my disk", "characters that Hadoop"),
        ({}, "/media/pi/T7", "a desktop mounted it"),
    ],
)
def test_a_disk_that_will_not_do_is_not_taken_and_the_plan_says_why(
    about: dict[str, object], path: str, why: str
) -> None:
    choice = fresh(None, pi(ssd(part("sda1")), mounts=(mounted("sda1", path, "sda", **about),)))
    assert choice.disk is None
    assert "a card (mmcblk0): slow, and writing wears it out" in choice.warnings[0]
    assert why in choice.warnings[0]


def test_what_the_system_stands_on_is_not_taken() -> None:
    machine = pi(
        ssd(part("sda1")),
        ssd(part("sdc1"), name="sdc"),
        mounts=(mounted("sda1", "/home", "sda"), mounted("sdc1", "/var/lib/docker", "sdc")),
    )
    assert fresh(None, machine).disk is None


def test_another_part_of_the_disk_that_is_booted_from_is_not_taken() -> None:
    machine = pi(mounts=(mounted("mmcblk0p3", "/data", "mmcblk0"),))
    assert fresh(None, machine).disk is None


def test_a_disk_that_is_there_and_not_mounted_is_named_and_left_alone() -> None:
    choice = fresh(None, pi(ssd(part("sda1"))))
    assert choice.disk is None
    assert f"is not mounted: say storage: {{disk: {T7}}} to use it" in choice.warnings[0]


def test_where_the_disk_of_the_system_was_not_seen_nothing_is_chosen() -> None:
    machine = MachineFacts(
        disks=(ssd(part("sda1")),),
        mounts=(mounted("overlay", "/", None, filesystem="overlay"), mounted("sda1", "/mnt/ssd", "sda")),
    )
    assert fresh(None, machine) == Choice()


def test_a_system_on_an_ssd_with_no_other_disk_needs_no_words() -> None:
    nvme = Disk(name="nvme0n1", kind=DiskKind.NVME, size_mib=500_000)
    machine = MachineFacts(disks=(nvme,), mounts=(mounted("nvme0n1p2", "/", "nvme0n1"),))
    assert fresh(None, machine) == Choice()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("pi4-ubuntu-24.04", None),  # its disk has become read-only
        ("pi5-rpios-trixie", "/data/rpicluster"),
        ("pi4-rpios-bookworm", None),
        ("x86-debian-12", None),
        ("rack-debian-12", None),
    ],
)
def test_recorded_and_documented_machines_get_what_they_should(name: str, path: str | None) -> None:
    choice = fresh(None, facts_cases.facts(name))
    assert (choice.disk.path if choice.disk else None) == path
    assert not choice.refusal


MOUNTS = st.lists(
    st.builds(
        lambda number, size, kind: (number, size, kind),
        st.integers(0, 6),
        st.integers(1000, 3_000_000),
        st.sampled_from(("ext4", "xfs", "exfat", "ntfs", "btrfs")),
    ),
    unique_by=lambda item: item[0],
    max_size=6,
)
SAID = st.sampled_from([None, "/mnt/d1", "/mnt/d2/x", {"disk": "usb-sd3"}, {"disk": "usb-sd4-part1"}])


@given(MOUNTS, SAID, st.randoms(use_true_random=False))
def test_the_order_of_disks_and_mounts_makes_no_difference(mounts, said, shuffled) -> None:
    disks = [ssd(part(f"sd{n}1"), name=f"sd{n}", size_mib=size) for n, size, _ in mounts]
    disks += [stick(part("sdy1"), name="sdy")]
    where = [
        mounted(f"sd{n}1", f"/mnt/d{n}", f"sd{n}", total_mib=size, filesystem=k) for n, size, k in mounts
    ]
    where += [mounted("sdy1", "/mnt/stick", "sdy")]
    first = fresh(said, pi(*disks, mounts=tuple(where)))
    shuffled.shuffle(disks)
    shuffled.shuffle(where)
    assert fresh(said, pi(*disks, mounts=tuple(where))) == first


@given(MOUNTS, SAID)
def test_what_a_node_has_already_stays_whatever_is_plugged_in(mounts, said) -> None:
    kept = DataDisk(path="/mnt/old/rpicluster", mount="/mnt/old", uuid="u", filesystem="ext4")
    disks = [ssd(part(f"sd{n}1"), name=f"sd{n}", size_mib=size) for n, size, _ in mounts]
    where = tuple(mounted(f"sd{n}1", f"/mnt/d{n}", f"sd{n}", total_mib=s) for n, s, _ in mounts)
    for before in (kept, None):
        assert again(said, pi(*disks, mounts=where), before).disk == before


def test_a_disk_that_lvm_or_luks_stand_on_is_known_by_its_mounts_and_not_offered() -> None:
    disk = ssd(part("sda1", "LVM2_member"), part("vg-data", "ext4"))
    assert disk_of("/dev/mapper/vg-data", (card(), disk)) == "sda"
    assert fresh(None, pi(disk)).warnings == (
        "pi2: data go to the disk that it boots from, a card (mmcblk0): slow, and writing wears it out; "
        "an SSD is better",
    )
    used = pi(disk, mounts=(mounted("mapper/vg-data", "/mnt/lvm", "sda"),))
    assert fresh(None, used).disk.mount == "/mnt/lvm"
    assert fresh({"disk": T7}, used).disk.mount == "/mnt/lvm"
    assert "is mounted on /mnt/lvm and is not formatted" in fresh({"disk": T7}, used, T7).refusal


# -- a folder ------------------------------------------------------------------------------------------


def test_a_folder_on_a_mounted_disk_is_taken_and_its_mount_point_must_be_there() -> None:
    machine = pi(ssd(part("sda1")), mounts=(mounted("sda1", "/mnt/ssd", "sda"),))
    assert fresh("/mnt/ssd/cluster", machine).disk == DataDisk(
        path="/mnt/ssd/cluster/rpicluster", mount="/mnt/ssd", uuid="uuid-of-sda1", filesystem="ext4"
    )


def test_a_folder_without_a_disk_is_refused_because_data_would_go_to_the_card() -> None:
    choice = fresh("/mnt/ssd", pi(ssd(part("sda1"))))
    assert choice.refusal.startswith("pi2: storage: /mnt/ssd lies on the file system of the system itself")


@pytest.mark.parametrize(
    "about", [{"filesystem": "vfat"}, {"read_only": True}, {"filesystem": "nfs4"}, {"no_exec": True}]
)
def test_a_folder_on_a_file_system_that_will_not_do_is_refused(about: dict[str, object]) -> None:
    machine = pi(ssd(part("sda1")), mounts=(mounted("sda1", "/mnt/ssd", "sda", **about),))
    assert "storage: /mnt/ssd will not do" in fresh("/mnt/ssd", machine).refusal


def test_a_folder_on_another_part_of_the_card_is_taken_with_a_warning() -> None:
    choice = fresh("/data", pi(mounts=(mounted("mmcblk0p3", "/data", "mmcblk0"),)))
    assert choice.disk.mount == "/data"
    assert "writing wears it out" in choice.warnings[0]


def test_the_disk_of_the_system_is_taken_where_it_is_named_though_an_ssd_is_there() -> None:
    choice = fresh("/var/lib", WITH_SSD)
    assert choice.disk is None and not choice.refusal
    assert "writing wears it out" in choice.warnings[0]
    assert again("/var/lib", WITH_SSD, None) == Choice()
    assert "Data are never moved" in again("/var/lib", WITH_SSD, ON_SSD).refusal


# -- a disk by its name --------------------------------------------------------------------------------


def test_a_disk_with_one_file_system_is_mounted_at_a_place_of_ours() -> None:
    machine = pi(ssd(part("sda1", "vfat"), part("sda2", "ext4")))
    assert fresh({"disk": T7}, machine).disk == DataDisk(
        path="/srv/rpicluster/rpicluster",
        mount="/srv/rpicluster",
        disk=T7,
        uuid="uuid-of-sda2",
        filesystem="ext4",
    )


def test_a_disk_that_is_mounted_already_stays_where_it_is() -> None:
    machine = pi(ssd(part("sda1")), mounts=(mounted("sda1", "/mnt/ssd", "sda"),))
    chosen = fresh({"disk": T7}, machine).disk
    assert (chosen.mount, chosen.disk, chosen.is_ours) == ("/mnt/ssd", T7, False)
    in_a_home = pi(ssd(part("sda1")), mounts=(mounted("sda1", "/home/pi/ssd", "sda"),))
    assert "its disk is mounted on /home/pi/ssd" in fresh({"disk": T7}, in_a_home).refusal


def test_a_part_is_taken_where_it_is_named_and_must_be_where_there_are_several() -> None:
    machine = pi(ssd(part("sda1"), part("sda2", "xfs")))
    assert fresh({"disk": f"{T7}-part2"}, machine).disk.uuid == "uuid-of-sda2"
    assert f"name one: {T7}-part1, {T7}-part2" in fresh({"disk": T7}, machine).refusal


@pytest.mark.parametrize(
    ("disk", "said", "why"),
    [
        (ssd(), "usb-other", "no disk is called usb-other there; there are"),
        (ssd(), T7, f"has no file system; to make one, which loses everything on the disk: rpicluster up "
         f"--format {T7}"),
        (ssd(part("sda1", "ntfs")), T7, "only ntfs (it keeps no owners"),
        (ssd(part("sda1", "LVM2_member")), T7, "it is a part of something larger"),
        (ssd(), "mmc-SD32G_0x1", "is the disk that it boots from"),
    ],
)  # fmt: skip
def test_a_disk_that_will_not_do_is_refused_with_how_to_go_on(disk: Disk, said: str, why: str) -> None:
    choice = fresh({"disk": said}, pi(disk))
    assert choice.refusal.startswith("pi2: ")
    assert why in choice.refusal
    assert not choice.formats


# -- formatting ----------------------------------------------------------------------------------------


def test_nothing_is_formatted_unless_its_very_name_was_typed() -> None:
    machine = pi(ssd(part("sda1", "ntfs", label="photos")))
    assert not fresh({"disk": T7}, machine).formats
    assert not fresh({"disk": T7}, machine, WWN, "sda", "/dev/sda", T7.lower()).formats
    choice = fresh({"disk": T7}, machine, T7)
    assert choice.formats == "PSSD T7, 931 GiB, with sda1 ntfs 'photos'"
    assert choice.disk.mount == "/srv/rpicluster"
    (step,) = format_steps({"pi2": choice}, ())
    assert (step.symbol, step.target) == ("!", T7)
    assert step.reason.startswith("everything on it is lost: PSSD T7, 931 GiB")
    assert format_steps({"pi2": choice}, {"pi2"}) == []


@pytest.mark.parametrize(
    ("machine", "said", "why"),
    [
        (pi(ssd(part("sda1")), mounts=(mounted("sda1", "/mnt/x", "sda"),)), T7, "is mounted on /mnt/x"),
        (
            pi(
                ssd(part("sda1", "swap")),
                swaps=(Swap(path="/dev/sda1", size_mib=1, used_mib=0, disk="sda"),),
            ),
            T7,
            "in use as swap",
        ),
        (pi(ssd(part("sda1"))), f"{T7}-part1", "only whole disks"),
        (pi(ssd().model_copy(update={"read_only": True})), T7, "is read-only"),
        (pi(), "mmc-SD32G_0x1", "is the disk that it boots from"),
    ],
)
def test_what_is_never_formatted_is_refused_though_it_was_typed(
    machine: MachineFacts, said: str, why: str
) -> None:
    choice = fresh({"disk": said}, machine, said)
    assert why in choice.refusal
    assert not choice.formats


def test_a_disk_that_a_broken_up_has_formatted_is_known_again_and_not_formatted_twice() -> None:
    made = fresh({"disk": T7}, pi(ssd()), T7).disk
    after = pi(ssd(part("sda", "ext4", uuid=made.uuid)))
    assert fresh({"disk": T7}, after, T7) == Choice(made)
    assert fresh({"disk": T7}, after) == Choice(made)
    elsewhere = choose(node({"disk": T7}), pi(ssd()), None, has_data=False, cluster_id="c2",
                       formats=frozenset({T7}))  # fmt: skip
    assert elsewhere.disk.uuid != made.uuid


def test_a_disk_with_data_of_the_cluster_is_not_formatted() -> None:
    kept = DataDisk(path="/srv/rpicluster/rpicluster", mount="/srv/rpicluster", disk=T7, uuid="u")
    assert "holds data of this cluster" in again({"disk": T7}, None, kept, T7).refusal


def test_a_disk_that_cluster_yml_does_not_name_cannot_be_typed() -> None:
    spec = parse_spec(f"name: lab\nnodes:\n  - {{name: pi1, ssh: {{host: a}}, storage: {{disk: '{T7}'}}}}\n")
    require_named(spec, {T7})
    with pytest.raises(UsageError, match=r"cluster\.yml names no such disk") as caught:
        require_named(spec, {STICK})
    assert STICK in str(caught.value.hint)


# -- what is there stays -------------------------------------------------------------------------------

ON_SSD = DataDisk(path="/mnt/ssd/rpicluster", mount="/mnt/ssd", uuid="uuid-of-sda1", filesystem="ext4")
WITH_SSD = pi(ssd(part("sda1")), mounts=(mounted("sda1", "/mnt/ssd", "sda"),))


def test_storage_that_says_where_the_data_are_is_no_change() -> None:
    for said in (None, "/mnt/ssd", {"disk": T7}, {"disk": WWN}):
        assert again(said, WITH_SSD, ON_SSD) == Choice(ON_SSD), said
    ours = DataDisk(path="/srv/rpicluster/rpicluster", mount="/srv/rpicluster", disk=T7, uuid="u")
    there = pi(ssd(part("sda1", uuid="u")), mounts=(mounted("sda1", "/srv/rpicluster", "sda"),))
    assert again({"disk": WWN}, there, ours) == Choice(ours)


@pytest.mark.parametrize("kept", [None, ON_SSD])
@pytest.mark.parametrize("said", ["/mnt/other", {"disk": STICK}])
def test_another_storage_for_a_node_with_data_is_refused(kept: DataDisk | None, said: object) -> None:
    choice = again(said, WITH_SSD, kept)
    assert choice.disk == kept
    assert "Data are never moved: take pi2 out of cluster.yml, run `rpicluster up`" in choice.refusal


def test_while_the_disk_with_the_data_is_away_nothing_is_changed() -> None:
    choice = again(None, pi(), ON_SSD)
    assert "nothing is mounted on /mnt/ssd now" in choice.refusal
    assert choice.disk == ON_SSD


def test_another_disk_in_its_place_is_not_taken_for_it() -> None:
    other = pi(ssd(part("sda1", uuid="other")), mounts=(mounted("sda1", "/mnt/ssd", "sda"),))
    assert "another file system is mounted" in again(None, other, ON_SSD).refusal


def test_a_disk_of_ours_that_is_connected_and_not_mounted_is_mounted_again() -> None:
    ours = DataDisk(path="/srv/rpicluster/rpicluster", mount="/srv/rpicluster", disk=T7, uuid="u")
    assert again(None, pi(ssd(part("sda1", uuid="u"))), ours) == Choice(ours)
    assert "nothing is mounted on /srv/rpicluster" in again(None, pi(ssd(part("sda1"))), ours).refusal


def with_manifest(**extra: object) -> MachineFacts:
    return WITH_SSD.model_copy(update={"manifest": Manifest(version="1", extra=extra)})


def test_the_manifest_on_the_node_says_where_its_data_are() -> None:
    machine = with_manifest(storage=json.loads(ON_SSD.model_dump_json()))
    assert kept_of("pi2", machine, answers=True, recorded=None) == Kept(True, ON_SSD)
    older = with_manifest(cluster="lab")
    assert kept_of("pi2", older, answers=True, recorded=None) == Kept(True, None)
    assert kept_disk(older) is None


def test_a_node_that_does_not_answer_is_where_our_record_says_and_a_fresh_card_is_not() -> None:
    paths = {"disk": ON_SSD.model_dump()}
    recorded = {"nodes": {"pi2": {"paths": paths}, "pi3": {"paths": {}}}}
    assert kept_of("pi2", None, answers=False, recorded=recorded) == Kept(True, ON_SSD)
    assert kept_of("pi3", None, answers=False, recorded=recorded) == Kept(True, None)
    assert kept_of("pi4", None, answers=False, recorded=recorded) == Kept()
    assert kept_of("pi2", WITH_SSD, answers=True, recorded=recorded) == Kept()


def test_an_older_clusters_nodes_keep_their_data_on_the_card_though_an_ssd_is_there() -> None:
    spec = parse_spec("name: lab\nnodes:\n  - {name: pi2, ssh: {host: a}}\n")
    found = choices(spec, {"pi2": with_manifest(cluster="lab")}, (), recorded=None, cluster_id="c")
    assert found == {"pi2": Choice()}


def test_the_program_on_the_node_gets_a_whole_path_of_by_id_and_only_when_it_formats() -> None:
    disk = DataDisk(path="/srv/rpicluster/rpicluster", mount="/srv/rpicluster", disk=T7, uuid="u")
    paths = PATHS.model_copy(update={"disk": disk})
    assert order(paths, format_name=T7)["format"] == f"/dev/disk/by-id/{T7}"
    assert order(paths)["format"] == ""
    assert order(PATHS) == {}
