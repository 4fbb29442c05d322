"""What stands on a real node besides Hadoop's and Spark's files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rpicluster.design import accounts, environment_files, layout
from rpicluster.design.inputs import Inputs
from rpicluster.design.preview import PATHS
from rpicluster.design.rendering import render

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import KEEPER, NAMES, load, rendered

REAL = [case for case in NAMES if not load(case).spec.is_local]
LOCAL = sorted(set(NAMES) - set(REAL))
every_case = pytest.mark.parametrize("case", REAL)


def moved(inputs: Inputs, **changes: object) -> Inputs:
    """Return the inputs with other directories on the first node."""
    nodes = dict(inputs.placement.nodes)
    first = inputs.manager
    paths = nodes[first].paths.model_copy(update=changes)
    nodes[first] = nodes[first].model_copy(update={"paths": paths})
    placement = inputs.placement.model_copy(update={"nodes": nodes})
    return Inputs.checked(inputs.spec, inputs.sizes, placement)


@pytest.mark.parametrize("case", LOCAL)
def test_a_local_cluster_has_no_file_outside_its_folder_and_no_user_of_its_own(case: str) -> None:
    result = rendered(case)
    assert not [path for files in result.files.values() for path in files if path.startswith("/")]
    assert {unit.user for unit in result.units} == {""}


@every_case
def test_all_files_are_roots_readable_by_all_and_hold_no_secret(case: str) -> None:
    for node, files in rendered(case).files.items():
        for path, file in files.items():
            assert (file.owner, file.group, file.mode) == ("root", "root", 0o644), f"{node}: {path}"
            if path.startswith("/") or path == layout.FIREWALL:
                words = file.content.decode().lower()
                for secret in ("token", "password=", "secret", "begin openssh", "ssh-ed25519", "ssh-rsa"):
                    assert secret not in words, f"{node}: {path}: {secret}"
                assert "changes are overwritten" in words


@every_case
def test_only_files_that_bear_our_name_stand_outside_our_folder(case: str) -> None:
    for files in rendered(case).files.values():
        for path in files:
            assert not path.startswith("/") or "rpicluster" in Path(path).name, path


@pytest.mark.parametrize("shell", ["dash", "bash", "sh"])
@pytest.mark.parametrize("before", ["/usr/bin:/bin", "/opt/rpicluster/runtime/bin:/usr/bin:/bin"])
def test_a_login_shell_has_the_variables_however_often_it_reads_them(
    shell: str, before: str, tmp_path: Path
) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not on this machine")
    profile = tmp_path / "rpicluster.sh"
    profile.write_bytes(rendered("pi4-3x4g").files["pi2"][environment_files.PROFILE].content)
    script = f'set -eu; . {profile}; once=$PATH; . {profile}; [ "$once" = "$PATH" ]; env'
    said = subprocess.run(
        [shutil.which(shell), "-c", script],
        env={"PATH": before},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found = dict(line.split("=", 1) for line in said.stdout.splitlines())
    assert found["JAVA_HOME"] == "/usr/lib/jvm/java-17-openjdk-arm64"
    assert found["SPARK_HOME"] == "/opt/rpicluster/runtime"
    assert found["HADOOP_CONF_DIR"] == "/etc/rpicluster/hadoop"
    path = found["PATH"].split(":")
    assert path.count("/opt/rpicluster/runtime/bin") == 1 and path.count(f"{found['JAVA_HOME']}/bin") == 1
    assert found["PATH"].startswith(before), "nothing of the system is replaced"
    assert said.stderr == ""


@every_case
def test_services_of_others_are_offered_the_same_variables(case: str) -> None:
    inputs = load(case)
    for node, files in rendered(case).files.items():
        values = environment_files.variables(inputs, node)
        for path in (environment_files.SERVICES, environment_files.USER_SERVICES):
            lines = [line for line in files[path].content.decode().splitlines() if not line.startswith("#")]
            found = dict(line.split("=", 1) for line in lines)
            assert {key: found[key] for key in values} == values
        assert "/etc/environment" not in files, "that file is the machine's owner's"


def test_the_kernel_keeps_no_outgoing_connection_on_a_daemons_port_and_may_refuse() -> None:
    text = rendered("pi4-3x4g").files["pi2"][environment_files.SYSCTL].content.decode()
    settings = [line for line in text.splitlines() if not line.startswith("#")]
    assert settings == ["-vm.swappiness = 1", "-net.ipv4.ip_local_reserved_ports = 45454"]


def test_a_path_that_shells_would_split_is_refused_by_its_name() -> None:
    inputs = load("pi4-3x4g")
    nodes = dict(inputs.placement.nodes)
    nodes["pi2"] = nodes["pi2"].model_copy(update={"java_home": "/opt/my java"})
    placement = inputs.placement.model_copy(update={"nodes": nodes})
    with pytest.raises(ValueError, match="/opt/my java"):
        render(inputs.spec, inputs.sizes, placement, "r", keeper_sources=KEEPER)


def test_data_may_lie_on_another_disk_which_must_be_mounted() -> None:
    inputs = moved(load("pi4-3x4g"), data="/mnt/ssd/rpicluster")
    result = render(inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=KEEPER)
    text = result.files["pi1"][layout.systemd_file("datanode")].content.decode()
    assert "\nRequiresMountsFor=/mnt/ssd/rpicluster\n" in text
    assert "\nReadWritePaths=/mnt/ssd/rpicluster/datanode /mnt/ssd/rpicluster/hadoop\n" in text
    paths = [directory.path for directory in accounts.directories(inputs, "pi1")]
    assert "/mnt/ssd/rpicluster/datanode" in paths and "/mnt/ssd/rpicluster" in paths


@pytest.mark.parametrize(("key", "path"), [("logs", "/srv/log"), ("run", "/srv/run")])
def test_logs_and_status_files_lie_where_systemd_makes_them_at_every_boot(key: str, path: str) -> None:
    inputs = moved(load("pi4-3x4g"), **{key: path})
    with pytest.raises(ValueError, match=path):
        render(inputs.spec, inputs.sizes, inputs.placement, "r", keeper_sources=KEEPER)


def test_units_of_different_users_cannot_share_a_directory_of_logs() -> None:
    with pytest.raises(ValueError, match="per_unit"):
        moved(load("pi4-3x4g"), per_unit=False)
    assert PATHS.per_unit


@pytest.mark.parametrize("user", ["root", "rpi-hdfs", "rpi-yarn", "rpi-tunnel"])
def test_a_login_of_the_cluster_itself_gets_no_session(user: str) -> None:
    inputs = load("pi4-3x4g")
    spec = inputs.spec.model_copy(update={"users": (user,)})
    with pytest.raises(ValueError, match=user):
        Inputs.checked(spec, inputs.sizes, inputs.placement)


def test_every_user_of_a_unit_exists_and_tunnels_have_a_login_on_the_manager_alone() -> None:
    inputs, result = load("mixed-2-4-8-16"), rendered("mixed-2-4-8-16")
    for node in result.files:
        made = {user.name for user in accounts.system_users(inputs, node)}
        people = set(inputs.users) if node == inputs.manager else set()
        assert {unit.user for unit in result.units if unit.node == node} <= made | people
        assert {d.owner for d in accounts.directories(inputs, node)} <= made | people | {"root"}
        assert ("rpi-tunnel" in made) == (node == inputs.manager)


def test_homes_in_hdfs_are_their_users_own_and_the_rest_is_the_superusers() -> None:
    inputs = load("mixed-2-4-8-16")
    found = {directory.path: directory for directory in accounts.hdfs_directories(inputs)}
    for user in inputs.users:
        assert (found[f"/user/{user}"].owner, found[f"/user/{user}"].permission) == (user, "700")
    assert found["/logs"].owner == found["/user"].owner == "rpi-hdfs"
    assert found["/logs"].permission == found["/warehouse"].permission == "1777"
    site = rendered("mixed-2-4-8-16").files["big"]["hadoop/hdfs-site.xml"].content.decode()
    assert "<name>dfs.permissions.superusergroup</name><value>rpi-hdfs</value>" in site
    # The services' common group must not be HDFS's: containers run with it.
    assert layout.GROUP != "rpi-hdfs"
