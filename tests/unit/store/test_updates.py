from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import Column, NumericColumn, numeric, strings
from streamsvc.definitions.plan import JoinKey
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.updates import update_records

I64 = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "Float64": st.floats(),
    "Float32": st.floats(width=32),
    "Int64": I64,
    "Int32": st.integers(-(2**31), 2**31 - 1),
    "Bool": st.booleans(),
    "String": st.text(max_size=20),
}
JOIN_KEYS = [JoinKey('a "card" of 5 %', "string"), JoinKey("shop", "int64")]


def column(kind: str, values: list[Any]) -> Column:
    if kind == "String":
        return strings(values)
    dtype = {"Float64": np.float64, "Float32": np.float64, "Bool": np.bool_}.get(kind, np.int64)
    return NumericColumn(
        np.array([0 if v is None else v for v in values], dtype),
        np.array([v is not None for v in values], np.bool_),
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Any]]]:
    names = draw(st.lists(st.text(max_size=8), max_size=6, unique=True))
    types = {name: draw(st.sampled_from(sorted(VALUES))) for name in names}
    row = st.fixed_dictionaries({n: st.none() | VALUES[t] for n, t in types.items()})
    return types, draw(st.lists(row, max_size=6))


@settings(deadline=None, max_examples=200)
@given(tables(), st.text(max_size=8), st.data())
def test_records_say_what_the_rows_do(
    table: tuple[dict[str, str], list[dict[str, Any]]], view: str, data: st.DataObject
) -> None:
    types, rows = table
    n = len(rows)

    def each(of: st.SearchStrategy[Any]) -> list[Any]:
        return data.draw(st.lists(of, min_size=n, max_size=n))

    cards, shops = each(st.text(max_size=9)), each(I64)
    as_of, until = each(I64), each(I64 | st.just(NEVER_MS))
    applied = each(st.integers(0, 2**62))
    event = (each(I64), each(I64)) if data.draw(st.booleans()) else None
    placed = None if event is None else tuple(np.array(part, np.int64) for part in event)
    layout = RowLayout(types)
    packed = layout.pack(
        {name: column(kind, [row[name] for row in rows]) for name, kind in types.items()},
        3,
        np.array(applied, np.int64),
        np.array(as_of, np.int64),
        np.array(until, np.int64),
    )
    keys = encode_entity_keys([strings(cards), numeric(np.array(shops, np.int64))])
    names, values = update_records(view, JOIN_KEYS, layout, keys, packed, placed)
    assert names.to_bytes_list() == [
        f"{card}|{shop}".encode() for card, shop in zip(cards, shops, strict=True)
    ]
    for i, value in enumerate(values.to_bytes_list()):
        assert json.loads(value) == {
            "view": view,
            "entity": {'a "card" of 5 %': cards[i], "shop": shops[i]},
            "features": {name: _told(kind, rows[i][name]) for name, kind in types.items()},
            "as_of_ms": as_of[i],
            "valid_until_ms": None if until[i] == NEVER_MS else until[i],
            "incarnation": 3,
            "applied": applied[i],
        } | ({} if event is None else {"source": {"partition": event[0][i], "offset": event[1][i]}})


def _told(kind: str, value: Any) -> Any:
    """NaN and infinity are told as null."""
    if kind.startswith("Float") and value is not None and not np.isfinite(value):
        return None
    return value


def test_a_single_key_is_its_own_text() -> None:
    layout = RowLayout({})
    packed = layout.pack({}, 1, 1, np.zeros(2, np.int64), np.ones(2, np.int64))
    keys = encode_entity_keys([numeric(np.array([-5, 2**62]))])
    names, _ = update_records("v", [JoinKey("shop", "int64")], layout, keys, packed)
    assert names.to_bytes_list() == [b"-5", b"4611686018427387904"]


def test_text_that_is_no_text_does_not_stop_a_worker() -> None:
    layout = RowLayout({"last": "String"})
    last = strings([b"\xff'"])
    packed = layout.pack({"last": last}, 1, 1, np.zeros(1, np.int64), np.ones(1, np.int64))
    keys = encode_entity_keys([strings([b"\xfe"])])
    names, values = update_records("v", [JoinKey("card", "string")], layout, keys, packed)
    assert names.row(0) == b"\xfe"
    assert json.loads(values.row(0))["features"] == {"last": "�'"}
