"""Fenced writes: a stored row gives way only to one of a greater position.

Two workers may believe that they own a partition; the store decides by position, not by who came
last. The script compares the 20 bytes as five unsigned 32-bit words, because the server's Lua
compares strings by its locale and holds numbers as doubles, which lose the low bits of 64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from redis.exceptions import NoScriptError

from streamsvc.columns import I64, BytesColumn
from streamsvc.store.client import Client, Command, call_all
from streamsvc.store.cluster import Cluster
from streamsvc.store.keys import row_keys, shards
from streamsvc.store.row import PackedRows

__all__ = ["FencedWriter", "Refusal"]

# 500 rows hold the server for under 2 ms; larger batches are no cheaper per row.
_BATCH_ROWS = 500
_CALLS_AT_ONCE = 32  # a few MB on their way at most

# One MGET and one MSET: calls into the server cost more than anything else in here.
# KEYS are distinct. ARGV: rows end to end; their lengths as u32 (one for all if they are equal);
# time to live in ms, 0 for none; 1 if ties are overwritten. Returns how many rows were refused, and
# of those that hold from a later instant than the row that is there, of a later offset: their
# positions, each followed by that offset.
_SCRIPT = """\
local rows, lengths, ttl, ties = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local read, sub = struct.unpack, string.sub
local stored = redis.call('MGET', unpack(KEYS))
local equal = #lengths == 4
local length = read('<I4', lengths)
local accepted, n, refused, at, later = {}, 0, 0, 1, {}
for i = 1, #KEYS do
  if not equal then length = read('<I4', lengths, 4 * i - 3) end
  local old, write, behind = stored[i], true, false
  if old and #old >= 24 then
    local a1, a2, a3, a4, a5 = read('>I4I4I4I4I4', old)
    local b1, b2, b3, b4, b5 = read('>I4I4I4I4I4', rows, at)
    if b1 ~= a1 then write = b1 > a1
    elseif ties and sub(old, 21, 24) ~= sub(rows, at + 20, at + 23) then write = true
    elseif b2 ~= a2 then write, behind = b2 > a2, b2 < a2
    elseif b3 ~= a3 then write, behind = b3 > a3, b3 < a3
    elseif b4 ~= a4 then write = b4 > a4
    elseif b5 ~= a5 then write = b5 > a5
    else write = ties end
    if behind and (b4 > a4 or (b4 == a4 and b5 > a5)) then
      later[#later + 1] = i - 1
      later[#later + 1] = sub(old, 5, 12)
    end
  end
  if write then
    accepted[n + 1] = KEYS[i]
    accepted[n + 2] = sub(rows, at, at + length - 1)
    n = n + 2
  else
    refused = refused + 1
  end
  at = at + length
end
if ttl > 0 then
  for i = 1, n, 2 do redis.call('SET', accepted[i], accepted[i + 1], 'PX', ttl) end
elseif n > 0 then
  redis.call('MSET', unpack(accepted))
end
return {refused, later}
"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the store did not take of a batch of rows."""

    rows: int
    """How many."""
    later: dict[int, int]
    """Position in the batch -> offset of the row in the store, of those that hold from a later
    instant than that one. Everything else in the store contains at least what was refused."""


class FencedWriter:
    """Writes packed rows of one project. Thread-safe, as the client is."""

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project
        self._sha = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()

    def write(
        self,
        view: str,
        keys: BytesColumn,
        rows: PackedRows,
        *,
        ttl_ms: int | None = None,
        overwrite_ties: bool = False,
    ) -> int:
        """Store every row whose position is greater than the stored one; return how many were not.

        When this returns, the rows are readable. `ttl_ms` lets the server drop the rows that are
        written now after so long. `overwrite_ties` is for writers without a log (incarnation 0):
        an equal position is overwritten, and so is any row of the same incarnation but another
        schema, which no reader of this schema could see anyway.

        Raises ValueError for a null key, UnavailableError if the store cannot take the rows (a part
        of them may have been written, and writing them again is safe).
        """
        return self.write_all([(view, keys, rows)], ttl_ms=ttl_ms, overwrite_ties=overwrite_ties)[0]

    def write_all(
        self,
        batches: Sequence[tuple[str, BytesColumn, PackedRows]],
        *,
        ttl_ms: int | None = None,
        overwrite_ties: bool = False,
    ) -> list[int]:
        """As `write`, for (view, keys, rows) of several views, in as few round trips as can be."""
        *_, refused = self.write_between(
            (), batches, (), ttl_ms=ttl_ms, overwrite_ties=overwrite_ties
        )
        return [refusal.rows for refusal in refused]

    def write_between(
        self,
        first: Sequence[Command],
        batches: Sequence[tuple[str, BytesColumn, PackedRows]],
        last: Sequence[Command],
        *,
        ttl_ms: int | None = None,
        overwrite_ties: bool = False,
    ) -> tuple[list[Any], list[list[Any]], list[Refusal]]:
        """As `write_all`, with commands ahead of the rows and behind them, in the same round trips.

        `first` is run once, `last` behind each part of the rows that is sent at once: whoever has
        lost a row has lost what was said behind it. Returns the replies to `first`, those to each
        `last`, and what was refused of each batch.
        """
        options = (ttl_ms or 0, int(overwrite_ties))
        calls: list[tuple[int, I64, Command]] = []
        for number, (view, keys, rows) in enumerate(batches):
            calls += [(number, *call) for call in self._calls(view, keys, rows, options)]
        refused, later = [0] * len(batches), [dict[int, int]() for _ in batches]
        ahead: list[Any] = []
        behind: list[list[Any]] = []
        for at in range(0, len(calls) or bool(first) or bool(last), _CALLS_AT_ONCE):
            part = calls[at : at + _CALLS_AT_ONCE]
            begin = first if at == 0 else ()
            scripts = [("EVALSHA", self._sha, *c) for _, _, c in part]
            replies = call_all(self._client, [*begin, *scripts, *last])
            ahead += replies[: len(begin)]
            written = replies[len(begin) : len(begin) + len(part)]
            behind.append(replies[len(begin) + len(part) :])
            # A server that was restarted or failed over has forgotten its scripts; EVAL also
            # teaches it this one again.
            forgotten = [i for i, reply in enumerate(written) if isinstance(reply, NoScriptError)]
            if forgotten:
                again: list[Command] = [("EVAL", _SCRIPT, *part[i][2]) for i in forgotten]
                replies = call_all(self._client, [*again, *last])
                behind.append(replies[len(again) :])
                for i, reply in zip(forgotten, replies, strict=False):
                    written[i] = reply
            for (number, positions, _), (n, found) in zip(part, written, strict=True):
                refused[number] += n
                for i, offset in zip(found[::2], found[1::2], strict=True):
                    later[number][int(positions[i])] = int.from_bytes(offset, "big")
        return ahead, behind, [Refusal(*each) for each in zip(refused, later, strict=True)]

    def _calls(
        self, view: str, keys: BytesColumn, rows: PackedRows, options: tuple[int, int]
    ) -> Iterator[tuple[I64, Command]]:
        """The script's arguments for every batch of a view's rows, and which rows these are."""
        if not keys.valid.all():
            raise ValueError(f"view {view!r}: a row without an entity key cannot be stored")
        if len(keys) != len(rows):
            raise ValueError(f"view {view!r}: {len(keys)} keys for {len(rows)} rows")
        spread = isinstance(self._client, Cluster)
        order: I64 = np.arange(len(keys))
        if spread:
            order = np.argsort(shards(keys), kind="stable")
            keys, rows = keys.take(order), rows.take(order)
        names = row_keys(self._project, view, keys)
        length = rows.end - rows.start
        runs = _runs(shards(keys)) if spread else [(0, len(names))]
        for first, stop in (batch for run in runs for batch in _batches(names, *run)):
            of_batch = length[first:stop]
            same = bool((of_batch == of_batch[0]).all())
            command: Command = (
                stop - first,
                *names[first:stop],
                rows.data[rows.start[first] : rows.end[stop - 1]].tobytes(),
                (of_batch[:1] if same else of_batch).astype("<u4").tobytes(),
                *options,
            )
            yield order[first:stop], command


def _runs(shard: I64) -> Iterator[tuple[int, int]]:
    """Where the rows of each shard begin and end, given in order: on a cluster, a call may only
    name keys of one hash tag."""
    edges = [0, *(np.flatnonzero(np.diff(shard)) + 1).tolist(), len(shard)]
    return pairwise(edges)


def _batches(names: list[bytes], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Runs of rows that go into one call, as (first, stop); the keys within one are distinct."""
    for first in range(start, end, _BATCH_ROWS):
        stop = min(first + _BATCH_ROWS, end)
        if len(set(names[first:stop])) == stop - first:
            yield first, stop
        else:
            yield from ((i, i + 1) for i in range(first, stop))
