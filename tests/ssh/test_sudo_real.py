"""Becoming root on a node: the password goes by stdin, once, and nowhere else."""

import sys
from pathlib import Path

import pytest

from rpicluster.errors import SudoRefused
from rpicluster.nodes.fanout.send import _Receiver
from rpicluster.nodes.ssh.openssh import OpenSsh
from rpicluster.nodes.ssh.stream import open_stream

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Sshd

pytestmark = pytest.mark.timeout(120)
PATIENCE_S = 20

# A sudo that behaves like the real one towards stdin; the real one is tried on rack nodes, as it needs
# users with passwords. NEEDS says whether this user must give one.
_SUDO = """#!/bin/sh
read_password() {
  [ "$NEEDS" = yes ] || return 0
  IFS= read -r given || { echo "sudo: no password was provided" >&2; exit 1; }
  [ "$given" = "correct horse; touch $TOUCHED" ] && return 0
  echo "Sorry, try again." >&2; exit 1
}
case "$1" in
-n) [ "$NEEDS" = yes ] && { echo "sudo: a password is required" >&2; exit 1; }; shift 2; exec "$@" ;;
-S) read_password; [ "$4" = -v ] && exit 0; shift 4; exec "$@" ;;
esac
"""


@pytest.fixture
def with_sudo(sshd: Sshd) -> Path:
    folder = sshd.folder / "bin"
    folder.mkdir()
    (folder / "sudo").write_text(_SUDO)
    (folder / "sudo").chmod(0o755)
    return folder


def _sudo(
    sshd: Sshd, ssh: OpenSsh, folder: Path, *, needs: bool, password: str | None
) -> tuple[bytes, bytes, Path]:
    touched = sshd.folder / "touched"
    sshd.stop()
    sshd.environment = {
        "PATH": f"{folder}:/usr/bin:/bin",
        "NEEDS": "yes" if needs else "no",
        "TOUCHED": str(touched),
    }
    sshd.start()
    answer = ssh.run(
        sshd.target(),
        ["sh", "-s"],
        node="n",
        deadline_s=PATIENCE_S,
        stdin=b"echo done\nps -ww -eo args\n",
        first_contact=True,
        sudo=True,
        sudo_password=None if password is None else password.replace("TOUCHED", str(touched)),
    )
    return answer.stdout.split(b"\n", 1)[0], answer.stdout, touched


@pytest.mark.parametrize("needs", [True, False])
def test_a_sudo_password_goes_by_stdin_only_and_never_reaches_a_shell(
    sshd: Sshd, ssh: OpenSsh, with_sudo: Path, needs: bool
) -> None:
    # Without NEEDS sudo does not read the password: it must not be run as the script's first line.
    first, everything, touched = _sudo(
        sshd, ssh, with_sudo, needs=needs, password="correct horse; touch TOUCHED"
    )
    assert first == b"done"
    assert b"correct horse" not in everything, "ps shows no command line with it"
    assert not touched.exists()


def test_a_sudo_that_needs_a_password_says_so_without_asking(
    sshd: Sshd, ssh: OpenSsh, with_sudo: Path
) -> None:
    with pytest.raises(SudoRefused) as caught:
        _sudo(sshd, ssh, with_sudo, needs=True, password=None)
    assert caught.value.needs_password


def test_a_wrong_sudo_password_is_tried_once(sshd: Sshd, ssh: OpenSsh, with_sudo: Path) -> None:
    with pytest.raises(SudoRefused, match="does not take this password"):
        _sudo(sshd, ssh, with_sudo, needs=True, password="wrong")


def test_a_receiver_of_the_runtime_ends_with_its_command_also_where_sudo_was_given_a_password(
    sshd: Sshd, ssh: OpenSsh, with_sudo: Path
) -> None:
    sshd.stop()
    sshd.environment = {"PATH": f"{with_sudo}:/usr/bin:/bin", "NEEDS": "yes", "TOUCHED": "x"}
    sshd.start()
    target = sshd.target()
    ssh.run(target, ["true"], node="n", deadline_s=PATIENCE_S, first_contact=True)
    password = "correct horse; touch x"
    with open_stream(
        ssh, target, ["head", "-n", "1"], node="n", what="it", sudo=True, sudo_password=password
    ) as stream:
        receiver = _Receiver("n", stream, lambda *_: None)
        receiver.begin({"folder": "/x"}, more=False)  # one behind the first: the stream comes by TCP
        receiver._thread.join(PATIENCE_S)
        assert not receiver._thread.is_alive()
        assert stream.failure() is None
