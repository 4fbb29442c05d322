"""What stands on a node whose data lie on a disk of their own: units, folders, manifest, orders."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import load, rendered
from systemd_reading import sections
from test_storage import ON_SSD, T7, WITH_SSD, mounted, part, pi, ssd, with_manifest

from rpicluster.design import accounts, layout
from rpicluster.design.mount_unit import unit_name
from rpicluster.design.plan import Action, Plan, Step
from rpicluster.design.preview import PATHS
from rpicluster.model.facts import DataDisk
from rpicluster.nodes.ansible.rundir import playbooks
from rpicluster.nodes.remote.base import base_of
from rpicluster.nodes.remote.bundle import NodeWork, variables
from rpicluster.nodes.remote.change import prepare_steps
from rpicluster.nodes.remote.manifest import Base, manifest_of
from rpicluster.nodes.remote.removal import orders
from rpicluster.nodes.remote.room import no_room
from rpicluster.nodes.remote.storage import manifest_entry
from rpicluster.nodes.ssh.observe import script

CASE = "pi5-2-ssd"  # pi1: a disk by its name, mounted by us; pi2: a folder on a disk that its owner mounts
TOP = {"pi1": "/srv/rpicluster/rpicluster", "pi2": "/mnt/big-ssd/cluster/rpicluster"}
ON_DISK = ("namenode", "datanode", "nodemanager", "checkpoint")


def test_blocks_image_and_containers_lie_on_the_disk_and_nothing_of_them_elsewhere() -> None:
    inputs = load(CASE)
    for node, top in TOP.items():
        paths = inputs.paths(node)
        assert layout.datanode_directory(paths) == f"{top}/datanode/blocks"
        assert layout.namenode_directory(paths) == f"{top}/namenode/name"
        assert layout.containers_directory(paths) == f"{top}/nodemanager/containers"
        assert layout.resourcemanager_directory(paths).startswith("/var/lib/rpicluster/")
        assert layout.token_file(paths, "ana").startswith("/var/lib/rpicluster/")
        assert accounts.Directory(top, 0o755) in accounts.directories(inputs, node)


def test_what_needs_the_disk_does_not_start_without_it_and_what_does_not_does() -> None:
    result = rendered(CASE)
    for node, mount in (("pi1", "/srv/rpicluster"), ("pi2", "/mnt/big-ssd")):
        for path, file in result.files[node].items():
            if not path.startswith(layout.SYSTEMD) or not path.endswith(".service"):
                continue
            settings = dict(sections(file.content)["Unit"])
            name = path.rpartition("rpicluster-")[2].removesuffix(".service")
            if name in ON_DISK:
                assert settings["AssertPathIsMountPoint"] == mount
                assert settings["RequiresMountsFor"].split() == ["/var/lib/rpicluster", TOP[node]]
            else:
                assert "AssertPathIsMountPoint" not in settings


def test_only_a_disk_that_cluster_yml_names_gets_a_unit_and_a_boot_does_not_hang_on_it() -> None:
    result = rendered(CASE)
    path = "/etc/systemd/system/srv-rpicluster.mount"
    assert path not in result.files["pi2"]
    unit = sections(result.files["pi1"][path].content)
    disk = load(CASE).paths("pi1").disk
    assert dict(unit["Mount"])["What"] == f"/dev/disk/by-uuid/{disk.uuid}"
    assert unit["Install"] == [("WantedBy", "multi-user.target")]


@pytest.mark.skipif(not shutil.which("systemd-escape"), reason="no systemd-escape on this machine")
@pytest.mark.parametrize(
    "path", ["/srv/rpicluster", "/mnt/my-ssd_1.x@y+z", "/.hidden/a", "/data", "/mnt/ä b"]
)
def test_a_mount_unit_is_called_what_systemd_calls_it(path: str) -> None:
    argv = ["systemd-escape", "--path", "--suffix=mount", path]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert unit_name(path) == done.stdout.strip()


# -- what is done --------------------------------------------------------------------------------------


def base(node: str) -> Base:
    return base_of(load(CASE), node, WITH_SSD)


def test_a_node_without_a_disk_for_data_is_as_it_was_before_there_could_be_one() -> None:
    plain = Base("g", (), (), "")
    assert plain.hash == Base("g", (), (), "", storage={}).hash
    assert plain.hash != Base("g", (), (), "", storage={"path": "/x"}).hash


def test_the_role_is_told_to_format_only_by_a_step_of_the_plan() -> None:
    inputs, result = load(CASE), rendered(CASE)
    paths = inputs.paths("pi1")

    def told(*steps: Step) -> dict[str, object]:
        found = variables(
            base("pi1"), result.files["pi1"], NodeWork.of(list(steps)), paths=paths, unit_hashes={},
            runtime="r", bundle_path="b", file_system="f", may_reboot=False,
        )  # fmt: skip
        return dict(found["rpicluster_storage"])

    prepare = Step(Action.PREPARE, "pi1", "node", "x")
    assert told() == {}
    assert told(prepare)["format"] == ""
    assert told(prepare)["uuid"] == paths.disk.uuid
    assert told(Step(Action.FORMAT_DISK, "pi1", T7, "x"))["format"] == f"/dev/disk/by-id/{T7}"


def test_a_plan_that_formats_says_so_in_its_last_line_and_survives_being_saved() -> None:
    plan = Plan("lab", (Step(Action.FORMAT_DISK, "pi1", T7, "everything on it is lost: x"),))
    assert f"formats {T7} on pi1" in plan.summary()
    assert Plan.from_json(plan.to_json()) == plan


def test_a_disk_of_ours_that_is_not_mounted_is_a_step() -> None:
    away = pi(ssd(part("sda1")))
    there = pi(ssd(part("sda1")), mounts=(mounted("sda1", "/srv/rpicluster", "sda"),))
    wanted = base("pi1")
    (step,) = prepare_steps({"pi1": wanted}, {"pi1": away}, {})
    assert "the disk for data on /srv/rpicluster" in step.reason
    (step,) = prepare_steps({"pi1": wanted}, {"pi1": there}, {})
    assert "the disk for data" not in step.reason


def test_room_is_looked_for_where_the_data_go() -> None:
    full = mounted("sda1", "/mnt/ssd", "sda", free_mib=10)
    machine = pi(ssd(part("sda1")), mounts=(full,)).model_copy(update={"runtime": "other"})
    data = {"pi2": "/mnt/ssd/rpicluster"}
    assert no_room({"pi2": machine}, runtime_hash="r", runtime_mib=400) == ()
    (reason,) = no_room({"pi2": machine}, runtime_hash="r", runtime_mib=400, data=data)
    assert "pi2 has 10 MiB free on /mnt/ssd" in reason


def test_destroy_is_told_of_the_disk_and_unmounts_only_what_we_mount() -> None:
    inputs = load(CASE)
    ours = orders([], None, inputs.paths("pi1").disk)
    assert ours["storage"] == {
        "path": TOP["pi1"],
        "mount": "/srv/rpicluster",
        "unit": "srv-rpicluster.mount",
    }
    assert (
        "srv-rpicluster.mount" not in ours["units"]
    )  # stopped after the data are gone, not with the daemons
    assert TOP["pi1"] not in ours["directories"]
    theirs = orders([], None, inputs.paths("pi2").disk)
    assert theirs["storage"]["unit"] == ""
    assert orders([], None)["storage"] == {}


def test_the_role_that_removes_takes_the_very_orders_that_it_is_given() -> None:
    specs = YAML(typ="safe").load((playbooks() / "roles/remove/meta/argument_specs.yml").read_text())
    known = specs["argument_specs"]["main"]["options"]["rpicluster_remove"]["options"]
    assert set(known) == set(orders([], None))


# -- what is asked -------------------------------------------------------------------------------------


def asked(tmp_path: Path, document: bytes | None) -> str:
    """Return whose file system a node says its NameNode's directory holds; its /var/lib is `tmp_path`."""
    if document is not None:
        (tmp_path / "manifest.json").write_bytes(document)
    text = script(sudo=False).decode().replace("/var/lib/rpicluster", str(tmp_path))
    done = subprocess.run(
        ["sh", "-s", "MARK"], input=text, capture_output=True, text=True, check=False, timeout=60
    )
    return done.stdout.partition("MARK begin name-directory\n")[2].partition("\nMARK end")[0].strip()


