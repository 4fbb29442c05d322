"""`rpicluster doctor`: what it prints, its exit codes, its JSON and its report; no node is asked."""

import json
import sys
import tarfile
from pathlib import Path

import pytest

from rpicluster.cli.main import run
from rpicluster.errors import NodeUnreachable
from rpicluster.health import doctor as health_doctor
from rpicluster.nodes.local.state import cluster_names, open_state
from rpicluster.nodes.ssh.observe import Observation

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
import doctor_cases as cases

SPEC = "name: shelf\nnodes:\n" + "".join(
    f"  - {{name: pi{n}, ssh: {{host: 10.0.0.{n}, user: pi}}, hardware: {{memory: 3790M}}}}\n"
    for n in (1, 2, 3)
)


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    for name in cluster_names(tmp_path / "state"):
        open_state(name, root=tmp_path / "state").remove()


@pytest.fixture
def shelf(monkeypatch):
    """Nodes that show the facts of a case."""
    Path("cluster.yml").write_text(SPEC + "users: [ana]\n")

    def show(case):
        seen = {
            name: Observation(error=found) if isinstance(found, Exception) else Observation(facts=found)
            for name, found in case.nodes().items()
        }
        monkeypatch.setattr(
            health_doctor, "observe_nodes", lambda targets, ssh: {n: seen[n] for n in targets}
        )

    return show


def test_a_healthy_cluster_says_so_in_one_line(shelf, capsys):
    shelf(cases.Case())
    assert run(["doctor"]) == 0
    assert capsys.readouterr().out.startswith("shelf: 0 problems, 0 warnings on 3 nodes, ")


def test_warnings_alone_are_no_failure(shelf, capsys):
    shelf(cases.on(clock=cases.offsets(0, 3, 0).facts["pi2"]["clock"]))
    assert run(["doctor"]) == 0
    assert "1 warning on" in capsys.readouterr().out


def test_a_problem_is_printed_with_cause_evidence_and_a_line_to_paste(shelf, capsys):
    shelf(cases.Case(facts={"pi2": {"userland_bits": 32}, "pi1": {"java": ()}}))
    assert run(["doctor"]) == 6
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pi2", "problems come first"
    assert "[userland-32-bit]" in lines[1]
    assert [line.split()[0] for line in lines[2:5]] == ["cause:", "seen:", "fix:"]
    assert lines[5].strip().startswith("ssh pi@10.0.0.2 ") and lines[5].endswith("# pi2")
    assert lines[-1].startswith("shelf: 1 problem, 0 warnings, 1 note on 3 nodes, ")


def test_a_node_that_cannot_be_looked_at_is_exit_4_whatever_else_is_wrong(shelf, capsys):
    shelf(
        cases.Case(
            facts={"pi1": {"userland_bits": 32}}, errors=cases.fails(NodeUnreachable, "no answer").errors
        )
    )
    assert run(["doctor"]) == 4
    assert "not looked at: pi2" in capsys.readouterr().out


def test_json_is_one_document_with_notes_apart_from_findings(shelf, capsys):
    shelf(cases.Case(facts={"pi2": {"userland_bits": 32}, "pi1": {"java": ()}}))
    assert run(["doctor", "--json"]) == 6
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["cluster"]) == (1, "shelf")
    assert document["counts"] == {"problem": 1, "warning": 0, "note": 1}
    assert [finding["id"] for finding in document["findings"]] == ["userland-32-bit"]
    assert [finding["id"] for finding in document["notes"]] == ["java-missing"]
    assert set(document["findings"][0]) == {
        "id", "node", "severity", "what", "cause", "evidence", "fix", "command", "doc",
    }  # fmt: skip
    assert document["nodes"] == dict.fromkeys(("pi1", "pi2", "pi3"), "seen")


def test_a_report_holds_spec_plan_and_rendered_files_and_is_not_overwritten(shelf, tmp_path, capsys):
    shelf(cases.Case())
    assert run(["doctor", "--bundle", "report.tar.gz"]) == 0
    with tarfile.open("report.tar.gz") as archive:
        names = {name.removeprefix("rpicluster-report/") for name in archive.getnames()}
    assert {"cluster.yml", "plan.txt", "facts.json", "findings.json", "versions.json"} <= names
    assert "rendered/pi2/hadoop/yarn-site.xml" in names
    assert run(["doctor", "--bundle", "report.tar.gz"]) == 2
    assert "not overwritten" in capsys.readouterr().err


def test_a_cluster_on_this_machine_that_was_never_up_looks_at_the_machine(capsys):
    run(["init"])
    capsys.readouterr()
    assert run(["doctor", "--json"]) in (0, 6)  # this machine's own disk may be full
    document = json.loads(capsys.readouterr().out)
    assert document["nodes"] == {"this machine": "seen"}
    about_disks = {"disk-full", "disk-read-only", "disk-errors", "out-of-memory"}
    about_heat = {"under-voltage", "throttled", "hot"}
    assert {finding["id"] for finding in document["findings"]} <= about_disks | about_heat


def test_a_cluster_whose_daemons_are_down_names_each_of_them_once(java_home, capsys):
    run(["init"])
    state = open_state("demo")
    (state.directory / "cluster.yml").write_bytes(Path("cluster.yml").read_bytes())  # as `up` leaves it
    capsys.readouterr()
    assert run(["doctor", "--json", "--bundle", "r.tar.gz"]) == 6
    found = [(f["id"], f["node"]) for f in json.loads(capsys.readouterr().out)["findings"]]
    down = [node for kind, node in found if kind == "daemon-down"]
    assert sorted(down) == ["manager"] * 3 + ["worker1"] * 2 + ["worker2"] * 2
    assert not any(kind.endswith("-silent") for kind, _ in found)
    with tarfile.open("r.tar.gz") as archive:
        assert "rpicluster-report/rendered/manager/hadoop/hdfs-site.xml" in archive.getnames()
