"""Commands on nodes through the system's OpenSSH: user's config, agent and known_hosts count."""

import contextlib
import hashlib
import os
import re
import secrets
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rpicluster.errors import RpiclusterError, SudoRefused, UsageError
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh import failures
from rpicluster.nodes.ssh.control import control_directory
from rpicluster.nodes.ssh.elsewhere import Door, Elsewhere, door
from rpicluster.nodes.ssh.exchange import STDOUT_LIMIT, ClockProbe, Exchange

CONFIG_VARIABLE = "RPICLUSTER_SSH_CONFIG"
CONNECT_TIMEOUT_S = 5.0
KEEP_OPEN_S = 60  # how long a connection without work stays open for the next command
_ALIVE_INTERVAL_S = 5  # a dead connection is noticed after three of these
_CLOSE_TIMEOUT_S = 2.0
_CONNECTED = "debug1: Connection established."
_PROXY = "debug1: Executing proxy command"
_PROXY_DEADLINE_S = 10.0
_WORDS_BYTES = 4096  # of an unfinished answer, to look for a reason in
_SSH_FAILED = 255  # ssh(1): "exits with the exit status of the remote command or with 255"

_FORBIDDEN = re.compile(r"[^A-Za-z0-9._:%@+-]")
_KNOWN_AS = re.compile(r"[A-Za-z0-9._:%@+\[\]-]")  # with a port it is [HOST]:PORT
# Older clients also note a known key's new address, which is no first contact.
_NEW_KEY = re.compile(r"Permanently added (?!the \S+ host key for IP address).* to the list of known hosts")
_SERVER_KEY = re.compile(r"^debug1: Server host key: (\S+) (\S+)", re.M)
_NEW_CONNECTION = re.compile(r"^(?:debug1: )?Authenticated to ", re.M)
_LOGGED_IN = re.compile(
    r"^(?:debug\d: )?(?:Authenticated to |mux_client_hello_exchange: master version |Sending command: )", re.M
)
_EXIT_STATUS = re.compile(r"^debug\d: .*(?:Received exit status from master|rtype exit-status)", re.M)

# As root: throw away lines until the marker. sudo has read the password before it, or it needed none,
# and then the password must not reach a shell as a command.
_AS_ROOT = 'while IFS= read -r line; do [ "$line" = "$1" ] && break; done; shift; exec "$@"'
# One try only: sudo reads this password from a pipe that ends after it. printf is built into the shell.
_WITH_PASSWORD = (
    "IFS= read -r password || exit 1; "
    "printf '%s\\n' \"$password\" | sudo -S -p '' -v || exit 1; "
    "mark=$1; "
    '{ printf \'%s\\n%s\\n\' "$password" "$mark"; cat; } | '
    f"sudo -S -p '' -- sh -c {shlex.quote(_AS_ROOT)} sh \"$@\""
)


@dataclass(frozen=True)
class HostKey:
    """A node's public key: its type and `SHA256:...` fingerprint."""

    type: str
    fingerprint: str


@dataclass(frozen=True)
class Answer:
    """What a command on a node said.

    `reused`: an open connection served, no new one was made. `new_host_key` is set when this was the
    first contact and the key was written to known_hosts: show it. `probe` is set when one was asked for.
    """

    status: int
    stdout: bytes
    stderr: str
    reused: bool
    new_host_key: HostKey | None = None
    probe: ClockProbe | None = None


