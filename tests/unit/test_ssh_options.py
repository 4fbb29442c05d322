"""How ssh is called, before anything is called."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from rpicluster.errors import RpiclusterError, UsageError
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.control import LONGEST_DIRECTORY, control_directory
from rpicluster.nodes.ssh.openssh import CONFIG_VARIABLE, OpenSsh


@pytest.fixture
def ssh(short_folder: Path) -> OpenSsh:
    return OpenSsh(short_folder / "c")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="rpi-ssh-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


def _setting(words: list[str], name: str) -> str:
    return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))


@pytest.mark.parametrize(
    "host",
    [
        "-oProxyCommand=id",
        "pi;id",
        "pi$(id)",
        "pi`id`",
        "pi id",
        "pi\nid",
        "pi|id",
        "pi&",
        "pi'",
        'pi"',
        "",
        "pi\\",
    ],
)
def test_a_host_that_is_an_option_or_carries_shell_characters_is_refused(host: str, ssh: OpenSsh) -> None:
    with pytest.raises(ValidationError):
        SshTarget(host=host)
    smuggled = SshTarget.model_construct(host=host, user=None, port=None, config=None)
    if host:
        with pytest.raises(UsageError):
            ssh.options(smuggled, Path("log"))


@pytest.mark.parametrize("user", ["-l", "pi;id", "pi id", "$(id)", "Ana"])
def test_a_user_that_is_no_login_is_refused(user: str) -> None:
    with pytest.raises(ValidationError):
        SshTarget(host="pi", user=user)


@pytest.mark.parametrize("config", ["relative/config", "-F", "", "/tmp/a\nb"])
def test_a_configuration_is_named_by_its_whole_path(config: str) -> None:
    with pytest.raises(ValidationError):
        SshTarget(host="pi", config=config)


def test_host_keys_are_always_checked_and_learnt_only_on_first_contact(ssh: OpenSsh) -> None:
    target = SshTarget(host="pi2")
    assert _setting(ssh.options(target, Path("log")), "StrictHostKeyChecking") == "yes"
    first = ssh.options(target, Path("log"), first_contact=True)
    assert _setting(first, "StrictHostKeyChecking") == "accept-new"
    assert _setting(first, "UpdateHostKeys") == "no"


def test_nothing_can_be_asked_on_a_terminal_and_nothing_of_ours_is_lent(ssh: OpenSsh) -> None:
    words = ssh.options(SshTarget(host="pi2"), Path("log"))
    assert _setting(words, "BatchMode") == "yes"
    assert {"-T", "-x", "-a"} <= set(words)
    assert _setting(words, "ClearAllForwardings") == "yes"


def test_the_spec_s_configuration_wins_over_the_environment_s(
    monkeypatch: pytest.MonkeyPatch, short_folder: Path
) -> None:
    monkeypatch.setenv(CONFIG_VARIABLE, "/etc/from-environment")
    ssh = OpenSsh(short_folder / "c")
    own = ssh.options(SshTarget(host="pi2", config="/etc/from-spec"), Path("log"))
    other = ssh.options(SshTarget(host="pi2"), Path("log"))
    assert own[own.index("-F") + 1] == "/etc/from-spec"
    assert other[other.index("-F") + 1] == "/etc/from-environment"
    assert _setting(own, "ControlPath") != _setting(other, "ControlPath"), "one name, two machines"


def test_a_control_socket_s_path_fits_and_its_folder_is_private(short_folder: Path) -> None:
    folder = control_directory(short_folder / "c")
    assert folder.stat().st_mode & 0o777 == 0o700
    longest = f"{'x' * LONGEST_DIRECTORY}/{'h' * 6}{'c' * 40}.{'r' * 16}"
    assert len(longest) + 1 <= 104


def test_a_folder_that_is_too_long_for_a_socket_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(RpiclusterError, match="too long a path"):
        control_directory(tmp_path / ("x" * LONGEST_DIRECTORY))


def test_a_folder_that_others_can_enter_is_refused(short_folder: Path) -> None:
    folder = short_folder / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(RpiclusterError, match="open to others") as caught:
        control_directory(folder)
    assert caught.value.hint == f"chmod 700 {folder}"


def test_a_link_in_place_of_the_folder_is_refused(short_folder: Path) -> None:
    (short_folder / "real").mkdir(mode=0o700)
    (short_folder / "link").symlink_to(short_folder / "real")
    with pytest.raises(RpiclusterError, match="not a folder of this user"):
        control_directory(short_folder / "link")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(short_folder: Path) -> None:
    folder = short_folder / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with pytest.raises(RpiclusterError, match="not a folder of this user"):
        control_directory(folder)


def test_a_runtime_folder_with_a_long_path_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runtime = tmp_path / ("x" * 60)
    runtime.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert control_directory().is_relative_to("/tmp")


@pytest.mark.parametrize("password", ["two\nlines", "nul\0"])
def test_a_password_that_would_break_its_line_is_refused(ssh: OpenSsh, password: str) -> None:
    with pytest.raises(UsageError):
        ssh.run(SshTarget(host="pi2"), ["true"], node="n", deadline_s=1, sudo=True, sudo_password=password)
