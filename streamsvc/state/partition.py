"""One view's state on one partition of its input log, and what a flush takes out of it.

The input log is the source topic itself when the source declares its key, else the view's shuffle
topic. The state is a function of a prefix of that log; `applied` is where the prefix ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from streamsvc.columns import I64
from streamsvc.definitions.plan import View
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.features.emission import Emitted
from streamsvc.features.engine import WindowState, age_together, emit_together
from streamsvc.features.rows import EntityRows
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch
from streamsvc.state.changelog import Commit, End
from streamsvc.state.cut import Cut, EventsOf
from streamsvc.state.events import Events, SourceClock
from streamsvc.state.progress import Progress
from streamsvc.state.shuffle import Section
from streamsvc.state.trimming import Trimming
from streamsvc.store.refused import RefusedRows

__all__ = ["ViewPartition", "cut_together"]

AGEING_SLICE = 2_000
"""Rows aged in one flush: about a millisecond of store writes behind the fresh rows."""

ROUND_SHARE = 2
ROUND_WORDS = 128
"""A commit carries whole keys of a `ROUND_SHARE`-th of the words that changed, but of no fewer than
these, which is twice what a commit takes in which hardly anything changed. While S words of
state are written in whole, no more than `ROUND_SHARE` times S change: the log from the beginning of
one round to the end of the next holds 2 * (1 + ROUND_SHARE) times the state."""


class ViewPartition:
    """Tiles, position, source vector and ageing clock. Not thread-safe: calls are serialised."""

    def __init__(self, view: View, spec: WindowSpec, partition: int, incarnation: int) -> None:
        self.view = view
        self.partition = partition
        self.incarnation = incarnation
        self.state = WindowState(spec)
        self.applied = 0
        self.watermark = NO_WATERMARK
        self.vector: dict[int, int] = {}
        self._clock = SourceClock(NO_WATERMARK, False)
        self._clock_wall_ms = 0
        self._ageing_from = 0
        self._appended_ms = 0
        self._flushed = -1
        self._round_begins = True
        self.committed = -1
        """Input offset of the last commit, -1 before the first."""
        self.trimming = Trimming(0)
        """Not of the state, but of its log: for whoever hears of acknowledgements."""
        self.refused = RefusedRows()
        """Not of the state, but of its rows: for whoever writes them."""
        self.each_event = False
        """Not of the state either: somebody wants to know the row of each event."""
        self._events: list[EventsOf] = []
        self._rows_untold = False
        self.quiet = False
        """Rows wait, because those of an earlier incarnation are being served."""
        self._until: Mapping[int, int] = {}

    # --- restoring -------------------------------------------------------------------------

    def load(self, tiles: TileBatch) -> None:
        """Tiles of one complete commit, oldest commit first."""
        self.state.load(tiles)

    def resume(
        self,
        end: End | None,
        input_end: int,
        input_begin: int = 0,
        starts: Mapping[int, int] | None = None,
    ) -> None:
        """Go on after the newest complete commit; without one, at the beginning of the input log.

        `starts` says of a view behind a shuffle below which source offsets nothing counts.

        Until `input_end` (the end of the input log now) is applied, time stands still but for the
        events themselves: rows written before the crash lie at later positions than what is being
        replayed, and a row aged now would be refused by the fence and never be due again.
        """
        self._ageing_from = input_end
        if end is None:
            self.applied = input_begin
            if self.view.shuffled:
                self.vector = dict(starts or {})
            elif input_begin:
                self.vector[self.partition] = input_begin
            return
        self.applied = self.committed = end.applied
        self.watermark = end.watermark
        self.vector = dict(end.vector)
        self._clock = SourceClock(end.clock_ms, end.clock_driven)
        self._clock_wall_ms = end.clock_wall_ms
        if end.clock_ms > NO_WATERMARK:
            self.state.advance(end.clock_ms)

    def position(self) -> Progress | None:
        """Where the source goes on for this view, or None before the first commit."""
        if self.committed < 0:
            return None
        return Progress(self.applied, self.watermark, self._clock.ms, self._clock.driven)

    # --- applying the log ------------------------------------------------------------------

    def apply_events(self, events: Events, rows: EntityRows, now_ms: int, appended_ms: int) -> None:
        """A chunk of a source that declares its key; `rows` are those at or after `applied`."""
        self._apply(rows, rows.offset + 1)
        self._appended(appended_ms)
        self.applied = events.end
        self.watermark = events.watermark
        self.vector[self.partition] = events.end
        self._set_clock(events.clock, now_ms)

    def apply_shuffled(self, sections: Sequence[Section], end: int, now_ms: int) -> None:
        """Sections of shuffle records up to log offset `end`.

        Rows that were applied before are dropped, and so are sections of another incarnation.
        """
        for section in sections:
            if section.incarnation != self.incarnation:
                continue
            rows = self._unseen(section)
            # The record's, and not ours: how the log was cut into fetches must not show.
            self._apply(rows, np.full(len(rows), section.offset))
            for span in section.spans:
                self.vector[span.partition] = max(self.vector.get(span.partition, 0), span.end)
                self._set_clock(SourceClock(span.clock_ms, span.clock_driven), now_ms)
                self._appended(span.appended_ms)
        self.applied = end

    def _unseen(self, section: Section) -> EntityRows:
        rows = section.rows
        seen = np.zeros(len(rows), np.bool_)
        for span in section.spans:
            known = self.vector.get(span.partition, 0)
            if known > span.start:
                seen |= (rows.partition == span.partition) & (rows.offset < known)
        return rows.take(np.flatnonzero(~seen)) if seen.any() else rows

    def _apply(self, rows: EntityRows, applied: I64) -> None:
        if not len(rows):
            return
        placed = rows.keys, rows.event_time, rows.partition, rows.offset, rows.columns
        if self.quiet or not self.each_event:
            self.state.apply(*placed)
        else:
            found = self.state.apply_each(*placed)
            if len(found):
                self._events.append(EventsOf(found, applied[found.event]))

    def _appended(self, ms: int) -> None:
        self._appended_ms = min(self._appended_ms or ms, ms)

    def take_oldest_appended_ms(self) -> int:
        """Oldest Kafka timestamp applied since the last call, 0 for none."""
        oldest, self._appended_ms = self._appended_ms, 0
        return oldest

    def refill(self) -> None:
        """The store has lost rows: let the next cut hold all of them."""
        self.state.mark_all_changed()
        self._rows_untold = True

    # --- taking over from an earlier incarnation -------------------------------------------

    def wait(self, until: Mapping[int, int]) -> None:
        """Be quiet until everything below these source offsets, by partition, is applied."""
        self.quiet = True
        self._until = until

    def caught_up(self, others: Iterable[ViewPartition]) -> bool:
        """Whether it contains what it has waited for, and all that earlier incarnations do."""
        wanted = [self._until, *(other.vector for other in others)]
        return all(self.vector.get(p, 0) >= at for found in wanted for p, at in found.items())

    def speak(self) -> None:
        """Be quiet no longer: let the next cut hold all rows."""
        self.quiet = False
        self.refill()

    # --- time ------------------------------------------------------------------------------

    def _set_clock(self, clock: SourceClock, now_ms: int) -> None:
        if clock.ms >= self._clock.ms:
            self._clock = clock
            self._clock_wall_ms = now_ms
        elif not clock.driven:
            # A record came in, though an older one: from here on the wall moves time again.
            self._clock = SourceClock(self._clock.ms, False)
            self._clock_wall_ms = now_ms
        if self._clock.ms > NO_WATERMARK:
            self.state.advance(self._clock.ms)

    def tick(self, now_ms: int) -> None:
        """Let time pass: the greatest event time seen plus the wall time since."""
        if self._clock.ms == NO_WATERMARK or self._clock.driven or self.catching_up:
            return
        self.state.advance(self._clock.ms + max(0, now_ms - self._clock_wall_ms))

    @property
    def catching_up(self) -> bool:
        """Whether the log is still being replayed up to where it ended at the restore."""
        return self.applied < self._ageing_from

    @property
    def ageing_due(self) -> bool:
        """Whether a stored row has stopped being true."""
        due = self.state.next_due_ms
        return due is not None and not self.catching_up and due <= self.state.clock_ms

    @property
    def unflushed(self) -> bool:
        """Whether a cut would hold rows, or a marker that promises more than the last one."""
        if self.quiet:
            return False
        return self.applied != self._flushed or self.state.n_changed > 0 or self.ageing_due

    @property
    def uncommitted(self) -> bool:
        """Whether anything was applied since the last commit."""
        return self.applied != self.committed

    # --- taking out ------------------------------------------------------------------------

    def tell(self, *, each_event: bool) -> None:
        """From now on, whether somebody wants to know the row of each event."""
        self._rows_untold |= each_event and not self.each_event
        self.each_event = each_event

    @property
    def event_bytes(self) -> int:
        """Memory of the rows of single events that the next cut has."""
        return sum(each.of.nbytes for each in self._events)

    def cut(self, *, commit: bool) -> Cut:
        """Rows that changed or aged, and with `commit` the tiles behind them."""
        [cut] = cut_together([(self, commit)])
        return cut

    def _cut(self, emissions: Sequence[Emitted], *, commit: bool) -> Cut:
        self._flushed = self.applied
        events, self._events = self._events, []
        untold, self._rows_untold = self._rows_untold, False
        return Cut(
            partition=self.partition,
            incarnation=self.incarnation,
            emissions=tuple(e for e in emissions if len(e)),
            applied=self.applied,
            sources=dict(self.vector),
            clock_ms=self.state.clock_ms,
            commit=self._commit() if commit else None,
            quiet=self.quiet,
            events=tuple(events),
            rows_untold=untold,
        )

    @property
    def _ageing_limit(self) -> int | None:
        # A clock record promises rows aged exactly to its time to whoever waits for its offset,
        # so all of them go before the marker; otherwise a burst may not delay fresh rows.
        return None if self._clock.driven else AGEING_SLICE

    def _commit(self) -> Commit:
        self.committed = self.applied
        # The clock as it stands, wall time included: tiles that it aged away are gone for good, so
        # a restored clock may not lie before them.
        clock = max(self._clock.ms, self.state.clock_ms)
        wall = self._clock_wall_ms + (clock - self._clock.ms if clock > NO_WATERMARK else 0)
        end = End(self.applied, self.watermark, clock, wall, self._clock.driven, dict(self.vector))
        changed = self.state.take_changed_tiles()
        words = max(ROUND_WORDS, len(changed.words) // ROUND_SHARE)
        whole, ended = self.state.take_next(words)
        begins, self._round_begins = self._round_begins, ended
        return Commit(changed, whole, begins, ended, end)


def cut_together(parts: Sequence[tuple[ViewPartition, bool]]) -> list[Cut]:
    """`ViewPartition.cut` of partitions of one view, each with its `commit`; rows are made at once,
    for what that takes hardly depends on how few they are."""
    emissions: dict[int, list[Emitted]] = {each.partition: [] for each, _ in parts}
    for each, _ in parts:
        if each.quiet and each.ageing_due:
            each.state.age(AGEING_SLICE)  # nobody reads these rows; their tiles go
    heard = [each for each, _ in parts if not each.quiet]
    if changed := [each for each in heard if each.state.n_changed]:
        made = emit_together([each.state for each in changed])
        for each, rows in zip(changed, made, strict=True):
            emissions[each.partition].append(rows)
    if due := [each for each in heard if each.ageing_due]:
        made = age_together([(each.state, each._ageing_limit) for each in due])
        for each, rows in zip(due, made, strict=True):
            emissions[each.partition].append(rows)
    return [each._cut(emissions[each.partition], commit=commit) for each, commit in parts]
