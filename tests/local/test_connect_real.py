"""The Connect client against a real Spark Connect server (local[2], Iceberg in a temporary warehouse)."""

import contextlib
import datetime as dt
import math
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from decimal import Decimal
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rpicluster import rbridge
from rpicluster.errors import ServiceError, SessionLost, SqlError, Unreachable, UsageError
from rpicluster.runtime.store import installed
from rpicluster.services.connect import execution, protocol, staging
from rpicluster.services.connect.connection import Connection
from rpicluster.services.connect.quoting import quote_identifier, quote_string
from rpicluster.services.connect.session import ConnectSession

pytestmark = pytest.mark.cluster
TOKEN = "a token of the tests"
# What Spark's launcher adds for Java 17 (JavaModuleOptions); plain `java` must be told.
OPENS = [
    *(f"java.base/java.{p}" for p in ("lang", "lang.invoke", "lang.reflect", "io", "net", "nio", "util")),
    *(f"java.base/{p}" for p in ("java.util.concurrent", "java.util.concurrent.atomic", "jdk.internal.ref")),
    *(f"java.base/sun.{p}" for p in ("nio.ch", "nio.cs", "security.action", "util.calendar")),
    "java.security.jgss/sun.security.krb5",
]


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Server:
    """A Spark Connect server of its own process, which can be stopped, frozen and started again."""

    def __init__(self, runtime, directory):
        self.runtime, self.directory, self.port = runtime, directory, free_port()
        self.process = None

    def start(self):
        settings = {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.local.dir": self.directory / "scratch",
            "spark.sql.shuffle.partitions": 2,
            "spark.sql.warehouse.dir": self.directory / "spark-warehouse",
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": self.port,
            "spark.connect.progress.reportInterval": "200ms",
            "spark.sql.catalogImplementation": "in-memory",
            "spark.sql.catalog.rpi": "org.apache.iceberg.spark.SparkCatalog",
            "spark.sql.catalog.rpi.type": "hadoop",
            "spark.sql.catalog.rpi.warehouse": f"file://{self.directory}/warehouse",
        }
        command = ["java", "-Xmx1g", "-XX:+IgnoreUnrecognizedVMOptions", "--add-modules=jdk.incubator.vector"]
        command += [f"--add-opens={package}=ALL-UNNAMED" for package in OPENS]
        command += ["-cp", f"{self.runtime.path}/jars/*", "org.apache.spark.deploy.SparkSubmit"]
        command += ["--master", "local[2]"]
        for key, value in settings.items():
            command += ["--conf", f"{key}={value}"]
        command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "spark-internal"]
        environment = {**os.environ, "SPARK_CONNECT_AUTHENTICATE_TOKEN": TOKEN, "SPARK_LOCAL_IP": "127.0.0.1"}
        self.log = self.directory / "server.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.directory, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            with contextlib.suppress(Unreachable), self.session(namespace=None) as session:
                session.sql("CREATE NAMESPACE IF NOT EXISTS rpi.default")
                return
            time.sleep(0.5)
        pytest.fail(f"no answer in 150 s: {self.log.read_text()[-2000:]}")

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(30)

    def session(self, **changes):
        fields = {
            "port": self.port,
            "token": TOKEN,
            "proto_path": self.runtime.path / "connect",
            "user": "tester",
        }
        return ConnectSession(**{**fields, **changes})


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    runtime = installed()
    if runtime is None:
        pytest.skip("the runtime is not installed: rpicluster runtime fetch")
    if shutil.which("java") is None:
        pytest.skip("there is no Java")
    server = Server(runtime, tmp_path_factory.mktemp("connect"))
    try:
        server.start()
        yield server
    finally:
        if server.process is not None and server.process.poll() is None:
            server.process.send_signal(signal.SIGCONT)
            server.stop()


@pytest.fixture(scope="module")
def session(server):
    with server.session() as session:
        yield session


@pytest.fixture
def table(session):
    name = f"t{time.monotonic_ns()}"
    yield name
    session.sql(f"DROP TABLE IF EXISTS {name}")


class DirectoryStaging:
    """A folder that this machine and Spark both see."""

    def __init__(self, directory):
        self.directory = directory

    def put(self, local, name):
        shutil.copy(local, self.directory / name)
        return str(self.directory / name)

    def remove(self, name):
        (self.directory / name).unlink(missing_ok=True)


