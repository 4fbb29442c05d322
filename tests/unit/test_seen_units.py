"""An `up` without changes asks no node twice: the look that the plan was made from says what runs."""

import tempfile
from pathlib import Path

from rpicluster.errors import NodeUnreachable
from rpicluster.model.machine import MachineFacts, SystemdUnit
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.remote.place import Look, RemotePlace
from rpicluster.nodes.remote.state import open_remote_state
from rpicluster.nodes.ssh.openssh import OpenSsh

SPEC = parse_spec("name: lab\nnodes:\n  - {name: pi1, ssh: {host: pi1}}\n  - {name: pi2, ssh: {host: pi2}}\n")


def unit(name: str, active: str, sub: str, pid: int | None = None) -> SystemdUnit:
    return SystemdUnit(name=name, loaded="loaded", active=active, sub=sub, pid=pid)


def test_units_are_as_the_look_saw_them_and_nobody_is_asked(tmp_path: Path) -> None:
    seen = MachineFacts(
        units={
            "rpicluster-namenode.service": unit("namenode", "active", "running", 7),
            "rpicluster-resourcemanager.service": unit("rm", "activating", "auto-restart"),
        }
    )
    error = NodeUnreachable("pi2 does not answer", node="pi2", cause="unknown")
    look = Look({"pi1": seen, "pi2": seen}, {"pi2": error.message}, {"pi2": error}, {})
    with tempfile.TemporaryDirectory(prefix="ssh-") as control:  # a short path: ssh's sockets want one
        place = RemotePlace(SPEC, open_remote_state("lab", root=tmp_path), OpenSsh(Path(control)))
        found = place.seen_units(
            {"pi1": ("namenode", "resourcemanager", "session-pi"), "pi2": ("datanode",)}, look
        )
    assert [(u.node, u.unit, u.state, u.pid) for u in found] == [
        ("pi1", "namenode", "running", 7),
        ("pi1", "resourcemanager", "failed", None),
        ("pi1", "session-pi", "stopped", None),
        ("pi2", "datanode", "unknown", None),
    ]
    assert found[-1].detail == "pi2 does not answer"
