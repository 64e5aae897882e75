"""Records of a shuffle, applied to the states of their key group."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from streamsvc.agents.shuffle_sender import Echo
from streamsvc.errors import IntegrityError
from streamsvc.state.blocks import unpack_block
from streamsvc.state.partition import ViewPartition
from streamsvc.state.shuffle import Section, decode_shuffle
from streamsvc.transport.chunk import Chunk

__all__ = ["apply_chunk", "apply_echo"]


def apply_chunk(chunk: Chunk, states: Sequence[ViewPartition], now_ms: int) -> bool:
    """Apply what each of these states has not seen of a chunk of their key group; whether there
    was anything. Raises IntegrityError if the log has a hole in front of the chunk.
    """
    behind = [state for state in states if state.applied < chunk.next_offset]
    if not behind:
        return False
    least = min(state.applied for state in behind)
    if least < chunk.first_offset:
        raise IntegrityError(
            f"{chunk.topic}/{chunk.partition} goes on at offset {chunk.first_offset}, but a view "
            f"has applied it up to {least} only. Start the worker again: it reads the rest."
        )
    unread = chunk.since(least)
    records = [
        (offset, decode_shuffle(unpack_block(value), offset))
        for i, offset in enumerate(unread.offsets.tolist())
        if (value := unread.value(i)) is not None
    ]
    _apply(records, behind, chunk.next_offset, now_ms)
    return True


def apply_echo(echo: Echo, states: Sequence[ViewPartition], now_ms: int) -> bool:
    """Apply a record of our own to the states that would read it next; whether there were any."""
    next_ = [state for state in states if state.applied == echo.offset]
    if next_:
        sections = [replace(section, offset=echo.offset) for section in echo.sections]
        _apply([(echo.offset, sections)], next_, echo.offset + 1, now_ms)
    return bool(next_)


def _apply(
    records: Iterable[tuple[int, Sequence[Section]]],
    states: Sequence[ViewPartition],
    end: int,
    now_ms: int,
) -> None:
    """Apply what each of these states has not seen of records of their key group up to `end`."""
    for state in states:
        sections = [
            section
            for offset, found in records
            if offset >= state.applied
            for section in found
            if (section.view, section.incarnation) == (state.view.name, state.incarnation)
        ]
        state.apply_shuffled(sections, end, now_ms)
