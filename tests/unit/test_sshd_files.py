"""What sshd makes of the tunnel user's rules."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rpicluster.design import layout, sshd_files

sys.path.insert(0, str(Path(__file__).parent))
from rendering_cases import load, rendered

SSHD = "/usr/sbin/sshd"


@pytest.fixture
def effective(tmp_path: Path) -> "object":
    """A function that says what holds for a user, by sshd's own account."""
    if not Path(SSHD).exists() or not shutil.which("ssh-keygen"):
        pytest.skip("sshd or ssh-keygen is not on this machine")
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        pytest.skip("sshd looks at nothing without /run/sshd")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True, timeout=30
    )
    below = tmp_path / "sshd_config.d"
    below.mkdir()
    (below / "rpicluster.conf").write_bytes(sshd_files.sshd_rules(load("pi4-3x4g")))
    # As Debian has it: the folder first, and a setting of its own after it.
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Include {below}/*.conf\nHostKey {tmp_path}/key\nPasswordAuthentication yes\nX11Forwarding yes\n"
    )

    def ask(user: str) -> dict[str, str]:
        at = f"user={user},host=laptop,addr=192.168.1.50"
        subprocess.run([SSHD, "-t", "-f", config], check=True, timeout=30)
        said = subprocess.run(
            [SSHD, "-T", "-C", at, "-f", config], capture_output=True, text=True, timeout=30, check=True
        )
        return {line.partition(" ")[0]: line.partition(" ")[2] for line in said.stdout.splitlines()}

    return ask


def test_the_tunnel_user_forwards_to_the_listed_ports_by_key_and_does_nothing_else(effective: object) -> None:
    found = effective("rpi-tunnel")  # type: ignore[operator]
    assert found["permitopen"].split() == list(sshd_files.tunnel_targets(load("pi4-3x4g")))
    assert found["authenticationmethods"] == "publickey" and found["passwordauthentication"] == "no"
    assert found["kbdinteractiveauthentication"] == "no"
    assert found["allowtcpforwarding"] == "local" and found["maxsessions"] == "0"
    assert found["permitlisten"] == "none" and found["allowstreamlocalforwarding"] == "no"
    assert found["forcecommand"] == "/usr/sbin/nologin"
    for forbidden in ("x11forwarding", "allowagentforwarding", "permittty", "permittunnel", "permituserrc"):
        assert found[forbidden] == "no", forbidden
    assert found["authorizedkeysfile"] == "/etc/rpicluster/tunnel-keys"


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_everybody_else_keeps_the_machines_own_settings(effective: object, user: str) -> None:
    found = effective(user)  # type: ignore[operator]
    assert found["passwordauthentication"] == "yes" and found["x11forwarding"] == "yes"
    assert found["permitopen"] == "any" and found["allowtcpforwarding"] == "yes"
    assert found["forcecommand"] == "none" and found["maxsessions"] == "10"


def test_tunnels_end_at_pages_and_doors_and_never_at_rpc() -> None:
    inputs = load("mixed-2-4-8-16")
    targets = sshd_files.tunnel_targets(inputs)
    ports = inputs.node("big").ports
    assert len(set(targets)) == len(targets)
    for key in ("namenode_rpc", "rm_client", "rm_admin", "rm_scheduler", "spark_driver"):
        assert not [target for target in targets if target.endswith(f":{ports[key]}")]
    for user in inputs.users:
        assert f"127.0.0.1:{inputs.session_port(user, 'connect')}" in targets
        assert f"10.0.7.16:{inputs.session_port(user, 'spark_ui')}" in targets
    assert "10.0.7.2:9864" in targets, "WebHDFS sends clients on to DataNodes"


def test_tunnels_end_at_the_gateways_of_a_cluster_that_has_them_and_at_no_port_behind() -> None:
    inputs = load("pi5-sparklyr")
    targets = sshd_files.tunnel_targets(inputs)
    gateways = [inputs.sparklyr_ports(user) for user in inputs.users]
    assert {f"127.0.0.1:{port}" for ports in gateways for port in ports} <= set(targets)
    assert f"127.0.0.1:{gateways[-1][-1] + 1}" not in targets, "nobody's"
    assert not [target for target in sshd_files.tunnel_targets(load("pi4-3x4g")) if ":188" in target]


def test_tunnels_come_in_at_the_manager_alone() -> None:
    result = rendered("pi4-3x4g")
    assert [node for node, files in result.files.items() if sshd_files.SSHD in files] == ["pi1"]
    assert layout.TUNNEL_USER in result.files["pi1"][sshd_files.SSHD].content.decode()


def test_an_ipv6_address_stands_in_brackets() -> None:
    inputs = load("pi4-3x4g")
    inputs.placement.nodes["pi2"] = inputs.node("pi2").model_copy(update={"address": "fd00::12"})
    assert "[fd00::12]:9864" in sshd_files.tunnel_targets(inputs)
