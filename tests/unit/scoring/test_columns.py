"""Kernels over byte columns: distinct values and headers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from support.scoring import chunk

from streamsvc.columns import strings
from streamsvc.scoring.distinct import distinct
from streamsvc.scoring.headers import header_column
from streamsvc.scoring.requests import merged


@settings(deadline=None)
@given(st.lists(st.none() | st.binary(max_size=3), max_size=60))
def test_distinct_is_a_dictionary(values):
    found, index = distinct(strings(values))
    order = list(dict.fromkeys(v for v in values if v is not None))
    assert found.to_bytes_list() == order
    assert index.tolist() == [-1 if v is None else order.index(v) for v in values]


HEADERS = st.lists(
    st.tuples(
        st.sampled_from(["a", "traceparent", "ab", "é"]), st.none() | st.binary(max_size=200)
    ),
    max_size=4,
)


@settings(deadline=None)
@given(st.lists(HEADERS, min_size=1, max_size=12), st.sampled_from(["a", "traceparent", "é"]))
def test_header_column_is_the_first_header_of_that_name(headers, name):
    found = header_column(chunk([b"x"] * len(headers), headers=headers), name)
    first = [next((v for k, v in of_record if k == name), None) for of_record in headers]
    # An empty value is as good as none for every header that scoring reads.
    assert [v or None for v in found.to_bytes_list()] == [v or None for v in first]


def test_merged_chunks_read_like_the_chunks_one_after_the_other():
    first = chunk([b"a", None], partition=2, first=10, headers=[[("h", b"1")], []])
    second = chunk([b"bc"], partition=0, first=4, headers=[[("h", b"2")]])
    whole, partition = merged([first, chunk([]), second])
    assert whole.values.to_bytes_list() == [b"a", None, b"bc"]
    assert [whole.headers(i) for i in range(3)] == [[("h", b"1")], [], [("h", b"2")]]
    assert whole.offsets.tolist() == [10, 11, 4]
    assert partition.tolist() == [2, 2, 0]
