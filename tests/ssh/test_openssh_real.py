"""The OpenSSH runner against a real sshd."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rpicluster.errors import (
    HostKeyRefused,
    LoginRefused,
    NodeUnreachable,
    RemoteCommandFailed,
    RemotePythonMissing,
)
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.failures import Cause
from rpicluster.nodes.ssh.openssh import OpenSsh

sys.path.insert(0, str(Path(__file__).parent))
from conftest import ADDRESSES, USER, Sshd, free_port, make_key, processes_naming

pytestmark = pytest.mark.timeout(120)
PATIENCE_S = 20


def _first(ssh: OpenSsh, target: SshTarget) -> None:
    ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)


def test_a_command_s_output_status_and_errors_come_back_apart(sshd: Sshd, ssh: OpenSsh) -> None:
    answer = ssh.run(
        sshd.target(),
        ["sh", "-c", "cat; echo aside >&2; exit 3"],
        node="n",
        deadline_s=PATIENCE_S,
        stdin=b"in and out",
        first_contact=True,
    )
    assert (answer.status, answer.stdout, answer.stderr) == (3, b"in and out", "aside\n")


def test_every_argument_arrives_as_it_was_given(sshd: Sshd, ssh: OpenSsh) -> None:
    words = ["a b", "$(id)", "`id`", ";id", "'", '"', "\\", "*", "~", "é", "a\nb", "-n", "", "#", "!!", "&"]
    answer = ssh.run(
        sshd.target(), ["printf", "[%s]", *words], node="n", deadline_s=PATIENCE_S, first_contact=True
    )
    assert answer.stdout.decode() == "".join(f"[{word}]" for word in words)


def test_a_megabyte_goes_in_and_out(sshd: Sshd, ssh: OpenSsh) -> None:
    content = os.urandom(1 << 20)
    answer = ssh.run(
        sshd.target(), ["cat"], node="n", deadline_s=PATIENCE_S, stdin=content, first_contact=True
    )
    assert answer.stdout == content


def test_a_command_that_reads_nothing_of_what_it_gets_is_no_failure(sshd: Sshd, ssh: OpenSsh) -> None:
    answer = ssh.run(
        sshd.target(), ["true"], node="n", deadline_s=PATIENCE_S, stdin=b"x" * (4 << 20), first_contact=True
    )
    assert answer.status == 0


def test_the_first_contact_shows_the_fingerprint_and_the_second_needs_none(sshd: Sshd, ssh: OpenSsh) -> None:
    target = sshd.target()
    printed = subprocess.run(
        ["ssh-keygen", "-lf", sshd.folder / "host.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    first = ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)
    assert first.new_host_key and first.new_host_key.fingerprint == printed
    assert first.new_host_key.type == "ssh-ed25519"
    ssh.close(target)
    again = ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)
    assert (again.new_host_key, again.reused) == (None, False)


def test_a_key_that_is_not_known_is_refused_when_this_is_not_the_first_contact(
    sshd: Sshd, ssh: OpenSsh
) -> None:
    with pytest.raises(HostKeyRefused) as caught:
        ssh.run(sshd.target(), ["true"], node="n", deadline_s=PATIENCE_S)
    assert caught.value.cause == Cause.HOST_KEY_UNKNOWN
    assert not sshd.known_hosts.exists(), "nothing was learnt"


def test_a_changed_host_key_is_a_hard_stop_that_names_file_and_line(sshd: Sshd, ssh: OpenSsh) -> None:
    target = sshd.target()
    sshd.known_hosts.write_text("# a line before\n")
    _first(ssh, target)
    ssh.close(target)
    sshd.stop()
    make_key(sshd.folder / "other")
    sshd.start("other")
    for first_contact in (False, True):
        with pytest.raises(HostKeyRefused) as caught:
            ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S, first_contact=first_contact)
        assert caught.value.cause == Cause.HOST_KEY_CHANGED
        assert f"{sshd.known_hosts}:2" in caught.value.message
    hint = caught.value.hint or ""
    forget = hint.partition("old key: ")[2]
    subprocess.run(["sh", "-c", forget], check=True, capture_output=True)
    _first(ssh, target)


def test_a_wrong_key_is_a_refused_login(sshd: Sshd, ssh: OpenSsh) -> None:
    make_key(sshd.folder / "stranger")
    sshd.write_client("strange", key="stranger")
    with pytest.raises(LoginRefused) as caught:
        ssh.run(sshd.target(config="strange"), ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)
    assert caught.value.cause == Cause.DENIED
    assert "(it takes: publickey)" in caught.value.message


def test_a_wrong_user_is_a_refused_login(sshd: Sshd, ssh: OpenSsh) -> None:
    with pytest.raises(LoginRefused):
        ssh.run(
            sshd.target(user="nobody-here"), ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True
        )


def test_a_key_that_others_may_read_is_named_with_the_command_that_mends_it(sshd: Sshd, ssh: OpenSsh) -> None:
    key = make_key(sshd.folder / "loose")
    key.chmod(0o644)
    with (sshd.folder / "user.pub").open("a") as authorized:  # ssh opens the file only when the key would do
        authorized.write(key.with_suffix(".pub").read_text())
    sshd.write_client("loosely", key="loose")
    with pytest.raises(LoginRefused) as caught:
        ssh.run(sshd.target(config="loosely"), ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)
    assert caught.value.cause == Cause.KEY_FILE
    assert caught.value.hint == f"chmod 600 {key}"


def test_a_key_with_a_passphrase_that_no_agent_holds_is_named(
    sshd: Sshd, ssh: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = sshd.folder / "user"
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "two words", "-f", key], check=True)
    with pytest.raises(LoginRefused) as caught:
        ssh.run(sshd.target(), ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)
    assert caught.value.cause == Cause.KEY_LOCKED
    assert caught.value.hint == f"ssh-add {key}"


def test_a_key_that_the_user_s_agent_holds_is_used(
    sshd: Sshd, ssh: OpenSsh, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = sshd.folder / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", sshd.folder / "user"], check=True, capture_output=True)
        (sshd.folder / "user").unlink()
        _first(ssh, sshd.target())
    finally:
        agent.kill()
        agent.wait()


def test_a_port_where_nothing_listens_is_refused_at_once(sshd: Sshd, ssh: OpenSsh) -> None:
    target = SshTarget(host=ADDRESSES[0], port=free_port(), user=USER, config=str(sshd.folder / "config"))
    begun = time.monotonic()
    with pytest.raises(NodeUnreachable) as caught:
        ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S)
    assert caught.value.cause == Cause.REFUSED
    assert time.monotonic() - begun < 2


def test_a_machine_that_takes_connections_and_says_nothing_is_half_dead(
    sshd: Sshd, ssh: OpenSsh, silent_port: int
) -> None:
    target = SshTarget(host=ADDRESSES[0], port=silent_port, user=USER, config=str(sshd.folder / "config"))
    begun = time.monotonic()
    with pytest.raises(NodeUnreachable) as caught:
        ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S)
    assert caught.value.cause == Cause.SILENT
    assert time.monotonic() - begun < 2 * ssh.connect_timeout_s + 1, "the connect timeout, not the deadline"


def test_a_stopped_sshd_is_half_dead_and_well_again_when_it_goes_on(sshd: Sshd, ssh: OpenSsh) -> None:
    target = sshd.target()
    _first(ssh, target)
    assert sshd.process
    stopped = [*sshd.children(), sshd.process.pid]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        with pytest.raises(NodeUnreachable) as caught:
            ssh.run(target, ["true"], node="n", deadline_s=1.5)
        assert caught.value.cause == Cause.SILENT
        assert "let us in and did not finish within 1.5 s" in caught.value.message
        assert time.monotonic() - begun < 5
        with pytest.raises(NodeUnreachable) as caught:
            ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S)
        assert caught.value.cause == Cause.SILENT
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S).reused is False


def test_a_command_that_does_not_end_is_left_at_the_deadline(sshd: Sshd, ssh: OpenSsh) -> None:
    _first(ssh, sshd.target())
    begun = time.monotonic()
    with pytest.raises(NodeUnreachable, match="did not finish within 1 s"):
        ssh.run(sshd.target(), ["sleep", "60"], node="n", deadline_s=1)
    assert time.monotonic() - begun < 4


def test_a_deadline_of_one_command_does_not_end_another_on_the_same_connection(
    sshd: Sshd, ssh: OpenSsh
) -> None:
    target = sshd.target()
    _first(ssh, target)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(
            ssh.run, target, ["sh", "-c", "sleep 4; echo whole"], node="n", deadline_s=PATIENCE_S
        )
        time.sleep(0.5)
        with pytest.raises(NodeUnreachable):
            ssh.run(target, ["sleep", "60"], node="n", deadline_s=1)
        assert ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S).reused is False
        answer = long.result()
    assert (answer.stdout, answer.reused) == (b"whole\n", True)


def test_the_second_command_makes_no_new_connection(sshd: Sshd, ssh: OpenSsh) -> None:
    target = sshd.target()
    first = ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)
    second = ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S)
    assert (first.reused, second.reused) == (False, True)
    assert (sshd.logins(), sshd.sessions()) == (1, 2)
    ssh.close(target)
    assert ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S).reused is False
    assert sshd.logins() == 2


def test_nobody_else_can_reach_an_open_connection(sshd: Sshd, ssh: OpenSsh) -> None:
    _first(ssh, sshd.target())
    sockets = list(ssh.control.iterdir())
    assert len(sockets) == 1
    assert stat.S_IMODE(ssh.control.stat().st_mode) == 0o700
    assert stat.S_IMODE(sockets[0].stat().st_mode) & 0o077 == 0


def test_a_command_s_own_status_of_255_is_not_taken_for_a_failure_of_ssh(sshd: Sshd, ssh: OpenSsh) -> None:
    for first_contact in (True, False):
        answer = ssh.run(
            sshd.target(),
            ["sh", "-c", "echo 'Permission denied (publickey).' >&2; exit 255"],
            node="n",
            deadline_s=PATIENCE_S,
            first_contact=first_contact,
        )
        assert answer.status == 255


def test_a_socket_whose_connection_was_killed_is_no_obstacle(sshd: Sshd, ssh: OpenSsh) -> None:
    _first(ssh, sshd.target())
    for pid in processes_naming(str(ssh.control)):
        os.kill(pid, signal.SIGKILL)
    assert list(ssh.control.iterdir()), "the socket is still there"
    assert ssh.run(sshd.target(), ["true"], node="n", deadline_s=PATIENCE_S).reused is False
    assert ssh.run(sshd.target(), ["true"], node="n", deadline_s=PATIENCE_S).reused is True


def test_a_connection_that_breaks_under_a_command_is_lost_and_not_a_status(sshd: Sshd, ssh: OpenSsh) -> None:
    target = sshd.target()
    _first(ssh, target)
    killer = threading.Timer(0.7, lambda: [os.kill(pid, signal.SIGKILL) for pid in sshd.children()])
    killer.start()
    with pytest.raises(NodeUnreachable) as caught:
        ssh.run(target, ["sleep", "30"], node="n", deadline_s=PATIENCE_S)
    killer.join()
    assert caught.value.cause == Cause.LOST


def test_a_jump_host_of_the_user_s_configuration_is_used(sshd: Sshd, ssh: OpenSsh) -> None:
    sshd.write_client(
        "jumping",
        key="user",
        extra=(
            f"Host inner\n  HostName {ADDRESSES[1]}\n  Port {sshd.port}\n  ProxyJump door\n"
            f"Host door\n  HostName {ADDRESSES[2]}\n  Port {sshd.port}\n  User {USER}\n"
        ),
    )
    _first(ssh, sshd.target(2))  # the door's key is the user's own affair: it has to be known
    inner = SshTarget(host="inner", user=USER, config=str(sshd.folder / "jumping"))
    answer = ssh.run(
        inner, ["sh", "-c", "echo $SSH_CONNECTION"], node="n", deadline_s=PATIENCE_S, first_contact=True
    )
    assert answer.stdout.split()[2].decode() == ADDRESSES[1]
    assert sshd.logins() == 3, "one before, one at the door, one inside"


def test_a_jump_host_that_is_not_known_stops_without_asking_anybody(sshd: Sshd, ssh: OpenSsh) -> None:
    sshd.write_client(
        "jumping",
        key="user",
        extra=(
            f"Host inner\n  HostName {ADDRESSES[1]}\n  Port {sshd.port}\n  ProxyJump door\n"
            f"Host door\n  HostName {ADDRESSES[2]}\n  Port {sshd.port}\n  User {USER}\n"
        ),
    )
    inner = SshTarget(host="inner", user=USER, config=str(sshd.folder / "jumping"))
    with pytest.raises(HostKeyRefused):
        ssh.run(inner, ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)


def test_a_broken_configuration_is_named_with_its_line(sshd: Sshd, ssh: OpenSsh) -> None:
    (sshd.folder / "broken").write_text("Hosst pi1\n")
    with pytest.raises(NodeUnreachable) as caught:
        ssh.run(sshd.target(config="broken"), ["true"], node="n", deadline_s=PATIENCE_S)
    assert caught.value.cause == Cause.CONFIGURATION
    assert "broken: line 1" in caught.value.message


def test_check_gives_the_output_or_the_reason(sshd: Sshd, ssh: OpenSsh) -> None:
    _first(ssh, sshd.target())
    assert ssh.check(sshd.target(), ["echo", "hi"], node="n", deadline_s=PATIENCE_S) == b"hi\n"
    with pytest.raises(RemoteCommandFailed, match="ended with status 4: no luck"):
        ssh.check(sshd.target(), ["sh", "-c", "echo no luck >&2; exit 4"], node="n", deadline_s=PATIENCE_S)
    with pytest.raises(RemotePythonMissing):
        ssh.check(sshd.target(), ["sh", "-c", "PATH=/nowhere; python3"], node="n", deadline_s=PATIENCE_S)


def test_cancelling_ends_a_wait_long_before_its_deadline(sshd: Sshd, ssh: OpenSsh) -> None:
    _first(ssh, sshd.target())
    cancel = threading.Event()
    threading.Timer(0.5, cancel.set).start()
    begun = time.monotonic()
    with pytest.raises(NodeUnreachable):
        ssh.run(sshd.target(), ["sleep", "60"], node="n", deadline_s=60, cancel=cancel)
    assert time.monotonic() - begun < 4


def test_no_ssh_of_ours_is_left_when_nothing_is_kept_open(sshd: Sshd, ssh: OpenSsh) -> None:
    _first(ssh, sshd.target())
    assert processes_naming(str(ssh.control)), "the shared connection"
    ssh.close(sshd.target())
    deadline = time.monotonic() + 5
    while processes_naming(str(ssh.control)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
