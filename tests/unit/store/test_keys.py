from __future__ import annotations

import re

import numpy as np

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys, murmur2
from streamsvc.store.keys import (
    marker_key,
    marker_pattern,
    project_pattern,
    row_keys,
    row_pattern,
)


def test_row_keys_name_project_view_shard_and_entity() -> None:
    keys = encode_entity_keys([numeric(list(range(500))), strings([f"é{i}" for i in range(500)])])
    shards = murmur2(keys) % 64
    assert len(set(shards.tolist())) == 64
    assert row_keys("proj", "vïew", keys) == [
        f"{{proj/vïew/{shard:02x}}}".encode() + keys.row(i) for i, shard in enumerate(shards)
    ]
    assert row_keys("p", "v", keys.take(np.empty(0, np.int64))) == []


def test_a_null_entity_has_a_key_that_no_entity_has() -> None:
    keys = encode_entity_keys([numeric([1, None])])
    assert re.fullmatch(rb"\{p/v/[0-3][0-9a-f]\}", row_keys("p", "v", keys)[1])


def test_marker_keys() -> None:
    assert marker_key("p", "v", 12) == b"{p/v/applied}12"


def test_patterns_match_one_view_only_and_quote_what_scan_would_expand() -> None:
    assert row_pattern("p", "v*[1]") == rb"{p/v\*\[1\]/[0-3][0-9a-f]}*"
    assert marker_pattern("p", "v?") == rb"{p/v\?/applied}*"
    assert project_pattern("a-b") == rb"{a\-b/*"
