"""Scores that some worker has learned, in the online store: for vectors that others meet as well.

It may help and must not harm. A batch waits for it for a small part of its deadline; who does not
answer by then is left alone until it does. Scores are written when they are known, behind the
answer's back and one batch after the other; of what waits, only so much is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import msgspec
import numpy as np

from streamsvc.columns import U8, U64, Bools
from streamsvc.errors import StreamsvcError, UnavailableError
from streamsvc.models.artifact import ModelCard
from streamsvc.scoring.breaker import Breaker
from streamsvc.scoring.cache import VectorHash, words
from streamsvc.scoring.model import F32
from streamsvc.store.client import Client, call_all
from streamsvc.store.keys import SCORE_NAME_BYTES, score_keys
from streamsvc.store.many_keys import mget

__all__ = ["ScoreStore", "SharedScores"]

T = TypeVar("T")

_THREADS = 2
"""A look-up must not wait behind a write."""
_MOST_WAITING = 16_384
"""Vectors that wait to be written; what comes on top is not."""


class ScoreStore:
    """The scores of one model version in a store. Blocks; thread-safe.

    What is stored is the vector with its scores: equal hashes are not taken for equal vectors.
    """

    def __init__(self, client: Client, project: str, card: ModelCard, ttl_s: float) -> None:
        self._client = client
        # A version that was made anew under its old number is another one.
        files = hashlib.blake2b(msgspec.json.encode(card.files), digest_size=SCORE_NAME_BYTES)
        self._model = f"{project}/{card.model}", f"{card.version}.{files.hexdigest()}."
        self._vector_bytes = 4 * len(card.features)
        self._row_bytes = self._vector_bytes + 4 * card.scores
        self._hash = VectorHash(len(card.features))
        self._ttl_ms = int(1_000 * ttl_s)

    def find(self, inputs: F32) -> tuple[Bools, F32]:
        """Which of n vectors are known, (n,), and their scores, (n, scores). Raises
        UnavailableError."""
        bits = words(inputs)
        stored = mget(self._client, self._names(self._hash(bits)))
        known = np.array([v is not None and len(v) == self._row_bytes for v in stored], np.bool_)
        rows = np.flatnonzero(known)
        whole = np.frombuffer(b"".join(stored[i] for i in rows.tolist()), np.uint8)
        whole = whole.reshape(len(rows), self._row_bytes)
        asked = bits[rows].view(np.uint8).reshape(len(rows), self._vector_bytes)
        same = (whole[:, : self._vector_bytes] == asked).all(axis=1)
        known[rows] = same
        scores = np.ascontiguousarray(whole[same, self._vector_bytes :]).view(np.float32)
        values = np.zeros((len(inputs), (self._row_bytes - self._vector_bytes) // 4), np.float32)
        values[known] = scores
        return known, values

    def put(self, inputs: F32, scores: F32) -> None:
        """Keep the scores of these vectors, (n, scores), for the time to live. Raises
        UnavailableError."""
        bits = words(inputs)
        rows: U8 = np.concatenate([bits, words(scores)], axis=1).view(np.uint8)
        raw, size = rows.tobytes(), self._row_bytes
        names = self._names(self._hash(bits))
        call_all(
            self._client,
            [
                ("SET", name, raw[i * size : (i + 1) * size], "PX", self._ttl_ms)
                for i, name in enumerate(names)
            ],
        )

    def ping(self) -> None:
        """Have one answer. Raises UnavailableError."""
        mget(self._client, self._names(np.zeros(1, np.uint64)))

    def _names(self, hashes: U64) -> list[bytes]:
        return score_keys(*self._model, hashes)


class SharedScores:
    """A ScoreStore for an event loop that must not wait."""

    def __init__(self, store: ScoreStore, most_s: float) -> None:
        """A look-up is waited for so long at most."""
        self._store = store
        self._most_s = most_s
        self._threads = ThreadPoolExecutor(_THREADS, "shared-scores")
        self._breaker = Breaker("shared scores", lambda: self._run(store.ping), failures=1)
        self._waiting: list[tuple[F32, F32]] = []
        self._waiting_rows = 0
        self._writing: asyncio.Task[None] | None = None

    async def find(self, inputs: F32, timeout_s: float) -> tuple[Bools, F32] | None:
        """As the store's; None where it does not answer in time, and while it is left alone."""
        if not self._breaker.available:
            return None
        try:
            async with asyncio.timeout(min(timeout_s, self._most_s)):
                return await self._run(lambda: self._store.find(inputs))
        except TimeoutError:
            late = f"no answer within {1e3 * min(timeout_s, self._most_s):.0f} ms"
            self._breaker.leave_alone(UnavailableError(late))
        except StreamsvcError as error:
            self._breaker.leave_alone(error)
        return None

    def offer(self, inputs: F32, scores: F32) -> None:
        """Have these scores kept, if not too many wait already."""
        room = self._waiting_rows + len(inputs) <= _MOST_WAITING
        if not len(inputs) or not room or not self._breaker.available:
            return
        self._waiting.append((inputs, scores))
        self._waiting_rows += len(inputs)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def close(self) -> None:
        """Write what waits, and end."""
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._breaker.close()
        self._threads.shutdown(wait=False)

    async def _write(self) -> None:
        try:
            while self._waiting:
                inputs, scores = self._waiting.pop(0)
                self._waiting_rows -= len(inputs)
                if not self._breaker.available:
                    continue
                try:
                    await self._run(partial(self._store.put, inputs, scores))
                except StreamsvcError as error:
                    self._breaker.leave_alone(error)
        finally:
            self._writing = None  # whatever ended this, the next offer begins anew

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
