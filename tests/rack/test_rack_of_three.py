"""One rack of three nodes, asked in order: what it is, what it holds its nodes to, what leaves it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rack_tools import LISTENER, PORTS, PROBE, RackUnderTest, tool, wait_for

from rpicluster.model.specfile import parse_spec

NODES = ("pi1", "pi2", "pi3")
HOME_SSH = Path("~/.ssh").expanduser()


@dataclass
class Outside:
    """A network namespace that stands for the world outside of the rack, with a listener on many ports."""

    name: str
    address: str
    listener: "subprocess.Popen[str]"

    def inside(self, *argv: str, check: bool = True) -> str:
        return tool("ip", "netns", "exec", self.name, *argv, check=check)

    def ports_reached(self, address: str) -> list[int]:
        probe = self.inside(sys.executable, "-c", PROBE, address, *map(str, PORTS))
        return [int(port) for port in probe.split()]


def _outside(name: str, third: int) -> Outside:
    gateway, address = f"10.98.{third}.1", f"10.98.{third}.2"
    tool("ip", "netns", "add", name)
    tool("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    tool("ip", "address", "add", f"{gateway}/24", "dev", name)
    tool("ip", "link", "set", name, "addrgenmode", "none")  # its IPv6 routes would come at their own time
    tool("ip", "link", "set", name, "up")
    inside = ("ip", "-netns", name)
    tool(*inside, "address", "add", f"{address}/24", "dev", "eth0")
    tool(*inside, "link", "set", "eth0", "up")
    tool(*inside, "route", "add", "default", "via", gateway)
    listener = subprocess.Popen(
        ["ip", "netns", "exec", name, sys.executable, "-c", LISTENER, *map(str, PORTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    return Outside(name, address, listener)


@pytest.fixture(scope="module")
def outside() -> Iterator[tuple[Outside, Outside]]:
    """Two networks beside the rack, there before it is made."""
    pair = (_outside("rackout1", 1), _outside("rackout2", 2))
    yield pair
    for world in pair:
        assert world.listener.stdin is not None
        world.listener.stdin.close()
        world.listener.wait(10)
        tool("ip", "netns", "delete", world.name)
        wait_for("the veth's end", lambda name=world.name: not Path(f"/sys/class/net/{name}").exists())


@pytest.fixture(scope="module")
def rack(outside: tuple[Outside, Outside], make_rack: Callable[[str], RackUnderTest]) -> RackUnderTest:
    made = make_rack("three")
    home_before = _listing(HOME_SSH)
    made.run("up", "--nodes", "1G,512M,512M", "--cpus", "4,0.5,4")
    assert _listing(HOME_SSH) == home_before, "the user's own ~/.ssh was touched"
    return made


def _listing(folder: Path) -> list[tuple[str, int]]:
    return (
        sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")) if folder.exists() else []
    )


def test_each_node_lets_pi_in_with_the_racks_key_and_is_a_machine_of_its_own(rack: RackUnderTest) -> None:
    assert [rack.ssh(node, "hostname") for node in NODES] == list(NODES)
    assert {rack.ssh(node, "sudo", "-n", "id", "-un") for node in NODES} == {"root"}
    assert len({rack.ssh(node, "cat", "/etc/machine-id") for node in NODES}) == 3
    assert len({rack.ssh(node, "cat", "/etc/ssh/ssh_host_ed25519_key.pub") for node in NODES}) == 3
    assert {rack.ssh(node, "systemctl", "is-system-running", "--wait") for node in NODES} == {"running"}
    assert (rack.directory / "id_ed25519").stat().st_mode & 0o777 == 0o600


def test_the_nodes_own_name_leads_to_loopback_as_on_a_real_pi(rack: RackUnderTest) -> None:
    assert rack.ssh("pi2", "getent", "hosts", "pi2").split() == ["127.0.1.1", "pi2"]


def test_a_password_is_never_asked_for(rack: RackUnderTest) -> None:
    options = ("-o", "PubkeyAuthentication=no", "-o", "PasswordAuthentication=yes")
    done = rack.ssh_raw("pi1", "true", options=options)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_known_hosts_holds_the_nodes_real_keys_and_a_wrong_one_is_refused(
    rack: RackUnderTest, tmp_path: Path
) -> None:
    lines = (rack.directory / "known_hosts").read_text().splitlines()
    shown = rack.ssh("pi3", "cat", "/etc/ssh/ssh_host_ed25519_key.pub").split()[1]
    assert any(line.startswith("pi3,") and shown in line for line in lines)
    swapped = tmp_path / "known_hosts"
    swapped.write_text("\n".join(line.replace("pi1,", "x,").replace("pi3,", "pi1,") for line in lines))
    addresses = {node: rack.status()[node]["address"] for node in ("pi1", "pi3")}
    swapped.write_text(
        swapped.read_text().replace(addresses["pi3"], "old").replace(addresses["pi1"], addresses["pi3"])
    )
    done = rack.ssh_raw("pi3", "true", options=("-o", f"UserKnownHostsFile={swapped}"))
    assert done.returncode == 255
    assert "host key" in done.stderr.lower()


def test_the_written_cluster_yml_is_valid_and_names_the_nodes(rack: RackUnderTest) -> None:
    spec = parse_spec((rack.directory / "cluster.yml").read_text())
    assert [node.name for node in spec.nodes] == list(NODES)
    assert spec.manager.name == "pi1"
    assert [node.name for node in spec.workers] == ["pi2", "pi3"]
    assert [node.ssh.host for node in spec.nodes if node.ssh] == [
        rack.status()[node]["address"] for node in NODES
    ]


def test_meminfo_and_free_show_the_limit(rack: RackUnderTest) -> None:
    for node, limit_mib in (("pi1", 1024), ("pi2", 512)):
        assert f"MemTotal: {limit_mib << 10} kB" in " ".join(rack.ssh(node, "cat", "/proc/meminfo").split())
        assert rack.ssh(node, "free", "--mebi").splitlines()[1].split()[1] == str(limit_mib)


def test_cpuinfo_shows_whole_cpus_of_a_quota(rack: RackUnderTest) -> None:
    assert rack.ssh("pi2", "grep", "-c", "^processor", "/proc/cpuinfo") == "1"
    assert rack.ssh("pi2", "nproc") == "1"
    assert rack.ssh("pi1", "nproc") == str(len(os.sched_getaffinity(0)))


GROW = """
import sys
kept = []
for mib in range(16, 2048, 16):
    kept.append(bytearray(b"x" * (16 << 20)))
    print(mib, flush=True)
    if mib == int(sys.argv[1]):
        break
