from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.columns import numeric, strings
from streamsvc.state.blocks import (
    columns_from_arrays,
    columns_to_arrays,
    pack_block,
    unpack_block,
)

texts = st.lists(st.one_of(st.none(), st.text(max_size=6)), max_size=8)


@given(texts, st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), max_size=8))
def test_columns_survive_a_round_trip(words, numbers):
    columns = {"w/with slash": strings(words), "n": numeric(numbers)}
    value = pack_block("rows", {"a": [1, "x"]}, columns_to_arrays(columns, "c/"))
    block = unpack_block(value)
    assert (block.kind, block.meta) == ("rows", {"a": [1, "x"]})
    back = columns_from_arrays(block.arrays, "c/")
    assert back["w/with slash"].to_pylist() == words
    assert back["n"].to_pylist() == numbers


def test_every_array_starts_on_a_multiple_of_eight_bytes():
    arrays = {"odd": np.arange(3, dtype=np.uint8), "words": np.arange(5)}
    block = unpack_block(pack_block("k", {}, arrays))
    assert block.arrays["words"].tolist() == [0, 1, 2, 3, 4]
    assert block.arrays["words"].ctypes.data % 8 == block.arrays["odd"].ctypes.data % 8


def test_a_value_that_is_no_block_is_an_error():
    with pytest.raises(ValueError, match="header of"):
        unpack_block(b"\xff\xff\xff\x7fgarbage")
