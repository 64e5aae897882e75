"""Records of a shuffle that are applied when they are acknowledged, and fetched all the same."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
from support.shuffled import SPEC, VIEW, section

from streamsvc.agents.intake import Intake, Taken
from streamsvc.agents.shuffle_sender import Echo
from streamsvc.state.partition import ViewPartition
from streamsvc.state.shuffle import by_group, encode_shuffle
from streamsvc.transport.fetch_decoding import chunk_of_records

TOPIC = "shuffle"
GENERATION = 3


class Reader:
    """One key group of the view, read by an intake."""

    def __init__(self):
        self.state = ViewPartition(VIEW, SPEC, 0, 1)
        holdings = SimpleNamespace(
            topology=SimpleNamespace(sources={}),
            read={(TOPIC, 0): 0},
            readers=lambda topic, group: [self.state] if (topic, group) == (TOPIC, 0) else [],
        )
        self.intake = Intake(holdings, dead=None)
        self.intake.generation = GENERATION

    def fetch(self, log, low, high):
        records = [
            SimpleNamespace(offset=i, timestamp=1, key=None, value=log[i], headers=())
            for i in range(low, high)
        ]
        chunk = chunk_of_records(TOPIC, 0, records, low, high)
        chunk.generation = GENERATION
        return self.intake.take([chunk], 0)

    def held(self):
        emission = self.state.state.emit()
        return sorted(
            zip(
                emission.keys.to_bytes_list(),
                emission.values["n"].to_pylist(),
                emission.values["s"].to_pylist(),
                strict=True,
            )
        )


def sections(number):
    return by_group([section(0, number, number + 1)], 1)[0]


def record(number):
    return encode_shuffle(sections(number))


@settings(deadline=None)
@given(
    ours=st.lists(st.booleans(), min_size=1, max_size=20),
    steps=st.lists(st.integers(0, 4), max_size=40),
)
def test_echoes_and_fetches_apply_each_record_once(ours, steps):
    log = [record(i) for i in range(len(ours))]
    mine = [i for i, our in enumerate(ours) if our]
    reader, fetched = Reader(), 0
    for step in steps:
        applied = reader.state.applied
        if step == 0 and mine:
            at = mine.pop(0)
            assert reader.intake.hear([Echo(TOPIC, 0, at, sections(at))], 0) == (at == applied)
            assert reader.state.applied == applied + (at == applied)
        elif step and fetched < len(log):
            high = min(fetched + step, len(log))
            new = high > applied
            assert reader.fetch(log, fetched, high) == [Taken.NEW if new else Taken.KNOWN]
            assert reader.state.applied == max(applied, high)
            fetched = high
    if fetched < len(log):
        reader.fetch(log, fetched, len(log))
    fetching = Reader()
    fetching.fetch(log, 0, len(log))
    assert reader.held() == fetching.held()
    assert reader.state.vector == fetching.state.vector


def test_an_echo_of_a_key_group_that_is_not_held_changes_nothing():
    reader = Reader()
    assert not reader.intake.hear([Echo(TOPIC, 1, 0, sections(0)), Echo("other", 0, 0, [])], 0)
    assert reader.state.applied == 0


def test_a_chunk_of_another_assignment_is_void():
    reader = Reader()
    reader.intake.generation = GENERATION + 1
    assert reader.fetch([record(0)], 0, 1) == [Taken.VOID]
    assert reader.state.applied == 0
