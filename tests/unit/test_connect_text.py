"""Names, literals, messages and the files around the Connect client, without a server."""

import json
import stat
from pathlib import Path

import pytest

from rpicluster.errors import ServiceError, SessionLost, SqlError, Unreachable, UsageError
from rpicluster.services.connect.affected import changed_table, counting_query
from rpicluster.services.connect.connection import Connection, SparklyrDoor
from rpicluster.services.connect.door import Door
from rpicluster.services.connect.failures import Failure, explain, without_stack
from rpicluster.services.connect.protocol import load_messages
from rpicluster.services.connect.quoting import quote_identifier, quote_qualified, quote_string


def test_a_backtick_in_a_name_is_doubled():
    assert quote_identifier("a`; DROP TABLE b; --") == "`a``; DROP TABLE b; --`"
    assert quote_qualified(["rpi", "de`fault"]) == "`rpi`.`de``fault`"
    assert quote_qualified("a.b") == "`a.b`"


@pytest.mark.parametrize("name", ["", "a${spark.app.name}", "a\ud800"])
def test_a_name_that_spark_cannot_carry_is_refused(name):
    with pytest.raises(UsageError):
        quote_identifier(name)


def test_text_keeps_quotes_backslashes_and_dollars():
    assert quote_string("it's \\ ${x}") == "'it\\'s \\\\ \\u0024{x}'"


def test_a_java_stack_and_a_plan_are_cut_off():
    stack = "boom\n\tat org.apache.spark.X.run(X.scala:1)\n\nDriver stacktrace:\n\tat a.b(C.java:2)"
    assert without_stack(stack) == "boom"
    plan = "[A] no `b`. SQLSTATE: 42P01; line 1 pos 14;\n'Project [*]\n+- 'UnresolvedRelation [b]\n"
    assert without_stack(plan) == "[A] no `b`. SQLSTATE: 42P01; line 1 pos 14"
    assert without_stack("[B] x\n== SQL ==\nselect\n^^^") == "[B] x\n== SQL ==\nselect\n^^^"


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (Failure("UNAVAILABLE", "refused"), Unreachable, "does not answer: refused"),
        (Failure("DEADLINE_EXCEEDED", "late"), Unreachable, "no answer in time"),
        (Failure("UNAUTHENTICATED", "x"), ServiceError, "refused the session's token"),
        (Failure("UNIMPLEMENTED", "x"), ServiceError, "not Spark Connect"),
        (Failure("RESOURCE_EXHAUSTED", "x"), ServiceError, "too large"),
        (Failure("INTERNAL", "[INVALID_HANDLE.SESSION_CHANGED] x"), SessionLost, "driver was restarted"),
        (Failure("INTERNAL", "[INVALID_HANDLE.SESSION_CLOSED] x"), SessionLost, "idle for too long"),
        (Failure("INTERNAL", "[DIVIDE_BY_ZERO] x", {"sqlState": "22012"}), SqlError, "[DIVIDE_BY_ZERO] x"),
    ],
)
def test_each_kind_of_failure_has_its_own_error(failure, kind, words):
    error = explain(failure, where="127.0.0.1:1", full_details=lambda _: None)
    assert type(error) is kind
    assert words in error.message
    if kind is SqlError:
        assert (error.condition, error.sqlstate) == ("DIVIDE_BY_ZERO", "22012")


def test_a_host_that_is_not_this_machine_is_refused():
    for host in ("10.0.0.7", "pi1", "localhost.evil.example"):
        with pytest.raises(UsageError, match="this machine only"):
            Door(host=host, port=1, token="t", proto_path=Path("x"), user="me")
    for host in ("127.0.0.1", "127.64.0.1", "::1", "localhost"):
        Door(host=host, port=1, token="t", proto_path=Path("x"), user="me")


def test_missing_messages_are_named_with_their_place(tmp_path):
    with pytest.raises(ServiceError, match=str(tmp_path)):
        load_messages(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("INSERT INTO t VALUES (1)", "`n`.t"),
        (" -- why\n insert into table a.`b c` select 1", "a.`b c`"),
        ("INSERT OVERWRITE x SELECT 1", "`n`.x"),
        ("/* y */ delete from `a``b`", "`n`.`a``b`"),
        ("MERGE INTO rpi.default.t USING s ON 1 = 1", "rpi.default.t"),
    ],
)
def test_the_table_that_a_statement_changes_is_found(statement, table):
    assert changed_table(statement, "`n`").table == table


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "UPDATE t SET a = 1",
        "INSERT OVERWRITE DIRECTORY '/x' SELECT 1",
        "CREATE TABLE insert_into AS SELECT 1",
    ],
)
def test_other_statements_are_not_counted(statement):
    assert changed_table(statement, "`n`") is None


def test_the_counting_query_names_table_and_mark():
    query = counting_query(changed_table("DELETE FROM t", "`n`"), "abc")
    assert "FROM `n`.t.snapshots" in query
    assert query.endswith("= 'abc'")


def connection(**changes):
    fields = {
        "cluster": "c",
        "connect_port": 1,
        "token_file": "",
        "proto_path": "p",
        "user": "me",
        "webhdfs": "http://127.0.0.1:9870",
        "webhdfs_user": "me",
    }
    return Connection(**{**fields, **changes})


def test_a_connection_file_is_private_and_reads_back(tmp_path):
    path = tmp_path / "connection.json"
    path.write_text("old")
    path.chmod(0o644)
    connection().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Connection.load(path) == connection()
    assert json.loads(path.read_text())["schema"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["connection.json"]


def test_a_connection_file_says_where_the_gateway_is_and_an_older_one_that_there_is_none(tmp_path):
    path = tmp_path / "connection.json"
    there = connection(sparklyr=SparklyrDoor.at(18880, "1.9.5"))
    there.save(path)
    document = json.loads(path.read_text())
    assert document["sparklyr"] == {
        "host": "127.0.0.1",
        "port": 18880,
        "last_port": 18899,
        "session": 42,
        "version": "1.9.5",
    }
    assert Connection.load(path) == there
    del document["sparklyr"]
    path.write_text(json.dumps(document))
    assert Connection.load(path).sparklyr is None
    connection().save(path)
    assert json.loads(path.read_text())["sparklyr"] is None
    path.write_text(json.dumps({**document, "sparklyr": {"port": 1}}))
    with pytest.raises(UsageError, match="is not a connection file"):
        Connection.load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 2}', '{"schema": 1, "cluster": "c"}'])
def test_a_file_that_is_no_connection_is_named(tmp_path, text):
    path = tmp_path / "connection.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"connection\.json is not a connection file"):
        Connection.load(path)
    with pytest.raises(UsageError, match="does not exist"):
        Connection.load(tmp_path / "none.json")


def test_a_token_is_read_when_it_is_needed(tmp_path):
    token = tmp_path / "token"
    with pytest.raises(ServiceError, match="cannot be read"):
        connection(token_file=str(token)).token()
    token.write_text("secret\n")
    assert connection(token_file=str(token)).token() == "secret"
    assert connection().token() is None
