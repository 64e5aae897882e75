"""The changelog of one view partition: what a commit writes, and what a restore makes of it.

Three kinds of record, all blocks:

- `open`  {owner, incarnation}: a worker took the partition over.
- `tiles` {owner} + columns: whole values of the tiles that changed since the last commit.
- `end`   {owner, …End}: the commit is complete; everything before it belongs together.

Restoring keeps a commit only if its end marker is there, and only if its owner wrote the newest
open record seen so far. A worker that was paused for too long may go on appending: whatever it
writes after the next owner's open record is ignored, so order in the log is the only fence needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch
from streamsvc.state.blocks import Block, pack_block

__all__ = ["End", "Restorer", "encode_end", "encode_open", "encode_tiles"]

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


def encode_open(owner: str, incarnation: int) -> bytes:
    """The record with which a new owner takes the partition over."""
    return pack_block("open", {"owner": owner, "incarnation": incarnation}, {})


def encode_tiles(owner: str, tiles: TileBatch, spec: WindowSpec) -> Iterator[bytes]:
    """Tile records of one commit; at least one, because a batch also says how far ageing went."""
    for part in tiles.slices(spec, BYTES_PER_RECORD):
        raw = np.frombuffer(part.to_bytes(), np.uint8)
        yield pack_block("tiles", {"owner": owner}, {"batch": raw})


def encode_end(owner: str, end: End) -> bytes:
    """The end marker of a commit."""
    meta = {"owner": owner, **asdict(end)}
    return pack_block("end", meta, {})


class Restorer:
    """Folds the records of one changelog partition, in log order, into its newest state."""

    def __init__(self) -> None:
        self._owner: str | None = None
        self._pending: list[TileBatch] = []
        self.end: End | None = None

    def feed(self, block: Block) -> Iterable[TileBatch]:
        """Take one record; yields the tiles of a commit once its end marker is there."""
        owner = block.meta["owner"]
        if block.kind == "open":
            self._owner = owner
            self._pending.clear()
            return ()
        if owner != self._owner:
            return ()
        if block.kind == "tiles":
            self._pending.append(TileBatch.from_bytes(block.arrays["batch"].tobytes()))
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
