"""The short form of `make chaos`: everything that can go wrong, all at once, on real servers."""

from __future__ import annotations

import pytest
from support.chaos.play import play
from support.chaos.schedule import KINDS, draw

SEED, FAULTS = 4, 24


@pytest.mark.timeout(600)
def test_features_and_answers_are_exact_whatever_happens(tmp_path):
    print(play(SEED, FAULTS, tmp_path))


@pytest.mark.parametrize("seed", range(20))
def test_the_long_form_has_ten_of_each_kind(seed):
    faults = draw(seed, 200)
    assert len(faults) == 200
    assert faults == draw(seed, 200) != draw(seed + 1, 200)
    kinds = [fault.kind for fault in faults]
    assert all(kinds.count(kind) >= 10 for kind in KINDS)