def only(result):
    ((value,),) = result.rows()
    return value


# --- types ---------------------------------------------------------------------------------------------

UTC = dt.UTC
MATRIX = [
    ("1Y", "tinyint", 1),
    ("cast(-128 as tinyint)", "tinyint", -128),
    ("cast(32767 as smallint)", "smallint", 32767),
    ("cast(-2147483648 as int)", "int", -(2**31)),
    ("2147483647", "int", 2**31 - 1),
    ("9007199254740993L", "bigint", 2**53 + 1),
    ("cast('-9223372036854775808' as bigint)", "bigint", -(2**63)),
    ("9223372036854775807L", "bigint", 2**63 - 1),
    ("cast(1.5 as float)", "float", 1.5),
    ("double('Infinity')", "double", math.inf),
    ("double('-Infinity')", "double", -math.inf),
    ("4.9e-324D", "double", 5e-324),
    ("1.7976931348623157e308D", "double", sys.float_info.max),
    ("0.1D", "double", 0.1),
    ("true", "boolean", True),
    ("false", "boolean", False),
    ("''", "string", ""),
    ("'😀 ünï'", "string", "😀 ünï"),
    ("concat('a', char(0), 'b')", "string", "a\0b"),
    ("X''", "binary", b""),
    ("X'00FF10'", "binary", b"\x00\xff\x10"),
    ("date'0001-01-01'", "date", dt.date(1, 1, 1)),
    ("date'9999-12-31'", "date", dt.date(9999, 12, 31)),
    ("date'1969-12-31'", "date", dt.date(1969, 12, 31)),
    ("timestamp_ntz'1582-10-10 00:00:00'", "timestamp_ntz", dt.datetime(1582, 10, 10)),
    ("timestamp_ntz'1969-12-31 23:59:59.999999'", "timestamp_ntz",
     dt.datetime(1969, 12, 31, 23, 59, 59, 999999)),
    ("timestamp_ntz'2024-03-31 02:30:00'", "timestamp_ntz", dt.datetime(2024, 3, 31, 2, 30)),
    ("timestamp'1960-05-05 01:02:03.000001Z'", "timestamp", dt.datetime(1960, 5, 5, 1, 2, 3, 1, UTC)),
    ("timestamp'9999-12-31 12:00:00Z'", "timestamp", dt.datetime(9999, 12, 31, 12, tzinfo=UTC)),
    ("cast('12345678901234567890.123456789012345678' as decimal(38,18))", "decimal(38,18)",
     Decimal("12345678901234567890.123456789012345678")),
    ("cast('0.000000000000000001' as decimal(38,18))", "decimal(38,18)", Decimal("0.000000000000000001")),
    ("cast('-99999999999999999999999999999999999999' as decimal(38,0))", "decimal(38,0)",
     Decimal(-(10**38 - 1))),
    ("1.50BD", "decimal(3,2)", Decimal("1.50")),
    ("null", "void", None),
    ("array(1, null, 3)", "array<int>", [1, None, 3]),
    ("array()", "array<void>", []),
    ("map('k', 1L)", "map<string,bigint>", [("k", 1)]),
    ("named_struct('a', 1, 'b', array('x'))", "struct<a:int,b:array<string>>", {"a": 1, "b": ["x"]}),
    ("interval '1 02:03:04.5' day to second", "interval day to second",
     dt.timedelta(days=1, hours=2, minutes=3, seconds=4.5)),
    ("cast('x' as varchar(5))", "string", "x"),
]  # fmt: skip


@pytest.mark.parametrize(("expression", "name", "value"), MATRIX, ids=[row[0] for row in MATRIX])
def test_a_value_arrives_exactly(session, expression, name, value):
    result = session.sql(f"SELECT {expression} AS x")
    assert [(f.name, f.type) for f in result.schema] == [("x", name)]
    got = only(result)
    assert got == value
    assert type(got) is type(value)


