"""The programs that mount, format and leave a disk for data, on a loop device in a namespace of its own."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rpicluster.design.preview import PATHS
from rpicluster.model.facts import DataDisk
from rpicluster.nodes.ansible.rundir import playbooks
from rpicluster.nodes.remote.storage import order

MOUNT = "/srv/rpicluster"
FILES = playbooks() / "roles"
OURS = str(uuid.UUID(int=7))
_SIZE = 64 << 20


def no_loop() -> str:
    """Return why this machine has no loop device for us, "" if it has."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a loop device needs Linux and root"
    missing = [tool for tool in ("losetup", "mkfs.ext4", "wipefs", "blkid") if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)}: sudo apt-get install mount e2fsprogs util-linux"
    done = subprocess.run(["losetup", "-f"], capture_output=True, text=True, check=False)
    return done.stderr if done.returncode else ""


pytestmark = pytest.mark.skipif(bool(no_loop()), reason=no_loop() or "there is one")


@dataclass
class Namespace:
    """Mounts that nobody else sees; /srv is empty in it."""

    process: "subprocess.Popen[bytes]"
    device: str
    folder: Path

    def run(self, *argv: str, stdin: str = "", code: int = 0) -> str:
        done = subprocess.run(
            ["nsenter", "--mount", "--root", "--wd", f"--target={self.process.pid}", "--", *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, "PATH": f"{self.folder}/bin:{os.environ['PATH']}"},
        )
        assert done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return (done.stdout or done.stderr).strip()

    def program(self, role: str, name: str, wanted: dict[str, Any], code: int = 0) -> str:
        text = (FILES / role / "files" / name).read_text(encoding="utf-8")
        return self.run(sys.executable, "-c", text, stdin=json.dumps(wanted), code=code)

    def storage(self, code: int = 0, **changes: Any) -> str:
        wanted = {
            "path": f"{MOUNT}/rpicluster",
            "mount": MOUNT,
            "mounts": True,
            "uuid": OURS,
            "filesystem": "ext4",
            "format": "",
            "label": "rpicluster",
            "cluster_id": "rpicluster-1",
            "owners": {"datanode": "nobody"},
        }
        return self.program("base", "storage.py", {**wanted, **changes}, code)

    def uuid(self) -> str:
        return self.run("blkid", "-p", "-s", "UUID", "-o", "value", self.device)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Namespace]:
    """A loop device with nothing on it, and a namespace to mount it in."""
    image = tmp_path / "disk.img"
    image.touch()
    os.truncate(image, _SIZE)
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin" / "systemctl"  # no systemd here: the programs do without its help
    systemctl.write_text("#!/bin/sh\nexit 0\n")
    systemctl.chmod(0o755)
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, capture_output=True, text=True
    ).stdout.strip()
    process = subprocess.Popen(["unshare", "--mount", "--propagation=private", "sleep", "600"])
    try:
        space = Namespace(process, device, tmp_path)
        mine = Path("/proc/self/ns/mnt").readlink()
        while Path(f"/proc/{process.pid}/ns/mnt").readlink() == mine:
            assert process.poll() is None
        space.run("mount", "-t", "tmpfs", "-o", "mode=755", "srv", "/srv")
        yield space
    finally:
        process.kill()
        process.wait(20)
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_disk_is_formatted_mounted_and_found_again(disk: Namespace) -> None:
    assert disk.storage(format=disk.device) == "formatted, mounted"
    assert disk.uuid() == OURS
    assert disk.run("blkid", "-p", "-s", "LABEL", "-o", "value", disk.device) == "rpicluster"
    disk.run("touch", f"{MOUNT}/kept")
    # A second `up` with the same order neither formats nor mounts again.
    assert disk.storage(format=disk.device) == ""
    disk.run("umount", MOUNT)
    assert disk.storage(format=disk.device) == "mounted"
    assert disk.run("ls", MOUNT).split() == ["kept", "lost+found"]


def test_what_was_there_before_is_gone_partition_table_included(disk: Namespace) -> None:
    disk.run("sfdisk", "-q", disk.device, stdin="label: gpt\n,\n")
    assert disk.run("blkid", "-p", "-s", "PTTYPE", "-o", "value", disk.device) == "gpt"
    disk.storage(format=disk.device)
    assert disk.run("blkid", "-p", "-s", "PTTYPE", "-o", "value", disk.device) == ""
    assert disk.run("wipefs", disk.device).count("\n") == 1, "one signature is left, and a head line"


