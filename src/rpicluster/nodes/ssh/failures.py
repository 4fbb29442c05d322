"""What ssh and sudo say when they fail, as errors with a cause and a hint; text in, value out."""

import re
import shlex
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from rpicluster.errors import (
    HostKeyRefused,
    LoginRefused,
    NodeUnreachable,
    RemoteCommandFailed,
    RemotePythonMissing,
    RpiclusterError,
    SudoRefused,
)

if TYPE_CHECKING:
    from rpicluster.model.spec import SshTarget

DEFAULT_PORT = 22
NOT_FOUND = 127  # a shell's status for a command that is not there (POSIX)


class Cause(StrEnum):
    """Why no command ran on a node."""

    UNRESOLVED = "name not resolved"
    UNREACHABLE = "unreachable"
    REFUSED = "connection refused"
    TIMEOUT = "no answer to the connection"
    SILENT = "connects but does not answer"
    CLOSED = "connection closed"
    DENIED = "login refused"
    KEY_FILE = "key file readable by others"
    KEY_LOCKED = "key needs its passphrase"
    PASSWORD_EXPIRED = "password expired"  # noqa: S105  a cause, no secret
    BOOTING = "still booting"
    WRONG_USER = "another user is wanted"
    HOST_KEY_CHANGED = "host key changed"
    HOST_KEY_UNKNOWN = "host key unknown"
    NO_COMMON_ALGORITHM = "no common algorithm"
    CONFIGURATION = "OpenSSH configuration"
    LOST = "connection lost"
    UNKNOWN = "ssh failed"


# Two debug lines say something that no message does.
_DEBUG = re.compile(r"debug\d: (?!Control master terminated|Server accepts key)")

_NOT_LET_IN = frozenset(
    {Cause.DENIED, Cause.KEY_FILE, Cause.KEY_LOCKED, Cause.PASSWORD_EXPIRED, Cause.WRONG_USER}
)
_Hint: TypeAlias = "Callable[[re.Match[str], SshTarget, str], str]"


def destination(target: "SshTarget") -> str:
    """Return how people name a target: `pi@pi1`, with `:PORT` where it is not 22."""
    user = f"{target.user}@" if target.user else ""
    port = f":{target.port}" if target.port and target.port != DEFAULT_PORT else ""
    return f"{user}{target.host}{port}"


def login_command(target: "SshTarget", *options: str) -> str:
    """Return the ssh command line for a target, ready to paste into a shell."""
    words = ["ssh", *options]
    if target.config:
        words += ["-F", target.config]
    if target.port:
        words += ["-p", str(target.port)]
    return shlex.join([*words, f"{target.user}@{target.host}" if target.user else target.host])


def _known_host(target: "SshTarget") -> str:
    port = target.port or DEFAULT_PORT
    return target.host if port == DEFAULT_PORT else f"[{target.host}]:{port}"


def _changed_key(said: str) -> str:
    """Return `FILE:LINE` of the known key that the node's key contradicts."""
    match = re.search(r"Offending (?:\S+ )?key (?:for IP )?in (.+?:\d+)\s*$", said, re.M)
    return match[1] if match else "your known_hosts"


def _changed_hint(_: "re.Match[str]", target: "SshTarget", said: str) -> str:
    file = _changed_key(said).rpartition(":")[0]
    forget = ["ssh-keygen", *(["-f", file] if file else []), "-R", _known_host(target)]
    return (
        "if the node was set up anew, compare the fingerprint on its own console "
        "(ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then forget the old key: " + shlex.join(forget)
    )


def _copy_id(_: "re.Match[str]", target: "SshTarget", __: str) -> str:
    words = ["ssh-copy-id", *(["-p", str(target.port)] if target.port else [])]
    words += [f"{target.user}@{target.host}" if target.user else target.host]
    return f"try {login_command(target)} yourself; to install your key: {shlex.join(words)}"


def _verbose(_: "re.Match[str]", target: "SshTarget", __: str) -> str:
    return f"see what ssh does: {login_command(target, '-v')} true"


def _says(text: str) -> _Hint:
    return lambda match, target, said: text


