"""Words of unit files, read back by the rules of systemd.service(5), and by systemd itself."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpicluster.design.systemd_text import assignment, command, plain_path, word

sys.path.insert(0, str(Path(__file__).parent))
from systemd_reading import argv_of, words_of

SYSTEMD = next(
    (path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if Path(path).exists()), ""
)
NASTY = [
    "a b",
    "",
    "#no comment",
    ";",
    "%h",
    "100%",
    "$HOME",
    "${HOME}",
    "a$b",
    "$$",
    'q"q',
    "q'q",
    "back\\slash",
]
NASTY += ["-Xmx1m", "trailing\\", "tab\tline\nend", "ünïcode", "\x01", "*", "~", "a=b;c", " ", "@x", "\\x41"]

text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))


@given(st.lists(text, max_size=6))
def test_a_command_reads_back_to_the_very_arguments(arguments: list[str]) -> None:
    assert argv_of(command(["/usr/bin/java", *arguments])) == ["/usr/bin/java", *arguments]


@given(text)
def test_a_variable_reads_back_to_its_very_value(value: str) -> None:
    assert words_of(assignment("NAME", value)) == [f"NAME={value}"]


@given(st.lists(text, max_size=6))
def test_no_argument_starts_another_line_or_another_command(arguments: list[str]) -> None:
    first, *rest = command(["/bin/x", *arguments]).split("\n")
    assert first.startswith("/bin/x")
    for line in rest:
        assert line.startswith("  ") and not line.lstrip().startswith(("#", ";"))


@pytest.mark.parametrize(
    "path", ["java", "", "/opt/a b/java", "/opt/$x", "/opt/%h", "-/bin/x", "/a\nb", "/a'"]
)
def test_a_program_that_systemd_would_read_as_something_else_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(path))):
        command([path])
    with pytest.raises(ValueError, match=re.escape(repr(path))):
        plain_path(path)


def test_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        word("a\0b")


@pytest.fixture
def readable() -> Iterator[Path]:
    """A directory that another user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_systemd_itself_reads_the_very_arguments(readable: Path) -> None:
    if not SYSTEMD or not shutil.which("setpriv"):
        pytest.skip("systemd or setpriv is not on this machine")
    arguments = [argument for argument in NASTY if argument.isprintable()]
    argv = ["/bin/true", *(f"<{argument}>" for argument in arguments)]
    (readable / "probe.service").write_text(
        f"[Service]\nEnvironment={assignment('PROBE', 'a %h $HOME b')}\nExecStart={command(argv)}\n"
    )
    run = readable / "run"
    run.mkdir()
    as_nobody: list[str] = []
    if os.geteuid() == 0:  # systemd --test refuses root
        os.chown(run, 65534, 65534)
        as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    answer = subprocess.run(
        [*as_nobody, SYSTEMD, "--test", "--user", "--unit=probe.service", "--no-pager"],
        env={"XDG_RUNTIME_DIR": str(run), "SYSTEMD_UNIT_PATH": f"{readable}:", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    shown = [line for line in answer.stdout.splitlines() if "Command Line:" in line and "/bin/true" in line]
    if not shown:
        pytest.skip(f"systemd --test --user says nothing here: {answer.stderr[-300:]}")
    # systemd lists words so that a shell reads them back. It undoubles dollars only when it executes.
    listed = f"printf '%s\\0' {shown[0].partition(':')[2]}"
    read = subprocess.run(["bash", "-c", listed], capture_output=True, text=True, timeout=30, check=True)
    assert [part.replace("$$", "$") for part in read.stdout.split("\0")[:-1]] == argv
    assert "PROBE=a %h $HOME b" in answer.stdout
