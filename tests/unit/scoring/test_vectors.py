"""Vectors against an oracle that looks every value up in dictionaries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scoring import CARDS, FEATURES, LIMITS, SHOPS, plan, request

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import decode_entity_key
from streamsvc.errors import ConfigurationError
from streamsvc.events.decode import Decoder
from streamsvc.scoring.entities import entities_of
from streamsvc.scoring.inputs import service_inputs
from streamsvc.scoring.vectors import NO_ROW, assemble
from streamsvc.store.row import RowLayout

TIMES = st.integers(0, 60_000)


@st.composite
def stored(draw, features):
    """What a store holds for one entity: None, or (as_of, valid_until, values)."""
    if draw(st.booleans()):
        return None
    as_of = draw(TIMES)
    until = draw(st.just(2**63 - 1) | st.integers(as_of, 70_000))
    values = {
        f: draw(st.none() | (st.integers(-5, 5) if f.startswith("count") else st.floats(-1e6, 1e6)))
        for f in features
    }
    return as_of, until, values


CARD_NAMES = [None, "c1", "c2", "c3"]
SHOP_NUMBERS = [None, 1, 2]


@st.composite
def worlds(draw):
    return {
        "cards": {c: draw(stored(CARDS.features)) for c in CARD_NAMES[1:]},
        "shops": {s: draw(stored(SHOPS.features)) for s in SHOP_NUMBERS[1:]},
        "limits": {c: draw(stored(LIMITS.features)) for c in CARD_NAMES[1:]},
    }


REQUESTS = st.lists(
    st.tuples(st.sampled_from(CARD_NAMES), st.sampled_from(SHOP_NUMBERS), st.floats(1, 100), TIMES),
    min_size=1,
    max_size=8,
)


def read(layout: RowLayout, features, keys, of_view):
    """Rows as the store would return them, through the real codec."""
    rows = []
    for raw in keys.to_bytes_list():
        held = of_view[decode_entity_key(raw)[0]]
        if held is None:
            rows.append(None)
            continue
        as_of, until, values = held
        columns = {f: numeric([values[f]]) for f in features}
        packed = layout.pack(columns, 4, 9, np.array([as_of]), np.array([until]))
        rows.append(packed.row(0))
    return layout.unpack(rows)


def expected(world, request):
    card, shop, amount, at = request
    keys = {"cards": card, "shops": shop, "limits": card}
    held = {v: None if keys[v] is None else world[v][keys[v]] for v in keys}
    if held["limits"] is not None and held["limits"][0] < at - LIMITS.ttl_ms:
        limit = None
    else:
        limit = None if held["limits"] is None else held["limits"][2]["limit"]
    vector = []
    for name in FEATURES:
        view, feature = name.split(":")
        if view == "ratios":
            value = None if limit is None else divide(amount, float(np.float32(limit)))
        elif view == "limits":
            value = limit
        elif held[view] is None:
            value = 0 if feature.startswith("count") and keys[view] is not None else None
        else:
            value = held[view][2][feature]
        vector.append(math.nan if value is None else value)
    rows = [row for row in held.values() if row is not None]
    as_of = max((row[0] for row in rows), default=NO_ROW)
    stale = max((at - row[1] + 1 for row in rows if at >= row[1]), default=0)
    return vector, as_of, stale, max(as_of - at, 0) if rows else 0


def divide(a, b):
    return math.nan if a == b == 0 else math.inf * a * math.copysign(1, b) if b == 0 else a / b


@settings(deadline=None, max_examples=150)
@given(worlds(), REQUESTS)
def test_vectors_equal_the_oracle(world, requests):
    inputs = service_inputs(plan(), plan().services[0], FEATURES)
    source = plan().services[0].request
    values = strings([request(*r) for r in requests])
    decoded = Decoder(source, max_record_bytes=1_000).decode(values, np.full(len(values), -1))
    assert decoded.ok.all()
    found = {}
    for view in inputs.views:
        entities = entities_of(view, decoded.columns, 4)
        rows = read(view.layout, view.layout.types, entities.keys, world[view.name])
        found[view.name] = (rows, entities.index)
    vectors = assemble(inputs, decoded.event_time, decoded.columns, found)
    assert vectors.matrix.dtype == np.float32
    assert vectors.matrix.flags.c_contiguous
    want = [expected(world, r) for r in requests]
    with np.errstate(over="ignore"):
        matrix = np.array([w[0] for w in want], np.float64).astype(np.float32)
    np.testing.assert_array_equal(vectors.matrix, matrix)
    assert vectors.as_of.tolist() == [w[1] for w in want]
    assert vectors.stale_ms.tolist() == [w[2] for w in want]
    assert vectors.ahead_ms.tolist() == [w[3] for w in want]


def test_rows_that_the_on_demand_view_fails_on_are_named_and_the_others_go_on():
    inputs = service_inputs(plan(), plan().services[0], FEATURES)
    amounts = [5.0, 666.0, 7.0, 666.0, 9.0]
    columns = {
        "card": strings(["c1"] * 5),
        "shop_id": numeric([1] * 5),
        "amount": numeric(amounts),
    }
    found = {}
    for view in inputs.views:
        entities = entities_of(view, columns, 4)
        features = {f: numeric([2.0]) for f in view.layout.types}
        row = view.layout.pack(features, 1, 1, np.array([0]), np.array([2**63 - 1])).row(0)
        found[view.name] = (view.layout.unpack([row]), entities.index)
    vectors = assemble(inputs, np.zeros(5, np.int64), columns, found)
    assert sorted(vectors.failed) == [1, 3]
    assert "unlucky amount" in vectors.failed[1]
    assert vectors.matrix[[0, 2, 4], 2].tolist() == [2.5, 3.5, 4.5]
    assert np.isnan(vectors.matrix[[1, 3], 2]).all()
    kept = vectors.take(np.array([0, 2, 4]))
    assert kept.matrix[:, 2].tolist() == [2.5, 3.5, 4.5]
    assert len(kept.positions["cards"].offset) == 3


def test_a_model_that_wants_what_the_service_has_not_is_refused():
    with pytest.raises(ConfigurationError, match="cards:gone"):
        service_inputs(plan(), plan().services[0], [*FEATURES, "cards:gone"])


def test_only_the_views_that_the_model_asks_for_are_read():
    inputs = service_inputs(plan(), plan().services[0], ["shops:sum_1h"])
    assert [v.name for v in inputs.views] == ["shops"]
    assert inputs.on_demand == ()
    assert inputs.entity_fields == {"shop": "shop_id"}