# First match wins: specific messages before the general ones that ssh prints after them.
_MESSAGES: tuple[tuple[str, Cause, str, _Hint], ...] = (
    (
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|HOST IDENTIFICATION HAS CHANGED",
        Cause.HOST_KEY_CHANGED,
        "its host key is not the one in {changed}: another machine, a freshly written card, or an attack",
        _changed_hint,
    ),
    (
        r"No (\S+) host key is known for",
        Cause.HOST_KEY_UNKNOWN,
        "its host key is not known, and this is not the first contact",
        lambda match, target, said: f"look at its fingerprint and accept it once: {login_command(target)}",
    ),
    (
        r"Host key verification failed",
        Cause.HOST_KEY_UNKNOWN,
        "the key of a host on the way to it (ProxyJump) is not known",
        lambda match, target, said: f"look at its fingerprint and accept it once: {login_command(target)}",
    ),
    (
        r"Could not resolve hostname ([^:\s]+)",
        Cause.UNRESOLVED,
        "the name {1} is not known to DNS, /etc/hosts or your OpenSSH configuration",
        lambda match, target, said: (
            f"getent hosts {shlex.quote(match[1])}; or write its address in cluster.yml"
        ),
    ),
    (
        r"connect to host .* port (\d+): Connection refused",
        Cause.REFUSED,
        "the machine is there, and nothing listens on port {1}",
        _says("on the node's console: sudo systemctl enable --now ssh; or set ssh.port in cluster.yml"),
    ),
    (
        r"connect to host .* port \d+: (No route to host|Network is unreachable|Host is down)",
        Cause.UNREACHABLE,
        "{1}",
        lambda match, target, said: f"check power, cable and address: ping -c 3 {shlex.quote(target.host)}",
    ),
    (
        r"timed out during banner exchange",
        Cause.SILENT,
        "it takes the connection and its sshd says nothing: overloaded, out of memory, or a failing disk",
        _says("look at its console or restart it by its power"),
    ),
    (
        r"connect to host .* port \d+: (?:Connection|Operation) timed out",
        Cause.TIMEOUT,
        "nothing answers at that address",
        lambda match, target, said: f"check power, cable and address: ping -c 3 {shlex.quote(target.host)}",
    ),
    (
        r"UNPROTECTED PRIVATE KEY FILE.*?Permissions (\d+) for '([^']+)'",
        Cause.KEY_FILE,
        "ssh does not use the key {2}, others may read it (mode {1})",
        lambda match, target, said: f"chmod 600 {shlex.quote(match[2])}",
    ),
    (
        r"Server accepts key: (\S+) .*Permission denied \(",
        Cause.KEY_LOCKED,
        "the node would take the key {1}, which has a passphrase, and no agent holds it",
        lambda match, target, said: f"ssh-add {shlex.quote(match[1])}",
    ),
    (
        r'Please login as the user "([^"]+)" rather than the user "([^"]+)"',
        Cause.WRONG_USER,
        "it wants the user {1}, not {2}",
        lambda match, target, said: f"set ssh.user: {match[1]} in cluster.yml",
    ),
    (
        r"Password change required but no TTY|password has expired|account has expired",
        Cause.PASSWORD_EXPIRED,
        "the user's password has expired and must be changed first",
        lambda match, target, said: f"log in once and set a new one: {login_command(target, '-t')}",
    ),
    (
        r"System is booting up|pam_nologin",
        Cause.BOOTING,
        "it is still booting",
        _says("wait some seconds, then try again"),
    ),
    (
        r"Permission denied \(([^)]*)\)|Permission denied, please try again|Too many authentication failures",
        Cause.DENIED,
        "it refuses this user and key{offered}",
        _copy_id,
    ),
    (
        r"Unable to negotiate with .*?: (no matching [^.]+)",
        Cause.NO_COMMON_ALGORITHM,
        "{1}",
        _verbose,
    ),
    (
        r"Bad configuration option: (\S+)|Bad owner or permissions on (\S+)"
        r"|Can't open user config file ([^:]+)|terminating, \d+ bad configuration options"
        r"|unix_listener: path|percent_expand|keyword \S+ extra arguments",
        Cause.CONFIGURATION,
        "ssh does not accept its configuration: {line}",
        lambda match, target, said: f"mend what it names, then: {login_command(target, '-G')}",
    ),
    (
        r"kex_exchange_identification|ssh_exchange_identification|Connection (?:closed|reset) by|"
        r"Session open refused|[Dd]isconnected from",
        Cause.CLOSED,
        "it closes the connection: too many at once, a firewall, or an sshd that cannot start a login",
        _says("on the node: sudo journalctl -u ssh -n 50"),
    ),
    (
        r"Timeout, server \S+ not responding|Broken pipe|closed by remote host|read from master failed"
        r"|Control master terminated unexpectedly",
        Cause.LOST,
        "the connection broke while a command ran, or a signal ended the command",
        _verbose,
    ),
)


def cause_of(said: str) -> Cause:
    """Return why an ssh ran no command; `said` is all that it printed."""
    for pattern, cause, _, _ in _MESSAGES:
        if re.search(pattern, said, re.S if cause in (Cause.KEY_FILE, Cause.KEY_LOCKED) else 0):
            return cause
    return Cause.UNKNOWN


def explain(said: str, target: "SshTarget", node: str) -> RpiclusterError:
    """Return the error for an ssh that ran no command; `said` is all that it printed, debug lines too."""
    said = "\n".join(line for line in said.splitlines() if not _DEBUG.match(line))
    for pattern, cause, template, hint in _MESSAGES:
        match = re.search(pattern, said, re.S if cause in (Cause.KEY_FILE, Cause.KEY_LOCKED) else 0)
        if match:
            why = _fill(template, match, said)
            return _error(cause, why, hint(match, target, said), target, node)
    last = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "it printed nothing")
    why = f"ssh ended without running anything: {last}"
    return _error(Cause.UNKNOWN, why, f"see what ssh does: {login_command(target, '-v')} true", target, node)


