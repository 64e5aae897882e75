"""The changelog of one view partition: what a commit writes, and what a restore makes of it.

Four kinds of record, all blocks:

- `open`  {owner, incarnation}: a worker took the partition over.
- `round` {owner}: the commit that follows begins a round of the rolling snapshot.
- `tiles` {owner} + columns: tiles that changed since the last commit; then some keys with all their
  tiles, in turn, so that every key has been written once a round.
- `end`   {owner, …End}: the commit is complete; everything before it belongs together.

Restoring keeps a commit only if its end marker is there, and only if its owner wrote the newest
open record seen so far. A worker that was paused for too long may go on appending: whatever it
writes after the next owner's open record is ignored, so order in the log is the only fence needed.

A log that was trimmed (`state.trimming`) begins with a round record, and says by that whose it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from streamsvc.errors import IntegrityError
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch
from streamsvc.state.blocks import Block, pack_block

__all__ = ["Commit", "End", "Restorer", "encode_commit", "encode_open"]

BYTES_PER_RECORD = 512 * 1024
"""Half of the largest record that a broker takes by default."""


@dataclass(frozen=True, slots=True)
class End:
    """What a complete commit says about its partition.

    `applied` is the next offset of the input log; `vector` the next source offset by source
    partition, for a view behind a shuffle. `clock_ms` is the ageing clock at the commit, read at
    `clock_wall_ms`; `clock_driven` tells that a clock record set it.
    """

    applied: int
    watermark: int
    clock_ms: int
    clock_wall_ms: int
    clock_driven: bool
    vector: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Commit:
    """State at `end.applied`, to be written after the rows of the same cut.

    `whole` are some keys with all their tiles, the next part of the round.
    """

    tiles: TileBatch
    whole: TileBatch
    begins_round: bool
    ends_round: bool
    end: End


def encode_open(owner: str, incarnation: int) -> bytes:
    """The record with which a new owner takes the partition over."""
    return pack_block("open", {"owner": owner, "incarnation": incarnation}, {})


def encode_commit(owner: str, commit: Commit, spec: WindowSpec) -> list[bytes]:
    """The records of a commit, to be appended together and in this order."""
    records = [pack_block("round", {"owner": owner}, {})] if commit.begins_round else []
    # Even a batch without keys says how far ageing went.
    records += _tiles(owner, commit.tiles, spec)
    if len(commit.whole.keys):
        records += _tiles(owner, commit.whole, spec)
    records.append(pack_block("end", {"owner": owner, **asdict(commit.end)}, {}))
    return records


def _tiles(owner: str, tiles: TileBatch, spec: WindowSpec) -> Iterator[bytes]:
    for part in tiles.slices(spec, BYTES_PER_RECORD):
        raw = np.frombuffer(part.to_bytes(), np.uint8)
        yield pack_block("tiles", {"owner": owner}, {"batch": raw})


class Restorer:
    """Folds the records of one changelog partition, in log order, into its newest state."""

    def __init__(self) -> None:
        self.owner: str | None = None
        """Who opened the partition last, of the records seen so far."""
        self.end: End | None = None
        self._pending: list[TileBatch] = []

    def feed(self, block: Block) -> Iterable[TileBatch]:
        """Take one record; yields the tiles of a commit once its end marker is there.

        Raises IntegrityError if the log begins where no owner has trimmed it.
        """
        owner = block.meta["owner"]
        if block.kind == "open" or (block.kind == "round" and self.owner is None):
            self.owner = owner
            self._pending.clear()
            return ()
        if self.owner is None:
            raise IntegrityError(
                f"The changelog begins in the middle, with a record of kind {block.kind!r}: its "
                "beginning was deleted, by retention or by hand, and the state in it is lost."
            )
        if owner != self.owner or block.kind == "round":
            return ()
        if block.kind == "tiles":
            self._pending.append(TileBatch.from_bytes(block.arrays["batch"].data))
            return ()
        self.end = _end(block.meta)
        complete, self._pending = self._pending, []
        return complete


def _end(meta: Mapping[str, Any]) -> End:
    return End(
        applied=meta["applied"],
        watermark=meta["watermark"],
        clock_ms=meta["clock_ms"],
        clock_wall_ms=meta["clock_wall_ms"],
        clock_driven=meta["clock_driven"],
        vector={int(k): int(v) for k, v in meta["vector"].items()},
    )
