"""Chunks that a turn takes together do to states and dead letters what they do one by one."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.agents.intake import Intake
from streamsvc.agents.lanes import Lane
from streamsvc.agents.topology import RunningView
from streamsvc.columns import strings
from streamsvc.definitions.plan import Aggregate, EventField, EventSchema, JoinKey, Source, View
from streamsvc.entity_keys import murmur2
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.features.rows import column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.state.events import SourceClock
from streamsvc.state.partition import ViewPartition
from streamsvc.state.source import SourcePartition
from streamsvc.store.row import RowLayout
from streamsvc.transport.fetch_decoding import chunk_of_records

TOPIC, GENERATION, PARTITIONS = "orders", 3, 2
FIELDS = (("card", "string"), ("amount", "float64"), ("ts", "int64"))
SOURCE = Source(
    "orders",
    TOPIC,
    EventSchema(tuple(EventField(n, (n,), t) for n, t in FIELDS), "ts", "ms"),
    allowed_lateness_ms=20,
    max_future_ms=10**15,
    key_field="card",
    archive_path=None,
)
CARDS = ["a", "b", "c", "d", "e", "f"]
HOMES = (murmur2(strings(CARDS)) % PARTITIONS).tolist()
OF = [[c for c, home in zip(CARDS, HOMES, strict=True) if home == p] for p in range(PARTITIONS)]


def positive(frame):
    if (frame["amount"] == 13.0).any():
        raise RuntimeError("thirteen")
    return frame[frame["amount"] > 0]


def running(name, udf):
    view = View(
        name=name,
        source=SOURCE,
        join_keys=(JoinKey("card", "string"),),
        aggregates=(Aggregate("n", "amount", "count", 100, 10),),
        feature_types={"n": "Int64"},
        udf=udf,
        ttl_ms=None,
        definition_hash=name,
    )
    spec = WindowSpec.of(view.aggregates, column_types(view))
    return RunningView(view, 1, spec, RowLayout(view.feature_types), f"{name}.log", None)


VIEWS = [running("plain", None), running("positive", positive)]


class Worker:
    """Holds both partitions; each view is at an offset of its own in each."""

    def __init__(self, logs, ahead):
        self.logs, self.dead = logs, []
        decoder = Decoder(SOURCE, max_record_bytes=1_000)
        views, lanes = {}, {}
        for p in range(PARTITIONS):
            source = SourcePartition(SOURCE, decoder, p, PARTITIONS)
            source.resume(0, NO_WATERMARK, SourceClock(NO_WATERMARK, False))
            lane = Lane(source, list(VIEWS), riding=True, until=0)
            lanes[TOPIC, p] = Lanes([lane])
            for each, offset in zip(VIEWS, ahead, strict=True):
                state = ViewPartition(each.view, each.spec, p, 1)
                state.applied = min(offset, len(logs[p]))
                views[each.key, p] = each, state
        holdings = SimpleNamespace(
            topology=SimpleNamespace(sources={TOPIC: SOURCE}), lanes=lanes, views=views, offered={}
        )
        self.views = views
        self.intake = Intake(holdings, dead=self)
        self.intake.generation = GENERATION

    def offer(self, chunk, rejects):
        first = chunk.first_offset
        self.dead += [(chunk.partition, first + r.row, r.reason, r.error) for r in rejects]

    def chunks(self, cuts):
        """The logs in pieces, in turn."""
        bounds = [0, *sorted(cuts), 99]
        for low, high in pairwise(bounds):
            for p, log in enumerate(self.logs):
                records = [
                    SimpleNamespace(offset=i, timestamp=2_000, key=None, value=v, headers=())
                    for i, v in enumerate(log)
                    if low <= i < high
                ]
                end = min(high, len(log))
                if low < end:
                    chunk = chunk_of_records(TOPIC, p, records, low, end)
                    chunk.generation = GENERATION
                    yield chunk

    def held(self):
        found = {}
        for (key, p), (_, state) in self.views.items():
            rows = state.state.emit()
            columns = (rows.keys.to_bytes_list(), rows.values["n"].to_pylist(), rows.as_of.tolist())
            positions = state.applied, state.watermark, state.vector
            found[key, p] = sorted(zip(*columns, strict=True)), positions
        return found


class Lanes(list):
    @property
    def lead(self):
        return self[0].source


def log_of(partition):
    event = st.fixed_dictionaries(
        {
            "card": st.sampled_from(OF[partition] or CARDS) | st.sampled_from(CARDS),
            "amount": st.sampled_from([-1.0, 2.0, 13.0]) | st.none(),
            "ts": st.integers(1_000, 1_050),
        }
    )
    return st.lists(event.map(orjson.dumps) | st.just(b"{"), max_size=9)


@settings(deadline=None, max_examples=80)
@given(
    st.tuples(*(log_of(p) for p in range(PARTITIONS))),
    st.tuples(*(st.integers(0, 6) for _ in VIEWS)),
    st.lists(st.integers(1, 8), max_size=3),
)
def test_a_turn_of_many_chunks_is_many_turns_of_one(logs, ahead, cuts):
    together, alone = Worker(logs, ahead), Worker(logs, ahead)
    together.intake.take(list(together.chunks(cuts)), 0)
    for chunk in alone.chunks(cuts):
        alone.intake.take([chunk], 0)
    assert together.held() == alone.held()
    assert sorted(together.dead) == sorted(alone.dead)


def test_what_is_compared_holds_something():
    events = [{"card": card, "amount": 2.0, "ts": 1_000 + i} for i, card in enumerate(OF[0] * 3)]
    worker = Worker([[orjson.dumps(event) for event in events], [b"{"]], (0, 2))
    worker.intake.take(list(worker.chunks([2])), 0)
    counts = {at: sum(n for _, n, _ in rows) for at, (rows, _) in worker.held().items()}
    assert [counts[view.key, 0] for view in VIEWS] == [len(events), len(events) - 2]
    assert [letter[:3] for letter in worker.dead] == [(1, 0, "bad_json")]
    assert np.all([state.applied == 1 for (_, p), (_, state) in worker.views.items() if p == 1])
