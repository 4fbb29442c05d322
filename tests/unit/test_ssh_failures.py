"""What ssh and sudo really print, and the error that a user gets for it."""

import pytest

from rpicluster.errors import (
    HostKeyRefused,
    LoginRefused,
    NodeUnreachable,
    RemoteCommandFailed,
    RemotePythonMissing,
    RpiclusterError,
    SudoRefused,
)
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.failures import (
    Cause,
    Reached,
    destination,
    explain,
    explain_command,
    login_command,
    silent,
)

PI = SshTarget(host="pi2", user="pi")
PORT = SshTarget(host="10.0.0.7", user="pi", port=2222)

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Someone could be eavesdropping on you right now (man-in-the-middle attack)!
It is also possible that a host key has just been changed.
The fingerprint for the ED25519 key sent by the remote host is
SHA256:0I0HetBsXgEO2Lr63ZlReinDQU4mfkTxE3n+FvXxhl8.
Please contact your system administrator.
Add correct host key in /home/ana/my keys/known_hosts to get rid of this message.
Offending ED25519 key in /home/ana/my keys/known_hosts:12
  remove with:
  ssh-keygen -f "/home/ana/my keys/known_hosts" -R "[10.0.0.7]:2222"
Host key for [10.0.0.7]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""

KEY_FILE = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Permissions 0644 for '/home/ana/.ssh/id_pi' are too open.
It is required that your private key files are NOT accessible by others.
This private key will be ignored.
Load key "/home/ana/.ssh/id_pi": bad permissions
pi@pi2: Permission denied (publickey).
"""

SAID: list[tuple[str, Cause, type[RpiclusterError], str]] = [
    (
        "ssh: Could not resolve hostname pi2: Name or service not known",
        Cause.UNRESOLVED,
        NodeUnreachable,
        "getent hosts pi2",
    ),
    (
        "ssh: Could not resolve hostname pi2: Temporary failure in name resolution",
        Cause.UNRESOLVED,
        NodeUnreachable,
        "getent",
    ),
    (
        "ssh: Could not resolve hostname pi2: nodename nor servname provided, or not known",
        Cause.UNRESOLVED,
        NodeUnreachable,
        "getent",
    ),
    (
        "ssh: connect to host pi2 port 22: Connection refused",
        Cause.REFUSED,
        NodeUnreachable,
        "systemctl enable --now ssh",
    ),
    (
        "ssh: connect to host pi2 port 22: No route to host",
        Cause.UNREACHABLE,
        NodeUnreachable,
        "ping -c 3 pi2",
    ),
    ("ssh: connect to host pi2 port 22: Network is unreachable", Cause.UNREACHABLE, NodeUnreachable, "ping"),
    (
        "ssh: connect to host pi2 port 22: Connection timed out",
        Cause.TIMEOUT,
        NodeUnreachable,
        "ping -c 3 pi2",
    ),
    ("ssh: connect to host pi2 port 22: Operation timed out", Cause.TIMEOUT, NodeUnreachable, "ping"),
    (
        "Connection timed out during banner exchange\nConnection to 10.0.0.7 port 22 timed out",
        Cause.SILENT,
        NodeUnreachable,
        "console",
    ),
    (
        "kex_exchange_identification: Connection closed by remote host\n"
        "Connection closed by 10.0.0.7 port 22",
        Cause.CLOSED,
        NodeUnreachable,
        "journalctl -u ssh",
    ),
    (
        "kex_exchange_identification: read: Connection reset by peer\nConnection reset by 10.0.0.7 port 22",
        Cause.CLOSED,
        NodeUnreachable,
        "journalctl",
    ),
    ("pi@pi2: Permission denied (publickey,password).", Cause.DENIED, LoginRefused, "ssh-copy-id pi@pi2"),
    (
        "Received disconnect from 10.0.0.7 port 22:2: Too many authentication failures\n"
        "Disconnected from 10.0.0.7 port 22",
        Cause.DENIED,
        LoginRefused,
        "ssh-copy-id",
    ),
    (KEY_FILE, Cause.KEY_FILE, LoginRefused, "chmod 600 /home/ana/.ssh/id_pi"),
    (
        "debug1: Offering public key: /home/ana/.ssh/id_pi ED25519 SHA256:Cmd explicit\n"
        "debug1: Server accepts key: /home/ana/.ssh/id_pi ED25519 SHA256:Cmd explicit\n"
        "debug2: we did not send a packet, disable method\n"
        "pi@pi2: Permission denied (publickey,password).",
        Cause.KEY_LOCKED,
        LoginRefused,
        "ssh-add /home/ana/.ssh/id_pi",
    ),
    (
        'Please login as the user "ubuntu" rather than the user "root".\n',
        Cause.WRONG_USER,
        LoginRefused,
        "ssh.user: ubuntu",
    ),
    (
        "WARNING: Your password has expired.\nPassword change required but no TTY available.\n",
        Cause.PASSWORD_EXPIRED,
        LoginRefused,
        "ssh -t pi@pi2",
    ),
    (
        '"System is booting up. Unprivileged users are not permitted to log in yet. Please come back later. '
        'For technical details, see pam_nologin(8)."\nConnection closed by 10.0.0.7 port 22',
        Cause.BOOTING,
        NodeUnreachable,
        "wait",
    ),
    (CHANGED, Cause.HOST_KEY_CHANGED, HostKeyRefused, "ssh-keygen -f '/home/ana/my keys/known_hosts' -R"),
    (
        "No ED25519 host key is known for pi2 and you have requested strict checking.\n"
        "Host key verification failed.",
        Cause.HOST_KEY_UNKNOWN,
        HostKeyRefused,
        "ssh pi@pi2",
    ),
    ("Host key verification failed.", Cause.HOST_KEY_UNKNOWN, HostKeyRefused, "ssh pi@pi2"),
    (
        "Unable to negotiate with 10.0.0.7 port 22: no matching host key type found. Their offer: ssh-rsa",
        Cause.NO_COMMON_ALGORITHM,
        NodeUnreachable,
        "ssh -v pi@pi2",
    ),
    (
        "/home/ana/.ssh/config: line 3: Bad configuration option: hosst\n"
        "/home/ana/.ssh/config: terminating, 1 bad configuration options",
        Cause.CONFIGURATION,
        NodeUnreachable,
        "ssh -G pi@pi2",
    ),
    ("Bad owner or permissions on /home/ana/.ssh/config", Cause.CONFIGURATION, NodeUnreachable, "ssh -G"),
    (
        "Can't open user config file /nowhere: No such file or directory",
        Cause.CONFIGURATION,
        NodeUnreachable,
        "ssh -G",
    ),
    ("Timeout, server 10.0.0.7 not responding.", Cause.LOST, NodeUnreachable, "ssh -v"),
    ("client_loop: send disconnect: Broken pipe", Cause.LOST, NodeUnreachable, "ssh -v"),
    ("debug2: Control master terminated unexpectedly", Cause.LOST, NodeUnreachable, "ssh -v"),
    ("something that nobody has seen yet", Cause.UNKNOWN, NodeUnreachable, "ssh -v pi@pi2"),
    ("", Cause.UNKNOWN, NodeUnreachable, "ssh -v"),
]


@pytest.mark.parametrize(
    ("said", "cause", "kind", "hint"), SAID, ids=[f"{s[1].name}-{i}" for i, s in enumerate(SAID)]
)
def test_what_ssh_says_becomes_a_cause_and_a_line_to_paste(
    said: str, cause: Cause, kind: type[RpiclusterError], hint: str
) -> None:
    error = explain(said, PI, "node2")
    assert type(error) is kind
    assert getattr(error, "cause", None) == cause
    assert error.message.startswith("node2 (pi@pi2): ")
    assert error.hint and hint in error.hint


def test_every_cause_that_ssh_can_state_has_a_message_here() -> None:
    assert {cause for _, cause, _, _ in SAID} == set(Cause)


def test_a_changed_host_key_names_file_and_line_and_the_way_to_forget_it() -> None:
    error = explain(CHANGED, PORT, "node2")
    assert isinstance(error, HostKeyRefused)
    assert "/home/ana/my keys/known_hosts:12" in error.message
    assert error.hint and error.hint.endswith("-R '[10.0.0.7]:2222'")


def test_debug_lines_around_a_message_do_not_hide_it() -> None:
    said = (
        "debug1: Connecting to pi2 [10.0.0.7] port 22.\ndebug2: fd 3 setting O_NONBLOCK\n"
        "debug1: connect to address 10.0.0.7 port 22: Connection refused\n"
        "ssh: connect to host pi2 port 22: Connection refused\n"
    )
    assert explain(said, PI, "n").message == (
        "n (pi@pi2): connection refused: the machine is there, and nothing listens on port 22"
    )


def test_a_refused_login_names_what_the_node_would_take() -> None:
    assert "(it takes: publickey,password)" in explain(SAID[11][0], PI, "n").message


def test_hosts_and_files_are_quoted_in_what_is_to_be_pasted() -> None:
    target = SshTarget(host="pi2", user="pi", port=2222, config="/tmp/a b")
    assert login_command(target, "-v") == "ssh -v -F '/tmp/a b' -p 2222 pi@pi2"
    assert destination(target) == "pi@pi2:2222"


def test_how_far_a_command_got_tells_a_dead_node_from_a_half_dead_one() -> None:
    found = {reached: silent(PI, "n", reached=reached, deadline_s=5) for reached in Reached}
    causes = {reached: error.cause for reached, error in found.items() if isinstance(error, NodeUnreachable)}
    assert causes == {
        Reached.NOTHING: Cause.TIMEOUT,
        Reached.MACHINE: Cause.SILENT,
        Reached.LOGIN: Cause.SILENT,
    }
    assert found[Reached.LOGIN].message == "n (pi@pi2): it let us in and did not finish within 5 s"
    assert found[Reached.NOTHING].hint == "check power, cable and address: ping -c 3 pi2"


SUDO = [
    ("sudo: a password is required\n", True, "needs a password"),
    (
        "sudo: a terminal is required to read the password; either use the -S option to read from standard "
        "input or configure an askpass helper\nsudo: a password is required\n",
        True,
        "needs a password",
    ),
    ("sudo: no tty present and no askpass program specified\n", True, "needs a password"),
    (
        "Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt\n",
        True,
        "not take",
    ),
    ("pi is not in the sudoers file.  This incident will be reported.\n", False, "cannot become root"),
    ("pi is not in the sudoers file.\n", False, "cannot become root"),
    ("Sorry, user pi is not allowed to execute '/usr/bin/sh' as root on pi2.\n", False, "cannot become root"),
    ("sudo: sorry, you must have a tty to run sudo\n", False, "cannot become root"),
    ("sh: 1: sudo: not found\n", False, "cannot become root"),
    ("bash: line 1: sudo: command not found\n", False, "cannot become root"),
]


@pytest.mark.parametrize(("said", "needs_password", "message"), SUDO)
def test_what_sudo_says_tells_whether_asking_for_a_password_helps(
    said: str, needs_password: bool, message: str
) -> None:
    error = explain_command(1, said, PI, "n", what="sh")
    assert isinstance(error, SudoRefused)
    assert error.needs_password is needs_password
    assert message in error.message and error.hint


@pytest.mark.parametrize(
    "said",
    [
        "sh: 1: python3: not found",
        "bash: line 1: python3: command not found",
        "env: ‘python3’: No such file or directory",
        "env: 'python3': No such file or directory",
    ],
)
def test_a_node_without_python_is_named_as_that(said: str) -> None:
    error = explain_command(127, said, PI, "n", what="python3")
    assert isinstance(error, RemotePythonMissing)
    assert error.hint == "ssh -t pi@pi2 sudo apt-get install -y python3"


def test_any_other_command_that_fails_shows_its_status_and_last_words() -> None:
    error = explain_command(3, "one\ntwo\n", PI, "n", what="install")
    assert type(error) is RemoteCommandFailed
    assert error.message == "n (pi@pi2): install ended with status 3: one / two"
    assert error.status == 3