def test_without_a_word_of_formatting_a_disk_stays_as_it_is(disk: Namespace) -> None:
    disk.run("mkfs.ext4", "-q", "-F", "-L", "photos", disk.device)
    other = disk.uuid()
    assert "mount" in disk.storage(code=1)
    assert disk.uuid() == other
    assert disk.storage(uuid=other) == "mounted"
    assert disk.run("blkid", "-p", "-s", "LABEL", "-o", "value", disk.device) == "photos"


def test_a_disk_in_use_is_not_formatted(disk: Namespace) -> None:
    disk.run("mkfs.ext4", "-q", "-F", disk.device)
    other = disk.uuid()
    disk.run("mkdir", "/srv/elsewhere")
    disk.run("mount", disk.device, "/srv/elsewhere")
    assert "is in use and is not formatted" in disk.storage(format=disk.device, code=1)
    assert disk.uuid() == other


def test_another_file_system_in_its_place_is_refused(disk: Namespace) -> None:
    disk.run("mkfs.ext4", "-q", "-F", disk.device)
    disk.run("mkdir", MOUNT)
    disk.run("mount", disk.device, MOUNT)
    assert "another file system than the one with the data" in disk.storage(code=1)


def test_what_is_no_disk_is_not_formatted(disk: Namespace) -> None:
    disk.run("touch", "/srv/file")
    assert "is no disk" in disk.storage(format="/srv/file", code=1)
    assert "there is no disk" in disk.storage(format="/dev/disk/by-id/usb-gone", code=1)


def test_a_mount_point_with_files_in_it_is_not_hidden(disk: Namespace) -> None:
    disk.run("mkfs.ext4", "-q", "-F", "-U", OURS, disk.device)
    disk.run("mkdir", MOUNT)
    disk.run("touch", f"{MOUNT}/file")
    assert "is not empty; a mount would hide" in disk.storage(code=1)


def folder(disk: Namespace, **options: str) -> dict[str, Any]:
    disk.run("mkfs.ext4", "-q", "-F", "-U", OURS, disk.device)
    disk.run("mkdir", "/srv/ssd")
    disk.run("mount", *(["-o", options["o"]] if "o" in options else []), disk.device, "/srv/ssd")
    return {"path": "/srv/ssd/rpicluster", "mount": "/srv/ssd", "mounts": False}


def test_a_folder_that_somebody_mounted_is_looked_at_and_left_alone(disk: Namespace) -> None:
    wanted = folder(disk)
    assert disk.storage(**wanted) == ""
    deeper = {**wanted, "path": "/srv/ssd/deep/rpicluster"}
    assert "/srv/ssd/deep is no folder; make it first" in disk.storage(**deeper, code=1)
    disk.run("chmod", "700", "/srv/ssd")
    assert "do not get into /srv/ssd: sudo chmod o+x /srv/ssd" in disk.storage(**wanted, code=1)
    disk.run("chmod", "755", "/srv/ssd")
    disk.run("ln", "-s", "/srv/ssd", "/srv/link")
    assert "leads to /srv/ssd" in disk.storage(**{**wanted, "path": "/srv/link/rpicluster"}, code=1)
    disk.run("umount", "/srv/ssd")
    assert "nothing is mounted on /srv/ssd" in disk.storage(**wanted, code=1)


def test_a_folder_from_which_no_library_runs_is_refused(disk: Namespace) -> None:
    assert "is mounted with noexec" in disk.storage(**folder(disk, o="noexec"), code=1)


def test_data_of_this_cluster_get_their_owner_back_and_those_of_another_are_refused(disk: Namespace) -> None:
    wanted = folder(disk)
    blocks = "/srv/ssd/rpicluster/datanode/blocks/current"
    disk.run("mkdir", "-p", blocks)
    disk.run(
        "sh", "-c", f"echo clusterID=rpicluster-1 >{blocks}/VERSION && chown -R 4711 /srv/ssd/rpicluster"
    )
    assert disk.storage(**wanted) == "datanode given to nobody"
    assert disk.run("stat", "-c", "%U", f"{blocks}/VERSION") == "nobody"
    assert disk.storage(**wanted) == ""
    disk.run("sh", "-c", f"echo clusterID=rpicluster-2 >{blocks}/VERSION")
    assert "holds data of another cluster (rpicluster-2); move it away" in disk.storage(**wanted, code=1)