def test_every_type_is_null_in_one_row_and_typed_without_rows(session):
    kinds = [name for _, name, _ in MATRIX if name not in ("void", "array<void>")]
    columns = ", ".join(f"cast(null as {kind}) AS c{i}" for i, kind in enumerate(kinds))
    row = session.sql(f"SELECT {columns}").rows()
    assert row == [(None,) * len(kinds)]
    empty = session.sql(f"SELECT {columns} FROM range(0)")
    assert [field.type for field in empty.schema] == kinds
    table = empty.table()
    assert (table.num_rows, table.num_columns) == (0, len(kinds))


def test_nan_and_negative_zero_keep_their_sign(session):
    nan, zero = session.sql("SELECT double('NaN'), -0.0D").rows()[0]
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Apia", "Australia/Lord_Howe"]
INSTANTS = [
    "1883-11-18 12:00:00", "1969-12-31 23:59:59.999999", "2024-03-31 00:59:59", "2024-03-31 01:00:00",
    "2024-10-27 00:30:00", "2024-10-27 01:30:00", "2011-12-30 12:00:00", "2262-04-12 00:00:00",
    "0001-01-03 00:00:00",
]  # fmt: skip


@pytest.mark.parametrize("zone", ZONES)
def test_an_instant_is_the_same_in_every_session_time_zone(server, zone):
    with server.session() as session:
        session.set_conf(**{"spark.sql.session.timeZone": zone})
        for instant in INSTANTS:
            moment, micros, local, text = session.sql(
                "SELECT x, unix_micros(x), cast(x AS timestamp_ntz), cast(x AS string) "
                f"FROM (SELECT timestamp'{instant}Z' x)"
            ).rows()[0]
            expected = dt.datetime.fromisoformat(instant).replace(tzinfo=UTC)
            # Across zones Python calls the repeated hour of autumn unequal to everything (PEP 495).
            assert moment.astimezone(UTC) == expected
            since = moment.astimezone(UTC) - dt.datetime(1970, 1, 1, tzinfo=UTC)
            assert since // dt.timedelta(microseconds=1) == micros
            if (
                expected.year > 1900
            ):  # before, zones had offsets that tz data and Spark's texts cut differently
                assert moment.replace(tzinfo=None) == local
                assert moment.tzinfo == ZoneInfo(zone)
                assert text.startswith(local.strftime("%Y-%m-%d %H:%M:%S"))


def test_a_date_python_has_no_type_for_is_refused_and_still_in_the_table(session):
    statement = "SELECT make_date(12000, 1, 1) AS d"
    with pytest.raises(UsageError, match=r"column 'd' of type date.*"):
        session.sql(statement).rows()
    assert session.sql(statement).table().column(0).cast(pa.int32()).to_pylist() == [
        only(session.sql("SELECT unix_date(make_date(12000, 1, 1))"))
    ]


def test_an_interval_of_months_is_refused_with_a_way_out(session):
    result = session.sql("SELECT interval '-1-2' year to month AS i")
    assert result.schema[0].type == "interval year to month"
    with pytest.raises(UsageError, match="cannot be read here") as caught:
        result.rows()
    assert "cast(i as string)" in caught.value.hint
    assert only(session.sql("SELECT cast(interval '-1-2' year to month AS string)")).endswith(
        "'-1-2' YEAR TO MONTH"
    )


# --- statements ----------------------------------------------------------------------------------------


def test_columns_of_one_name_stay_apart(session):
    result = session.sql("SELECT 1 AS a, 'x' AS a")
    assert result.columns == ["a", "a"]
    assert result.rows() == [(1, "x")]


def test_a_command_is_done_when_it_returns(session, table):
    assert session.sql(f"CREATE TABLE {table} AS SELECT id FROM range(10)").is_command
    counted = session.sql(f"INSERT INTO {table} SELECT id FROM range(5)", count_affected=True)
    assert counted.affected == 5
    assert session.sql(f"DELETE FROM {table} WHERE id % 2 = 1", count_affected=True).affected == 7
    merge = f"MERGE INTO {table} t USING (SELECT explode(array(76L, 77L)) AS id) s ON t.id = s.id "
    merge += "WHEN MATCHED AND s.id = 77 THEN DELETE WHEN NOT MATCHED THEN INSERT *"
    assert session.sql(merge, count_affected=True).affected == 2
    assert session.sql(merge, count_affected=True).affected == 1
    session.sql(merge)
    only_inserts = (
        f"MERGE INTO {table} t USING (SELECT 78L AS id) s ON t.id = s.id WHEN NOT MATCHED THEN INSERT *"
    )
    assert session.sql(only_inserts, count_affected=True).affected == 1
    assert only(session.sql(f"SELECT count(*) FROM {table}")) == 11
    assert table in [row[1] for row in session.sql("SHOW TABLES").rows()]
    assert [field.name for field in session.columns_of(table)] == ["id"]