"""


def test_a_process_dies_at_the_limit_and_not_before(rack: RackUnderTest) -> None:
    assert rack.python("pi2", GROW, "400").splitlines()[-1] == "400"
    *_, reached_mib, code = rack.ssh("pi2", "python3 - 1024; echo $?", stdin=GROW).split()
    assert code == "137", "killed"
    assert 400 <= int(reached_mib) <= 512
    assert int(rack.python("pi1", GROW, "800").splitlines()[-1]) == 800
    assert rack.ssh("pi2", "systemctl", "is-system-running") == "running"


BURN = """
import os, threading, time
def burn(end):
    while time.monotonic() < end:
        pass
begun = time.monotonic()
for _ in range(2):
    if os.fork() == 0:
        burn(begun + 2.0)
        os._exit(0)
os.wait(), os.wait()
used = os.times()
print((used.children_user + used.children_system) / (time.monotonic() - begun))
"""


def test_a_cpu_quota_bites(rack: RackUnderTest) -> None:
    before = {node: _throttled_periods(node) for node in ("pi1", "pi2")}
    used = {node: float(rack.python(node, BURN)) for node in ("pi1", "pi2")}
    assert used["pi2"] < 0.6, "pi2 may use half a CPU"
    # Under 0.6 alone could be a busy machine: the kernel says itself whom it held back, and whom not.
    assert _throttled_periods("pi2") - before["pi2"] >= 5
    assert _throttled_periods("pi1") == before["pi1"]


def _throttled_periods(node: str) -> int:
    for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/cpu"):
        stat = Path(root, "rpicluster-three", node, "cpu.stat")
        if stat.exists():
            return int(dict(line.split() for line in stat.read_text().splitlines())["nr_throttled"])
    raise AssertionError(f"no cpu.stat of {node}")


def test_nodes_reach_each_other_on_ipv4_and_ipv6(rack: RackUnderTest) -> None:
    status = rack.status()
    for key in ("address", "address6"):
        rack.ssh("pi1", "ping", "-c1", "-W2", status["pi3"][key])
        rack.ssh("pi3", "ping", "-c1", "-W2", status["pi2"][key])


def test_only_dns_and_web_leave_the_rack(rack: RackUnderTest, outside: tuple[Outside, Outside]) -> None:
    world = outside[0]
    here = tool(sys.executable, "-c", PROBE, world.address, *map(str, PORTS))
    assert [int(port) for port in here.split()] == list(PORTS), "the machine itself reaches all"
    assert rack.ports_reached("pi1", world.address) == [53, 80, 443]
    assert rack.ssh_raw("pi1", "ping", "-c1", "-W1", world.address).returncode != 0


def test_nobody_outside_reaches_a_node(rack: RackUnderTest, outside: tuple[Outside, Outside]) -> None:
    address = rack.status()["pi1"]["address"]
    assert tool(sys.executable, "-c", PROBE, address, "22").strip() == "22"
    assert outside[0].ports_reached(address) == []


def test_the_machine_does_not_become_a_router_for_others(
    rack: RackUnderTest, outside: tuple[Outside, Outside]
) -> None:
    left, right = outside
    if "rpicluster_forwarding" not in tool("nft", "list", "tables"):
        pytest.skip("this machine routed already before the rack came")
    kept = tool("nft", "list", "table", "inet", "rpicluster_forwarding")
    if f'"{left.name}"' not in kept:
        pytest.skip("another rack stood on this machine before: the table knows the networks of that time")
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"
    assert left.ports_reached(right.address) == []
    tool("nft", "delete", "table", "inet", "rpicluster_forwarding")
    try:
        assert left.ports_reached(right.address) == list(PORTS), "without the table it would be one"
    finally:
        tool("nft", "-f", "-", stdin=kept)


def test_rack_traffic_does_not_take_the_default_route_and_up_repairs_a_dead_bridge(
    rack: RackUnderTest,
) -> None:
    address = rack.status()["pi1"]["address"]
    tool("ip", "link", "set", "rp-three", "down")
    done = subprocess.run(["ip", "route", "get", address], check=False, capture_output=True, text=True)
    assert done.returncode != 0, done.stdout
    rack.run("up")
    assert "rp-three" in tool("ip", "route", "get", address)
    rack.ssh("pi1", "ping", "-c1", "-W2", rack.status()["pi2"]["address6"])


def test_a_reboot_from_inside_brings_the_node_back_with_its_disk(rack: RackUnderTest) -> None:
    boot_before = rack.ssh("pi3", "journalctl", "--list-boots", "--quiet", "|", "wc", "-l")
    init_before = rack.ssh("pi3", "stat", "-c", "%Y", "/proc/1")
    rack.ssh("pi3", "touch", "/home/pi/kept")
    rack.ssh_raw("pi3", "sudo", "reboot")
    wait_for(
        "another PID 1",
        lambda: rack.ssh_raw("pi3", "stat", "-c", "%Y", "/proc/1").stdout.strip() not in ("", init_before),
    )
    rack.ssh("pi3", "ls", "/home/pi/kept")
    assert boot_before


def test_a_poweroff_leaves_the_node_off_until_it_is_booted(rack: RackUnderTest) -> None:
    rack.ssh_raw("pi3", "sudo", "poweroff")
    wait_for("pi3 off", lambda: rack.status()["pi3"]["power"] == "off")
    time.sleep(1)
    assert rack.status()["pi3"]["power"] == "off"
    assert rack.run("cut", "pi3", code=2).stderr.count("rack boot pi3") == 1
    rack.run("boot", "pi3")
    assert rack.status()["pi3"]["answers"]


def test_a_cut_node_is_dead_at_once_and_boots_from_the_same_disk(rack: RackUnderTest) -> None:
    rack.ssh("pi2", "echo kept > kept; sync; sudo systemd-run --quiet sleep 1000")
    rack.run("cut", "pi2")
    status = rack.status()
    assert (status["pi2"]["power"], status["pi2"]["answers"]) == ("off", False)
    assert status["pi1"]["answers"]
    rack.run("boot", "pi2")
    assert rack.ssh("pi2", "cat", "kept") == "kept"
    assert "already" in rack.run("boot", "pi2").stderr


def test_a_pulled_cable_stays_out_over_a_reboot_until_it_is_plugged_in(rack: RackUnderTest) -> None:
    address = rack.status()["pi2"]["address"]
    rack.ssh("pi1", "ping", "-c1", "-W2", address)
    rack.run("link", "pi2", "down")
    assert rack.status()["pi2"]["cable"] == "out"
    assert rack.ssh_raw("pi1", "ping", "-c1", "-W1", address).returncode != 0
    rack.run("reboot", "pi2")
    time.sleep(2)
    assert rack.ssh_raw("pi1", "ping", "-c1", "-W1", address).returncode != 0
    rack.run("link", "pi2", "up")
    wait_for("pi2 answers again", lambda: rack.status()["pi2"]["answers"])
    rack.ssh("pi1", "ping", "-c1", "-W2", address)


def test_a_full_disk_is_full_for_the_node_alone_and_can_be_emptied(rack: RackUnderTest) -> None:
    def free_mib(node: str) -> int:
        return int(rack.ssh(node, "df", "--output=avail", "-m", "/").splitlines()[-1])

    before = {node: free_mib(node) for node in ("pi1", "pi2")}
    rack.run("fill-disk", "pi2", "--leave", "20M")
    assert free_mib("pi2") in (19, 20)
    assert abs(free_mib("pi1") - before["pi1"]) < 20
    done = rack.ssh_raw("pi2", "dd", "if=/dev/zero", "of=big", "bs=1M", "count=40")
    assert done.returncode != 0
    assert "No space left" in done.stderr
    rack.ssh("pi2", "rm", "big")
    rack.run("fill-disk", "pi2", "--undo")
    assert abs(free_mib("pi2") - before["pi2"]) < 20


def test_a_node_is_added_and_stands_in_cluster_yml(rack: RackUnderTest) -> None:
    rack.run("add", "256M")
    assert rack.ssh("pi4", "hostname") == "pi4"
    spec = parse_spec((rack.directory / "cluster.yml").read_text())
    assert [node.name for node in spec.nodes] == [*NODES, "pi4"]


def test_an_edited_cluster_yml_is_never_overwritten(rack: RackUnderTest) -> None:
    path = rack.directory / "cluster.yml"
    written = path.read_text()
    path.write_text(written + "users: [ann]\n")
    assert "stays as it is" in rack.run("up").stderr
    assert path.read_text().endswith("users: [ann]\n")
    path.write_text(written)


def test_another_command_at_the_same_time_is_refused_and_names_the_holder(rack: RackUnderTest) -> None:
    from rpicluster.nodes.rack.state import changing

    with changing(rack.name, rack.directory, "up"):
        refused = rack.run("cut", "pi1", code=1).stderr
    assert re.search(rf"`rpicluster rack up` \(pid {os.getpid()}, user .*\) is changing rack three", refused)
    assert rack.status()["pi1"]["answers"]


def test_apt_works_in_a_node_over_the_machines_own_archive(rack: RackUnderTest) -> None:
    rack.ssh(
        "pi1",
        "sudo apt-get -q update && sudo apt-get -q -y install --no-install-recommends tree",
        timeout=120,
    )
    assert rack.ssh("pi1", "tree", "--version").startswith("tree v")


def test_disks_outlive_down_keep_and_nothing_else_does(rack: RackUnderTest) -> None:
    rack.ssh("pi1", "echo here > kept")
    rack.run("down", "--keep")
    assert "three" not in tool("ip", "-json", "link")
    assert "is down" in rack.run("boot", "pi1", code=2).stderr
    refused = rack.run("up", "--nodes", "1G,1G", code=2).stderr
    assert "--nodes" in refused
    assert "rack down --name three" in refused
    rack.run("up")
    assert rack.ssh("pi1", "cat", "kept") == "here"
    assert json.loads(rack.run("status", "--json").stdout)["rack"] == "three"
