"""Arrow columns to raw buffers and back: no value changes on the way."""

import datetime as dt
import decimal
import json
import math
import struct

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rpicluster.errors import UsageError
from rpicluster.services.connect.columns import array_of, raw_column
from rpicluster.services.connect.types import Field, type_of_arrow


def raw(values, arrow_type, chunks=1):
    size = max(1, math.ceil(len(values) / chunks))
    parts = [pa.array(values[i : i + size], arrow_type) for i in range(0, len(values), size)]
    return raw_column(Field("x", type_of_arrow(arrow_type)), pa.chunked_array(parts, arrow_type))


def texts(column):
    pieces = column["data"].split(b"\0")
    assert pieces.pop() == b""
    return [piece.decode() for piece in pieces]


ROUND = {
    pa.bool_(): st.booleans(),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.string(): st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    pa.binary(): st.binary(),
    pa.date32(): st.dates(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(dt.UTC)),
}


@pytest.mark.parametrize("arrow_type", ROUND, ids=str)
def test_what_goes_out_comes_back(arrow_type):
    @settings(deadline=None)
    @given(st.lists(st.none() | ROUND[arrow_type], max_size=20), st.integers(1, 3))
    def check(values, chunks):
        column = raw(values, arrow_type, chunks)
        assert (column["valid"] is not None) == (None in values)
        back = array_of(column)
        assert back.cast(arrow_type).to_pylist() == values

    check()


def test_a_slice_gives_its_own_rows_only():
    for values, kind in [
        (list(range(10)), pa.int64()),
        ([f"s{i}" for i in range(10)], pa.string()),
        ([bytes([i]) for i in range(10)], pa.binary()),
        ([True, False] * 5, pa.bool_()),
    ]:
        table = pa.chunked_array([pa.array(values, kind).slice(3, 4)])
        assert (
            array_of(raw_column(Field("x", type_of_arrow(kind)), table)).cast(kind).to_pylist() == values[3:7]
        )


def test_small_integers_and_floats_widen():
    assert raw([-128, None], pa.int8())["data"] == struct.pack("<2i", -128, 0)
    assert raw([-32768], pa.int16())["data"] == struct.pack("<i", -32768)
    assert raw([1.5], pa.float32())["data"] == struct.pack("<d", 1.5)


def test_nan_is_a_value_and_null_is_not():
    column = raw([float("nan"), None, -0.0, float("inf")], pa.float64())
    assert column["valid"] == bytes([1, 0, 1, 1])
    nan, _, zero, infinity = struct.unpack("<4d", column["data"])
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1
    assert infinity == math.inf


def test_decimals_keep_all_digits_and_never_use_an_exponent():
    values = ["0.000000000000000001", "0", "-99999999999999999999.999999999999999999", None]
    column = raw([None if v is None else decimal.Decimal(v) for v in values], pa.decimal128(38, 18))
    assert column["type"] == "decimal(38,18)"
    assert texts(column)[0] == "0.000000000000000001"
    assert [decimal.Decimal(t) for t in texts(column)[:3]] == [decimal.Decimal(v) for v in values[:3]]
    assert not any("E" in text for text in texts(column))


def test_nested_values_are_json():
    kind = pa.struct([("a", pa.int32()), ("b", pa.list_(pa.float64())), ("c", pa.binary())])
    column = raw([{"a": 1, "b": [1.5, None, float("nan")], "c": b"\xff"}, None], kind)
    assert json.loads(texts(column)[0]) == {"a": 1, "b": [1.5, None, "nan"], "c": "/w=="}
    assert column["valid"] == bytes([1, 0])
    pairs = raw([[("k", 1)]], pa.map_(pa.string(), pa.int32()))
    assert json.loads(texts(pairs)[0]) == [["k", 1]]


def test_an_empty_column_has_no_bytes_and_keeps_its_type():
    for kind in ROUND:
        column = raw([], kind)
        assert (column["n"], column["valid"], column["type"]) == (0, None, type_of_arrow(kind))
        assert column["data"] == (bytes(8) if pa.types.is_binary(kind) else b"")


def test_a_nul_inside_a_string_is_visible_to_the_reader():
    column = raw(["a\0b"], pa.string())
    assert column["data"].count(b"\0") > column["n"]


@pytest.mark.parametrize(
    ("kind", "n", "data", "words"),
    [
        ("int", 2, bytes(4), "4 bytes are not 2 values"),
        ("string", 2, b"a\0", "1 strings for 2 rows"),
        ("string", 1, b"\xff\0", "is not UTF-8"),
        ("binary", 1, struct.pack("<2q", 0, 9) + b"x", "do not fit"),
        ("binary", 3, b"", "do not fit"),
        ("geography", 1, b"", "cannot be written"),
    ],
)
def test_wrong_buffers_are_refused(kind, n, data, words):
    with pytest.raises(UsageError, match=words):
        array_of({"name": "x", "type": kind, "n": n, "data": data, "valid": None})


def test_a_wrong_mask_is_refused():
    with pytest.raises(UsageError, match="1 validity bytes for 2 rows"):
        array_of({"name": "x", "type": "int", "n": 2, "data": bytes(8), "valid": b"\1"})


def test_r_hands_over_bytearrays():
    column = {"name": "x", "type": "string", "n": 2, "data": bytearray(b"a\0b\0"), "valid": bytearray([1, 0])}
    assert array_of(column).to_pylist() == ["a", None]