def test_a_delete_of_whole_files_has_no_count(session, table):
    session.sql(f"CREATE TABLE {table} AS SELECT id FROM range(10)")
    assert session.sql(f"DELETE FROM {table}", count_affected=True).affected is None


def test_parameters_are_values_and_never_text(session):
    evil = "'; DROP TABLE x; --${spark.app.name}"
    values = [None, True, 7, 2**40, 1.5, evil, b"\0'", Decimal("1.50"), dt.date(1, 1, 1)]
    marks = ", ".join("?" for _ in values)
    assert session.sql(f"SELECT {marks}", params=values).rows() == [tuple(values)]
    moment = dt.datetime(1960, 1, 1, 0, 0, 0, 1)
    assert session.sql("SELECT :a, :b", params={"a": moment, "b": moment.replace(tzinfo=UTC)}).rows() == [
        (moment, moment.replace(tzinfo=UTC))
    ]


@pytest.mark.parametrize(
    ("statement", "condition", "sqlstate"),
    [
        ("SELECT * FROM nope", "TABLE_OR_VIEW_NOT_FOUND", "42P01"),
        ("SELEC 1", "PARSE_SYNTAX_ERROR", "42601"),
        ("SELECT 1/0", "DIVIDE_BY_ZERO", "22012"),
        ("SELECT cast(id - 1 as string) / 0 FROM range(3)", "DIVIDE_BY_ZERO", "22012"),
        ("SELECT raise_error('boom') FROM range(3)", "USER_RAISED_EXCEPTION", "P0001"),
        ("USE nope.nope", "SCHEMA_NOT_FOUND", "42704"),
    ],
)
def test_an_error_is_sparks_own_without_the_stack(session, statement, condition, sqlstate):
    with pytest.raises(SqlError) as caught:
        session.sql(statement).rows()
    assert (caught.value.condition, caught.value.sqlstate) == (condition, sqlstate)
    assert caught.value.message.startswith(f"[{condition}]")
    assert "\tat " not in caught.value.message
    assert "Project" not in caught.value.message


def test_a_long_error_arrives_whole(session):
    name = "n" * 3000
    with pytest.raises(SqlError) as caught:
        session.sql(f"SELECT raise_error('{name}')").rows()
    assert name in caught.value.message


def test_progress_is_told_while_a_statement_runs(session):
    seen = []
    statement = "SELECT count(DISTINCT hash(id) % 1000) FROM range(0, 60000000, 1, 6)"
    session.sql(statement, on_progress=seen.append).rows()
    assert seen
    last = seen[-1]
    assert last.stages_total >= 1
    assert last.tasks_done <= last.tasks_total
    assert last.tasks_total >= 6
    assert last.elapsed_s > 0


def test_a_cell_larger_than_any_default_limit_arrives(session):
    assert len(only(session.sql("SELECT repeat('x', 20000000)"))) == 20_000_000


def test_a_million_rows_arrive_in_batches(session):
    result = session.sql("SELECT id, cast(id AS string) s FROM range(1000000)")
    total = texts = batches = 0
    for batch in result.batches():
        batches += 1
        total += pa.compute.sum(batch.column(0)).as_py()
        texts += pa.compute.sum(pa.compute.binary_length(batch.column(1))).as_py()
    assert (result.num_rows, total, texts) == (1_000_000, 499999500000, 5888890)
    assert batches > 1
    assert result.is_complete


def test_two_threads_share_a_session(session):
    answers = {}

    def work(number):
        answers[number] = [only(session.sql(f"SELECT {number} * {i}")) for i in range(5)]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [n * i for i in range(5)] for n in range(4)}


