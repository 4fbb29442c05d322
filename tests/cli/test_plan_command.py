"""Specs plan, or are refused by an error that names the node; nothing is started."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpicluster.cli.main import run
from rpicluster.cluster import Cluster
from rpicluster.errors import RpiclusterError, SizingRefused
from rpicluster.model.spec import ClusterSpec
from rpicluster.model.specfile import parse_spec
from rpicluster.nodes.local.first_spec import initial_spec
from rpicluster.nodes.local.state import cluster_names, open_state

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yml"))


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    for name in cluster_names(tmp_path / "state"):
        open_state(name, root=tmp_path / "state").remove()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_plans(example, capsys):
    assert run(["plan", "--cluster", str(example), "--exit-code"]) == 3
    assert "Plan: " in capsys.readouterr().out


def test_init_with_ssh_writes_the_nodes_that_were_named_and_asks_none(tmp_path, capsys):
    assert run(["init", "--ssh", "pi@192.168.1.11,pi@192.168.1.12", "--name", "shelf"]) == 0
    assert "rpicluster check" in capsys.readouterr().err
    text = Path("cluster.yml").read_text()
    assert [node.ssh.host for node in parse_spec(text, "cluster.yml").nodes] == [
        "192.168.1.11",
        "192.168.1.12",
    ]
    assert run(["init", "--ssh", "pi@192.168.1.11"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(["init", "--ssh", "pi@a", "--workers", "2", "other.yml"]) == 2
    assert run(["init", "--ssh", "pi@a;id", "other.yml"]) == 2
    assert run(["init", "--ssh", "pi@a", "--name", "No!", "other.yml"]) == 2
    assert not Path("other.yml").exists()


def test_init_writes_a_spec_that_plans_and_never_overwrites_it(tmp_path, capsys):
    assert run(["init"]) == 0
    assert run(["plan"]) == 0
    assert "start namenode" in capsys.readouterr().out
    before = (tmp_path / "cluster.yml").read_text()
    assert run(["init"]) == 2
    assert (tmp_path / "cluster.yml").read_text() == before


def test_a_plan_is_saved_as_json_and_read_back(tmp_path, capsys):
    run(["init"])
    capsys.readouterr()
    assert run(["plan", "--json", "--output", "p.json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == 1
    assert json.loads(Path("p.json").read_text())["cluster"] == "demo"


def test_diff_shows_the_very_bytes(capsys):
    run(["init"])
    run(["plan", "--diff"])
    shown = capsys.readouterr().out
    assert any(
        line.startswith("      +") and "yarn.nodemanager.resource.memory-mb" in line
        for line in shown.splitlines()
    )


def test_explain_shows_a_sum_per_node(capsys):
    run(["init"])
    run(["plan", "--explain"])
    assert "YARN containers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("name: x\nnodez: []\n", 2, 'did you mean "nodes"?'),
        ("name: x\nnodes: [{name: a, local: {memory: 300M}}]\n", 2, "a"),
        ("name: x\nnodes: [{name: a, ssh: {host: h.invalid}}]\n", 2, "hardware"),
        (
            "name: x\nnodes: [{name: a, local: {memory: 4G}}]\nspark: {spark.executor.memory: 9g}\n",
            2,
            "spark.executor.memory",
        ),
    ],
)
def test_a_spec_that_cannot_be_is_refused_with_the_reason(text, code, said, capsys):
    Path("cluster.yml").write_text(text)
    assert run(["plan"]) == code
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_nodes_that_do_not_answer_can_be_planned_and_not_brought_up(capsys):
    Path("cluster.yml").write_text(
        "name: x\nnodes: [{name: a, ssh: {host: a.invalid, user: pi}, hardware: {memory: 4G}}]\n"
    )
    assert run(["plan", "--exit-code"]) == 3
    assert "a: never seen" in capsys.readouterr().err
    assert run(["up", "--yes"]) == 4
    assert "a.invalid" in capsys.readouterr().err


def test_without_a_terminal_and_without_yes_nothing_is_changed(capsys, monkeypatch):
    monkeypatch.setattr(Cluster, "ensure_runtime", lambda self, report: None)
    run(["init"])
    assert run(["up"]) == 2
    assert "add --yes" in capsys.readouterr().err


def test_a_stale_saved_plan_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(Cluster, "ensure_runtime", lambda self, report: None)
    run(["init"])
    run(["plan", "--output", "p.json"])
    text = Path("cluster.yml").read_text()
    Path("cluster.yml").write_text(text + "hdfs: {block_size: 32M}\n")
    assert run(["up", "--yes", "--plan", "p.json"]) == 2
    assert "stale" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["status"], ["sql", "select 1"], ["ls"], ["stop"], ["start"], ["jobs", "list"]]
)
def test_commands_on_a_cluster_that_never_was_say_what_to_type(arguments, capsys):
    run(["init"])
    assert run(arguments) == 2
    assert "rpicluster up" in capsys.readouterr().err


def test_no_cluster_at_all_says_so(capsys):
    assert run(["status"]) == 2
    assert "rpicluster init" in capsys.readouterr().err


SPECS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True),
        "nodes": st.lists(
            st.fixed_dictionaries(
                {
                    # what boards with 4, 8, 16, 2 and 1 GB show to their system
                    "memory": st.sampled_from(["3790M", "7800M", "15900M", "1849M"] * 5 + ["906M"]),
                    "cores": st.integers(1, 8),
                }
            ),
            min_size=1,
            max_size=8,
        ),
        "hdfs": st.fixed_dictionaries(
            {},
            optional={
                "replication": st.integers(1, 3),
                "block_size": st.sampled_from(["32M", "64M", "128M"]),
            },
        ),
        "sessions": st.fixed_dictionaries({}, optional={"max": st.integers(1, 2)}),
    }
)


def test_specs_drawn_from_the_schema_plan_or_name_the_node_that_is_too_small(tmp_path):
    planned, refused = [], []

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(SPECS)
    def draw(drawn):
        nodes = [
            {"name": f"n{i}", "ssh": {"host": f"n{i}.local", "user": "pi"}, "hardware": node}
            for i, node in enumerate(drawn["nodes"])
        ]
        spec = ClusterSpec.model_validate({**drawn, "nodes": nodes, "users": ["pi"]})
        try:
            plan = Cluster(spec, tmp_path / "cluster.yml").plan()
        except SizingRefused as error:
            assert error.node in error.message
            assert error.short_mib > 0
            refused.append(error)
        except RpiclusterError as error:
            assert "n" in error.message
            refused.append(error)
        else:
            assert plan.steps
            planned.append(plan)

    draw()
    assert len(planned) >= 0.75 * (len(planned) + len(refused)), (
        f"{len(planned)} planned, {len(refused)} refused"
    )


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_first_spec_of_this_machine_is_always_accepted(workers):
    assert "name: demo" in initial_spec(name="demo", workers=workers, memory=None)