def name_directory(above: Path, cluster: str) -> None:
    (above / "namenode" / "name" / "current").mkdir(parents=True)
    (above / "namenode" / "name" / "current" / "VERSION").write_text(f"x=1\nclusterID={cluster}\n")


def test_the_namenodes_directory_is_looked_for_where_the_manifest_says(tmp_path: Path) -> None:
    name_directory(tmp_path, "on-the-card")
    name_directory(tmp_path / "mnt" / "rpicluster", "on-the-disk")
    assert asked(tmp_path, None) == "clusterID=on-the-card"
    about = {"cluster": "lab", "cluster_id": "1", "node": "pi1", "runtime": "r", "base_hash": "b"}
    plain = manifest_of(**about, files={}, units={})  # type: ignore[arg-type]
    assert asked(tmp_path, plain) == "clusterID=on-the-card"
    disk = DataDisk(path=f"{tmp_path}/mnt/rpicluster", mount=f"{tmp_path}/mnt", disk=T7)
    more = manifest_entry(PATHS.model_copy(update={"disk": disk}))
    kept = manifest_of(**about, files=rendered(CASE).files["pi1"], units={}, more=more)  # type: ignore[arg-type]
    assert asked(tmp_path, kept) == "clusterID=on-the-disk"
    assert asked(tmp_path, json.dumps(json.loads(kept)).encode()) == "clusterID=on-the-disk", "on one line"


def test_a_manifest_keeps_the_disk_and_gives_it_back() -> None:
    from rpicluster.model.facts import kept_disk

    machine = with_manifest(**manifest_entry(PATHS.model_copy(update={"disk": ON_SSD})))
    assert kept_disk(machine) == ON_SSD
    assert manifest_entry(PATHS) == {}