def test_sessions_do_not_see_each_others_views_and_settings(server):
    with server.session() as one, server.session() as two:
        one.sql("CREATE TEMPORARY VIEW v AS SELECT 1 AS a")
        one.set_conf(**{"spark.sql.shuffle.partitions": "7"})
        with pytest.raises(SqlError):
            two.sql("SELECT * FROM v")
        assert two.conf("spark.sql.shuffle.partitions", "no.such") == {
            "spark.sql.shuffle.partitions": "2",
            "no.such": None,
        }
        one.unset_conf("spark.sql.shuffle.partitions")
        assert one.conf("spark.sql.shuffle.partitions")["spark.sql.shuffle.partitions"] != "7"


def test_a_session_continues_by_its_id(server):
    first = server.session()
    first.sql("CREATE TEMPORARY VIEW v AS SELECT 42 AS a")
    with server.session(session_id=first.session_id) as second:
        assert only(second.sql("SELECT a FROM v")) == 42


def test_the_server_tells_its_version_and_application(session):
    assert session.version().startswith("4.")
    assert session.app_id().startswith("local-")


def test_a_proxy_in_the_environment_is_not_asked(server, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with server.session() as session:
        assert only(session.sql("SELECT 1")) == 1


# --- names and text inside SQL ---------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NASTY = st.sampled_from(
    [
        "`",
        "``",
        "'",
        "\\",
        "\\'",
        "--",
        "/*",
        ";",
        "${spark.app.id}",
        "\0",
        "\n",
        "😀",
        "%",
        "\\u0041",
        "?",
        ":a",
    ]
)
ANY = st.lists(st.one_of(TEXT, NASTY), max_size=4).map("".join)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANY, min_size=1, max_size=8))
def test_text_in_a_literal_is_the_text_that_comes_back(session, texts):
    assert session.sql("SELECT " + ", ".join(quote_string(t) for t in texts)).rows() == [tuple(texts)]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ANY.filter(lambda t: t and "${" not in t), min_size=1, max_size=8))
def test_a_quoted_name_is_the_name_that_comes_back(session, names):
    result = session.sql("SELECT " + ", ".join(f"1 AS {quote_identifier(name)}" for name in names))
    assert result.columns == names


# --- bad servers, cancellation ---------------------------------------------------------------------------


def test_a_wrong_token_is_refused_in_clear_words(server):
    for token in ("wrong", None):
        with (
            pytest.raises(ServiceError, match="refused the session's token"),
            server.session(token=token) as s,
        ):
            s.sql("SELECT 1")


def test_a_closed_port_is_noticed_at_once(server):
    start = time.monotonic()
    with pytest.raises(Unreachable, match="does not answer") as caught:
        server.session(port=free_port()).sql("SELECT 1")
    assert caught.value.hint
    assert time.monotonic() - start < 3


def test_a_listener_that_never_answers_is_noticed(server):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(Unreachable):
            server.session(port=silent.getsockname()[1]).sql("SELECT 1")
        assert time.monotonic() - start < 20


def test_something_else_on_the_port_is_named(server):
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer():
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = web.accept()
                    peer.recv(1000)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                    peer.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Unreachable):
            server.session(port=web.getsockname()[1]).sql("SELECT 1")


SLEEP = "SELECT java_method('java.lang.Thread', 'sleep', {ms}L) FROM range(0, 2, 1, 2)"


def test_a_frozen_driver_is_noticed_and_usable_again(server):
    with server.session() as session:
        session.sql("SELECT 1").rows()
        server.process.send_signal(signal.SIGSTOP)
        try:
            start = time.monotonic()
            with pytest.raises(Unreachable, match="silent for"):
                session.sql("SELECT 2")
            assert time.monotonic() - start < 30
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert only(session.sql("SELECT 3")) == 3


def test_a_long_statement_lives_while_the_server_answers(server, monkeypatch):
    monkeypatch.setattr(execution, "QUIET_S", 0.5)
    monkeypatch.setattr(execution, "ANSWER_S", 3.0)
    with server.session() as session:
        assert len(session.sql(SLEEP.format(ms=8000)).rows()) == 2


