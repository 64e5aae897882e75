"""Watches markers on a thread of its own, until one of them changes.

Whoever waits for a feature asks every other millisecond. By way of the event loop each question
would wake two threads; here it costs one round trip to the store and the comparison of a few bytes.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from streamsvc.scoring.needs import MarkerId
from streamsvc.store.markers import Marker

__all__ = ["MarkerWatch"]

POLL_S = 0.002

Raw = bytes | None


class MarkerWatch:
    """One watch at a time; belongs to one event loop."""

    def __init__(
        self,
        read: Callable[[Sequence[MarkerId]], list[Raw]],
        decode: Callable[[Raw], Marker | None],
        poll_s: float = POLL_S,
    ) -> None:
        """`read` blocks; it returns the stored bytes of markers, None where there are none."""
        self._read = read
        self._decode = decode
        self._poll_s = poll_s
        self._thread = ThreadPoolExecutor(1, "markers")
        self._disturbed = threading.Event()
        self._known: dict[MarkerId, tuple[Raw, Marker | None]] = {}

    def disturb(self) -> None:
        """Let a watch that is under way return what it sees now."""
        self._disturbed.set()

    async def changed(self, ids: Sequence[MarkerId]) -> dict[MarkerId, Marker | None]:
        """These markers, once one has changed since the last call, or when disturbed.

        Raises what `read` and `decode` raise.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._watch, ids)

    def close(self) -> None:
        """End the thread."""
        self._disturbed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _watch(self, ids: Sequence[MarkerId]) -> dict[MarkerId, Marker | None]:
        while True:
            # Cleared only if it was set: who disturbs between the two lines must not be forgotten.
            if asked := self._disturbed.is_set():
                self._disturbed.clear()
            if self._look(ids) or asked:
                return {m: self._known[m][1] for m in ids}
            self._disturbed.wait(self._poll_s)

    def _look(self, ids: Sequence[MarkerId]) -> bool:
        """Read the markers once; whether any of them is new."""
        changed = False
        for marker_id, raw in zip(ids, self._read(ids), strict=True):
            if marker_id not in self._known or self._known[marker_id][0] != raw:
                self._known[marker_id] = (raw, self._decode(raw))
                changed = True
        return changed
