"""Names of everything that the store holds.

    row      {<project>/<view>/<shard>}<entity key bytes>     shard: two hex digits
    marker   {<project>/<view>/applied}<state partition>
    position {<project>/<topic>/read}<source partition>
    beat     {<project>/heartbeat.<place>}<owner>            place: four digits
    layout   {<project>/<view>/layout}<fingerprint>
    written  {<project>/<view>/written}
    score    {<project>/<model>/score.<shard>}<version>.<digest of its files>.<hash of a vector>

What stands in braces is a Redis Cluster hash tag: a shard's rows share a slot, so one `MGET` or
script call may name any number of them; so do a view's markers, and a topic's positions.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from streamsvc.columns import I64, U8, U64, BytesColumn
from streamsvc.entity_keys import murmur2

__all__ = [
    "SCORE_NAME_BYTES",
    "SHARDS",
    "heartbeat_key",
    "heartbeat_pattern",
    "layout_key",
    "layout_pattern",
    "marker_key",
    "marker_pattern",
    "position_key",
    "position_pattern",
    "project_pattern",
    "row_keys",
    "row_pattern",
    "score_keys",
    "score_pattern",
    "shards",
    "written_key",
    "written_pattern",
]

SHARDS = 64
SCORE_NAME_BYTES = 8
"""Of a digest that tells apart what has the same version number."""
_GLOB_CHARACTERS = b"\\*?[]^-"


def shards(keys: BytesColumn) -> I64:
    """The shard of every entity key, 0 to 63; shape (n,)."""
    return murmur2(keys) % SHARDS


def row_keys(project: str, view: str, keys: BytesColumn) -> list[bytes]:
    """The store key of every entity key's row.

    A null entity key yields a key that no row is ever stored under.
    """
    prefix = np.frombuffer(f"{{{project}/{view}/".encode(), np.uint8)
    length = np.where(keys.valid, keys.end - keys.start, 0) + (len(prefix) + 3)
    end = np.cumsum(length)
    out = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    _put_row_keys(out, end - length, prefix, shards(keys), keys.data, keys.start, keys.valid, end)
    raw = out.tobytes()
    ends = end.tolist()
    return [raw[s:e] for s, e in zip([0, *ends], ends, strict=False)]


def marker_key(project: str, view: str, partition: int) -> bytes:
    """The store key of the applied-position marker of one state partition."""
    return f"{{{project}/{view}/applied}}{partition}".encode()


def position_key(project: str, topic: str, partition: int) -> bytes:
    """The store key of how far a source partition was read."""
    return f"{{{project}/{topic}/read}}{partition}".encode()


def heartbeat_key(project: str, owner: str, place: int = 0) -> bytes:
    """The store key of a feature worker's heartbeat; every place, below 10,000, has its slot."""
    return f"{{{project}/heartbeat.{place:04d}}}{owner}".encode()


def layout_key(project: str, view: str, fingerprint: int) -> bytes:
    """The store key of what rows with this schema fingerprint hold."""
    return f"{{{project}/{view}/layout}}{fingerprint:08x}".encode()


def written_key(project: str, view: str) -> bytes:
    """The store key of the mark that whoever writes rows by Feast leaves."""
    return f"{{{project}/{view}/written}}".encode()


def score_keys(model: str, version: str, hashes: U64) -> list[bytes]:
    """The store keys of scores; `model` is `<project>/<model>`."""
    shard = (hashes >> np.uint64(58)).astype(np.int64).tolist()
    starts = [f"{{{model}/score.{i:02x}}}{version}".encode() for i in range(SHARDS)]
    raw = hashes.astype("<u8").tobytes()
    return [starts[s] + raw[8 * i : 8 * i + 8] for i, s in enumerate(shard)]


def score_pattern(project: str, model: str) -> bytes:
    """A pattern that matches every score of a model and nothing else."""
    return b"{" + _escaped(f"{project}/{model}/score.") + b"[0-3][0-9a-f]}*"


def row_pattern(project: str, view: str) -> bytes:
    """A SCAN pattern that matches every row of a view and nothing else."""
    return b"{" + _escaped(f"{project}/{view}/") + b"[0-3][0-9a-f]}*"


def marker_pattern(project: str, view: str) -> bytes:
    """A SCAN pattern that matches every marker of a view and nothing else."""
    return b"{" + _escaped(f"{project}/{view}/applied") + b"}*"


def position_pattern(project: str, topic: str) -> bytes:
    """A SCAN pattern that matches every read position of a topic and nothing else."""
    return b"{" + _escaped(f"{project}/{topic}/read") + b"}*"


def heartbeat_pattern(project: str) -> bytes:
    """A SCAN pattern that matches every heartbeat of a project and nothing else."""
    return b"{" + _escaped(f"{project}/heartbeat.") + b"[0-9][0-9][0-9][0-9]}*"


def layout_pattern(project: str, view: str) -> bytes:
    """A SCAN pattern that matches what every schema of a view's rows holds and nothing else."""
    return b"{" + _escaped(f"{project}/{view}/layout") + b"}*"


def written_pattern(project: str, view: str) -> bytes:
    """A pattern that matches the mark of a view and nothing else."""
    return b"{" + _escaped(f"{project}/{view}/written") + b"}"


def project_pattern(project: str) -> bytes:
    """A SCAN pattern that matches every row and marker of a project and nothing else."""
    return b"{" + _escaped(f"{project}/") + b"*"


def _escaped(text: str) -> bytes:
    return b"".join(
        b"\\" + bytes([c]) if c in _GLOB_CHARACTERS else bytes([c]) for c in text.encode()
    )


@njit(cache=True, nogil=True)
def _put_row_keys(out: U8, at: I64, prefix: U8, shard: I64, data: U8, start: I64, valid, end: I64):  # type: ignore[no-untyped-def]
    for i in range(len(at)):
        p = at[i]
        for j in range(len(prefix)):
            out[p + j] = prefix[j]
        p += len(prefix)
        for digit in (shard[i] >> 4, shard[i] & 15):
            out[p] = digit + 48 if digit < 10 else digit + 87
            p += 1
        out[p] = 125
        p += 1
        if valid[i]:
            s = start[i]
            for j in range(end[i] - p):
                out[p + j] = data[s + j]