def is_free(session, within_s):
    """Whether both cores take new tasks: a statement whose work went on would hold them for a minute."""
    start = time.monotonic()
    assert (
        only(
            session.sql("SELECT count(*) FROM (SELECT rand() FROM range(0, 1000, 1, 2) DISTRIBUTE BY id % 2)")
        )
        == 1000
    )
    return time.monotonic() - start < within_s


def test_interrupt_from_another_thread_cancels_the_work(server):
    with server.session() as session:
        session.sql("SELECT 1").rows()
        counts = []
        timer = threading.Timer(2, lambda: counts.append(session.interrupt()))
        timer.start()
        start = time.monotonic()
        with pytest.raises(SqlError) as caught:
            session.sql(SLEEP.format(ms=60000)).rows()
        assert caught.value.condition == "OPERATION_CANCELED"
        assert time.monotonic() - start < 15
        timer.join()
        assert counts == [1]
        assert is_free(session, 15)


def test_ctrl_c_cancels_the_work_and_the_session_goes_on(server):
    with server.session() as session:
        session.sql("SELECT 1").rows()
        # A shell's background jobs ignore SIGINT, and so do their children.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        timer = threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            session.sql(SLEEP.format(ms=60000)).rows()
        signal.signal(signal.SIGINT, before)
        assert time.monotonic() - start < 7
        assert is_free(session, 15)


def test_a_deadline_cancels_the_work(server):
    with server.session() as session:
        session.sql("SELECT 1").rows()
        with pytest.raises(SqlError, match="longer than 2 s"):
            session.sql(SLEEP.format(ms=60000), timeout_s=2).rows()
        assert is_free(session, 15)


def test_a_result_given_up_is_cancelled(server):
    with server.session() as session:
        result = session.sql(
            "SELECT id FROM range(0, 4, 1, 2) "
            "WHERE id < 2 OR java_method('java.lang.Thread', 'sleep', 60000L) IS NULL"
        )
        next(result.batches())
        result.close()
        assert is_free(session, 15)


