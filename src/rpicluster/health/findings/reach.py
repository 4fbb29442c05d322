"""Nodes that did not answer, and what could not be seen of those that did."""

import re
from collections.abc import Iterator

from rpicluster.errors import HostKeyRefused, LoginRefused, NodeAmbiguous, NodeUnreachable, RpiclusterError
from rpicluster.health.findings.finding import (
    NOTE,
    PROBLEM,
    WARNING,
    Node,
    Seen,
    Trouble,
    cluster_kind,
    node_kind,
)

# Values of nodes.ssh.failures.Cause; a test holds them together.
HOST_KEY_CHANGED = "host key changed"
KEY_FILE = "key file readable by others"


def _errors(seen: Seen, cause: str) -> Iterator[Trouble]:
    for node in sorted(seen.errors):
        error = seen.errors[node]
        if kind_of_error(error) == cause:
            yield Trouble(
                what=f"{node} could not be looked at",
                cause=_WORDS[cause],
                evidence=(error.message,),
                fix=error.hint or "try it by hand",
                command=command_in(error.hint) or seen.on(node, "true"),
                node=node,
            )


_COMMAND = re.compile(r"(?:^|[:;] )((?:ping|getent|chmod|ssh-copy-id|ssh-keygen|ssh-add) [^;]+)$")


def command_in(hint: str | None) -> str | None:
    """Return the line to paste at the end of an error's hint; plain logins are made with our own options."""
    match = _COMMAND.search(hint or "")
    return match[1] if match else None


def kind_of_error(error: RpiclusterError) -> str:
    """Return the id of the kind that tells about an error."""
    cause = str(getattr(error, "cause", ""))
    if isinstance(error, HostKeyRefused):
        return "host-key-changed" if cause == HOST_KEY_CHANGED else "host-key-unknown"
    if isinstance(error, NodeAmbiguous):
        return "host-key-duplicate"
    if cause == KEY_FILE:
        return "secret-readable"
    if isinstance(error, LoginRefused):
        return "login-refused"
    return "node-unreachable" if isinstance(error, NodeUnreachable) else "node-unreadable"


_WORDS = {
    "node-unreachable": "ssh gets no shell: power, cable, address, or a node that hangs",
    "login-refused": "the node answers, and does not let this user and key in",
    "host-key-changed": "another machine has its address, its card was written anew, or "
    "somebody is in between",
    "host-key-unknown": "this machine has never seen the node's key, and doctor accepts none by itself",
    "node-unreadable": "the login works, and does not run our commands",
}


@cluster_kind("node-unreachable", PROBLEM, "A node does not answer")
def node_unreachable(seen: Seen) -> Iterator[Trouble]:
    """No answer within the deadline, the connection is refused, or the name is not known."""
    return _errors(seen, "node-unreachable")


@cluster_kind("login-refused", PROBLEM, "A node does not let us in")
def login_refused(seen: Seen) -> Iterator[Trouble]:
    """Wrong user, wrong key, a key that is locked, or an expired password."""
    return _errors(seen, "login-refused")


@cluster_kind("host-key-changed", PROBLEM, "A node's host key is not the known one")
def host_key_changed(seen: Seen) -> Iterator[Trouble]:
    """A hard stop: nothing is sent to a node that cannot prove who it is."""
    return _errors(seen, "host-key-changed")


@cluster_kind("host-key-unknown", PROBLEM, "A node's host key was never seen here")
def host_key_unknown(seen: Seen) -> Iterator[Trouble]:
    """Doctor learns no keys: look at the fingerprint and accept it once by logging in."""
    return _errors(seen, "host-key-unknown")


@cluster_kind("node-unreadable", PROBLEM, "A node lets us in and does not answer our question")
def node_unreadable(seen: Seen) -> Iterator[Trouble]:
    """A login shell that is none, a broken system, or an answer that is not ours."""
    return _errors(seen, "node-unreadable")


@node_kind("sudo-asks-password", WARNING, "The login cannot become root by itself")
def sudo_asks_password(node: Node) -> Iterator[Trouble]:
    """Without sudo some facts are hidden from doctor, and `up` has to ask for a password."""
    facts = node.facts
    if facts.login is None or facts.privilege != "none" or node.is_unseen("privilege"):
        return
    yield Trouble(
        what=f"{facts.login} on {node.name} cannot use sudo without a password",
        cause="sudo wants a password, does not know this user, or is not installed",
        evidence=(f"`sudo -n` as {facts.login}: refused",),
        fix=f"let {facts.login} use sudo without a password, or give it to `up` when it asks",
        command=node.run(
            f"echo '{facts.login} ALL=(ALL) NOPASSWD: ALL' | sudo tee /etc/sudoers.d/rpicluster"
        ),
    )


@node_kind("not-seen", NOTE, "Something could not be looked at")
def not_seen(node: Node) -> Iterator[Trouble]:
    """What could not be seen is never taken for a fault, nor for good health."""
    facts = node.facts
    missing: dict[str, object] = {
        "RAM": facts.memory,
        "cores": facts.processor,
        "operating system": facts.os,
        "machine-id": facts.machine_id,
        "host name": facts.names.hostname,
        "clock": facts.clock.offset_s,
        "file systems": facts.mounts or None,
        "network interfaces": facts.interfaces or None,
        "SSH host keys": facts.host_keys or None,
        "listening ports": facts.listeners,
    }
    if facts.board is not None and facts.board.type is not None:
        missing |= {"throttling bits": facts.power.throttled, "temperature": facts.temperature_c}
    lines = [f"{problem.fact}: {problem.message}" for problem in facts.problems]
    lines += [f"{name}: the node showed none" for name, value in missing.items() if value is None]
    if lines:
        yield Trouble(
            what=f"not everything on {node.name} could be seen",
            cause="a command is missing there, was not allowed, or answered in a form that is not known",
            evidence=tuple(lines),
            fix="nothing has to be done; what is listed was not checked",
            command=node.run("uname -a; cat /etc/os-release"),
        )
