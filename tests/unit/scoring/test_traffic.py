"""Who answers for whom: exact shares, always the same, and raised without moving anybody back."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scoring import card

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import murmur2
from streamsvc.scoring.fallback import Ladder
from streamsvc.scoring.traffic import Traffic, Variant, unit_hash

N = 100_000
CARDS = strings([f"card-{i}" for i in range(N)])


def variant(name):
    return Variant(name, card(), Ladder([], [0.0], lambda: 0.0), None)


def rows(weight, salt="s", entity=None):
    traffic = Traffic(variant("champion"), variant("canary"), weight, salt)
    found = {v.name: r for v, r in traffic.split(entity or {"card": CARDS})}
    nobody = np.zeros(0, np.int64)
    champion, canary = found.get("champion", nobody), found.get("canary", nobody)
    n = len((entity or {"card": CARDS})["card"])
    assert sorted([*champion.tolist(), *canary.tolist()]) == list(range(n))
    return set(canary.tolist())


def test_a_share_is_what_was_asked_for():
    """Within four standard deviations of as many independent draws; 0 and 100 are exact."""
    for weight in (0.5, 10, 30, 50, 99):
        share = weight / 100
        most = 4 * (share * (1 - share) / N) ** 0.5
        assert abs(len(rows(weight)) / N - share) < most, weight
    assert rows(0) == set()
    assert len(rows(100)) == N


def test_raising_the_weight_moves_nobody_back():
    steps = [rows(weight) for weight in (1, 10, 20, 50, 80)]
    for lower, higher in pairwise(steps):
        assert lower < higher


def test_experiments_divide_independently_of_each_other_and_of_kafkas_partitions():
    first, second = rows(50, "one"), rows(50, "two")
    assert abs(len(first & second) / N - 0.25) < 0.01
    partition = murmur2(CARDS) % 8
    of_canary = np.isin(np.arange(N), list(rows(30)))
    shares = [of_canary[partition == p].mean() for p in range(8)]
    assert max(abs(share - 0.3) for share in shares) < 0.02


def test_an_entity_meets_the_same_variant_in_every_batch_and_process():
    whole = unit_hash([CARDS], "salt")
    order = np.random.default_rng(0).permutation(N)[:1_000]
    np.testing.assert_array_equal(unit_hash([CARDS.take(order)], "salt"), whole[order])
    code = (
        "from streamsvc.columns import strings; from streamsvc.scoring.traffic import unit_hash;"
        "print(unit_hash([strings(['card-0', 'card-1'])], 'salt').tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(whole[:2].tolist())


def test_the_hash_never_changes():
    """Or a running experiment would be dealt anew by an update of the workers."""
    found = unit_hash([strings(["c1", None]), numeric([7, 8])], "s")
    assert found.tolist() == [0.07379005299726282, 0.38437735706226106]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=20), st.text(), st.floats(0, 100))
def test_every_request_has_one_variant_whatever_its_entity(cards, salt, weight):
    column = strings([*cards, None])
    hashes = unit_hash([column], salt)
    assert ((hashes >= 0) & (hashes < 1)).all()
    assert rows(weight, salt, {"card": column}) == set(np.flatnonzero(hashes < weight / 100))


def test_every_part_of_an_entity_counts_and_their_order_does_not():
    cards, shops = strings(["a", "a", "b"]), numeric([1, 2, 1])
    assert len(set(unit_hash([cards, shops], "s"))) == 3
    whole = {"shop": shops, "card": cards}
    assert rows(50, "s", whole) == rows(50, "s", dict(reversed(whole.items())))
