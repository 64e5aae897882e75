"""From chunks to files and back: what is archived is what was on the topic, in any pieces."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.archives import read_archive

from streamsvc.archive.names import Log, chain, logs_of
from streamsvc.archive.reading import archive_dataset, chained
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.archive.writing import PartitionWriter
from streamsvc.columns import strings
from streamsvc.definitions.plan import EventField, EventSchema, Source
from streamsvc.errors import ConfigurationError, IntegrityError
from streamsvc.events.decode import Decoder
from streamsvc.transport.chunk import Chunk

LATENESS = 1_000
DAY_MS = 86_400_000
BASE = 1_795_392_000_000  # 2026-11-23T00:00Z
FAR = 2.0**40
LOG = Log("topic-id", 3)


def source(path: Path, **more: Any) -> Source:
    fields = (
        EventField("card", ("card",), "string"),
        EventField("shop.id", ("shop", "id"), "int64"),
        EventField("amount", ("amount",), "float64"),
        EventField("online", ("online",), "bool"),
        EventField("at", ("at",), "int64"),
    )
    return replace(
        Source(
            name="payments",
            topic="payments",
            schema=EventSchema(fields, "at", "ms"),
            allowed_lateness_ms=LATENESS,
            max_future_ms=3_600_000,
            key_field=None,
            archive_path=str(path),
            archive_timestamp_field="at",
        ),
        **more,
    )


def records(n: int, seed: int) -> list[dict[str, Any] | None]:
    """Events out of order, some too late, some records that are none."""
    rng = np.random.default_rng(seed)
    found: list[dict[str, Any] | None] = []
    for i in range(n):
        if rng.random() < 0.1:
            found.append(None)
            continue
        found.append(
            {
                "card": None if rng.random() < 0.2 else f"c-{rng.integers(5)} é",
                "shop": None if rng.random() < 0.2 else {"id": int(rng.integers(5))},
                "amount": None if rng.random() < 0.2 else float(rng.random()),
                "online": bool(rng.random() < 0.5),
                "at": int(BASE + i * 200 - rng.integers(0, 3_000) * (rng.random() < 0.4)),
            }
        )
    return found


def chunk(all_records: list[dict[str, Any] | None], low: int, high: int, ms: int = 200) -> Chunk:
    """Records [low, high) of the log, whose offsets are even: transactions left markers."""
    values = strings(
        [b"{bad" if r is None else json.dumps(r).encode() for r in all_records[low:high]]
    )
    n = high - low
    nothing = np.full(n, -1, np.int64)
    return Chunk(
        "payments",
        LOG.partition,
        values.data,
        offsets=np.arange(low, high) * 2,
        timestamps=BASE + np.arange(low, high) * ms,
        key_start=nothing,
        key_end=nothing,
        value_start=values.start,
        value_end=values.end,
        header_start=np.zeros(n, np.int64),
        header_end=np.zeros(n, np.int64),
        first_offset=low * 2,
        next_offset=high * 2,
    )


def writer(described: Source, **more: Any) -> PartitionWriter:
    storage = ArchiveStorage(str(described.archive_path))
    files = logs_of(storage.files()).get(LOG, [])
    decoder = Decoder(described, max_record_bytes=10_000)
    span = more.pop("span", (0, 10**9))
    return PartitionWriter(storage, described, decoder, LOG, 8, files, span, **more)


def expected(all_records: list[dict[str, Any] | None]) -> list[tuple[Any, ...]]:
    """(offset, card, shop, amount, online, at) of what counts: not broken, not late."""
    greatest, found = 0, []
    for i, record in enumerate(all_records):
        if record is None:
            continue
        if record["at"] >= greatest - LATENESS:
            shop = record["shop"] and record["shop"]["id"]
            found.append(
                (i * 2, record["card"], shop, record["amount"], record["online"], record["at"])
            )
        greatest = max(greatest, record["at"])
    return found


def archived(described: Source) -> list[tuple[Any, ...]]:
    """The same, as training reads it."""
    names = ["card", "shop.id", "amount", "online", "at"]
    archive = read_archive(described, names, 2**62)
    assert (archive.partition == LOG.partition).all()
    columns = [archive.columns[name].to_pylist() for name in names]
    rows = list(zip(archive.offset.tolist(), *columns, strict=True))
    return [rows[i] for i in archive.rows.tolist()]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 60), st.integers(0, 10_000), st.data())
def test_whatever_is_lost_and_merged_on_the_way(
    tmp_path_factory: pytest.TempPathFactory, n: int, seed: int, data: st.DataObject
) -> None:
    """Cut anywhere, files written at any time, writers that die and go on, small files merged."""
    described = source(tmp_path_factory.mktemp("archive"))
    log = records(n, seed)
    ours, refused = writer(described), 0
    position = 0
    while position < n:
        high = min(n, position + data.draw(st.integers(1, 20)))
        rejects = ours.take(chunk(log, position, high), 0.0)
        position = high
        action = data.draw(st.sampled_from(["go on", "write", "die", "tidy"]))
        if action == "die":
            position = ours.written_until // 2
            ours = writer(described)
            assert ours.next_offset == ours.written_until == position * 2
            continue
        refused += len(rejects)
        if action != "go on":
            ours.write(0.0)
        if action == "tidy":
            ours.tidy(10**9, data.draw(st.sampled_from([0.0, 60.0])), 0.0)
    ours.write(0.0)
    want = expected(log)
    assert (archived(described) if n else []) == want
    in_files = sum(r is not None for r in log)
    if n:
        dataset = archive_dataset(described)
        assert dataset is not None
        assert dataset.count_rows() == in_files


def test_late_events_are_kept_and_count_again_once_lateness_is_declared_anew(
    tmp_path: Path,
) -> None:
    described = source(tmp_path)
    log = records(200, 1)
    ours = writer(described)
    ours.take(chunk(log, 0, 200), 0.0)
    ours.write(0.0)
    assert archived(described) == expected(log)
    lenient = replace(described, allowed_lateness_ms=10**9)
    assert len(archived(lenient)) == sum(r is not None for r in log) > len(expected(log))


def test_small_files_are_merged_and_go_after_a_while(tmp_path: Path) -> None:
    described = source(tmp_path)
    storage = ArchiveStorage(str(tmp_path))
    log = records(80, 2)
    ours = writer(described)
    for low in range(0, 80, 10):
        ours.take(chunk(log, low, low + 10), 0.0)
        ours.write(0.0)
    listed = chained(storage.files())
    assert len(listed) == 8
    assert ours.tidy(10**9, 60.0, 59.0) == 8
    assert len(chained(storage.files())) == 1
    assert archived(described) == expected(log)
    # Whoever listed them before is still reading.
    assert all((tmp_path / file.name).exists() for file in listed)
    ours.tidy(10**9, 60.0, FAR)
    assert len(storage.files()) == 1
    assert archived(described) == expected(log)


def test_a_paused_writer_that_comes_back_changes_nothing(tmp_path: Path) -> None:
    described = source(tmp_path)
    log = records(60, 3)
    paused, owner = writer(described), writer(described)
    paused.take(chunk(log, 0, 20), 0.0)
    owner.take(chunk(log, 0, 10), 0.0)
    owner.write(0.0)
    owner.take(chunk(log, 10, 60), 0.0)
    owner.write(0.0)
    paused.write(0.0)
    assert archived(described) == expected(log)
    assert writer(described).next_offset == 120


def test_days_have_directories_of_their_own_and_are_merged_when_they_are_over(
    tmp_path: Path,
) -> None:
    described = source(tmp_path)
    storage = ArchiveStorage(str(tmp_path))
    log = records(60, 4)
    ours = writer(described)
    for low in range(0, 60, 10):
        part = chunk(log, low, low + 10, ms=DAY_MS // 30)
        if ours.day_ends_before(part):
            ours.write(0.0)
        ours.take(part, 0.0)
        ours.write(0.0)
    days = {file.day for file in storage.files()}
    assert days == {"arrived=2026-11-23", "arrived=2026-11-24"}
    ours.tidy(10**9, 60.0, FAR)
    left = logs_of(storage.files())[LOG]
    assert [f.day for f in chain(left)] == ["arrived=2026-11-23", *["arrived=2026-11-24"] * 3]
    assert archived(described) == expected(log)


def test_a_field_that_was_added_is_null_before(tmp_path: Path) -> None:
    described = source(tmp_path)
    log = records(30, 5)
    for low in range(0, 20, 2):
        ours = writer(described)
        ours.take(chunk(log, low, low + 2), 0.0)
        ours.write(0.0)
    colour = EventField("colour", ("colour",), "string")
    schema = replace(described.schema, fields=(*described.schema.fields, colour))
    later = replace(described, schema=schema)
    for record in log[20:]:
        if record is not None:
            record["colour"] = "red"
    ours = writer(later)
    ours.take(chunk(log, 20, 30), 0.0)
    ours.write(0.0)
    for tidied in (False, True):
        if tidied:
            assert ours.tidy(10**9, 60.0, FAR) == 11
        archive = read_archive(later, ["colour"], 2**62)
        colours = archive.columns["colour"].to_pylist()
        early = archive.offset < 40
        assert {c for c, e in zip(colours, early, strict=True) if e} == {None}
        assert {c for c, e in zip(colours, early, strict=True) if not e} == {"red"}
        assert archived(described) == expected(log)


def test_a_field_whose_type_was_changed_is_not_merged_and_said(tmp_path: Path) -> None:
    described = source(tmp_path)
    text = EventField("online", ("online",), "string")
    fields = tuple(text if f.name == "online" else f for f in described.schema.fields)
    changed = replace(described, schema=replace(described.schema, fields=fields))
    ours = writer(described)
    for low in range(0, 80, 10):
        if low == 40:
            ours = writer(changed)
        ours.take(chunk([None] * 80, low, low + 10), 0.0)
        ours.write(0.0)
    assert ours.tidy(10**9, 60.0, FAR) == 0
    assert len(ArchiveStorage(str(tmp_path)).files()) == 8


def test_records_that_were_deleted_unread_are_not_passed_over_in_silence(tmp_path: Path) -> None:
    described = source(tmp_path)
    log = records(20, 6)
    ours = writer(described)
    ours.take(chunk(log, 0, 10), 0.0)
    ours.write(0.0)
    with pytest.raises(IntegrityError, match=r"begins at offset 30.*ends at 20.*--accept-loss"):
        writer(described, span=(30, 40))
    ours = writer(described, span=(30, 40), accept_loss=True)
    assert ours.next_offset == 30
    ours.take(chunk(log, 15, 20), 0.0)
    ours.write(0.0)
    offsets = [row[0] for row in archived(described)]
    assert [o for o in offsets if o < 20 or o >= 30] == offsets
    assert max(offsets) >= 30
    with pytest.raises(IntegrityError, match=r"ends at offset 25.*goes on to 40"):
        writer(described, span=(0, 25))


def test_an_event_time_in_the_place_of_another_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="another field of the events"):
        writer(source(tmp_path, archive_timestamp_field="amount"))


def test_what_a_killed_writer_left_is_swept_away_after_a_while(tmp_path: Path) -> None:
    described = source(tmp_path)
    storage = ArchiveStorage(str(tmp_path))
    ours = writer(described)
    ours.take(chunk(records(5, 7), 0, 5), 0.0)

    def killed(_stream: Any) -> None:
        raise KeyboardInterrupt

    file = ours.write(0.0)
    assert file is not None
    with pytest.raises(KeyboardInterrupt):
        storage.publish(replace(file, next=99), killed)
    assert len(list(tmp_path.rglob("*.parquet*"))) == 2
    assert [f.next for f in storage.files()] == [10]
    assert storage.strangers() == []
    storage.sweep(0.0)
    assert len(list(tmp_path.rglob("*.parquet*"))) == 2
    storage.sweep(2.0**40)
    assert len(list(tmp_path.rglob("*.parquet*"))) == 1
