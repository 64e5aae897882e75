"""The schedule of `make chaos`: the same from the same seed, and enough of everything."""

from __future__ import annotations

import pytest
from support.chaos.schedule import KINDS, draw


@pytest.mark.parametrize("seed", range(20))
def test_the_long_form_has_ten_of_each_kind(seed):
    faults = draw(seed, 200)
    assert len(faults) == 200
    assert faults == draw(seed, 200) != draw(seed + 1, 200)
    kinds = [fault.kind for fault in faults]
    assert all(kinds.count(kind) >= 10 for kind in KINDS)
