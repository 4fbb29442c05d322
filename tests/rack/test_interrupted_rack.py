"""`up` killed anywhere, folders deleted, two racks at once: what follows works, and nothing is left."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rack_tools import PROBE, RackUnderTest, inventory, rack_processes, require_same, tool, wait_for

from rpicluster.nodes.rack.base import cache_root


@pytest.fixture(scope="module")
def rack(make_rack: Callable[[str], RackUnderTest]) -> RackUnderTest:
    made = make_rack("broken-off-rack")  # longer than an interface's name may be
    made.run("up", "--nodes", "256M")  # the base image is in the cache from here on
    made.run("down")
    return made


@pytest.fixture(autouse=True)
def taken_down(rack: RackUnderTest) -> Iterator[None]:
    """A test that fails leaves no rack to the next."""
    yield
    if rack.directory.exists():
        rack.run("down")


def _kill_after(rack: RackUnderTest, seconds: float, number: int) -> None:
    process = rack.start("up", "--nodes", "256M,256M", stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
        raise AssertionError(f"`up` had ended before {seconds} s: choose an earlier moment")
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    process.wait(20)


@pytest.mark.parametrize("seconds", [0.35, 0.5, 0.65, 0.8, 1.1, 1.6])
def test_down_cleans_after_an_up_that_was_killed(rack: RackUnderTest, seconds: float) -> None:
    before = inventory()
    _kill_after(rack, seconds, signal.SIGKILL)
    if rack.directory.exists():
        rack.run("down")
    require_same(before, 5)
    assert not rack.directory.exists()


@pytest.mark.parametrize(("seconds", "number"), [(0.6, signal.SIGKILL), (1.0, signal.SIGINT)])
def test_the_next_up_continues_after_one_that_was_broken_off(
    rack: RackUnderTest, seconds: float, number: int
) -> None:
    _kill_after(rack, seconds, number)
    rack.run("up", "--nodes", "256M,256M")
    assert [rack.ssh(node, "hostname") for node in ("pi1", "pi2")] == ["pi1", "pi2"]
    rack.run("down")


def test_an_up_that_was_broken_off_may_be_started_over_with_other_nodes(rack: RackUnderTest) -> None:
    _kill_after(rack, 1.0, signal.SIGKILL)
    rack.run("up", "--nodes", "300M")
    assert list(rack.status()) == ["pi1"]
    rack.run("down")


def test_a_killed_loop_takes_its_node_along(rack: RackUnderTest) -> None:
    rack.run("up", "--nodes", "256M")
    loops = [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if str(rack.directory).encode() in path.read_bytes() and b"node_loop.py" in path.read_bytes()
    ]
    assert len(loops) == 1
    os.kill(loops[0], signal.SIGKILL)
    wait_for("pi1 off", lambda: rack.status()["pi1"]["power"] == "off", 10)
    rack.run("boot", "pi1")
    assert rack.ssh("pi1", "hostname") == "pi1"
    rack.run("down")


def test_down_cleans_although_somebody_deleted_the_racks_folder(rack: RackUnderTest) -> None:
    before = inventory()
    rack.run("up", "--nodes", "256M")
    shutil.rmtree(rack.directory)
    rack.run("down")
    require_same(before, 15)


def test_down_of_no_rack_says_so_and_leaves_no_folder(rack: RackUnderTest) -> None:
    assert "there is no rack broken-off-rack" in rack.run("down", code=2).stderr
    assert not rack.directory.exists()


def test_a_base_image_that_was_broken_off_is_never_used_and_leaves_no_process(
    rack: RackUnderTest, tmp_path: Path
) -> None:
    fresh = RackUnderTest(rack.name, {**rack.environment, "XDG_CACHE_HOME": str(tmp_path)})
    process = fresh.start("up", "--nodes", "256M", stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if "Retrieving" in line or "Checking" in line:
            break
    wait_for("packages arrive", lambda: any(tmp_path.rglob("*.deb")), 120)
    process.kill()
    process.wait(10)
    process.stderr.close()
    wait_for("debootstrap's end", lambda: not [p for p in rack_processes() if str(tmp_path) in p], 5)
    assert list(tmp_path.rglob(".building-*/root")), "it was being built"
    assert not list(tmp_path.glob("rpicluster/rack/base-*"))
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    fresh.run("down")


def test_what_is_made_under_sudo_belongs_to_who_called_it(rack: RackUnderTest) -> None:
    called = RackUnderTest(rack.name, {**rack.environment, "SUDO_UID": "65534"})
    called.run("up", "--nodes", "256M")
    for name in ("", "cluster.yml", "ssh_config", "known_hosts", "id_ed25519"):
        assert (rack.directory / name).stat().st_uid == 65534, name
    assert (rack.directory / "id_ed25519").stat().st_mode & 0o777 == 0o600
    called.run("down")


def test_packages_that_one_rack_downloaded_are_there_for_the_next(rack: RackUnderTest) -> None:
    packages = cache_root() / "packages-bookworm"
    for package in packages.glob("tree_*.deb"):
        package.unlink()
    counts = []
    for _ in range(2):
        rack.run("up", "--nodes", "256M")
        rack.ssh("pi1", "sudo apt-get -q update", timeout=120)
        wanted = rack.ssh("pi1", "apt-get -q --print-uris --no-install-recommends install tree")
        counts.append(wanted.count(".deb'"))
        rack.ssh("pi1", "sudo apt-get -q -y --no-install-recommends install tree", timeout=120)
        rack.run("down")
    assert counts == [1, 0]


def test_two_racks_stand_beside_each_other_and_do_not_mix(
    rack: RackUnderTest, make_rack: Callable[[str], RackUnderTest]
) -> None:
    other = make_rack("b")
    ups = [one.start("up", "--nodes", "256M", stderr=subprocess.DEVNULL) for one in (rack, other)]
    assert [up.wait(120) for up in ups] == [0, 0]
    here, there = (one.status()["pi1"] for one in (rack, other))
    assert here["address"] != there["address"]
    for address in (there["address"], there["address6"]):
        assert rack.ssh_raw("pi1", "ping", "-c1", "-W1", address).returncode != 0
        assert tool(sys.executable, "-c", PROBE, address, "22").strip() == "22", "the machine reaches it"
    assert rack.ports_reached("pi1", there["address"]) == []
    taken = there["address"].rpartition(".")[0] + ".0/24"
    third = make_rack("c")
    assert "is taken" in third.run("up", "--nodes", "256M", "--subnet", taken, code=2).stderr
    shutil.rmtree(third.directory)
    rack.run("down")
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    time.sleep(0.2)
    assert other.ssh("pi1", "hostname") == "pi1"
    other.run("down")


def test_a_trixie_node_boots_wholly_and_is_held_to_its_memory(rack: RackUnderTest) -> None:
    rack.run("up", "--nodes", "256M", "--suite", "trixie")
    assert rack.ssh("pi1", ". /etc/os-release; echo $VERSION_CODENAME") == "trixie"
    assert rack.ssh("pi1", "systemctl", "is-system-running", "--wait") == "running"
    assert rack.ssh("pi1", "free", "--mebi").splitlines()[1].split()[1] == "256"
    assert rack.ssh("pi1", "python3 -c 'bytearray(300 << 20)'; echo $?").endswith("137")
