"""A private sshd on loopback: own host keys, own configuration, own user key."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh.openssh import OpenSsh

ADDRESSES = tuple(f"127.44.7.{number}" for number in range(1, 9))
USER = pwd.getpwuid(os.getuid()).pw_name
SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")
_START_S = 15
_PRIVILEGE_SEPARATION = Path("/run/sshd")  # an sshd of root's wants it, and the package's service makes it


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", path], check=True)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESSES[0], 0))
        return int(probe.getsockname()[1])


@dataclass
class Sshd:
    """One sshd that listens on all test addresses, and the client configuration that reaches it."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None
    environment: dict[str, str] = field(default_factory=dict)
    addresses: tuple[str, ...] = ADDRESSES
    more: str = ""  # lines for sshd_config
    inside: tuple[str, ...] = ()  # what runs it elsewhere, such as in a network namespace

    def __post_init__(self) -> None:
        make_key(self.folder / "host")
        make_key(self.folder / "user")
        self.write_client("config", key="user")

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def write_client(self, name: str, *, key: str, extra: str = "") -> Path:
        path = self.folder / name
        path.write_text(
            f"{extra}\nHost *\n  IdentityFile {self.folder}/{key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile /dev/null\n"
        )
        return path

    def start(self, host_key: str = "host") -> None:
        listen = "\n".join(f"ListenAddress {address}" for address in self.addresses)
        # From the second level on bash reads no ~/.bashrc over SSH: the user's own is no part of the tests.
        setenv = " ".join(f"{name}={value}" for name, value in {"SHLVL": "2", **self.environment}.items())
        (self.folder / "sshd_config").write_text(
            f"Port {self.port}\n{listen}\nHostKey {self.folder}/{host_key}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/user.pub\nStrictModes no\nUsePAM no\nPrintMotd no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel VERBOSE\n"
            f"MaxStartups 100\nSetEnv {setenv}\n{self.more}\n"
        )
        assert SSHD
        self.process = subprocess.Popen(
            [*self.inside, SSHD, "-D", "-f", str(self.folder / "sshd_config"), "-E", str(self.log)],
            stdin=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        while True:
            try:
                socket.create_connection((self.addresses[0], self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, "sshd does not listen"
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is None:
            return
        for pid in self.children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)
        self.process = None

    def children(self) -> list[int]:
        """Return the pids of all processes below the sshd."""
        assert self.process is not None
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            with contextlib.suppress(OSError):
                below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                todo += [int(child) for child in below]
                found += [int(child) for child in below]
        return found

    def logins(self) -> int:
        """Return how many connections have logged in since the start."""
        return self.log.read_text().count("Accepted publickey for")

    def sessions(self) -> int:
        """Return how many commands were started."""
        return self.log.read_text().count("Starting session: command")

    def target(self, number: int = 0, *, config: str = "config", user: str | None = USER) -> SshTarget:
        return SshTarget(host=ADDRESSES[number], port=self.port, user=user, config=str(self.folder / config))


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="rpi-ssh-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def privilege_separation() -> Iterator[None]:
    made = os.getuid() == 0 and not _PRIVILEGE_SEPARATION.exists()
    if made:
        _PRIVILEGE_SEPARATION.mkdir(mode=0o755)
    yield
    if made:
        _PRIVILEGE_SEPARATION.rmdir()


@pytest.fixture
def sshd(short: Path, privilege_separation: None) -> Iterator[Sshd]:
    """A running sshd; ended with all that it started."""
    if SSHD is None:
        pytest.fail("there is no sshd here; install openssh-server: make system")
    server = Sshd(short)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ssh(short: Path, sshd: Sshd) -> Iterator[OpenSsh]:
    """A client with control sockets of its own; nothing of it lives on after the test."""
    client = OpenSsh(short / "c", connect_timeout_s=2)
    yield client
    sshd.stop()  # ends the connections, and with them the processes that keep them open
    deadline = time.monotonic() + 10
    while left := processes_naming(str(short / "c")):
        assert time.monotonic() < deadline, f"ssh processes that did not end: {left}"
        time.sleep(0.05)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind((ADDRESSES[0], 0))
        listener.listen(16)
        yield listener.getsockname()[1]


def processes_naming(text: str) -> list[int]:
    """Return pids of other processes whose command line names `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.fixture
def taken() -> Callable[[float], float]:
    """Return a function that says how many seconds have passed since a monotonic time."""
    return lambda since: time.monotonic() - since
