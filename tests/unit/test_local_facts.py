"""What this machine has, read from files and programs that a test lays out."""

from pathlib import Path

import pytest

from rpicluster.errors import LocalEngineError
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.local.facts import Java, cluster_facts, find_java, host_facts


def lay_java(home: Path, major: int | str, style: str = "") -> Path:
    program = home / "bin" / "java"
    program.parent.mkdir(parents=True)
    text = f"1.{major}.0_292" if style == "old" else f"{major}.0.15"
    count = home.parent / f"{home.name}.count"
    program.write_text(f"#!/bin/sh\necho x >> '{count}'\necho 'openjdk version \"{text}\"' >&2\n")
    program.chmod(0o755)
    return home


def lay_machine(root: Path, files: dict[str, str]) -> tuple[Path, Path]:
    defaults = {"proc/meminfo": "MemTotal:       16000000 kB\n", "proc/self/cgroup": "0::/user/me\n"}
    for path, text in {**defaults, **files}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root / "proc", root / "cg"


def test_without_a_cgroup_limit_the_machines_memory_counts(tmp_path):
    proc, cgroups = lay_machine(
        tmp_path, {"cg/user/me/memory.max": "max\n", "cg/user/me/cpu.max": "max 100000\n"}
    )
    assert host_facts(proc, cgroups).memory_mib == 15625


def test_the_lowest_limit_of_all_cgroups_above_counts(tmp_path):
    files = {
        "cg/user/me/memory.max": "max",
        "cg/user/memory.max": str(3 * 2**30),
        "cg/user/cpu.max": "100000 100000",
    }
    facts = host_facts(*lay_machine(tmp_path, files))
    assert (facts.memory_mib, facts.cores) == (3072, 1)


def test_half_a_core_still_is_one(tmp_path):
    facts = host_facts(*lay_machine(tmp_path, {"cg/user/me/cpu.max": "50000 100000"}))
    assert facts.cores == 1


def test_cgroup_v1_limits_count_too_and_its_no_limit_is_no_limit(tmp_path):
    files = {
        "proc/self/cgroup": "4:memory:/box\n3:cpu,cpuacct:/box\n",
        "cg/memory/box/memory.limit_in_bytes": str(2 * 2**30),
        "cg/memory/memory.limit_in_bytes": "9223372036854771712",
        "cg/cpu/box/cpu.cfs_quota_us": "-1",
        "cg/cpu/box/cpu.cfs_period_us": "100000",
    }
    assert host_facts(*lay_machine(tmp_path, files)).memory_mib == 2048


def test_in_a_container_whose_cgroup_path_is_the_hosts_the_root_counts(tmp_path):
    files = {"proc/self/cgroup": "0::/docker/abc\n", "cg/memory.max": str(2**30)}
    assert host_facts(*lay_machine(tmp_path, files)).memory_mib == 1024


def test_this_machine_has_memory_and_cores():
    facts = host_facts()
    assert facts.memory_mib > 100
    assert facts.cores >= 1


def test_a_virtual_node_is_what_its_budget_says(tmp_path):
    spec = ClusterSpec.model_validate(
        {"name": "c", "nodes": [{"name": "n", "local": {"memory": "3G", "cores": 2}}]}
    )
    facts = cluster_facts(spec, Java("/j", 17), tmp_path)
    node = facts.nodes["n"]
    assert (node.memory_mib, node.cores, node.java_home, node.java_major) == (3072, 2, "/j", 17)
    assert node.free_disk_mib is not None
    assert facts.host is not None


def test_java_home_is_obeyed(tmp_path):
    home = lay_java(tmp_path / "mine", 17)
    lay_java(tmp_path / "usual" / "other", 17)
    assert find_java({"JAVA_HOME": str(home)}, directories=[tmp_path / "usual"]) == Java(str(home), 17)