class Wire:
    """A TCP relay in front of the server that can be cut."""

    def __init__(self, target):
        self.target = target
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.pairs = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
                self.pairs.append((near, far))
                for a, b in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=(a, b), daemon=True).start()

    def _copy(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        self._end(a, b)

    def _end(self, *sockets):
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for pair in self.pairs:
            self._end(*pair)
        self.pairs = []


def test_a_cut_connection_neither_loses_nor_doubles_anything(server, table):
    wire = Wire(server.port)
    with server.session(port=wire.port) as session:
        session.sql(f"CREATE TABLE {table} (id BIGINT)")
        timer = threading.Timer(1.5, wire.cut)
        timer.start()
        session.sql(
            f"INSERT INTO {table} SELECT id FROM range(0, 2, 1, 2) "
            "WHERE java_method('java.lang.Thread', 'sleep', 4000L) <> 'x'"
        )
        timer.join()
        assert only(session.sql(f"SELECT count(*) FROM {table}")) == 2
        result = session.sql("SELECT id, repeat('x', 100) FROM range(600000)")
        ids = []
        for number, batch in enumerate(result.batches()):
            if number in (1, 3):
                time.sleep(1)  # a slow reader: Spark has sent as much as it may
                wire.cut()
            ids += batch.column(0).to_pylist()
        assert ids == list(range(600000))
    wire.listener.close()


# --- tables from here ------------------------------------------------------------------------------------


def local_table(rows):
    return pa.table(
        {
            "i": pa.array([None if n % 7 == 0 else n for n in range(rows)], pa.int32()),
            "b": pa.array(range(rows), pa.int64()),
            "d": pa.array([n / 3 for n in range(rows)], pa.float64()),
            "s": pa.array([f"😀{n}" if n % 5 else None for n in range(rows)], pa.string()),
            "day": pa.array(range(rows), pa.date32()),
            "at": pa.array([n * 1_000_001 - 10**12 for n in range(rows)], pa.timestamp("us", "UTC")),
            "ok": pa.array([n % 2 == 0 for n in range(rows)], pa.bool_()),
            "raw": pa.array([bytes([n % 256]) for n in range(rows)], pa.binary()),
            "a `name": pa.array(range(rows), pa.int32()),
        }
    )


@pytest.mark.parametrize("rows", [0, 10, 60_000])
def test_a_local_table_becomes_the_same_table(session, table, tmp_path, rows):
    place = DirectoryStaging(tmp_path)
    local = local_table(rows)
    assert staging.write_table(session, place, table, local, "create") == rows
    back = session.sql(f"SELECT * FROM {table} ORDER BY b").table()
    assert back.to_pylist() == local.to_pylist()
    with pytest.raises(SqlError) as caught:
        staging.write_table(session, place, table, local, "create")
    assert caught.value.condition == "TABLE_OR_VIEW_ALREADY_EXISTS"
    reversed_columns = local.select(list(reversed(local.column_names)))
    staging.write_table(session, place, table, reversed_columns, "append")
    assert only(session.sql(f"SELECT count(*) FROM {table}")) == 2 * rows
    staging.write_table(
        session, place, ["rpi", "default", table], local.slice(0, 5), "replace", types={"b": "string"}
    )
    assert {f.name: f.type for f in session.columns_of(table)}["b"] == "string"
    assert only(session.sql(f"SELECT count(*) FROM {table}")) == min(rows, 5)
    assert list(tmp_path.iterdir()) == []


def test_bad_tables_are_refused_before_anything_is_sent(session, tmp_path):
    place = DirectoryStaging(tmp_path)
    with pytest.raises(UsageError, match="two columns"):
        staging.write_table(session, place, "x", pa.table({"a": [1], "A": [2]}), "create")
    with pytest.raises(UsageError, match="not a Spark type"):
        staging.write_table(
            session, place, "x", pa.table({"a": [1]}), "create", types={"a": "int) AS a; DROP"}
        )
    with pytest.raises(UsageError, match="does not have"):
        staging.write_table(session, place, "x", pa.table({"a": [1]}), "create", types={"b": "int"})


def test_a_view_too_large_for_a_message_is_refused(session):
    with pytest.raises(UsageError, match="too much for a temporary view"):
        session.create_temp_view("v", pa.table({"x": pa.array(range(9_000_000))}))


# --- what R calls ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def connection_file(server, tmp_path_factory):
    directory = tmp_path_factory.mktemp("state")
    (directory / "token").write_text(TOKEN)
    Connection(
        cluster="test",
        connect_port=server.port,
        token_file=str(directory / "token"),
        proto_path=str(server.runtime.path / "connect"),
        user="tester",
        webhdfs="http://127.0.0.1:9",
        webhdfs_user="tester",
    ).save(directory / "connection.json")
    return directory


@pytest.fixture
def handle(connection_file):
    handle = rbridge.open(str(connection_file))
    yield handle
    rbridge.close(handle)


def test_r_fetches_in_pieces(handle):
    rows = rbridge.execute(handle, "SELECT id, cast(id AS string) s FROM range(10)")
    assert not rbridge.has_completed(rows)
    assert [c["n"] for c in rbridge.fetch(rows, 4)] == [4, 4]
    assert rbridge.fetch(rows, 0)[0]["n"] == 0
    assert not rbridge.has_completed(rows)
    ids, texts = rbridge.fetch(rows, 6)
    assert struct.unpack("<6q", ids["data"]) == (4, 5, 6, 7, 8, 9)
    assert texts["data"] == b"4\x005\x006\x007\x008\x009\0"
    assert rbridge.has_completed(rows)
    assert rbridge.fetch(rows, -1)[0]["n"] == 0
    assert rbridge.row_count(rows) == 10
    assert rbridge.rows_affected(rows) == 0
    rbridge.clear(rows)
    with pytest.raises(UsageError, match="cleared"):
        rbridge.fetch(rows, 1)


def test_r_sees_an_empty_result_with_its_types(handle):
    rows = rbridge.execute(handle, "SELECT 1 AS a, 'x' AS b, 1.5BD AS c WHERE false")
    assert [(c["type"], c["n"], c["data"]) for c in rbridge.fetch(rows)] == [
        ("int", 0, b""), ("string", 0, b""), ("decimal(2,1)", 0, b""),
    ]  # fmt: skip
    assert rbridge.has_completed(rows)


def test_r_writes_lists_and_describes_tables(handle, table):
    columns = [
        {
            "name": "i",
            "type": "int",
            "n": 2,
            "data": bytearray(struct.pack("<2i", 1, 0)),
            "valid": bytearray([1, 0]),
        },
        {"name": "s", "type": "string", "n": 2, "data": b"a\0\0", "valid": None},
    ]
    assert rbridge.write_table(handle, table, columns, "create", {"i": "bigint"}) == 2
    assert table in rbridge.tables(handle)
    assert [(c["name"], c["type"]) for c in rbridge.columns(handle, table)] == [
        ("i", "bigint"),
        ("s", "string"),
    ]
    done = rbridge.execute(handle, f"INSERT INTO {table} VALUES (?, ?)", [5, "x"])
    assert rbridge.has_completed(done)
    assert rbridge.rows_affected(done) == 1
    assert handle.session.sql(f"SELECT * FROM {table} ORDER BY i NULLS FIRST").rows() == [
        (None, ""),
        (1, "a"),
        (5, "x"),
    ]
    rbridge.write_view(handle, "a view", columns)
    assert "a view" in rbridge.tables(handle)
    with pytest.raises(SqlError) as caught:
        rbridge.columns(handle, "no`such")
    assert caught.value.condition == "TABLE_OR_VIEW_NOT_FOUND"
    assert caught.value.message
    assert caught.value.hint is None


def test_r_is_told_about_the_server(handle, monkeypatch, connection_file):
    info = rbridge.server_info(handle)
    assert info["cluster"] == "test"
    assert info["spark_version"].startswith("4.")
    monkeypatch.setenv("RPICLUSTER_CONNECTION", str(connection_file / "connection.json"))
    rbridge.close(rbridge.open())
    with pytest.raises(UsageError):
        rbridge.open("no-such-cluster")
    with pytest.raises(UsageError, match="does not exist"):
        rbridge.open(str(connection_file / "gone" / "connection.json"))


def test_an_interrupt_reaches_a_python_that_waits_for_rows(server, connection_file):
    program = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rpicluster import rbridge\n"
        f"handle = rbridge.open({str(connection_file)!r})\n"
        "print('ready', flush=True)\n"
        "try:\n"
        f"    rbridge.execute(handle, {SLEEP.format(ms=60000)!r})\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted', flush=True)\n"
        "rows = rbridge.fetch(rbridge.execute(handle, 'SELECT count(*) FROM range(100)'))\n"
        "print(rows[0]['data'][0], flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - start < 5
        assert process.stdout.readline() == "100\n"
    finally:
        process.kill()
        process.wait()


def test_select_1_needs_neither_pandas_nor_pyspark(server):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from rpicluster.services.connect.session import ConnectSession\n"
        "heavy = {'pyarrow', 'grpc', 'google.protobuf'} & set(sys.modules)\n"
        f"with ConnectSession(port={server.port}, token={TOKEN!r}, user='u',\n"
        f"                    proto_path=Path({str(server.runtime.path / 'connect')!r})) as session:\n"
        "    assert session.sql('SELECT 1').rows() == [(1,)]\n"
        "print(sorted(heavy | {'pandas', 'pyspark'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
    assert done.stderr == ""


def test_the_messages_leave_no_trace_of_pyspark_and_load_beside_it(server):
    path = server.runtime.path / "connect"
    first = protocol.load_messages(path)
    assert not [name for name in sys.modules if name.split(".")[0] == "pyspark"]
    # What `import pyspark` does later in the same process: the same descriptors, registered again.
    again = protocol._import_apart(path)
    assert again.Plan.DESCRIPTOR is first.Plan.DESCRIPTOR
    assert again.SQL(query="x").SerializeToString() == first.SQL(query="x").SerializeToString()


# Last, because it ends the server that the others use.
def test_a_restarted_driver_is_told_apart_and_a_fresh_session_works(server):
    with server.session() as session:
        session.sql("CREATE TEMPORARY VIEW v AS SELECT 1 AS a")
        server.stop(signal.SIGKILL)
        with pytest.raises(Unreachable):
            server.session().sql("SELECT 1")
        server.start()
        with pytest.raises(SessionLost, match="driver was restarted; temporary views are gone"):
            session.sql("SELECT * FROM v")
        session.reopen()
        assert only(session.sql("SELECT 2")) == 2
