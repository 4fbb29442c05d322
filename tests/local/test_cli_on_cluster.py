"""The commands, run as a user would, on the shared cluster."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from rpicluster.cli.main import run

pytestmark = pytest.mark.cluster


@pytest.fixture
def cli(cluster, monkeypatch, capsys):
    """Run one command; return its exit code, stdout and stderr."""
    monkeypatch.setenv("RPICLUSTER_CLUSTER", "shared")

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(list(arguments))
        shown = capsys.readouterr()
        assert "Traceback" not in shown.err
        return code, shown.out, shown.err

    return call


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_healthy_cluster_says_so_in_json(cli):
    code, out, _ = cli("status", "--json")
    document = json.loads(out)
    assert (code, document["schema"], document["healthy"]) == (0, 1, True)
    assert [part["name"] for part in document["parts"]][:2] == ["namenode", "datanode"]


def test_a_second_plan_has_nothing_to_do(cli):
    assert cli("plan", "--exit-code")[:2] == (0, "Plan: nothing to do\n")


def test_connect_shows_pages_that_load(cli):
    document = json.loads(cli("connect", "--pages", "--json")[1])
    assert document["proxy"] is None, "they are on this machine"
    assert set(document["pages"]) == {"YARN", "HDFS", "Spark"}
    for address in document["pages"].values():
        with urllib.request.urlopen(address, timeout=20) as page:
            assert page.status == 200 and len(page.read()) > 100
        assert address in cli("connect", "--pages")[1]


def test_files_go_up_are_listed_come_back_and_go_to_the_trash(cli, own_folder):
    (own_folder / "ü %d.bin").write_bytes(os.urandom(3_000_000))
    assert cli("put", "ü %d.bin", "box/")[0] == 0
    assert "ü %d.bin" in cli("ls", "box")[1]
    assert cli("put", "ü %d.bin", "box/")[0] == 1, "an existing file is not overwritten"
    assert cli("get", "box/ü %d.bin", "back.bin")[0] == 0
    assert Path("back.bin").read_bytes() == Path("ü %d.bin").read_bytes()
    assert cli("rm", "box/ü %d.bin")[0] == 0
    assert cli("get", "box/ü %d.bin", "again.bin")[0] != 0
    assert not Path("again.bin").exists()


def test_df_counts_replicas(cli):
    document = json.loads(cli("df", "--json")[1])
    assert document["replication"] == 2
    assert document["fits_bytes"] == document["remaining_bytes"] // 2


def test_a_csv_becomes_a_table_that_is_appended_to_and_replaced(cli, own_folder):
    Path("t.csv").write_text("id,name,x\n1,a,1.5\n2,NA,\n")
    assert cli("put", "t.csv", "--table", "cli_t", "--yes")[0] == 0
    assert cli("put", "t.csv", "--table", "cli_t", "--yes")[0] == 2, "it is there already"
    assert cli("put", "t.csv", "--table", "cli_t", "--append", "--yes")[0] == 0
    rows = json.loads(cli("sql", "--json", "select count(*), count(name), sum(x) from cli_t")[1])["rows"]
    assert rows == [[4, 2, 3.0]]
    assert cli("put", "t.csv", "--table", "cli_t", "--replace", "--yes")[0] == 0
    described = json.loads(cli("tables", "cli_t", "--json")[1])
    assert described["rows"] == 2
    assert [column["type"] for column in described["columns"]] == ["int", "string", "double"]
    assert "cli_t" in cli("tables")[1].split()
    cli("sql", "drop table cli_t")
    assert "cli_t" not in cli("tables")[1].split()


def test_rows_that_do_not_fit_the_table_change_nothing(cli, own_folder):
    Path("t.csv").write_text("id\n1\n")
    Path("u.csv").write_text("other\nx\n")
    cli("put", "t.csv", "--table", "cli_fit", "--yes")
    code, _, err = cli("put", "u.csv", "--table", "cli_fit", "--append", "--yes")
    assert code == 1
    assert "other" in err or "id" in err
    assert json.loads(cli("sql", "--json", "select * from cli_fit")[1])["rows"] == [[1]]
    cli("sql", "drop table cli_fit")


@pytest.mark.parametrize("name", ["a;b", "a'b", 'a"b', "a`b", "../x"])
def test_a_table_name_that_is_none_is_refused_before_anything_is_sent(cli, own_folder, name):
    Path("t.csv").write_text("id\n1\n")
    code, _, err = cli("put", "t.csv", "--table", name, "--yes")
    assert code == 2
    assert "is no table name" in err


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("selct 1", "PARSE_SYNTAX_ERROR"),
        ("select * from nowhere", "TABLE_OR_VIEW_NOT_FOUND"),
        ("select 1/0", "DIVIDE_BY_ZERO"),
        ("select 1; drop table x", "PARSE_SYNTAX_ERROR"),
    ],
)
def test_sql_errors_are_sparks_message_without_a_stack(cli, statement, said):
    code, _, err = cli("sql", statement)
    assert code == 1
    assert said in err
    assert "\tat " not in err


@pytest.mark.parametrize("source", ["missing.csv", "/dev/zero", "."])
def test_a_put_of_what_is_no_file_says_so(cli, own_folder, source):
    code, _, err = cli("put", source, "--table", "t", "--yes")
    assert code == 2
    assert source in err or "holds no files" in err


def test_sql_as_csv_is_what_put_reads_back(cli, own_folder):
    out = cli(
        "sql", "--format", "csv", "select 1 as id, cast(null as string) as s union all select 2, 'a,b'"
    )[1]
    assert out == 'id,s\n1,NA\n2,"a,b"\n'


def test_null_na_and_empty_text_are_told_apart_after_the_way_through_csv(cli, own_folder):
    query = (
        "select * from values (1, 'NA'), (2, ''), (3, cast(null as string)), (4, 'say \"so\"') as t(id, s)"
    )
    Path("t.csv").write_text(cli("sql", "--format", "csv", query)[1])
    assert cli("put", "t.csv", "--table", "cli_back", "--replace", "--yes")[0] == 0
    rows = json.loads(cli("sql", "--json", "select id, s from cli_back order by id")[1])["rows"]
    assert rows == [[1, "NA"], [2, ""], [3, None], [4, 'say "so"']]


def test_jobs_are_listed_and_their_logs_are_shown(cli):
    jobs = json.loads(cli("jobs", "list", "--json")[1])["jobs"]
    running = next(job for job in jobs if job["state"] == "RUNNING")
    code, out, _ = cli("jobs", "logs", running["id"])
    assert code == 0
    assert "stderr" in out


def test_an_unknown_job_says_so(cli):
    code, _, err = cli("jobs", "logs", "application_1_0001")
    assert code != 0
    assert "application_1_0001" in err


def test_connect_prints_lines_that_work(cli):
    code, out, _ = cli("connect", "--python")
    assert code == 0
    done = subprocess.run(
        [sys.executable, "-c", out], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[(1,)]"


def test_ctrl_c_cancels_on_the_cluster_and_leaves_the_session_usable(cli, cluster):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "rpicluster",
            "sql",
            "select count(*) from range(100000000000) where hash(id) = 1",
        ],
        env={**os.environ, "RPICLUSTER_CLUSTER": "shared"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    application = cluster.check_door()["application"]
    deadline = time.monotonic() + 60
    while not any(job.status == "RUNNING" for job in cluster.spark.jobs(application)):
        assert time.monotonic() < deadline, "the query never started"
        time.sleep(0.2)
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    while any(job.status == "RUNNING" for job in cluster.spark.jobs(application)):
        assert time.monotonic() - interrupted < 20, "the job still runs on the cluster"
        time.sleep(0.1)
    assert process.wait(30) == 130, process.stderr.read()
    assert json.loads(cli("sql", "--json", "select 41 + 1")[1])["rows"] == [[42]]