def test_java_on_the_path_is_followed_to_its_real_home(tmp_path):
    home = lay_java(tmp_path / "real", 17)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "java").symlink_to(home / "bin" / "java")
    assert find_java({"PATH": str(tmp_path / "bin")}, directories=[]).home == str(home)


def test_java_17_in_a_usual_folder_wins_over_another_one_on_the_path(tmp_path):
    newer = lay_java(tmp_path / "newer", 25)
    lay_java(tmp_path / "jvm" / "a-11", 11)
    wanted = lay_java(tmp_path / "jvm" / "b-17", 17)
    found = find_java({"PATH": str(newer / "bin")}, directories=[tmp_path / "jvm"])
    assert found == Java(str(wanted), 17)


def test_a_newer_java_alone_is_taken_with_a_warning(tmp_path):
    lay_java(tmp_path / "jvm" / "j25", 25)
    found = find_java({"PATH": ""}, directories=[tmp_path / "jvm"])
    assert found.major == 25
    assert "not proven" in (found.warning or "")


def test_java_21_alone_is_taken_without_a_warning(tmp_path):
    lay_java(tmp_path / "jvm" / "j21", 21)
    found = find_java({"PATH": ""}, directories=[tmp_path / "jvm"])
    assert (found.major, found.warning) == (21, None)


@pytest.mark.parametrize("style", ["new", "old"])
def test_java_11_or_8_alone_is_refused_and_named_with_the_line_to_type(tmp_path, style):
    major = 11 if style == "new" else 8
    home = lay_java(tmp_path / "jvm" / "old", major, style)
    with pytest.raises(LocalEngineError, match=rf"no Java 17 .*found only Java {major} in {home}") as caught:
        find_java({"PATH": ""}, directories=[tmp_path / "jvm"])
    install = "sudo apt install openjdk-{}-jre-headless"
    assert caught.value.hint == f"{install.format(17)} || {install.format(21)}"


def test_no_java_at_all_is_said_with_the_line_to_type(tmp_path):
    with pytest.raises(LocalEngineError, match="found no Java at all") as caught:
        find_java({"PATH": str(tmp_path)}, directories=[tmp_path])
    assert "apt install" in (caught.value.hint or "")


@pytest.mark.parametrize("major", [11, None])
def test_a_java_home_that_will_not_do_is_named_not_passed_over(tmp_path, major):
    home = tmp_path / "home"
    if major:
        lay_java(home, major)
    lay_java(tmp_path / "jvm" / "good", 17)
    with pytest.raises(LocalEngineError, match="JAVA_HOME=") as caught:
        find_java({"JAVA_HOME": str(home)}, directories=[tmp_path / "jvm"])
    assert "unset JAVA_HOME" in (caught.value.hint or "")


def test_a_java_that_does_not_run_is_no_java(tmp_path):
    broken = tmp_path / "jvm" / "broken" / "bin"
    broken.mkdir(parents=True)
    (broken / "java").write_text("#!/bin/sh\nexit 1\n")
    (broken / "java").chmod(0o755)
    with pytest.raises(LocalEngineError, match="no Java"):
        find_java({"PATH": ""}, directories=[tmp_path / "jvm"])


def test_the_cache_saves_the_second_jvm_start_and_a_changed_java_is_asked_again(tmp_path):
    home = lay_java(tmp_path / "jvm" / "j", 17)
    cache, count = tmp_path / "cache.json", tmp_path / "jvm" / "j.count"
    for _ in range(3):
        find_java({"PATH": ""}, directories=[tmp_path / "jvm"], cache=cache)
    assert len(count.read_text().splitlines()) == 1
    program = home / "bin" / "java"
    program.write_text(program.read_text().replace("17.0", "21.0"))
    assert find_java({"PATH": ""}, directories=[tmp_path / "jvm"], cache=cache).major == 21
    cache.write_text("not json")
    assert find_java({"PATH": ""}, directories=[tmp_path / "jvm"], cache=cache).major == 21