class Reached(StrEnum):
    """How far a command got before its deadline."""

    NOTHING = "nothing answers at that address"
    MACHINE = "it takes the connection and did not let us in"
    LOGIN = "it let us in and did not finish"


def silent(
    target: "SshTarget", node: str, *, reached: Reached, deadline_s: float, said: str = ""
) -> RpiclusterError:
    """Return the error for a node that did not finish before the deadline; `said` is what came until then."""
    explained = explain(said, target, node)
    if getattr(explained, "cause", None) == Cause.WRONG_USER:  # cloud-init says it, then waits
        return explained
    if reached is Reached.NOTHING:
        cause, hint = Cause.TIMEOUT, f"check power, cable and address: ping -c 3 {shlex.quote(target.host)}"
    else:
        cause = Cause.SILENT
        hint = f"look at its console, or restart it by its power; then: {login_command(target)} uptime"
    return NodeUnreachable(
        f"{node} ({destination(target)}): {reached} within {deadline_s:g} s",
        node=node,
        cause=cause,
        hint=hint,
    )


def _fill(template: str, match: "re.Match[str]", said: str) -> str:
    line = next((line for line in said.splitlines() if match[0].splitlines()[0] in line), match[0])
    offered = ""
    if match.lastindex and "offered" in template and match[1]:
        offered = f" (it takes: {match[1]})"
    words = template.replace("{line}", line.strip()).replace("{changed}", _changed_key(said))
    words = words.replace("{offered}", offered)
    for number in range(1, (match.re.groups or 0) + 1):
        words = words.replace(f"{{{number}}}", match[number] or "")
    return words


def _error(cause: Cause, why: str, hint: str, target: "SshTarget", node: str) -> RpiclusterError:
    message = f"{node} ({destination(target)}): {cause}: {why}"
    if cause in (Cause.HOST_KEY_CHANGED, Cause.HOST_KEY_UNKNOWN):
        return HostKeyRefused(message, node=node, cause=cause, hint=hint)
    if cause in _NOT_LET_IN:
        return LoginRefused(message, node=node, cause=cause, hint=hint)
    return NodeUnreachable(message, node=node, cause=cause, hint=hint)


_SUDO_ASKS = re.compile(
    r"sudo: a password is required|sudo: a terminal is required|no tty present and no askpass|"
    r"sudo: no password was provided|sudo: interactive authentication is required"
)
_SUDO_WRONG = re.compile(r"Sorry, try again|incorrect password attempt")
_SUDO_NEVER = re.compile(
    r"is not in the sudoers file|is not allowed to (?:run sudo|execute)|you must have a tty"
)
_NO_SUDO = re.compile(r"sudo: (?:command )?not found|‘?sudo’?: No such file")
_NO_PYTHON = re.compile(r"python3: (?:command )?not found|[‘']?python3[’']?: No such file")


def explain_command(
    status: int, stderr: str, target: "SshTarget", node: str, *, what: str
) -> RpiclusterError:
    """Return the error for a command that ran on a node and ended with `status`; `what` names it."""
    place = f"{node} ({destination(target)})"
    if _SUDO_WRONG.search(stderr):
        return SudoRefused(
            f"{place}: sudo does not take this password",
            node=node,
            needs_password=True,
            hint=f"try it yourself: {login_command(target, '-t')} sudo true",
        )
    if _SUDO_ASKS.search(stderr):
        hint = f"give the password when asked, or let {target.user or 'the user'} use sudo without one"
        return SudoRefused(f"{place}: sudo needs a password", node=node, needs_password=True, hint=hint)
    if _SUDO_NEVER.search(stderr) or _NO_SUDO.search(stderr):
        line = next(line for line in stderr.splitlines() if _SUDO_NEVER.search(line) or _NO_SUDO.search(line))
        return SudoRefused(
            f"{place}: the user cannot become root: {line.strip()}",
            node=node,
            needs_password=False,
            hint="set ssh.user to one that may use sudo, or, as root on the node: usermod -aG sudo USER",
        )
    if status == NOT_FOUND and _NO_PYTHON.search(stderr):
        return RemotePythonMissing(
            f"{place}: there is no python3 on the node",
            node=node,
            status=status,
            hint=f"{login_command(target, '-t')} sudo apt-get install -y python3",
        )
    tail = " / ".join(line.strip() for line in stderr.strip().splitlines()[-3:])
    return RemoteCommandFailed(
        f"{place}: {what} ended with status {status}" + (f": {tail}" if tail else ""),
        node=node,
        status=status,
        hint=f"look for yourself: {login_command(target)}",
    )
