"""An R project: what is written, from what, and what is refused."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from rpicluster.cli.main import run
from rpicluster.design.project import Project, project_files
from rpicluster.errors import UsageError
from rpicluster.project.writing import templates, write_config, write_project

DOOR = "sparklyr://127.0.0.1:18880/42"
FILES = {
    ".Rprofile",
    ".gitignore",
    ".lintr",
    ".vscode/extensions.json",
    ".vscode/settings.json",
    ".vscode/tasks.json",
    "README.md",
    "analysis.R",
    "bench.R",
    "connect.R",
    "flights.Rproj",
}


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("RPICLUSTER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("RPICLUSTER_CLUSTER", raising=False)
    monkeypatch.chdir(tmp_path)


def files_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text("utf-8") for p in folder.rglob("*") if p.is_file()}


def test_a_project_has_what_both_editors_want_and_no_config_without_a_door():
    assert set(project_files(Project("flights", "demo"), templates())) == FILES
    assert set(project_files(Project("flights", "demo", DOOR), templates())) == FILES | {"config.yml"}


@pytest.mark.parametrize("project", [Project("p", None), Project("p", "demo"), Project("p", "demo", DOOR)])
def test_every_json_file_is_plain_json_and_names_the_cluster_if_there_is_one(project):
    files = {n: json.loads(t) for n, t in project_files(project, templates()).items() if n.endswith(".json")}
    assert files[".vscode/extensions.json"] == {"recommendations": ["REditorSupport.r"]}
    tasks = files[".vscode/tasks.json"]
    assert tasks["version"] == "2.0.0"
    assert [task["label"] for task in tasks["tasks"]] == ["connect", "status", "run", "bench"]
    # no shell reads what a process is given
    assert {task["type"] for task in tasks["tasks"]} == {"process"}
    named = {"RPICLUSTER_CLUSTER": "demo"} if project.cluster else None
    assert tasks.get("options", {}).get("env") == named
    assert files[".vscode/settings.json"].get("terminal.integrated.env.linux") == named


def test_config_yml_says_where_spark_connect_goes_and_leaves_laptop_paths_to_nobody():
    text = project_files(Project("p", "demo", DOOR, "http://127.0.0.1:4040/jobs/"), templates())["config.yml"]
    assert YAML(typ="safe").load(text) == {
        "default": {
            "sparklyr.connect.master": "sparklyr://127.0.0.1:18880/42",
            "sparklyr.gateway.timeout": 10,
            "sparklyr.apply.packages": False,
            "sparklyr.web.spark": "http://127.0.0.1:4040/jobs/",
        }
    }


def test_no_text_is_left_that_jinja_would_have_read():
    for project in (Project("p", None), Project("p", "demo", DOOR, "http://127.0.0.1:4040")):
        for name, text in project_files(project, templates()).items():
            assert not re.search(r"\{[{%]|[}%]\}|\bNone\b", text), name
            assert text.endswith("\n") and not text.endswith("\n\n"), name


@pytest.mark.parametrize("name", ["my-analysis", "Flüge 2013", "a", "飛行機", "a.b_c", "2013"])
def test_names_that_people_give_are_names(name):
    assert f"{name}.Rproj" in project_files(Project(name, None), templates())


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-x", "x-", ".x", "x.", "x ", "a/b", 'a"b', "a'b", "a\nb", "a$b", "a`b", "ä" * 51]
)
def test_a_name_that_some_program_would_misread_is_refused(name):
    with pytest.raises(UsageError, match="is no name for a project"):
        Project(name, None)


@given(st.text(max_size=120))
def test_whatever_name_is_taken_gives_json_that_can_be_read(name):
    try:
        project = Project(name, "demo", DOOR)
    except UsageError:
        return
    for path, text in project_files(project, templates()).items():
        assert "/" not in path.removeprefix(".vscode/")
        if path.endswith(".json"):
            json.loads(text)


def test_a_project_is_written_below_a_path_with_spaces_and_umlauts(tmp_path, capsys):
    folder = tmp_path / "Übung 1" / "meine Flüge"
    folder.parent.mkdir()
    assert run(["project", "new", str(folder)]) == 0
    assert set(files_of(folder)) == (FILES - {"flights.Rproj"}) | {"meine Flüge.Rproj"}
    assert [path.name for path in folder.parent.iterdir()] == ["meine Flüge"], "nothing else is left"
    assert "there is no cluster yet" in capsys.readouterr().err


@pytest.mark.parametrize("there", ["a file", "a folder with a file", "a link"])
def test_nothing_is_written_over_what_is_there(tmp_path, capsys, there):
    folder = tmp_path / "p"
    if there == "a file":
        folder.write_text("mine")
    elif there == "a link":
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.mkdir()
        (folder / "thesis.R").write_text("mine")
    before = {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")}
    assert run(["project", "new", "p"]) == 2
    assert "is there already; nothing was written" in capsys.readouterr().err
    assert {path: path.is_file() and path.read_text() for path in tmp_path.rglob("*")} == before


def test_a_disk_that_fills_up_leaves_nothing_half_written(tmp_path, monkeypatch):
    written = Path.write_text

    def full(path, *arguments, **keywords):
        if path.name == "bench.R":
            raise OSError(28, "No space left on device", str(path))
        return written(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_project(tmp_path / "p", Project("p", None))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["p", "--cluster", "nowhere"], "no cluster is called 'nowhere'"),
        (["missing/p"], "there is no folder"),
        (["p'; rm -rf x"], "is no name for a project"),
        (["."], "is there already"),
        (["/"], "is no name for a project"),
    ],
)
def test_bad_input_is_two_lines_and_exit_code_2(capsys, arguments, said):
    Path("keep.txt").write_text("mine")
    assert run(["project", "new", *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown and "hint: " in shown and "Traceback" not in shown


def test_config_yml_is_written_anew_but_not_over_somebody_elses(tmp_path):
    (tmp_path / "p").mkdir()
    write_config(tmp_path / "p", Project("p", "demo", DOOR))
    path = write_config(tmp_path / "p", Project("p", "demo", "sparklyr://127.0.0.1:18900/42"))
    assert "sparklyr://127.0.0.1:18900/42" in path.read_text()
    path.write_text("default:\n  mine: 1\n")
    with pytest.raises(UsageError, match="is not written by rpicluster"):
        write_config(tmp_path / "p", Project("p", "demo", DOOR))
    assert path.read_text() == "default:\n  mine: 1\n"
    with pytest.raises(UsageError, match="has no door for sparklyr"):
        write_config(tmp_path / "p", Project("p", "demo"))
