"""Whatever crashed, paused or repeated senders do, each row arrives once in its key group."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from support.shuffled import SPEC, VIEW, rows, section, span

from streamsvc.entity_keys import murmur2
from streamsvc.state.blocks import unpack_block
from streamsvc.state.partition import ViewPartition
from streamsvc.state.shuffle import Section, by_group, decode_shuffle, encode_shuffle

GROUPS = 3


def encoded(sections):
    return [encode_shuffle(each) for each in by_group(sections, GROUPS)]


def plain(section):
    rows = section.rows
    columns = {name: column.to_pylist() for name, column in rows.columns.items()}
    parts = rows.event_time, rows.partition, rows.offset
    return (
        (section.view, section.incarnation, section.spans, rows.keys.to_bytes_list()),
        [part.tolist() for part in parts],
        columns,
    )


@dataclass
class Sender:
    """Sends a source partition in order from where it resumed; may be one of several at once."""

    partition: int
    position: int
    sent: list[tuple[int, int]] = field(default_factory=list)

    def step(self, size: int, logs: list[list[bytes]]) -> None:
        low, high = self.position, self.position + size
        records = encoded([section(self.partition, low, high)])
        for group, record in enumerate(records):
            logs[group].append(record)
        self.position = high


actions = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 1), st.integers(1, 7)), min_size=1, max_size=25
)


def written(steps):
    """What is in the log of each key group, and how far each source partition is."""
    logs: list[list[bytes]] = [[] for _ in range(GROUPS)]
    reached = [0, 0]
    senders = [[Sender(0, 0), Sender(0, 0)], [Sender(1, 0), Sender(1, 0)]]
    for action, partition, size in steps:
        pair = senders[partition]
        if action == 3:  # the newer one crashed: its successor starts where progress was recorded
            pair[1] = Sender(partition, max(0, pair[1].position - size))
        else:
            pair[action % 2].step(size, logs)
            reached[partition] = max(reached[partition], pair[action % 2].position)
    return logs, reached


def read(log, chunking, held):
    """Applies a log to a state in chunks of these sizes; yields after each."""
    position, step = 0, 0
    while position < len(log):
        taken = log[position : position + chunking[step % len(chunking)]]
        part = [
            section
            for offset, record in enumerate(taken, position)
            for section in decode_shuffle(unpack_block(record), offset)
        ]
        position, step = position + len(taken), step + 1
        held.apply_shuffled(part, position, 0)
        yield


chunkings = st.lists(st.integers(1, 4), min_size=1)


@settings(deadline=None)  # the first example compiles the kernels
@given(actions, chunkings)
def test_each_row_is_applied_once(steps, chunking):
    logs, reached = written(steps)
    total: dict[bytes, tuple[int, float]] = {}
    for group, log in enumerate(logs):
        held = ViewPartition(VIEW, SPEC, group, 1)
        for _ in read(log, chunking, held):
            pass
        emission = held.state.emit()
        counts, sums = emission.values["n"].to_pylist(), emission.values["s"].to_pylist()
        for key, count, value in zip(emission.keys.to_bytes_list(), counts, sums, strict=True):
            assert key not in total, "an entity lives in one key group only"
            total[key] = (count, value)
        assert {p: held.vector.get(p, 0) for p in (0, 1)} == dict(enumerate(reached))

    expected: dict[bytes, tuple[int, float]] = {}
    for partition, end in enumerate(reached):
        made = rows(partition, 0, end)
        for key, value in zip(
            made.keys.to_bytes_list(), made.columns["x"].to_pylist(), strict=True
        ):
            count, value_sum = expected.get(key, (0, 0.0))
            expected[key] = (count + 1, value_sum + value)
    assert total == expected


@settings(deadline=None)
@given(actions, chunkings, chunkings)
def test_an_events_row_names_the_record_it_came_with_however_the_log_is_read(steps, one, other):
    logs, reached = written(steps)
    told = []
    for chunking in (one, other):
        found: dict[tuple[int, int], tuple[int, int]] = {}
        for group, log in enumerate(logs):
            held = ViewPartition(VIEW, SPEC, group, 1)
            held.each_event = True
            for _ in read(log, chunking, held):
                assert held.event_bytes > 0 or not held.state.n_changed
                for each in held.cut(commit=False).events:
                    places = zip(each.of.partition.tolist(), each.of.offset.tolist(), strict=True)
                    for place, offset in zip(places, each.applied.tolist(), strict=True):
                        assert place not in found
                        found[place] = group, offset
                assert held.event_bytes == 0
        told.append(found)
    assert told[0] == told[1]
    assert len(told[0]) == sum(reached)


def test_a_group_without_rows_still_learns_the_span():
    records = encoded([section(0, 0, 1)])
    arrived = [decode_shuffle(unpack_block(r))[0] for r in records]
    assert sorted(len(a.rows) for a in arrived) == [0, 0, 1]
    assert all(a.spans == (span(0, 0, 1),) for a in arrived)


def test_rows_go_to_the_group_of_their_entity():
    for group, record in enumerate(encoded([section(0, 0, 40)])):
        arrived = decode_shuffle(unpack_block(record))[0].rows
        assert (murmur2(arrived.keys) % GROUPS == group).all()
        assert sorted(arrived.offset.tolist()) == arrived.offset.tolist()


def test_views_share_a_record_and_keep_their_own_rows():
    other = Section("other", 7, (span(1, 3, 9),), rows(1, 3, 9))
    found = [decode_shuffle(unpack_block(r)) for r in encoded([section(0, 0, 40), other])]
    assert {len(sections) for sections in found} == {2}
    assert sum(len(sections[0].rows) for sections in found) == 40
    assert sorted(o for sections in found for o in sections[1].rows.offset.tolist()) == [
        *range(3, 9)
    ]
    assert all((s[1].view, s[1].incarnation) == ("other", 7) for s in found)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 9)), max_size=3))
def test_a_record_says_what_the_sender_knows(ranges):
    sections = [section(partition, low, low + n) for partition, low, n in ranges]
    for known in by_group(sections, GROUPS):
        told = decode_shuffle(unpack_block(encode_shuffle(known)))
        assert [plain(each) for each in told] == [plain(each) for each in known]


def test_a_section_of_another_incarnation_changes_nothing():
    held = ViewPartition(VIEW, SPEC, 0, 2)
    record = encode_shuffle([section(0, 0, 40)])
    held.apply_shuffled(decode_shuffle(unpack_block(record)), 1, 0)
    assert (held.applied, held.vector, held.state.n_changed) == (1, {}, 0)
