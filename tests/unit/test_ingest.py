import gzip
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rpicluster.errors import UsageError
from rpicluster.services import ingest
from rpicluster.services.csv_types import parse_types
from rpicluster.services.tables import quoted_table


def prepare(path: Path, types: str | None = None, na: tuple[str, ...] = ("NA", "")) -> ingest.Source:
    return ingest.prepare(path, types=types, na_strings=na)


def kinds(source: ingest.Source) -> dict[str, str]:
    return {column.name: column.type for column in source.columns}


def rows(source: ingest.Source, tmp_path: Path) -> list[dict[str, object]]:
    parts = list(ingest._parquet_parts(source, tmp_path))
    found = [row for path, _ in parts for row in pq.read_table(path).to_pylist()]
    assert len(found) == sum(count for _, count in parts)
    return found


CSV = '''\
id,big,x,when,day,zip,flag,name,empty,local
1,3000000000,1.5,2024-01-01T00:00:00Z,2024-02-29,00501,true,"a, ""b""",,2024-01-01 10:00:00
2,NA,NA,2024-07-01T02:00:00+02:00,NA,10001,false,NA,,NA
3,-5,1e300,NA,1969-12-31,99999,NA,"",NA,2024-01-01 10:00:01
'''


def test_csv_columns_get_the_narrowest_type_that_holds_for_every_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(CSV)
    source = prepare(path)
    assert kinds(source) == {
        "id": "int",
        "big": "bigint",
        "x": "double",
        "when": "timestamp",
        "day": "date",
        "zip": "string",
        "flag": "boolean",
        "name": "string",
        "empty": "string",
        "local": "timestamp_ntz",
    }
    found = rows(source, tmp_path)
    assert [row["zip"] for row in found] == ["00501", "10001", "99999"]
    assert [row["name"] for row in found] == ['a, "b"', None, ""]
    assert found[1]["when"].isoformat() == "2024-07-01T00:00:00+00:00"
    assert found[2]["x"] == 1e300


def test_a_type_that_fails_only_in_the_last_row_is_not_chosen(tmp_path):
    path = tmp_path / "t.csv"
    with path.open("w") as file:
        file.write("n,m\n" + "1,2\n" * 2_000_000 + "x,2147483648\n")
    assert kinds(prepare(path)) == {"n": "string", "m": "bigint"}


def test_whole_numbers_beyond_64_bits_keep_every_digit(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("n,m\n18446744073709551616,1\n-1,1.5\n0,2e40\n")
    source = prepare(path)
    assert kinds(source) == {"n": "decimal(38,0)", "m": "double"}
    assert [int(row["n"]) for row in rows(source, tmp_path)] == [2**64, -1, 0]


def test_a_file_may_end_with_a_value_of_several_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('x,y\n1,5" pipe\n2,"a\nb"\n\n')
    assert [row["y"] for row in rows(prepare(path), tmp_path)] == ['5" pipe', "a\nb"]


def test_gzip_and_plain_csv_are_the_same_table(tmp_path):
    (tmp_path / "a.csv").write_text(CSV)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV.encode()))
    plain, packed = prepare(tmp_path / "a.csv"), prepare(tmp_path / "a.csv.gz")
    assert plain.columns == packed.columns
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    assert rows(plain, tmp_path / "1") == rows(packed, tmp_path / "2")


def test_types_can_be_overridden_and_a_wrong_name_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,price\n1,2.50\n")
    source = prepare(path, types="id bigint, price decimal(10,2)")
    assert kinds(source) == {"id": "bigint", "price": "decimal(10,2)"}
    assert str(rows(source, tmp_path)[0]["price"]) == "2.50"
    with pytest.raises(UsageError, match="no such column"):
        prepare(path, types="idd bigint")
    with pytest.raises(UsageError, match="not a column type"):
        prepare(path, types="id number")


def test_types_are_read_with_commas_in_parentheses_and_names_in_backticks():
    assert parse_types("a int, `my col` decimal(10, 2)") == {"a": "int", "my col": "decimal(10,2)"}
    with pytest.raises(UsageError, match="not NAME TYPE"):
        parse_types("a int,; drop table x")


