from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streamsvc.errors import IntegrityError
from streamsvc.transport.ledger import Ledger

P = ("t", 0)


def test_commits_the_acknowledged_prefix_only():
    ledger = Ledger()
    ledger.start({P: 100})
    first, second = ledger.deliver(P, 100, 110), ledger.deliver(P, 110, 130)
    assert ledger.committable(P) is None
    second.ack()
    assert ledger.committable(P) is None
    first.ack()
    assert ledger.committable(P) == 130
    assert ledger.committable(P) == 130
    assert ledger.in_flight() == 0


@pytest.mark.parametrize(("first", "after"), [(99, 110), (101, 110), (100, 100), (100, 90)])
def test_a_hole_or_an_overlap_is_fatal(first, after):
    ledger = Ledger()
    ledger.start({P: 100})
    with pytest.raises(IntegrityError, match="t/0"):
        ledger.deliver(P, first, after)


def test_a_chunk_of_a_partition_that_is_not_held_is_fatal():
    ledger = Ledger()
    ledger.start({P: 0})
    ledger.drop()
    with pytest.raises(IntegrityError, match="not assigned"):
        ledger.deliver(P, 0, 1)


@pytest.mark.parametrize("void", ["seek", "revoke"])
def test_a_late_acknowledgement_counts_for_nothing(void):
    ledger = Ledger()
    ledger.start({P: 0})
    slots = [ledger.deliver(P, 0, 10), ledger.deliver(P, 10, 20)]
    if void == "revoke":
        ledger.drop(frozenset({P}))
        assert P not in ledger
    ledger.start({P: 0})
    for slot in slots:
        assert not slot.live
        slot.ack()
    assert ledger.committable(P) is None
    ledger.deliver(P, 0, 20).ack()
    assert ledger.committable(P) == 20


class Interleavings(RuleBasedStateMachine):
    """Random deliveries, acknowledgements (late ones too), commits, revocations and seeks.

    The model knows which offsets were really done by their agent since the position was last set:
    nothing above the first offset that was not may ever be committed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.started: dict[tuple[str, int], int] = {}
        self.expected: dict[tuple[str, int], int] = {}
        self.done: dict[tuple[str, int], set[int]] = {}
        self.given: list[tuple[tuple[str, int], object, range, int]] = []
        self.epoch: dict[tuple[str, int], int] = {}

    partitions = st.sampled_from([("t", 0), ("t", 1), ("u", 0)])

    def _start(self, partition: tuple[str, int], at: int) -> None:
        self.ledger.start({partition: at})
        self.started[partition] = self.expected[partition] = at
        self.done[partition] = set()
        self.epoch[partition] = self.epoch.get(partition, 0) + 1

    @rule(partition=partitions, at=st.integers(0, 30))
    def assign_or_seek(self, partition, at):
        self._start(partition, at)

    @rule(partition=partitions)
    def revoke(self, partition):
        self.ledger.drop(frozenset({partition}))
        self.started.pop(partition, None)
        self.epoch[partition] = self.epoch.get(partition, 0) + 1

    @precondition(lambda self: self.started)
    @rule(data=st.data(), size=st.integers(1, 5))
    def deliver(self, data, size):
        partition = data.draw(st.sampled_from(sorted(self.started)))
        first = self.expected[partition]
        slot = self.ledger.deliver(partition, first, first + size)
        self.given.append((partition, slot, range(first, first + size), self.epoch[partition]))
        self.expected[partition] = first + size

    @precondition(lambda self: self.started)
    @rule(data=st.data(), by=st.sampled_from([-3, -1, 1, 4]))
    def deliver_out_of_place(self, data, by):
        partition = data.draw(st.sampled_from(sorted(self.started)))
        first = self.expected[partition] + by
        with pytest.raises(IntegrityError):
            self.ledger.deliver(partition, first, first + 5)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def ack(self, data):
        partition, slot, offsets, epoch = data.draw(st.sampled_from(self.given))
        slot.ack()
        if epoch == self.epoch[partition]:
            self.done[partition].update(offsets)

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def done_below(self, data):
        # Told by what a worker knows itself, also of chunks whose slots are dead by now.
        partition, _, offsets, _ = data.draw(st.sampled_from(self.given))
        self.ledger.done_below({partition: offsets.stop})
        if offsets.stop > self.started.get(partition, offsets.stop):
            self.done[partition].update(range(self.started[partition], offsets.stop))

    @invariant()
    def never_commits_past_what_was_not_done(self):
        for partition, start in self.started.items():
            offset = self.ledger.committable(partition)
            if offset is None:
                offset = start
            after = start
            while after in self.done[partition]:
                after += 1
            assert offset == after
        for partition in {("t", 0), ("t", 1), ("u", 0)} - set(self.started):
            assert self.ledger.committable(partition) is None


Interleavings.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestInterleavings = Interleavings.TestCase


def test_a_stretch_without_records_is_passed_by_whoever_has_read_up_to_it():
    tp, ledger = ("t", 0), Ledger()
    ledger.start({tp: 5})
    assert ledger.past_blanks(tp, 5) == 5
    ledger.deliver(tp, 5, 8)
    ledger.deliver(tp, 8, 9, blank=True)
    ledger.deliver(tp, 9, 10, blank=True)
    assert [ledger.past_blanks(tp, offset) for offset in (5, 7, 8, 10)] == [5, 7, 10, 10]
    ledger.deliver(tp, 10, 12)
    assert [ledger.past_blanks(tp, offset) for offset in (8, 10, 12)] == [10, 10, 12]
    ledger.deliver(tp, 12, 13, blank=True)
    assert [ledger.past_blanks(tp, offset) for offset in (8, 10, 12)] == [8, 10, 13]
    assert ledger.past_blanks(("other", 0), 3) == 3
