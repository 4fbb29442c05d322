"""What systemd is told of every unit of a cluster over SSH."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rpicluster.design import accounts, daemon_units, layout, systemd_units
from rpicluster.design.units import Rendered, unit_hash

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import NAMES, load, rendered
from systemd_reading import argv_of, sections, words_of

REAL = [case for case in NAMES if not load(case).spec.is_local]
every_case = pytest.mark.parametrize("case", REAL)
WORST = {
    "namenode": 30,
    "datanode": 30,
    "resourcemanager": 30,
    "nodemanager": 50,
    "session": 50,
    "checkpoint": 30,
}


def service(result: Rendered, node: str, name: str) -> dict[str, list[tuple[str, str]]]:
    return sections(result.files[node][layout.systemd_file(name)].content)


def test_there_are_clusters_of_real_nodes_to_look_at() -> None:
    assert {"pi4-3x4g", "mixed-2-4-8-16"} <= set(REAL)


@every_case
def test_a_service_runs_the_very_command_in_the_very_environment_of_its_unit(case: str) -> None:
    result = rendered(case)
    for unit in result.units:
        settings = service(result, unit.node, unit.name)["Service"]
        assert argv_of(dict(settings)["ExecStart"]) == list(unit.argv)
        variables = [words_of(value)[0] for key, value in settings if key == "Environment"]
        assert dict(variable.split("=", 1) for variable in variables) == dict(unit.environment)
        assert dict(settings)["WorkingDirectory"] == unit.directory
        assert dict(settings)["TimeoutStopSec"] == str(unit.stop_timeout_s)


@every_case
def test_units_run_as_users_of_their_own_and_act_in_hdfs_under_their_own_names(case: str) -> None:
    result = rendered(case)
    wanted = {
        "namenode": "rpi-hdfs",
        "datanode": "rpi-hdfs",
        "resourcemanager": "rpi-yarn",
        "nodemanager": "rpi-yarn",
    }
    for unit in result.units:
        user = wanted.get(unit.name, unit.name.removeprefix("session-"))
        settings = dict(service(result, unit.node, unit.name)["Service"])
        assert (unit.user, settings["User"]) == (user, user)
        assert dict(unit.environment)["HADOOP_USER_NAME"] == user
        assert settings.get("Group", "") == ("" if unit.name.startswith("session-") else layout.GROUP)


@every_case
def test_what_a_unit_writes_is_its_own_directory_or_made_with_it(case: str) -> None:
    inputs, result = load(case), rendered(case)
    for unit in result.units:
        settings = dict(service(result, unit.node, unit.name)["Service"])
        writable = settings["ReadWritePaths"].split()
        writable += [f"/var/log/{name}" for name in settings["LogsDirectory"].split()]
        writable += [f"/run/{name}" for name in settings.get("RuntimeDirectory", "").split()]
        there = {d.path: d for d in accounts.directories(inputs, unit.node)}
        assert there[unit.directory].owner == unit.user and there[unit.directory].mode == 0o700
        for path in settings["ReadWritePaths"].split():
            assert path in there, "systemd would not start it: the directory is missing"
        for text in (*unit.argv, *(value for _, value in unit.environment)):
            for path in re.findall(r"=(/var/[^ :]+)", text):
                assert path.startswith(tuple(writable)), f"{unit.name}: {path}"


@every_case
def test_two_units_of_different_users_share_no_directory_but_one_that_is_sticky(case: str) -> None:
    inputs = load(case)
    for node in inputs.spec.nodes:
        listed = accounts.directories(inputs, node.name)
        assert len({d.path for d in listed}) == len(listed)
        for position, directory in enumerate(listed):
            parents = [d.path for d in listed[:position] if directory.path.startswith(f"{d.path}/")]
            assert parents or directory.owner == "root", f"{directory.path} comes before its parent"
            assert not directory.mode & 0o002 and (not directory.mode & 0o020 or directory.mode & 0o1000)


@every_case
def test_a_unit_waits_for_those_before_it_on_its_node_and_pulls_none_of_them_up(case: str) -> None:
    result = rendered(case)
    for unit in result.units:
        here = {other.name for other in result.units if other.node == unit.node}
        head = dict(service(result, unit.node, unit.name)["Unit"])
        after = head["After"].split()
        assert {layout.systemd_unit(name) for name in here.intersection(unit.after)} == {
            name for name in after if name.startswith("rpicluster-") and "firewall" not in name
        }
        assert "rpicluster-firewall.service" in after and "network-online.target" in after
        assert head["Wants"] == "network-online.target rpicluster-firewall.service" and "Requires" not in head


@every_case
def test_nothing_that_listens_starts_without_the_firewall(case: str) -> None:
    result = rendered(case)
    for unit in result.units:
        settings = service(result, unit.node, unit.name)["Service"]
        checks = [value for key, value in settings if key == "ExecStartPre"]
        assert (
            len(checks) == 1 and checks[0].startswith("+") and "nft list table inet rpicluster" in checks[0]
        )


@every_case
def test_a_container_is_ended_for_memory_before_a_driver_and_a_driver_before_a_daemon(case: str) -> None:
    inputs, result = load(case), rendered(case)
    for unit in result.units:
        settings = dict(service(result, unit.node, unit.name)["Service"])
        score = int(settings["OOMScoreAdjust"])
        kind = unit.name.partition("-")[0]
        assert score == {"nodemanager": 500, "session": 250}.get(kind, 0)
        # The kernel takes one process; systemd's own default would then stop the whole unit.
        assert (settings["OOMPolicy"] == "continue") == (score > 0)
    # Containers have the NodeManager's score, so the larger one goes: never the NodeManager.
    for name in inputs.workers:
        heap_mib = inputs.node_sizes(name).daemons["nodemanager"].heap_mib
        assert heap_mib < inputs.sizes.application_master.memory_mib <= inputs.sizes.executor.memory_mib


@every_case
def test_containers_end_with_their_nodemanager(case: str) -> None:
    inputs, result = load(case), rendered(case)
    for name in inputs.workers:
        assert dict(service(result, name, "nodemanager")["Service"])["KillMode"] == "control-group"
        site = result.files[name]["hadoop/yarn-site.xml"].content.decode()
        assert "<name>yarn.nodemanager.recovery.enabled</name><value>false</value>" in site


@pytest.mark.parametrize("ends_after_s", [0.5, 2, 5, 10, 20, 30])
@pytest.mark.parametrize("grows", [True, False])
def test_a_daemon_that_cannot_start_ends_as_failed_but_outlasts_a_slow_boot(
    ends_after_s: float, grows: bool
) -> None:
    # systemd.service(5), RestartSteps=: exponential steps from RestartSec= to RestartMaxDelaySec=.
    first, steps, last = systemd_units.RESTART_S, systemd_units.RESTART_STEPS, systemd_units.RESTART_MAX_S
    pauses = [
        first * (last / first) ** (min(n, steps) / steps) if grows else first
        for n in range(systemd_units.STARTS)
    ]
    until_failed_s = sum(pause + ends_after_s for pause in pauses)
    assert 150 < until_failed_s < systemd_units.START_WINDOW_S


@every_case
def test_the_checkpoint_is_the_namenodes_users_and_needs_nothing_of_ours_on_the_node(case: str) -> None:
    inputs, result = load(case), rendered(case)
    unit = service(result, inputs.manager, "checkpoint")
    settings = dict(unit["Service"])
    assert argv_of(settings["ExecStart"]) == list(daemon_units.checkpoint_command(inputs))
    assert settings["User"] == "rpi-hdfs" and ("Environment", "HADOOP_USER_NAME=rpi-hdfs") in unit["Service"]
    assert dict(unit["Unit"])["Requisite"] == "rpicluster-namenode.service"
    timer = sections(result.files[inputs.manager]["/etc/systemd/system/rpicluster-checkpoint.timer"].content)
    assert "OnCalendar" not in dict(timer["Timer"]), "a Pi does not know the time when it boots"
    for worker in set(inputs.workers) - {inputs.manager}:
        assert not [path for path in result.files[worker] if "checkpoint" in path]


@every_case
def test_every_unit_file_has_a_name_by_which_its_processes_are_known_as_ours(case: str) -> None:
    inputs, result = load(case), rendered(case)
    for node, files in result.files.items():
        below = {Path(path).name for path in files if path.startswith("/etc/systemd/system/")}
        below -= {"srv-rpicluster.mount"}  # named after its folder, and without a process
        assert all(re.fullmatch(r"rpicluster-[a-z0-9_-]+\.(service|timer)", name) for name in below)
        enabled = systemd_units.enabled_units(inputs, node, result.units)
        assert set(enabled) <= below and enabled[0] == "rpicluster-firewall.service"
        for name in enabled:
            assert "Install" in sections(files[f"/etc/systemd/system/{name}"].content)


def test_a_unit_restarts_when_systemd_is_told_something_else_of_it() -> None:
    result = rendered("pi4-3x4g")
    unit = next(unit for unit in result.units if unit.name == "datanode")
    files = dict(result.files[unit.node])
    before, path = unit_hash(unit, files), layout.systemd_file("datanode")
    files[path] = type(files[path])(files[path].content.replace(b"TasksMax=1024", b"TasksMax=1025"))
    assert unit_hash(unit, files) != before


@every_case
def test_units_are_confined_as_promised(case: str, tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    help_text = subprocess.run(
        ["systemd-analyze", "--help"], capture_output=True, text=True, check=True
    ).stdout
    if "--threshold" not in help_text:
        pytest.skip("this systemd-analyze knows no --offline: systemd 250 has it")
    result = rendered(case)
    for node in result.files if case == "pi4-3x4g" else [load(case).manager]:
        for path in result.files[node]:
            name = Path(path).name.removeprefix("rpicluster-").removesuffix(".service")
            worst = WORST.get(name.partition("-")[0])
            if worst is None or not path.endswith(".service"):
                continue
            file = tmp_path / Path(path).name
            file.write_bytes(result.files[node][path].content)
            judged = subprocess.run(
                ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={worst}", file],
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            assert judged.returncode == 0, (
                f"{name}: {judged.stdout.strip().splitlines()[-1:]} {judged.stderr}"
            )


@every_case
def test_nothing_is_denied_that_a_jvm_or_a_container_needs(case: str) -> None:
    for node, files in rendered(case).files.items():
        for path, file in files.items():
            if path.startswith("/etc/systemd/"):
                text = file.content.decode()
                # The last three mount /proc anew: a node that is a container would see its machine's memory.
                remounts = ("ProtectProc", "ProtectKernelTunables", "ProtectControlGroups")
                for denied in ("MemoryDenyWriteExecute", "ProcSubset", "RemoveIPC", *remounts):
                    assert denied not in text, f"{node}: {path}"
                assert not re.search(r"OOMScoreAdjust=-", text)


def test_systemd_finds_nothing_wrong_but_what_is_newer_than_it(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    files = rendered("pi4-3x4g").files["pi1"]
    units = [path for path in files if path.startswith("/etc/systemd/")]
    for path in units:
        # The users and programs of a node are not on this machine.
        text = re.sub(r"^(User|Group)=.*\n", "", files[path].content.decode(), flags=re.MULTILINE)
        text = re.sub(r"(?<==)/usr/\S+/(java|python3|nft)(?= )", "/bin/true", text)
        (tmp_path / Path(path).name).write_text(text.replace("-/usr/sbin/nft", "-/bin/true"))
    answer = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / Path(path).name) for path in units)],
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = [
        line for line in answer.stderr.splitlines() if str(tmp_path) in line or "rpicluster" in line
    ]
    newer = [line for line in complaints if re.search(r"Unknown key.*'Restart(Steps|MaxDelaySec)'", line)]
    assert complaints == newer
