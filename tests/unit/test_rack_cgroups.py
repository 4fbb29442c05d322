"""Limits in every layout of cgroups; directories of a fake tree stand for the kernel's."""

import os
import subprocess

import pytest

from rpicluster.errors import RackError
from rpicluster.nodes.rack.cgroups import (
    Layout,
    NodeCgroup,
    cpu_list,
    detect_layout,
    limit_files,
    members,
    rack_directories,
    remove_tree,
    scope_argv,
)
from rpicluster.nodes.rack.request import NodeRequest

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs rw,mode=755 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nsdelegate 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/devices cgroup rw,devices 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,cpuset 0 0
"""
UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nsdelegate 0 0\n"
NODE = NodeRequest("pi2", 2048, 0.5)


def test_hybrid_nodes_join_the_hierarchies_that_count_and_no_others():
    layout = detect_layout(HYBRID, "systemd")
    assert layout.kind == "v1"
    assert {root.name for root in layout.roots} == {"unified", "systemd", "memory", "cpu,cpuacct", "cpuset"}


def test_cgroup_v2_uses_a_scope_where_systemd_is_pid_1_and_directories_elsewhere():
    assert detect_layout(UNIFIED, "systemd").kind == "scope"
    assert detect_layout(UNIFIED, "init").kind == "v2"


def test_a_kernel_without_the_memory_controller_is_refused_with_what_to_add():
    without = "".join(line for line in HYBRID.splitlines(keepends=True) if "/memory" not in line)
    for mounts in (without, ""):
        with pytest.raises(RackError) as refused:
            detect_layout(mounts, "init")
        assert "cgroup_enable=memory" in (refused.value.hint or "")


def test_swap_is_part_of_the_limit_in_both_versions():
    v1, v2 = dict(limit_files("v1", NODE)), dict(limit_files("v2", NODE))
    assert (
        v1["memory.limit_in_bytes"] == v1["memory.memsw.limit_in_bytes"] == str(2 << 30) == v2["memory.max"]
    )
    assert v2["memory.swap.max"] == "0"
    assert (v1["cpu.cfs_quota_us"], v2["cpu.max"]) == ("50000", "50000 100000")
    free = NodeRequest("pi1", 1024)
    assert dict(limit_files("v1", free))["cpu.cfs_quota_us"] == "-1"
    assert dict(limit_files("v2", free))["cpu.max"] == "max 100000"


def test_a_quota_shows_as_whole_cpus_and_nodes_start_at_different_ones():
    machine = [0, 1, 2, 3]
    lists = [cpu_list(NodeRequest("n", 1024, cpus), n, machine) for n, cpus in ((1, 0.5), (2, 1.5), (4, 2.0))]
    assert lists == ["0", "1,2", "3,0"]
    for cpus in (None, 3.5, 4.0, 64.0):
        assert cpu_list(NodeRequest("n", 1024, cpus), 1, machine) is None
    assert ("cpuset.cpus", "3") in limit_files("v1", NODE, "3")
    assert ("cpuset.cpus", "3") in limit_files("v2", NODE, "3")
    assert "--property=AllowedCPUs=3" in scope_argv("u", NODE, "3")


def test_a_scope_carries_the_same_limits():
    argv = scope_argv("rpicluster-rack-pi2", NODE)
    assert argv[0] == "systemd-run"
    assert argv[-1] == "--"
    assert {"--property=MemoryMax=2048M", "--property=MemorySwapMax=0", "--property=CPUQuota=50%"} <= set(
        argv
    )
    assert not [word for word in scope_argv("u", NodeRequest("pi1", 1024)) if "CPUQuota" in word]


def make_v2_tree(root):
    for directory in (root, root / "rpicluster-rack", root / "rpicluster-rack/pi2"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.subtree_control").touch()
        (directory / "cgroup.procs").touch()
    for name in ("memory.max", "memory.swap.max", "cpu.max", "cpuset.cpus"):
        (root / "rpicluster-rack/pi2" / name).touch()


def test_on_cgroup_v2_controllers_are_handed_down_and_limits_written(tmp_path):
    make_v2_tree(tmp_path)
    layout = Layout("v2", (tmp_path,), tmp_path)
    joined = NodeCgroup(layout, "rpicluster-rack", NODE, 2).create()
    node = tmp_path / "rpicluster-rack/pi2"
    assert joined == [node / "cgroup.procs"]
    assert (node / "memory.max").read_text() == str(2 << 30)
    assert (node / "cpu.max").read_text() == "50000 100000"
    for directory in (tmp_path, tmp_path / "rpicluster-rack"):
        assert (directory / "cgroup.subtree_control").read_text() == "+memory +cpu +cpuset"


def test_a_limit_that_the_kernel_does_not_offer_is_an_error_and_never_silence(tmp_path):
    make_v2_tree(tmp_path)
    layout = Layout("v2", (tmp_path,), tmp_path)
    (tmp_path / "rpicluster-rack/pi2/cpu.max").unlink()
    NodeCgroup(layout, "rpicluster-rack", NodeRequest("pi2", 1024), 2).create()
    with pytest.raises(RackError, match=r"no cpu\.max"):
        NodeCgroup(layout, "rpicluster-rack", NODE, 2).create()
    (tmp_path / "rpicluster-rack/pi2/memory.max").unlink()
    with pytest.raises(RackError, match=r"no memory\.max"):
        NodeCgroup(layout, "rpicluster-rack", NodeRequest("pi2", 1024), 2).create()


def test_processes_below_a_nodes_cgroup_count_as_its_own(tmp_path):
    make_v2_tree(tmp_path)
    deeper = tmp_path / "rpicluster-rack/pi2/system.slice"
    deeper.mkdir()
    (deeper / "cgroup.procs").write_text("12\n0\n13\n")
    layout = Layout("v2", (tmp_path,), tmp_path)
    assert members(rack_directories(layout, "rpicluster-rack")) == {12, 13}
    assert rack_directories(layout, "rpicluster-other") == []


def test_used_memory_is_read_from_either_version(tmp_path):
    make_v2_tree(tmp_path)
    cgroup = NodeCgroup(Layout("v2", (tmp_path,), tmp_path), "rpicluster-rack", NODE, 2)
    assert cgroup.memory_used_mib() is None
    (tmp_path / "rpicluster-rack/pi2/memory.current").write_text(f"{300 << 20}\n")
    assert cgroup.memory_used_mib() == 300


def test_a_cgroup_that_does_not_become_empty_is_named(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    remove_tree(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/busy").touch()
    with pytest.raises(RackError, match="c cannot be removed"):
        remove_tree(tmp_path / "c", timeout_s=0.1)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which needs root")
def test_without_root_the_command_says_so_and_how(tmp_path):
    import sys

    script = (
        "import os, sys; import rpicluster.cli.main as m; m.cli.get_command(None, 'rack');"
        "import rpicluster.nodes.rack.lifecycle, rpicluster.nodes.rack.power;"
        "os.setgroups([]); os.setuid(65534); sys.exit(m.run(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "rack", "up"], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 2, done.stderr
    assert "needs root" in done.stderr
    assert "hint: sudo " in done.stderr