def test_the_modes_of_a_disk_that_somebody_has_used_are_not_widened(disk: Namespace) -> None:
    disk.run("mkfs.ext4", "-q", "-F", "-U", OURS, disk.device)
    disk.run("mkdir", "/srv/look")
    disk.run("mount", disk.device, "/srv/look")
    disk.run("chmod", "700", "/srv/look")
    disk.run("umount", "/srv/look")
    assert f"sudo chmod o+x {MOUNT}" in disk.storage(code=1)
    assert disk.run("stat", "-c", "%a", MOUNT) == "700"


def test_the_role_has_the_disk_ready_before_it_places_a_folder_on_it(disk: Namespace) -> None:
    wanted = order(
        PATHS.model_copy(
            update={
                "disk": DataDisk(
                    path=f"{MOUNT}/rpicluster", mount=MOUNT, disk="x", uuid=OURS, filesystem="ext4"
                )
            }
        )
    )
    wanted = {**wanted, "format": disk.device, "owners": {}}
    place = {"path": f"{MOUNT}/rpicluster", "mode": "0755", "owner": "root", "group": "root"}
    bundle = {"directories": [place], "files": [], "remove": [], "keep": [], "reread": "/srv/reread"}
    (disk.folder / "bundle.json").write_text(json.dumps(bundle))
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "rpicluster_prepare": False,
        "rpicluster_stop": [],
        "rpicluster_group": "root",
        "rpicluster_users": [],
        "rpicluster_bundle": str(disk.folder / "bundle.json"),
        "rpicluster_storage": wanted,
        "rpicluster_hosts_block": "",
    }
    play = [{"hosts": "all", "gather_facts": False, "roles": [str(FILES / "base")]}]
    (disk.folder / "play.json").write_text(json.dumps(play))
    (disk.folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"pi1": variables}}}))
    command = [
        sys.executable,
        "-m",
        "ansible",
        "playbook",
        "-i",
        str(disk.folder / "hosts.json"),
        str(disk.folder / "play.json"),
    ]
    assert "changed=2" in disk.run(*command)
    assert disk.uuid() == OURS
    assert disk.run("ls", MOUNT).split() == ["lost+found", "rpicluster"]
    assert "changed=0" in disk.run(*command), "the second time all is right"


# -- what `destroy` does -------------------------------------------------------------------------------


def leave(disk: Namespace, path: str, mount: str, unit: str) -> list[str]:
    orders = {
        "units": [],
        "users": [],
        "files": [],
        "directories": [],
        "empty_directories": [],
        "firewall_tables": [],
        "storage": {"path": path, "mount": mount, "unit": unit},
    }
    removed: list[str] = json.loads(disk.program("remove", "take_away.py", orders))["removed"]
    return removed


def test_destroy_takes_data_and_mount_away_and_leaves_the_file_system(disk: Namespace) -> None:
    disk.storage(format=disk.device)
    disk.run("mkdir", "-p", f"{MOUNT}/rpicluster/datanode", f"{MOUNT}/photos")
    removed = leave(disk, f"{MOUNT}/rpicluster", MOUNT, "srv-rpicluster.mount")
    assert removed == [f"{MOUNT}/rpicluster", "srv-rpicluster.mount", MOUNT]
    disk.run("test", "-e", MOUNT, code=1)
    assert disk.uuid() == OURS
    disk.run("mkdir", "/srv/look")
    disk.run("mount", disk.device, "/srv/look")
    assert disk.run("ls", "/srv/look").split() == ["lost+found", "photos"]
    assert leave(disk, f"{MOUNT}/rpicluster", MOUNT, "srv-rpicluster.mount") == []


def test_destroy_leaves_somebody_elses_mount_and_folder(disk: Namespace) -> None:
    folder(disk)
    disk.run("mkdir", "/srv/ssd/rpicluster", "/srv/ssd/photos")
    assert leave(disk, "/srv/ssd/rpicluster", "/srv/ssd", "") == ["/srv/ssd/rpicluster"]
    assert disk.run("ls", "/srv/ssd").split() == ["lost+found", "photos"]


def test_destroy_removes_nothing_below_a_mount_point_whose_disk_is_away(disk: Namespace) -> None:
    disk.run("mkdir", "-p", "/srv/ssd/rpicluster/mine")
    assert leave(disk, "/srv/ssd/rpicluster", "/srv/ssd", "") == []
    assert disk.run("ls", "/srv/ssd/rpicluster") == "mine"
