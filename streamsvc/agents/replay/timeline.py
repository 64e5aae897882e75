"""Several files of events as one sequence in event-time order, events before requests on ties."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.agents.replay.files import EventFile
from streamsvc.columns import I64

__all__ = ["Timeline"]


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """n records of several files; all arrays have shape (n,)."""

    files: tuple[EventFile, ...]
    times: I64
    """Event times, milliseconds, ascending."""
    file: I64
    """Position in `files`; ascending among records of one instant, the requests' file last."""
    row: I64

    @classmethod
    def of(cls, files: Sequence[EventFile], requests: Collection[str] = ()) -> Timeline:
        """The files in event-time order. Records of the topics `requests` come last on ties.

        Otherwise ties are in the order of the files, and within a file in its own order.
        """
        ordered = tuple(sorted(files, key=lambda f: f.topic in requests))
        times = np.concatenate([f.times for f in ordered] or [np.empty(0, np.int64)])
        file = np.repeat(np.arange(len(ordered), dtype=np.int64), [len(f) for f in ordered])
        row = np.concatenate([np.arange(len(f), dtype=np.int64) for f in ordered] or [times])
        # Records are laid out by file and row already, so a stable sort by time keeps the tie rule.
        order = np.argsort(times, kind="stable")
        return cls(ordered, times[order], file[order], row[order])

    def __len__(self) -> int:
        return len(self.times)

    def topics(self) -> tuple[str, ...]:
        """Topics of the files, in their order."""
        return tuple(file.topic for file in self.files)

    def counts(self) -> dict[str, int]:
        """Topic -> records."""
        found = dict.fromkeys(self.topics(), 0)
        for file in self.files:
            found[file.topic] += len(file)
        return found

    def rounds(self, requests: str) -> Iterator[tuple[int, int, int, int]]:
        """The sequence cut at its requests: (first, first request, end, instant in ms).

        Records `first … first request - 1` are events up to and including the instant, `first
        request … end - 1` are the requests of that instant. After the last request one more round
        without requests may follow, with the events that are left.
        """
        of_topic = [i for i, file in enumerate(self.files) if file.topic == requests]
        asking = np.flatnonzero(np.isin(self.file, of_topic))
        first = 0
        if len(asking):
            instants = self.times[asking]
            starts = np.flatnonzero(np.diff(instants, prepend=instants[0] - 1))
            ends = np.append(starts[1:], len(asking)) - 1
            for begin, last in zip(asking[starts].tolist(), asking[ends].tolist(), strict=True):
                yield first, begin, last + 1, int(self.times[begin])
                first = last + 1
        if first < len(self):
            yield first, len(self), len(self), int(self.times[-1])