class OpenSsh:
    """Runs commands on nodes; connections are kept open for a minute and shared."""

    def __init__(
        self,
        control: Path | None = None,
        *,
        config: Path | None = None,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        keep_open_s: int = KEEP_OPEN_S,
        elsewhere: Mapping[Door, Elsewhere] | None = None,
    ) -> None:
        """Keep control sockets in `control`, a folder of mode 0700 (default: one of the user's).

        `config` is used for targets that name none; default: $RPICLUSTER_SSH_CONFIG, else the user's own.
        `elsewhere` are hosts that have another address than they say.
        """
        from_environment = os.environ.get(CONFIG_VARIABLE)
        self.control = control_directory(control)
        self.config = config or (Path(from_environment) if from_environment else None)
        self.connect_timeout_s = connect_timeout_s
        self.keep_open_s = keep_open_s
        self.elsewhere: dict[Door, Elsewhere] = dict(elsewhere or {})

    def redirected(self, target: SshTarget, place: Elsewhere) -> "OpenSsh":
        """Return the same client for which one host is at another address; its key is checked as ever."""
        return OpenSsh(
            self.control,
            config=self.config,
            connect_timeout_s=self.connect_timeout_s,
            keep_open_s=self.keep_open_s,
            elsewhere={**self.elsewhere, door(target): place},
        )

    def run(
        self,
        target: SshTarget,
        argv: Sequence[str],
        *,
        node: str,
        deadline_s: float,
        stdin: bytes = b"",
        first_contact: bool = False,
        sudo: bool = False,
        sudo_password: str | None = None,
        probe_mark: bytes | None = None,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """Run `argv` on a node and return its answer, whatever its exit status is.

        `first_contact` accepts and records a host key that is not known yet. With `probe_mark` a newline
        is sent as soon as the command prints that mark, and the round trip is timed. Raises
        NodeUnreachable, LoginRefused or HostKeyRefused when nothing ran or nothing came back by the
        deadline (the command may still run on the node then); SudoRefused when sudo says no.
        """
        command = list(argv)
        if sudo:
            command, stdin = as_root(command, stdin, sudo_password)
        with tempfile.TemporaryDirectory(prefix="rpicluster-ssh-") as scratch:
            log = Path(scratch) / "log"
            errors = Path(scratch) / "stderr"
            line = [*self.options(target, log, first_contact=first_contact), "--", target.host]
            with errors.open("wb+") as stderr:
                exchange = self._exchange(
                    [*line, shlex.join(command)], stdin, stderr, probe_mark, cancel, deadline_s
                )
            said = _text(log)
            remote = _text(errors)
        self._raise_failure(exchange, said, remote, target, node, argv[0], deadline_s, first_contact)
        if sudo and exchange.status != 0:
            error = failures.explain_command(exchange.status, remote, target, node, what=argv[0])
            if isinstance(error, SudoRefused):
                raise error
        return Answer(
            exchange.status,
            exchange.stdout,
            remote,
            reused=not _NEW_CONNECTION.search(said),
            new_host_key=_new_host_key(said),
            probe=exchange.probe,
        )

    def _raise_failure(
        self,
        exchange: Exchange,
        said: str,
        remote: str,
        target: SshTarget,
        node: str,
        what: str,
        deadline_s: float,
        first_contact: bool,
    ) -> None:
        """Raise what kept a command from running to its end; do nothing when it has a status of its own."""
        if exchange.timed_out:
            # A dead connection must not serve the next command; other commands on a live one go on.
            self._tell_connection(target, "stop")
            words = exchange.stdout[:_WORDS_BYTES].decode(errors="replace") + remote
            raise failures.silent(target, node, reached=_reached(said), deadline_s=deadline_s, said=words)
        if exchange.flooded:
            raise RpiclusterError(
                f"{node} ({failures.destination(target)}): {what} printed more than "
                f"{STDOUT_LIMIT >> 20} MiB, which is no answer",
                hint=f"does a login print without end? {failures.login_command(target)} true | head",
            )
        if exchange.status == _SSH_FAILED and not _EXIT_STATUS.search(said):
            error = failures.explain(said + remote, target, node)
            if _PROXY in said and getattr(error, "cause", None) in (
                failures.Cause.CLOSED,
                failures.Cause.UNKNOWN,
            ):
                raise failures.explain(self._ask_proxy(target, first_contact), target, node)
            raise error

    def check(
        self,
        target: SshTarget,
        argv: Sequence[str],
        *,
        node: str,
        deadline_s: float,
        stdin: bytes = b"",
        sudo: bool = False,
        sudo_password: str | None = None,
    ) -> bytes:
        """Run `argv` on a node and return its stdout.

        Raises what `run` raises, and RemoteCommandFailed or RemotePythonMissing for a status that is not 0.
        """
        answer = self.run(
            target,
            argv,
            node=node,
            deadline_s=deadline_s,
            stdin=stdin,
            sudo=sudo,
            sudo_password=sudo_password,
        )
        if answer.status != 0:
            raise failures.explain_command(answer.status, answer.stderr, target, node, what=argv[0])
        return answer.stdout

    def close(self, target: SshTarget) -> None:
        """End the shared connection to a target, if there is one; the next command makes a new one."""
        self._tell_connection(target, "exit")

    def _tell_connection(self, target: SshTarget, word: str) -> None:
        line = ["ssh", *self.where(target), "-o", f"ControlPath={self._control_path(target)}", "-O", word]
        # No answer is as good as yes: the next connection is made anew, or fails with its own words.
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            subprocess.run(
                [*line, "--", target.host],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_CLOSE_TIMEOUT_S,
                check=False,
            )

    def options(self, target: SshTarget, log: Path, *, first_contact: bool = False) -> list[str]:
        """Return `ssh` with all options for a target; what the user's configuration says holds elsewhere."""
        # DEBUG2 names the host key, says whether a login happened, and tells a command's own status of 255
        # from a lost connection's. It goes to a file of its own.
        talk = ["-E", str(log), "-o", "LogLevel=DEBUG2"]
        return ["ssh", *talk, *self.shared_options(target, first_contact=first_contact)]

    def shared_options(self, target: SshTarget, *, first_contact: bool = False) -> list[str]:
        """Return the options by which any ssh to a target uses the same connection, keys and checks."""
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "accept-new" if first_contact else "yes",
            "UpdateHostKeys": "no",  # a key is learnt only where the user is shown it
            "ConnectTimeout": str(max(1, round(self.connect_timeout_s))),
            "ConnectionAttempts": "1",
            "ServerAliveInterval": str(_ALIVE_INTERVAL_S),
            "ServerAliveCountMax": "3",
            "ControlMaster": "auto",
            "ControlPath": self._control_path(target),
            "ControlPersist": str(self.keep_open_s),
            "ClearAllForwardings": "yes",  # the user's own forwards belong to their own logins
            "PermitLocalCommand": "no",
            "RemoteCommand": "none",
            "RequestTTY": "no",
        }
        words = [*self.where(target), "-T", "-x", "-a"]
        for name, value in settings.items():
            words += ["-o", f"{name}={value}"]
        return words

    def _ask_proxy(self, target: SshTarget, first_contact: bool) -> str:
        """Return what a jump host says; with a shared connection ssh throws its words away."""
        with tempfile.TemporaryDirectory(prefix="rpicluster-ssh-") as scratch:
            log, errors = Path(scratch) / "log", Path(scratch) / "stderr"
            words = self.options(target, log, first_contact=first_contact)
            # The first value of an option counts.
            alone = ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ControlPersist=no"]
            line = [words[0], *alone, *words[1:], "--", target.host, "true"]
            with errors.open("wb+") as stderr:
                self._exchange(line, b"", stderr, None, None, _PROXY_DEADLINE_S)
            return _text(log) + _text(errors)

    def where(self, target: SshTarget) -> list[str]:
        """Return the options that say who logs in where; raises UsageError for what is no name."""
        # The spec's pattern says so already; here nothing that came another way gets through either.
        if target.host.startswith("-") or _FORBIDDEN.search(target.host):
            raise UsageError(f"{target.host!r} is not a host name", hint="letters, digits, dots and dashes")
        if target.user and (target.user.startswith("-") or _FORBIDDEN.search(target.user)):
            raise UsageError(f"{target.user!r} is not a login")
        words = []
        if config := self._config(target):
            words += ["-F", str(config)]
        if target.user:
            words += ["-l", target.user]
        if target.port:
            words += ["-p", str(target.port)]
        if place := self.elsewhere.get(door(target)):
            if _FORBIDDEN.search(place.address) or _KNOWN_AS.sub("", place.known_as):
                raise UsageError(f"{place.address!r} or {place.known_as!r} is not a host name")
            words += place.options
        return words

    def _config(self, target: SshTarget) -> Path | None:
        return Path(target.config).expanduser() if target.config else self.config

    def _control_path(self, target: SshTarget) -> str:
        # %C knows host, port and user as ssh resolves them, but not which configuration resolved them, nor
        # whose key was checked: two nodes that change places must not get each other's connections.
        words = [str(self._config(target))]
        if place := self.elsewhere.get(door(target)):
            words.append(place.known_as)
        config = hashlib.sha256("\0".join(words).encode()).hexdigest()[:6]
        return f"{self.control}/{config}%C"

    def _exchange(
        self,
        line: list[str],
        stdin: bytes,
        stderr: IO[bytes],
        probe_mark: bytes | None,
        cancel: threading.Event | None,
        deadline_s: float,
    ) -> Exchange:
        environment = {**os.environ, "LC_ALL": "C", "SSH_ASKPASS_REQUIRE": "never"}
        try:
            # A session of its own: no terminal that ssh or a jump host could ask on, and Ctrl-C is ours.
            # stderr is a file: an ssh that stays as the shared connection keeps it open (before 8.5).
            process = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise RpiclusterError(
                "there is no ssh on this machine", hint="sudo apt install openssh-client"
            ) from None
        exchange = Exchange(process, stdin, probe_mark=probe_mark)
        try:
            exchange.run(time.monotonic() + deadline_s, cancel)
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return exchange


def as_root(command: list[str], stdin: bytes, password: str | None) -> tuple[list[str], bytes]:
    """Return what runs `command` as root, and its stdin; a password goes first on stdin, never on argv."""
    if password is None:
        return ["sudo", "-n", "--", *command], stdin
    if "\n" in password or "\0" in password:
        raise UsageError("a password of sudo has no line breaks")
    mark = secrets.token_hex(16)
    return ["sh", "-c", _WITH_PASSWORD, "sh", mark, *command], password.encode() + b"\n" + stdin


def _reached(said: str) -> failures.Reached:
    if _LOGGED_IN.search(said):
        return failures.Reached.LOGIN
    return failures.Reached.MACHINE if _CONNECTED in said else failures.Reached.NOTHING


def _new_host_key(said: str) -> HostKey | None:
    if not _NEW_KEY.search(said):
        return None
    match = _SERVER_KEY.search(said)
    return HostKey(match[1], match[2]) if match else HostKey("unknown", "not shown by this ssh")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").replace("\r\n", "\n")
    except FileNotFoundError:  # ssh ended before it wrote anything
        return ""
