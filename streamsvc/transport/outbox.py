"""Answers that wait for the next transaction, with the deliveries that they answer.

A transaction holds everything that has come in since the last one, and the offsets of exactly
these deliveries. Which belongs to which is settled here, on the event loop, without an await
between taking answers and acknowledging what they answer.

A *term* begins with an assignment and ends when its partitions are revoked, or when Kafka says that
they have another owner. What is not committed by its end is dropped: its requests come again, here
or elsewhere.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import structlog

from streamsvc.errors import IntegrityError
from streamsvc.settings import Settings
from streamsvc.transport.chunks import Delivery
from streamsvc.transport.producer import PENDING_BYTES, Send, size_of
from streamsvc.transport.transactions import (
    Commits,
    FencedError,
    Member,
    TransactionalProducer,
)

__all__ = ["Outbox"]

T = TypeVar("T")

log = structlog.get_logger(__name__)


class _Answer(NamedTuple):
    deliveries: Sequence[Delivery]
    sends: Sequence[Send]
    committed: Callable[[], None]


class Outbox:
    """Belongs to one event loop. The app's consumer commits what is in it."""

    def __init__(
        self, settings: Settings, app: Any, topic: str, failed: Callable[[BaseException], None]
    ) -> None:
        """`topic` is what is answered; `failed` is told what no repetition helps against.

        The producer's id is that of a static member: when it is started again, what its last run
        left open is aborted at once. Any other worker's is aborted after the session timeout. Of a
        member that moves to another topic, two producers are there for a moment.
        """
        self._settings = settings
        self._app = app
        self._failed = failed
        instance = app.conf.consumer_group_instance_id or uuid.uuid4().hex
        self._transactional_id = f"{app.conf.id}.{instance}.{topic}"
        self._interval_s = settings.transaction_interval_ms / 1e3
        self._producer: TransactionalProducer | None = None
        self._thread = ThreadPoolExecutor(1, "transactions")
        self._member: Member | None = None
        self._answers: list[_Answer] = []
        self._size = 0
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._committing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connects. Raises UnavailableError or ConfigurationError."""
        await self._connect()
        self._committing = asyncio.create_task(self._commit_often())

    async def stop(self) -> None:
        """Commit what there is; nothing is committed afterwards."""
        await self._app.consumer.commit()
        self.end_term()
        if self._committing is not None:
            self._committing.cancel()
            await asyncio.wait([self._committing])
        if self._producer is not None:
            await self._run(self._producer.close)
        self._thread.shutdown(wait=False)

    async def put(
        self,
        deliveries: Sequence[Delivery],
        sends: Sequence[Send],
        committed: Callable[[], None],
    ) -> None:
        """Take in the answers to deliveries; `committed` is called once they count.

        Waits while too much is under way. Answers of an earlier term are dropped.
        """
        await self._room.wait()
        if self._member is None or not all(delivery.live for delivery in deliveries):
            return
        for delivery in deliveries:
            delivery.ack()
        self._answers.append(_Answer(deliveries, sends, committed))
        self._size += sum(size_of(records) for _, _, records in sends)
        self._filled.set()
        if self._size >= PENDING_BYTES:
            self._room.clear()

    def begin_term(self, member: Member | None) -> None:
        """From now on answers are committed in the name of this member."""
        self.end_term()
        if member is not None and member.joined:  # else it is thrown out already, and joins again
            self._member = member

    def end_term(self) -> None:
        """Drop what is not committed, and take nothing in before the next term."""
        self._member = None
        self.drop()

    def drop(self) -> None:
        """Drop what is not committed."""
        self._take()

    async def commit(self, done: Callable[[], Commits]) -> bool:
        """Commit what is here in one transaction with the offsets that are `done`.

        Whether it did. Never raises: what no repetition helps against is told to `failed`.
        """
        if self._member is None:
            return False
        answers: list[_Answer] = []
        try:
            if self._producer is None:
                await self._connect()
            member, producer = self._member, self._producer
            if member is None or producer is None:
                return False
            # No await from here to the check, or something would be acknowledged in between.
            answers, commits = self._take(), done()
            _check(answers, commits)
            if not commits:
                return False
            sends = [send for answer in answers for send in answer.sends]
            await asyncio.shield(self._run(producer.run, sends, commits, member))
        except FencedError as error:
            log.warning("transaction_fenced", error=str(error), answers=len(answers))
            self._fenced(member, error)
            return False
        except asyncio.CancelledError:
            self.end_term()  # nobody knows what becomes of it
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the worker stops with it
            self.end_term()
            self._failed(error)
            return False
        for answer in answers:
            answer.committed()
        return True

    def _fenced(self, member: Member, error: FencedError) -> None:
        if self._member is member:
            self.end_term()
        if error.for_good:
            self._producer = None
            # The group may know of nothing, and would let us go on behind what we dropped.
            self._app.consumer.rejoin()

    def _take(self) -> list[_Answer]:
        answers, self._answers, self._size = self._answers, [], 0
        self._filled.clear()
        self._room.set()
        return answers

    async def _commit_often(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._filled.wait()
            began = loop.time()
            await self._app.consumer.commit()
            await asyncio.sleep(max(0.0, began + self._interval_s - loop.time()))

    async def _connect(self) -> None:
        self._producer = await self._run(
            TransactionalProducer, self._settings, self._transactional_id
        )

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)


def _check(answers: Sequence[_Answer], commits: Commits) -> None:
    """Raises IntegrityError if an answer would be published without its request being passed."""
    for answer in answers:
        for delivery in answer.deliveries:
            chunk = delivery.chunk
            at, _ = commits.get((chunk.topic, chunk.partition), (-1, ""))
            if at < chunk.next_offset:
                raise IntegrityError(
                    f"Requests of {chunk.topic}/{chunk.partition} are answered up to offset "
                    f"{chunk.next_offset}, but may only be passed up to {at}: the answers would be "
                    "given again. Start the worker again."
                )
