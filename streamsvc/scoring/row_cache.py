"""Rows of a batch view that were read before, for as long as Feast has written none of the view.

Such rows change when `feast materialize` or a push writes them, and whoever does so leaves a new
mark in the store (`store.written`). The mark is read with every batch: rows that were read under
another one are forgotten. So a row from here is the row that the store holds, as far as one round
trip can tell; the time to live is for what leaves no mark, such as a row that the server dropped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from itertools import chain

__all__ = ["RowCache"]

_BYTES_BESIDE = 200
"""What a name and a row take besides their bytes: two objects, and their place in a dictionary."""
_ABSENT = b""


class RowCache:
    """Rows of one view as they are stored. Thread-safe.

    They lie in two dictionaries: what is put goes into the young one, which becomes the old one at
    half of the time to live, or of the room; what was old is gone then. So nothing is kept about
    when each row came or was asked for.
    """

    def __init__(self, megabytes: int, ttl_s: float, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._half_bytes = megabytes * 500_000
        self._half_ttl_s = ttl_s / 2
        self._clock = clock
        self._lock = threading.Lock()
        self._mark: bytes | None = None
        self._young: dict[bytes, bytes] = {}
        self._old: dict[bytes, bytes] = {}
        self._bytes = 0
        self._begun_s = clock()

    def find(self, names: Sequence[bytes]) -> tuple[bytes | None, list[bytes | None]]:
        """The mark that rows here were read under, and what is known under each name: a row, empty
        where the store held none; None where nothing is known."""
        with self._lock:
            self._turn()
            young, old = self._young, self._old
            return self._mark, [young[n] if n in young else old.get(n) for n in names]

    def put(
        self, mark: bytes | None, names: Sequence[bytes], stored: Sequence[bytes | None]
    ) -> None:
        """Keep rows that were read after this mark, or with it."""
        with self._lock:
            self._turn()
            if mark != self._mark:
                self._mark, self._young, self._old, self._bytes = mark, {}, {}, 0
            rows = [row or _ABSENT for row in stored]
            self._young.update(zip(names, rows, strict=True))
            self._bytes += sum(map(len, chain(names, rows))) + _BYTES_BESIDE * len(rows)

    def _turn(self) -> None:
        now = self._clock()
        if now - self._begun_s >= 2 * self._half_ttl_s:
            self._young, self._old, self._bytes, self._begun_s = {}, {}, 0, now
        elif now - self._begun_s >= self._half_ttl_s:
            # From when it was due: the rows that become old came before, and live half as long.
            self._grow_old(self._begun_s + self._half_ttl_s)
        elif self._bytes >= self._half_bytes:
            self._grow_old(now)

    def _grow_old(self, begun_s: float) -> None:
        self._young, self._old, self._bytes, self._begun_s = {}, self._young, 0, begun_s
