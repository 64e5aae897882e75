"""Vectors are compared bit for bit, and every difference is named."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from streamsvc.demo.vectors import Difference, compare_vectors, differing

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
MATRICES = arrays(np.float32, (5, 3), elements=FLOATS)


@given(MATRICES, MATRICES)
def test_values_differ_if_their_bytes_do_unless_both_are_missing(a, b) -> None:
    for x, y, found in zip(a.ravel(), b.ravel(), differing(a, b).ravel(), strict=True):
        missing = np.isnan(x) and np.isnan(y)
        assert found == (not missing and x.tobytes() != y.tobytes())


@given(MATRICES)
def test_a_matrix_equals_itself_in_any_layout(a) -> None:
    assert not differing(a, np.asfortranarray(a)).any()


def test_every_difference_is_named() -> None:
    nan = np.nan
    served = np.array([[1.0, nan], [2.0, 3.0], [nan, 0.0]], np.float32)
    offline = np.array([[1.0, nan], [2.5, nan], [nan, -0.0]], np.float32)
    found = compare_vectors(served, offline, ["v:a", "v:b"], ["x", "y", "z"], [10, 20, 30])
    assert (found.vectors, found.identical) == (3, 1)
    assert found.identical_share == 1 / 3
    assert found.differences == [
        Difference("y", 20, "v:a", 2.0, 2.5),
        Difference("y", 20, "v:b", 3.0, None),
        Difference("z", 30, "v:b", 0.0, -0.0),
    ]


def test_nothing_compared_shows_nothing() -> None:
    empty = np.empty((0, 2), np.float32)
    assert compare_vectors(empty, empty, ["a", "b"], [], []).identical_share == 0.0
