"""What daemons say is translated to names of cluster.yml, and lines to paste reach the right node."""

import shlex
from pathlib import Path
from typing import Any, cast

from rpicluster.design.preview import assumed_placement
from rpicluster.errors import Unreachable
from rpicluster.health.findings.registry import diagnose
from rpicluster.health.looking import line_to_paste, look_at_daemons, look_here
from rpicluster.health.status import Part
from rpicluster.model.spec import ClusterSpec
from rpicluster.nodes.ssh.observe import script
from rpicluster.services.namenode import DataNodeReport, NameNode, NameNodeReport
from rpicluster.services.yarn import NodeReport, Yarn

SPEC = ClusterSpec.model_validate(
    {
        "name": "lab",
        "nodes": [
            {"name": "pi1", "ssh": {"host": "10.0.0.1", "user": "pi"}},
            {"name": "pi2", "ssh": {"host": "10.0.0.2", "user": "pi", "port": 2222}},
            {"name": "pi3", "ssh": {"host": "pi3.local", "config": "/home/me/ssh config"}},
        ],
        "users": ["ana"],
    }
)


class Says:
    """A daemon's client that gives one answer, or none."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def report(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    nodes = report


def hdfs(*datanodes: DataNodeReport, safe_mode: str = "") -> NameNodeReport:
    return NameNodeReport("3.5.0", safe_mode, 100, 1, 99, 1, 5, 0, 0, 2, 0, datanodes)


def nodemanager(host: str, state: str, health: str = "") -> NodeReport:
    return NodeReport(f"{host}:45454", host, f"{host}:8042", state, health, 0, 2048, 0, 4, 0, 0.0)


def asked(namenode: Any, yarn: Any, **more: Any) -> set[tuple[str, str | None]]:
    seen = look_at_daemons(
        SPEC,
        assumed_placement(SPEC),
        namenode=cast(NameNode, Says(namenode)),
        yarn=cast(Yarn, Says(yarn)),
        **more,
    )
    return {(f.id, f.node) for f in diagnose(SPEC, {}, seen, on=line_to_paste(SPEC))}


def test_daemons_that_are_well_give_no_finding() -> None:
    live = (DataNodeReport("10.0.0.2:9866", "live", 1), DataNodeReport("pi3.local:9866", "live", 1))
    running = [nodemanager("10.0.0.2", "RUNNING"), nodemanager("pi3.local", "RUNNING")]
    healthy = hdfs(*live)
    assert asked(healthy, running) == {("blocks-under-replicated", None)}, "the report says 2 of 5"


def test_dead_and_unhealthy_daemons_are_named_by_their_node() -> None:
    report = hdfs(DataNodeReport("10.0.0.2:9866", "dead", 700), safe_mode="Safe mode is ON.")
    found = asked(report, [nodemanager("10.0.0.2", "UNHEALTHY", "1/1 local-dirs are bad")])
    assert {("datanode-dead", "pi2"), ("datanode-dead", "pi3"), ("safe-mode", "pi1")} <= found
    assert {("nodemanager-unhealthy", "pi2"), ("nodemanager-unhealthy", "pi3")} <= found


def test_a_daemon_that_does_not_answer_costs_its_own_part_only() -> None:
    found = asked(Unreachable("NameNode at 10.0.0.1:9870 refuses"), [nodemanager("10.0.0.2", "LOST")])
    assert ("namenode-silent", "pi1") in found
    assert ("nodemanager-unhealthy", "pi2") in found
    assert not any(kind.startswith(("datanode", "blocks", "safe")) for kind, _ in found)


def test_what_status_saw_and_a_token_that_others_read_are_findings(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o644)
    parts = [Part("datanode", "pi2", "frozen", "process 9 was stopped"), Part("namenode", "pi1", "ok", "")]
    running = [nodemanager("10.0.0.2", "RUNNING"), nodemanager("pi3.local", "RUNNING")]
    found = asked(hdfs(), running, parts=parts, private=[token, tmp_path / "none"])
    assert {("daemon-down", "pi2"), ("secret-readable", None)} <= found


def test_a_line_to_paste_is_one_shell_line_that_names_the_node() -> None:
    on = line_to_paste(SPEC, Path("/home/me/default config"))
    line = on("pi2", "sudo sed -i 's/a b/c/' /etc/hosts")
    words = shlex.split(line, comments=True)
    assert words[:2] == ["ssh", "-t"]
    assert words[-2:] == ["pi@10.0.0.2", "sudo sed -i 's/a b/c/' /etc/hosts"]
    assert words[words.index("-p") + 1] == "2222"
    assert words[words.index("-F") + 1] == "/home/me/default config"
    assert line.endswith("  # pi2")
    own = shlex.split(on("pi3", "df -h"))
    assert own == ["ssh", "-F", "/home/me/ssh config", "pi3.local", "df -h"], "its host names it already"
    assert on("this machine", "df -h") == "df -h"


def test_this_machine_is_seen_by_the_script_of_the_nodes_and_nobody_is_asked_for_root(tmp_path: Path) -> None:
    found = look_here(only_mounts_of=[tmp_path])
    assert found.memory and found.processor and found.os
    assert len(found.mounts) == 1 and found.mount_of(str(tmp_path)) == found.mounts[0]
    assert found.privilege in ("root", "none")
    assert b"\nno_sudo=yes\n" in script(sudo=False) and b"\nno_sudo=\n" in script()
