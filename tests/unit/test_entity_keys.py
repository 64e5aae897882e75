from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import BytesColumn, NumericColumn, numeric, strings
from streamsvc.entity_keys import decode_entity_key, encode_entity_keys, key_text, murmur2

INTS = st.integers(-(2**63), 2**63 - 1)


def plain_key(parts: tuple[int | str | bytes, ...]) -> bytes:
    out = b""
    for part in parts:
        if isinstance(part, int):
            out += b"\x01" + struct.pack("<q", part)
        else:
            raw = part.encode() if isinstance(part, str) else part
            out += b"\x02" + struct.pack("<I", len(raw)) + raw
    return out


@settings(deadline=None)  # the first example compiles the kernel
@given(st.lists(st.tuples(INTS, st.text(), st.text(max_size=3))))
def test_keys_are_the_documented_bytes(rows: list[tuple[int, str, str]]) -> None:
    columns = [
        NumericColumn(np.array([r[0] for r in rows], np.int64), np.ones(len(rows), np.bool_)),
        strings([r[1] for r in rows]),
        strings([r[2] for r in rows]),
    ]
    keys = encode_entity_keys(columns)
    assert keys.to_bytes_list() == [plain_key(r) for r in rows]
    assert [decode_entity_key(k) for k in keys.to_bytes_list() if k is not None] == rows


def test_a_null_part_makes_the_key_null_and_leaves_its_neighbours_alone() -> None:
    keys = encode_entity_keys([numeric([1, None, 3, 4]), strings(["a", "b", None, "d"])])
    assert keys.to_bytes_list() == [plain_key((1, "a")), None, None, plain_key((4, "d"))]


def test_rows_may_lie_in_any_order_and_overlap() -> None:
    data = np.frombuffer(b"abcdef", np.uint8)
    column = BytesColumn(data, np.array([3, 0, 1]), np.array([6, 3, 5]), np.ones(3, np.bool_))
    keys = encode_entity_keys([column])
    assert keys.to_bytes_list() == [plain_key(("def",)), plain_key(("abc",)), plain_key(("bcde",))]


def test_floats_and_bools() -> None:
    keys = encode_entity_keys([numeric([1.5, -0.0, float("nan")])])
    assert keys.to_bytes_list() == [
        b"\x03" + struct.pack("<d", 1.5),
        b"\x03" + struct.pack("<d", 0.0),
        None,
    ]
    assert decode_entity_key(keys.row(0)) == (1.5,)
    assert encode_entity_keys([numeric([True, False])]).to_bytes_list() == [
        plain_key((1,)),
        plain_key((0,)),
    ]


def test_no_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one column"):
        encode_entity_keys([])


@pytest.mark.parametrize("raw", [b"\x01\x00", b"\x02\x05\x00\x00\x00abc", b"\x02\x05", b"\x09"])
def test_damaged_keys_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="entity key"):
        decode_entity_key(raw)


# The signed values are those of Apache Kafka's own UtilsTest.testMurmur2.
KAFKA_VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


def test_murmur2_equals_the_vectors_of_the_java_client() -> None:
    got = murmur2(strings(list(KAFKA_VECTORS)))
    assert got.tolist() == [h & 0x7FFFFFFF for h in KAFKA_VECTORS.values()]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_murmur2_equals_the_python_client(rows: list[bytes]) -> None:
    from aiokafka.partitioner import murmur2 as reference

    got = murmur2(strings(rows))
    assert got.tolist() == [reference(r) & 0x7FFFFFFF for r in rows]


@settings(deadline=None)
@given(st.lists(INTS))
def test_key_text_of_integers_is_decimal(values: list[int]) -> None:
    column = NumericColumn(np.array(values, np.int64), np.ones(len(values), np.bool_))
    assert key_text(column).to_pylist() == [str(v) for v in values]


def test_key_text_of_other_types() -> None:
    assert key_text(numeric([True, None])).to_pylist() == ["1", None]
    column = strings(["x"])
    assert key_text(column) is column
    with pytest.raises(TypeError, match="float64"):
        key_text(numeric([1.5]))
