from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from streamsvc.features.narrow import WIDTHS, by_width, narrow, widen

LEAST, GREATEST = -(2**63), 2**63 - 1
NEAR = st.tuples(
    st.integers(LEAST, GREATEST), st.sampled_from([0, 255, 256, 65_535, 2**32 - 1, 2**32])
).flatmap(lambda at: st.lists(st.integers(at[0], min(at[0] + at[1], GREATEST)), max_size=20))
ANY = st.lists(st.integers(LEAST, GREATEST), max_size=20)


@given(NEAR | ANY)
@example([LEAST, GREATEST])
@example([7, 7 + 2**32 - 1])
def test_numbers_come_back_in_no_more_bytes_than_their_range_needs(numbers: list[int]) -> None:
    values = np.array(numbers, np.int64)
    low, width, stored = narrow(values)
    assert len(stored) == width * len(numbers)
    (again,) = widen(b"askew" + stored, 5, [len(numbers)], [low], [width])
    assert again.tolist() == numbers
    apart = max(numbers, default=0) - min(numbers, default=0)
    assert width == next(w for w in WIDTHS if w == 8 or apart < 256**w)


@given(st.lists(NEAR, min_size=6, max_size=6))
def test_columns_of_any_widths_come_back_together(columns: list[list[int]]) -> None:
    lows, widths, stored = zip(*(narrow(np.array(c, np.int64)) for c in columns), strict=True)
    raw = b"askew" + b"".join(stored[i] for i in by_width(widths))
    again = widen(raw, 5, [len(c) for c in columns], lows, widths)
    assert [column.tolist() for column in again] == columns
