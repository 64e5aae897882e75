"""The arrays of a window state, and how they grow.

Kernels never allocate. Before a slice of rows Python makes sure of slots, index and schedule;
the pool grows when a kernel stops for it. The large arrays grow in place, by a quarter once they
are large, so that the peak stays near what is used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.features.kernels import distinct, percentiles
from streamsvc.features.kernels.key_index import refill
from streamsvc.features.kernels.layout import (
    BUCKET_FREE,
    BUCKET_TOP,
    BUCKET_WORDS,
    CLOCK,
    DIRTY_LEN,
    FAR_PAST,
    MAX_CLASS,
    META_WORDS,
    N_KEYS,
    NEED_CLASS,
    NEED_TEXT,
    QUEUE_HEAD,
    QUEUE_LEN,
    RING_WORDS,
    RINGS,
    SLOT_FREE,
    UNIT,
    State,
)
from streamsvc.features.kernels.pool import add_region
from streamsvc.features.kernels.program import DISTINCT, EX_KIND, PERCENTILES, Program
from streamsvc.features.kernels.schedule import refill_instants
from streamsvc.features.memory import Growable
from streamsvc.features.spec import WindowSpec

__all__ = ["SLICE", "Storage", "grow_texts"]

SLICE = 4096
"""Rows that a kernel handles per call: bounds what is reserved for the worst case."""

_SMALL = 1 << 20


class Storage:
    """Owns a `State`. `state` must be read anew after every call here."""

    def __init__(self, spec: WindowSpec) -> None:
        self._program = spec.program
        self._groups = len(spec.program.hop)
        meta = np.zeros(META_WORDS, np.int64)
        meta[CLOCK] = FAR_PAST
        meta[SLOT_FREE] = meta[BUCKET_FREE] = -1
        self._slots = Growable((64, RINGS + RING_WORDS * self._groups), np.int64)
        self._pool = Growable((0,), np.int64)
        self._tags = Growable((0,), np.uint8)
        self.state = State(
            meta=meta,
            slots=self._slots.array,
            table=np.zeros(256, np.int64),
            pool=self._pool.array,
            tags=self._tags.array,
            heads=np.full(MAX_CLASS, -1, np.int64),
            buckets=np.zeros((64, BUCKET_WORDS), np.int64),
            heap=np.zeros(64, np.int64),
            instants=np.zeros(256, np.int64),
            queue=np.zeros(64, np.int64),
            dirty=np.zeros(64, np.int64),
            cuts=np.zeros(len(spec.program.window), np.int64),
            scratch=np.zeros(_scratch_words(spec.program), np.int64),
        )

    @property
    def bytes(self) -> int:
        """Size of all arrays but the scratch, hardly any of which is ever touched."""
        return sum(a.nbytes for a in self.state) - self.state.scratch.nbytes

    def reserve(self, keys: int) -> None:
        """Room for that many new keys, and for each of them to be rescheduled in every group."""
        self._reserve_slots(int(self.state.meta[N_KEYS]) + keys)
        self.reserve_instants(keys * self._groups)

    def _reserve_slots(self, wanted: int) -> None:
        st = self.state
        have = len(st.slots)
        if wanted > have:
            size = _grown(have, wanted)
            st.dirty.resize(size, refcheck=False)
            head, length = int(st.meta[QUEUE_HEAD]), int(st.meta[QUEUE_LEN])
            queue = np.zeros(size, np.int64)
            queue[:length] = np.roll(st.queue, -head)[:length]
            st.meta[QUEUE_HEAD] = 0
            self._slots.grow(size)
            self.state = st = st._replace(queue=queue, slots=self._slots.array)
        if wanted * 2 > len(st.table):
            table = np.zeros(_power_of_two(wanted * 2), np.int64)
            refill(st.table, table)
            self.state = st._replace(table=table)

    def reserve_instants(self, new: int) -> None:
        """Room in the schedule for that many new instants."""
        st = self.state
        wanted = int(st.meta[BUCKET_TOP]) + new
        if wanted <= len(st.buckets):
            return
        size = _grown(len(st.buckets), wanted)
        st.buckets.resize((size, BUCKET_WORDS), refcheck=False)
        st.heap.resize(size, refcheck=False)
        if size * 2 > len(st.instants):
            instants: I64 = np.zeros(_power_of_two(size * 2), np.int64)
            refill_instants(st.instants, instants, st.buckets)
            self.state = st._replace(instants=instants)

    def grow_pool(self) -> None:
        """Room for the block that a kernel asked for."""
        st = self.state
        units = len(st.tags)
        block = 1 << int(st.meta[NEED_CLASS])
        aligned = (units + block - 1) // block * block
        size = _grown(max(units, 1024), aligned + block)
        self._pool.grow(size * UNIT)
        self._tags.grow(size)
        self.state = st._replace(pool=self._pool.array, tags=self._tags.array)
        add_region(self.state, self._program, units, size)

    def complete(
        self,
        step: Callable[..., int],
        low: int,
        high: int,
        *arguments: object,
        texts: U8 | None = None,
    ) -> None:
        """Run a kernel over rows [low, high) to its end, growing the pool whenever it stops.

        It is called with state, program, the arguments, and the rows that are left. `texts` is the
        one of the arguments that it writes text to; it grows in place.
        """
        while (low := step(self.state, self._program, *arguments, low, high)) < high:
            if texts is None or not grow_texts(texts, self.state):
                self.grow_pool()

    def take_dirty(self) -> I64:
        """The slots that have something to persist; the list is empty afterwards."""
        st = self.state
        slots = st.dirty[: int(st.meta[DIRTY_LEN])].copy()
        st.meta[DIRTY_LEN] = 0
        return slots


def grow_texts(texts: U8, state: State) -> bool:
    """Room for the text that a kernel stopped for; False if it stopped for something else."""
    wanted = int(state.meta[NEED_TEXT])
    if wanted <= len(texts):
        return False
    texts.resize(max(2 * len(texts), wanted), refcheck=False)
    return True


def _scratch_words(program: Program) -> int:
    """Both kinds of union use the same words; pages that none touches take no memory."""
    kinds = set(program.extras[:, EX_KIND].tolist())
    return max(
        1,
        distinct.SCRATCH if DISTINCT in kinds else 0,
        percentiles.SCRATCH if PERCENTILES in kinds else 0,
    )


def _grown(have: int, wanted: int) -> int:
    return max(wanted, have * 2 if have < _SMALL else have + have // 4)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
