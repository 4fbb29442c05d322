"""Bad input through the command line, with a real sshd on loopback: a clear error, and nothing changed."""

import json
import sys
from pathlib import Path

import pytest

from rpicluster.cli.main import run

sys.path.insert(0, str(Path(__file__).parent))
from conftest import USER, Sshd, make_key

pytestmark = pytest.mark.timeout(120)


class Laptop:
    """A folder with a cluster.yml of two nodes, which are both the sshd on loopback."""

    def __init__(self, folder: Path, sshd: Sshd) -> None:
        self.folder = folder
        self.sshd = sshd
        self.spec = folder / "cluster.yml"

    def write(self, *, config: str = "config", user: str = USER) -> None:
        nodes = [
            {
                "name": f"pi{number + 1}",
                "ssh": self.sshd.target(number, config=config, user=user).model_dump(),
            }
            for number in range(2)
        ]
        self.spec.write_text(json.dumps({"name": "lab", "users": ["ann"], "nodes": nodes}))

    def rpicluster(self, *arguments: str) -> int:
        return run([*arguments, "--cluster", str(self.spec)])

    def require_nothing_begun(self) -> None:
        state = self.folder / "state" / "clusters" / "lab"
        assert not (state / "journal.jsonl").exists()
        assert not (state / "cluster.yml").exists()
        assert not (state / "runs").exists()


@pytest.fixture
def laptop(short: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(short / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))  # control sockets
    return Laptop(short, sshd)


@pytest.mark.parametrize("command", [("plan",), ("up", "--yes"), ("check",)])
def test_a_wrong_user_is_named_with_the_node_and_nothing_is_begun(
    laptop: Laptop, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    laptop.write(user="nobody-of-that-name")
    assert laptop.rpicluster(*command) == 4
    said = capsys.readouterr().err
    assert "pi1 (nobody-of-that-name@" in said
    assert "hint:" in said
    laptop.require_nothing_begun()


def test_a_wrong_key_is_a_refused_login_with_the_command_to_try(
    laptop: Laptop, capsys: pytest.CaptureFixture[str]
) -> None:
    make_key(laptop.sshd.folder / "stranger")
    laptop.sshd.write_client("strange", key="stranger")
    laptop.write(config="strange")
    assert laptop.rpicluster("up", "--yes") == 4
    said = capsys.readouterr().err
    assert "pi1 (" in said and "refused" in said
    assert "hint:" in said
    laptop.require_nothing_begun()


@pytest.mark.parametrize("command", [("plan",), ("up", "--yes"), ("check",)])
def test_a_changed_host_key_is_a_hard_stop(
    laptop: Laptop, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    laptop.write()
    laptop.rpicluster("check")
    assert "first contact with pi1: its host key is" in capsys.readouterr().err
    laptop.sshd.stop()
    make_key(laptop.sshd.folder / "other-host")
    laptop.sshd.start("other-host")
    known = laptop.sshd.known_hosts.read_text()
    assert laptop.rpicluster(*command) == 1
    said = capsys.readouterr().err
    assert "host key" in said and "changed" in said
    assert "ssh-keygen" in said
    assert laptop.sshd.known_hosts.read_text() == known
    laptop.require_nothing_begun()


def test_two_entries_that_are_one_machine_are_refused_by_both_names(
    laptop: Laptop, capsys: pytest.CaptureFixture[str]
) -> None:
    if not Path("/etc/machine-id").exists():
        pytest.skip("this machine has no machine-id")
    laptop.write()
    for command in ("check", "plan"):
        assert laptop.rpicluster(command) == 2
        assert "pi1 and pi2 are one machine" in capsys.readouterr().err
    laptop.require_nothing_begun()


@pytest.mark.parametrize(
    "name", ["$(touch {})", "`touch {}`", "a;touch {}", "a b", "-oProxyCommand=touch", "a'b"]
)
@pytest.mark.parametrize("where", ["host", "user", "name"])
def test_shell_characters_in_a_host_a_user_or_a_name_are_refused_by_the_spec(
    laptop: Laptop, name: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    touched = laptop.folder / "touched"
    word = name.format(touched)
    node = {"name": "pi1", "ssh": {"host": "127.44.7.1", "user": "pi"}}
    if where == "name":
        node["name"] = word
    else:
        node["ssh"] = {"host": "127.44.7.1", "user": "pi", where: word}
    laptop.spec.write_text(
        json.dumps({"name": "lab", "nodes": [node, {"name": "pi2", "ssh": {"host": "h"}}]})
    )
    for command in (("plan",), ("up", "--yes"), ("check",), ("ssh", "pi2")):
        assert laptop.rpicluster(*command) == 2
    assert f"{laptop.spec}:1:" in capsys.readouterr().err
    assert not touched.exists()
    assert not (laptop.folder / "state").exists()
