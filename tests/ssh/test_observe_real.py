"""Looking at nodes through a real sshd: one round trip each, all at once, whatever the others do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rpicluster.errors import HostKeyRefused, LoginRefused, NodeUnreachable
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.observe import observe_node, observe_nodes
from rpicluster.nodes.ssh.openssh import OpenSsh

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ADDRESSES, USER, Sshd, free_port, processes_naming

pytestmark = pytest.mark.timeout(120)
ALL = frozenset(f"pi{number}" for number in range(1, 9))


def _targets(sshd: Sshd, count: int = 8) -> dict[str, SshTarget]:
    return {f"pi{number + 1}": sshd.target(number) for number in range(count)}


def test_eight_nodes_are_looked_at_with_one_connection_and_one_command_each(sshd: Sshd, ssh: OpenSsh) -> None:
    seen = observe_nodes(_targets(sshd), ssh, first_contact=ALL)
    assert [(name, look.error) for name, look in seen.items()] == [(f"pi{n}", None) for n in range(1, 9)]
    assert (sshd.logins(), sshd.sessions()) == (8, 8)
    assert all(look.new_host_key for look in seen.values())
    machine_id = Path("/etc/machine-id")
    for look in seen.values():
        assert look.facts and look.facts.memory and look.facts.processor
        assert look.facts.login == USER
        if machine_id.exists():
            assert look.facts.machine_id == machine_id.read_text().strip()


def test_a_second_look_makes_no_new_connection(sshd: Sshd, ssh: OpenSsh) -> None:
    targets = _targets(sshd, 3)
    observe_nodes(targets, ssh, first_contact=ALL)
    seen = observe_nodes(targets, ssh)
    assert all(look.reused and look.facts and not look.new_host_key for look in seen.values())
    assert (sshd.logins(), sshd.sessions()) == (3, 6)


def test_the_clock_of_this_very_machine_is_right_within_its_uncertainty(sshd: Sshd, ssh: OpenSsh) -> None:
    observe_node(sshd.target(), ssh, node="pi1", first_contact=True)
    for _ in range(5):
        look = observe_node(sshd.target(), ssh, node="pi1")
        assert look.facts
        clock = look.facts.clock
        assert clock.offset_s is not None and clock.uncertainty_s is not None
        assert abs(clock.offset_s) <= clock.uncertainty_s < 1


def test_a_dead_node_and_a_silent_one_delay_nobody_beyond_the_deadline(
    sshd: Sshd, ssh: OpenSsh, silent_port: int
) -> None:
    config = str(sshd.folder / "config")
    targets = {
        **_targets(sshd, 3),
        "dead": SshTarget(host=ADDRESSES[0], port=free_port(), user=USER, config=config),
        "silent": SshTarget(host=ADDRESSES[0], port=silent_port, user=USER, config=config),
    }
    observe_nodes(_targets(sshd, 3), ssh, first_contact=ALL)
    patient = OpenSsh(ssh.control, connect_timeout_s=60)
    begun = time.monotonic()
    seen = observe_nodes(targets, patient, deadline_s=3)
    assert time.monotonic() - begun < 3 + 2.5
    assert {name for name, look in seen.items() if look.facts} == {"pi1", "pi2", "pi3"}
    causes = {
        name: look.error.cause for name, look in seen.items() if isinstance(look.error, NodeUnreachable)
    }
    assert causes == {"dead": "connection refused", "silent": "connects but does not answer"}


def test_a_node_with_an_unknown_key_is_an_error_beside_the_others_facts(sshd: Sshd, ssh: OpenSsh) -> None:
    seen = observe_nodes(_targets(sshd, 2), ssh, first_contact=frozenset({"pi1"}))
    assert seen["pi1"].facts and seen["pi1"].new_host_key
    assert isinstance(seen["pi2"].error, HostKeyRefused)


def test_no_nodes_are_no_work(ssh: OpenSsh) -> None:
    assert observe_nodes({}, ssh) == {}


@pytest.mark.parametrize("deadline_s", [15.0, 1.5])
def test_a_login_that_only_names_the_right_user_is_an_error_with_that_name(
    sshd: Sshd, ssh: OpenSsh, deadline_s: float
) -> None:
    # What cloud-init puts before root's keys; it waits, so that people can read it.
    sentence = 'Please login as the user \\"ubuntu\\" rather than the user \\"root\\".'
    said = f"echo '{sentence}';echo;sleep 3;exit 142"
    key = (sshd.folder / "user.pub").read_text()
    (sshd.folder / "user.pub").write_text(f'no-port-forwarding,command="{said}" {key}')
    look = observe_node(sshd.target(), ssh, node="pi1", first_contact=True, deadline_s=deadline_s)
    assert look.facts is None and isinstance(look.error, LoginRefused)
    assert "it wants the user ubuntu, not root" in look.error.message
    assert look.error.hint == "set ssh.user: ubuntu in cluster.yml"


def test_a_login_that_runs_no_commands_is_an_error_with_its_words(sshd: Sshd, ssh: OpenSsh) -> None:
    key = (sshd.folder / "user.pub").read_text()
    (sshd.folder / "user.pub").write_text(f'command="echo Backups only.; exit 1" {key}')
    look = observe_node(sshd.target(), ssh, node="pi1", first_contact=True)
    assert look.error and "runs no commands; status 1, it said: Backups only." in look.error.message


def test_ctrl_c_ends_the_look_at_once_and_leaves_no_ssh_behind(
    sshd: Sshd, ssh: OpenSsh, silent_port: int
) -> None:
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from rpicluster.model.spec import SshTarget\n"
        "from rpicluster.nodes.ssh.observe import observe_nodes\n"
        "from rpicluster.nodes.ssh.openssh import OpenSsh\n"
        "control, target = json.loads(sys.argv[1])\n"
        "ssh = OpenSsh(Path(control), connect_timeout_s=60)\n"
        "print('ready', flush=True)\n"
        "observe_nodes({f'n{i}': SshTarget(**target) for i in range(4)}, ssh, deadline_s=60)\n"
    )
    target = {
        "host": ADDRESSES[0],
        "port": silent_port,
        "user": USER,
        "config": str(sshd.folder / "config"),
    }
    child = subprocess.Popen(
        [sys.executable, "-c", program, json.dumps([str(ssh.control), target])],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout and child.stdout.readline() == b"ready\n"
    deadline = time.monotonic() + 20
    while len(processes_naming(f"ControlPath={ssh.control}")) < 4:
        assert time.monotonic() < deadline, "four ssh are under way"
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert child.wait(10) != 0
    assert time.monotonic() - begun < 5
    child.stdout.close()
    assert processes_naming(f"ControlPath={ssh.control}") == []
