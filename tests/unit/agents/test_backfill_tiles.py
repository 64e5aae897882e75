"""What a backfill takes of an archive, piece by piece, against the definition over its events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from streamsvc.agents.backfill import extent
from streamsvc.agents.backfill.extent import archive_files, handover_of, units_of
from streamsvc.agents.backfill.tiles import Task, merged, unit_tiles
from streamsvc.archive.names import ArchiveFile, Log
from streamsvc.archive.parquet import Footer, write_file
from streamsvc.archive.rows import archive_schema
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.columns import strings
from streamsvc.definitions.plan import Aggregate, EventField, EventSchema, JoinKey, Source, View
from streamsvc.entity_keys import encode_entity_keys, murmur2
from streamsvc.errors import ConfigurationError, IntegrityError

TOPIC_ID, START_MS, LATENESS_MS = "abc", 1_700_000_000_000, 5_000
N, PARTITIONS, GROUPS, CARDS = 3_000, 2, 3, 40
AGGREGATES = (
    Aggregate("n", "amount", "count", 600_000, 60_000),
    Aggregate("spent", "amount", "sum", 60_000, 10_000),
)


def view_of(path: Path, key_field: str | None) -> View:
    fields = (
        EventField("card", ("card",), "string"),
        EventField("amount", ("amount",), "float64"),
        EventField("at", ("at",), "int64"),
    )
    schema = EventSchema(fields, "at", "ms")
    source = Source("s", "t", schema, LATENESS_MS, 0, key_field, str(path))
    types = {"n": "Int64", "spent": "Float64"}
    return View("v", source, (JoinKey("card", "string"),), AGGREGATES, types, None, None, "")


def events(partition: int) -> dict[str, Any]:
    """Some late, some without a card, some in a partition that the key does not belong in."""
    rng = np.random.default_rng(partition)
    at = START_MS + np.arange(N) * 400 - rng.integers(0, 20_000, N) * (rng.random(N) < 0.2)
    before = np.maximum.accumulate(np.concatenate(([-(2**62)], at)))[:-1]
    card = [None if rng.random() < 0.01 else f"c{i}" for i in rng.integers(0, CARDS, N)]
    return {"card": card, "amount": rng.gamma(2, 30, N), "at": at, "before": before}


def write(view: View) -> None:
    storage, schema = ArchiveStorage(str(view.source.archive_path)), archive_schema(view.source)
    for p in range(PARTITIONS):
        made = events(p)
        for low in range(0, N, 500):
            part = slice(low, low + 500)
            before = made["before"][part]
            columns = {
                "card": pa.array(made["card"][part], pa.large_string()),
                "amount": pa.array(made["amount"][part]),
                "at": pa.array(made["at"][part]),
                "streamsvc_partition": pa.array(np.full(500, p, np.int32)),
                "streamsvc_offset": pa.array(np.arange(low, low + 500)),
                "streamsvc_arrived_at": pa.array(made["at"][part]),
                "streamsvc_watermark": pa.array(before, mask=before < 0),
            }
            table = pa.table({f.name: columns[f.name].cast(f.type) for f in schema}, schema)
            file = ArchiveFile(Log.of(TOPIC_ID, p), low, low + 500, "arrived=2023-11-14")
            footer = Footer("t", int(made["at"][: low + 500].max()))
            write_file(storage, file, footer, schema, table.to_batches(100))


def wanted(view: View, handover: Any, card: str, a: Aggregate, t: int) -> float | None:
    found = []
    for p in range(PARTITIONS):
        made = events(p)
        for i in range(handover.offsets[p]):
            at = int(made["at"][i])
            late = at + LATENESS_MS < made["before"][i]
            home = int(murmur2(strings([card]))[0]) % PARTITIONS
            misplaced = view.source.key_field is not None and home != p
            inside = (t - a.window_ms) // a.hop_ms * a.hop_ms <= at <= t
            kept = handover.from_ms is None or at >= handover.from_ms
            if made["card"][i] == card and inside and kept and not late and not misplaced:
                found.append(float(made["amount"][i]))
    return len(found) if a.function == "count" else sum(found) if found else None


@pytest.mark.parametrize("key_field", [None, "card"])
@pytest.mark.parametrize("span", [(None, None), (None, 700_000), (300_000, None)])
def test_tiles_are_those_of_all_events_before_the_hand_over(
    key_field: str | None, span: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extent, "UNIT_ROWS", 700)
    view = view_of(tmp_path, key_field)
    write(view)
    from_ms, to_ms = (None if each is None else START_MS + each for each in span)
    storage, files = archive_files(view.source, TOPIC_ID)
    handover = handover_of(view.source, storage, files, from_ms, to_ms)
    for p in range(PARTITIONS):
        at = events(p)["at"]
        until = N if to_ms is None else int(np.argmax(at >= to_ms))
        assert handover.offsets[p] == until
        assert handover.watermarks[p] == at[:until].max()
    states = GROUPS if view.shuffled else PARTITIONS
    task = Task(view, PARTITIONS, states, handover)
    units = units_of(view.source, storage, files, handover, task.since_ms)
    assert len(units) >= 4
    pieces = [unit_tiles(task, unit) for unit in units]
    assert sum(p.refused["null_entity"] for p in pieces) > 0
    assert (sum(p.refused["wrong_key"] for p in pieces) > 0) == (key_field is not None)
    seen = 0
    for state, found in task.built_by(units).items():
        parts = [pieces[i].tiles[state] for i in found if state in pieces[i].tiles]
        built = merged(task, state, parts)
        assert built.clock_ms == task.clock(state)
        built.mark_all_changed()
        rows = built.emit()
        values = {name: column.to_pylist() for name, column in rows.values.items()}
        place = {key: i for i, key in enumerate(rows.keys.to_bytes_list())}
        keys = encode_entity_keys([strings([f"c{k}" for k in range(0, CARDS, 7)])])
        for k, key in zip(range(0, CARDS, 7), keys.to_bytes_list(), strict=True):
            if (i := place.get(key)) is None:
                continue
            seen += 1
            for a in AGGREGATES:
                for t in (int(rows.as_of[i]), task.clock(state)):
                    want = wanted(view, handover, f"c{k}", a, t)
                    got = values[a.feature][i]
                    assert (got is None) == (want is None), (k, a, got, want)
                    assert want is None or got == pytest.approx(want, rel=1e-9)
    assert seen == len(range(0, CARDS, 7))


def test_an_archive_without_offsets_is_refused(tmp_path: Path) -> None:
    view = view_of(tmp_path / "none", None)
    with pytest.raises(ConfigurationError, match="Only such an archive says at which offset"):
        archive_files(view.source, TOPIC_ID)
    write(view)
    with pytest.raises(ConfigurationError, match="as it is now"):
        archive_files(view.source, "another")


def test_an_archive_that_lost_files_is_not_passed_over(tmp_path: Path) -> None:
    view = view_of(tmp_path, None)
    write(view)
    storage, files = archive_files(view.source, TOPIC_ID)
    handover = handover_of(view.source, storage, files, None, None)
    storage.delete([files[1][-1]])
    _, left = archive_files(view.source, TOPIC_ID)
    with pytest.raises(IntegrityError, match="partition 1 end before offset 3000"):
        units_of(view.source, storage, left, handover, lambda _: 0)