def test_a_value_that_does_not_fit_the_type_asked_for_is_an_error_not_a_null(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id\nx\n")
    with pytest.raises(UsageError, match=r"t\.csv cannot be read as a table"):
        rows(prepare(path, types="id int"), tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "", "cannot be read as a table"),
        ("a.csv", "x,X\n1,2\n", "several columns called"),
        ("a.csv", "x,y\n1\n", "cannot be read as a table"),
        ("a.csv", 'x,y\n1,"a\n2,b\n3,c\n', 'starts with "a is never closed'),
        ("a.parquet", "not parquet", "cannot be read as a table"),
        ("a.txt", "x", "no kind of table"),
    ],
)
def test_bad_files_are_named_with_the_reason(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        prepare(tmp_path / name)
    assert name in caught.value.message


def test_missing_empty_and_mixed_folders_are_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        prepare(tmp_path / "nope.csv")
    with pytest.raises(UsageError, match="holds no files"):
        prepare(tmp_path)
    (tmp_path / "a.csv").write_text("x\n1\n")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "b.parquet")
    with pytest.raises(UsageError, match="mixes"):
        prepare(tmp_path)


def test_a_folder_of_parquet_is_taken_as_it_is(tmp_path):
    for number in range(2):
        pq.write_table(pa.table({"x": pa.array([number], pa.int16())}), tmp_path / f"{number}.parquet")
    source = prepare(tmp_path)
    assert kinds(source) == {"x": "smallint"}
    (tmp_path / "out").mkdir()
    assert [row["x"] for row in rows(source, tmp_path / "out")] == [0, 1]


def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.csv"
    path.write_text("x\n1\n")
    source = prepare(path)
    convert = ingest._convert

    def convert_and_touch(*arguments):
        convert(*arguments)
        with path.open("a") as file:
            file.write("2\n")

    monkeypatch.setattr(ingest, "_convert", convert_and_touch)
    with pytest.raises(UsageError, match="changed while it was read"):
        rows(source, tmp_path)


@pytest.mark.skipif(not shutil.which("Rscript"), reason="R is not installed")
@pytest.mark.r
def test_an_rds_file_keeps_every_type_and_every_digit(tmp_path):
    path = tmp_path / "d.rds"
    script = f"""
    d <- data.frame(i = c(1L, NA), x = c(1/3, NaN), s = c("\\u00fc\\"q, ", NA),
                    f = factor(c("b", "NA")), l = c(TRUE, NA), day = as.Date(c("1969-12-31", NA)),
                    t = as.POSIXct(c("2024-07-01 00:00:00.25", NA), tz = "Europe/Berlin"))
    d$`od"d` <- bit64::as.integer64(c("9007199254740993", NA))
    saveRDS(d, {str(path)!r})
    """
    subprocess.run(["Rscript", "-e", script], check=True, capture_output=True)
    source = prepare(path)
    assert list(kinds(source).values()) == [
        "int", "double", "string", "string", "boolean", "date", "timestamp", "bigint",
    ]  # fmt: skip
    first, second = rows(source, tmp_path)
    assert first["x"] == 1 / 3
    assert second["x"] != second["x"]
    assert first["s"] == 'ü"q, '
    assert second["f"] == "NA"
    assert second["s"] is None
    assert first['od"d'] == 9007199254740993
    assert first["t"].isoformat() == "2024-06-30T22:00:00.250000+00:00"
    assert first["day"].isoformat() == "1969-12-31"
    assert second["l"] is None


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        ("d <- data.frame(a = 1:2); d$m <- matrix(1:4, 2)", "column m is a matrix, which has no type"),
        ("d <- data.frame(a = 1:2); d$l <- list(1, 2)", "column l is a list, which has no type"),
        ("d <- 1:3", "it holds a integer, not a data frame"),
    ],
)
def test_an_rds_file_that_is_no_table_is_refused_with_the_reason(tmp_path, frame, said):
    path = tmp_path / "d.rds"
    subprocess.run(["Rscript", "-e", f"{frame}; saveRDS(d, {str(path)!r})"], check=True, capture_output=True)
    with pytest.raises(UsageError, match=said):
        prepare(path)


def test_rds_files_of_one_table_must_have_the_same_columns(tmp_path):
    for name, frame in (("a", "data.frame(x = 1L)"), ("b", "data.frame(y = 1L)")):
        script = f"saveRDS({frame}, {str(tmp_path / name)!r})"
        subprocess.run(["Rscript", "-e", script.replace(f"/{name}'", f"/{name}.rds'")], check=True)
    with pytest.raises(UsageError, match=r"b\.rds has other columns, or other types, than .*a\.rds"):
        prepare(tmp_path)


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a;b", "a`b", "", "a b", "a/b", "x.y.z", "../x"])
def test_a_table_name_that_is_no_name_is_refused(name):
    with pytest.raises(UsageError, match="is no table name"):
        quoted_table(name)


def test_table_names_are_quoted_in_full():
    assert quoted_table("flights") == "`rpi`.`default`.`flights`"
    assert quoted_table("lab.flüge") == "`rpi`.`lab`.`flüge`"
    assert quoted_table("rpi.default.t") == "`rpi`.`default`.`t`"
