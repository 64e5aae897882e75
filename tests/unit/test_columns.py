"""Columns one after the other."""

from __future__ import annotations

from streamsvc.columns import BytesColumn, concat, strings


def test_parts_of_one_column_share_its_text() -> None:
    column = strings(["ab", None, "c", "de"])
    joined = concat([column.take(slice(2, 4)), column.take(slice(0, 2))], "string")
    assert isinstance(joined, BytesColumn)
    assert joined.to_pylist() == ["c", "de", "ab", None]
    assert joined.data is column.data


def test_columns_of_their_own_follow_one_another() -> None:
    joined = concat([strings(["ab", None]), strings([]), strings(["", "c"])], "string")
    assert joined.to_pylist() == ["ab", None, "", "c"]
