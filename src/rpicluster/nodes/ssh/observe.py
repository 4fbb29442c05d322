"""One look at every node at once: one SSH session each, all in parallel."""

import secrets
import shlex
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rpicluster.errors import RemoteCommandFailed, RpiclusterError
from rpicluster.model.machine import MachineFacts
from rpicluster.model.spec import SshTarget
from rpicluster.nodes.ssh import failures
from rpicluster.nodes.ssh.machine import read_machine
from rpicluster.nodes.ssh.openssh import HostKey, OpenSsh

DEADLINE_S = 15.0
_AT_ONCE = 64  # nodes looked at in parallel; beyond that the control machine's own cores are the limit


@dataclass(frozen=True)
class Observation:
    """What one look at one node gave: `facts`, or the `error` that explains why there are none.

    `new_host_key` is set when this was the first contact: show it to the user. `reused`: an open
    connection served.
    """

    facts: MachineFacts | None = None
    error: RpiclusterError | None = None
    new_host_key: HostKey | None = None
    reused: bool = False


def observe_nodes(
    targets: Mapping[str, SshTarget],
    ssh: OpenSsh,
    *,
    deadline_s: float = DEADLINE_S,
    first_contact: frozenset[str] = frozenset(),
    sudo_passwords: Mapping[str, str] | None = None,
) -> dict[str, Observation]:
    """Look at every node once, all at the same time, and return what was seen by name; writes nothing.

    `first_contact` names the nodes whose host key may be learnt now. A node that does not answer costs
    `deadline_s` and delays no other one, up to 64 nodes; beyond that they take turns. Raises nothing
    that concerns a single node.
    """
    if not targets:
        return {}
    passwords = sudo_passwords or {}
    cancel = threading.Event()

    def look(node: str) -> Observation:
        return observe_node(
            targets[node],
            ssh,
            node=node,
            deadline_s=deadline_s,
            first_contact=node in first_contact,
            sudo_password=passwords.get(node),
            cancel=cancel,
        )

    with ThreadPoolExecutor(min(_AT_ONCE, len(targets)), thread_name_prefix="observe") as pool:
        futures = {pool.submit(look, node): node for node in targets}
        try:
            seen = {futures[future]: future.result() for future in as_completed(futures)}
        except BaseException:  # Ctrl-C: the others must not be waited for
            cancel.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {node: seen[node] for node in targets}


def observe_node(
    target: SshTarget,
    ssh: OpenSsh,
    *,
    node: str,
    deadline_s: float = DEADLINE_S,
    first_contact: bool = False,
    sudo_password: str | None = None,
    cancel: threading.Event | None = None,
) -> Observation:
    """Look at one node in one SSH session; an error is returned, not raised."""
    mark = f"rpicluster-{secrets.token_hex(8)}"
    try:
        answer = ssh.run(
            target,
            ["sh", "-s", mark],
            node=node,
            deadline_s=deadline_s,
            stdin=script(),
            first_contact=first_contact,
            sudo=sudo_password is not None,
            sudo_password=sudo_password,
            probe_mark=f"{mark} ready\n".encode(),
            cancel=cancel,
        )
    except RpiclusterError as error:
        return Observation(error=error)
    output = answer.stdout.decode(errors="replace")
    if f"{mark} ready" not in output:
        return Observation(
            error=_no_shell(target, node, answer.status, answer.stderr or output),
            new_host_key=answer.new_host_key,
            reused=answer.reused,
        )
    facts = read_machine(output, mark, answer.probe)
    return Observation(facts=facts, new_host_key=answer.new_host_key, reused=answer.reused)


@cache
def script(*, sudo: bool = True) -> bytes:
    """Return the script that a node runs; it starts with its last line, when all of it has arrived.

    Without `sudo` it asks nobody to become root.
    """
    folder = Path(__file__).parent
    root = (folder / "root.sh").read_text()
    collect = (folder / "facts.sh").read_text()
    # The shell reads on from stdin after the last line, so it must end there by itself.
    no_sudo = "" if sudo else "yes"
    return f'root_part={shlex.quote(root)}\nno_sudo={no_sudo}\n{collect}\nfacts "$@"; exit\n'.encode()


def _no_shell(target: SshTarget, node: str, status: int, said: str) -> RpiclusterError:
    """Return the error for a login that ran something else than our shell, or a shell that cannot."""
    explained = failures.explain(said, target, node)
    if getattr(explained, "cause", None) != failures.Cause.UNKNOWN:
        return explained
    line = " / ".join(said.strip().splitlines()[-3:]) or "nothing"
    return RemoteCommandFailed(
        f"{node} ({failures.destination(target)}): the login runs no commands; "
        f"status {status}, it said: {line}",
        node=node,
        status=status,
        hint=f"see what a login does: {failures.login_command(target)} true",
    )
