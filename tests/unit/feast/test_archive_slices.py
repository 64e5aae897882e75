"""An archive in slices holds what the archive holds, whatever its order, files and row groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.archives import FOREVER, SPAN, WINDOWS, N, events, source, view, written

from streamsvc.columns import BytesColumn, Column, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import ConfigurationError
from streamsvc.feast.archive_slices import ArchiveSlices
from streamsvc.feast.windowed_history import Question, windowed_features


@pytest.mark.parametrize("order", ["time", "nearly", "arrival", "card"])
@pytest.mark.parametrize("created", [None, "arrived"])
@pytest.mark.parametrize(("files", "group"), [(1, N), (1, 700), (7, 1_000)])
def test_every_event_is_in_one_slice_and_none_too_early(
    tmp_path: Path, order: str, created: str | None, files: int, group: int
) -> None:
    table = events(order)
    path = written(tmp_path / "archive", table, files=files, group=group)
    known = np.maximum(table["at"], table["arrived"]) if created else table["at"]
    inside = (table["at"] >= 100_000) & (known <= 900_000)
    amounts: list[float] = []
    before, places = -FOREVER, []
    with ArchiveSlices(source(path, created), ["amount"], 100_000, 900_000, 2 << 20) as slices:
        assert len(slices) > 4
        for archive, until in slices:
            of_slice = archive.known[archive.rows]
            assert (of_slice >= before).all()
            if until is not None:
                assert (of_slice < until).all()
                before = until
            # Not a bound in bytes, but no slice may be much larger than the others.
            assert len(archive.rows) < 2 * N / len(slices)
            amount = archive.columns["amount"]
            assert not isinstance(amount, BytesColumn)
            amounts += amount.values[archive.rows].tolist()
            places += archive.offset[archive.rows].tolist()
        assert until is None
    assert sorted(amounts) == sorted(table["amount"][inside].tolist())
    assert len(set(places)) == len(places)


def test_ties_stay_in_the_order_of_the_files_through_a_sort_on_disk(tmp_path: Path) -> None:
    table = events("card")
    table["at"] //= 1_000
    table["amount"] = np.arange(N, dtype=np.float64)
    path = written(tmp_path / "archive", table)
    with ArchiveSlices(source(path), ["amount"], -FOREVER, FOREVER, 2 << 20) as slices:
        for archive, _ in slices:
            amount = archive.columns["amount"]
            assert not isinstance(amount, BytesColumn)
            order = np.lexsort((archive.offset, archive.event_time))
            at, place = archive.event_time[order], amount.values[order]
            assert ((np.diff(at) > 0) | (np.diff(place) > 0)).all()


def test_more_slices_than_can_be_sorted_are_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamsvc.feast.archive_slices._MOST_FILES", 300)
    path = written(tmp_path / "archive", {k: np.tile(v, 2) for k, v in events("card").items()})
    with (
        pytest.raises(ConfigurationError, match=r"history_memory_mb to \d\.\d times"),
        ArchiveSlices(source(path), ["amount"], -FOREVER, FOREVER, 25_000),
    ):
        pass


def test_an_archive_in_the_order_of_time_is_read_where_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spilled: list[Path] = []
    sorting = ArchiveSlices._sorted_into

    def watched(self: ArchiveSlices, directory: Path) -> Any:
        spilled.append(directory)
        return sorting(self, directory)

    monkeypatch.setattr(ArchiveSlices, "_sorted_into", watched)
    for order, wanted in (("time", 0), ("nearly", 0), ("card", 1)):
        spilled.clear()
        path = written(tmp_path / order, events(order))
        with ArchiveSlices(source(path), ["amount"], -FOREVER, FOREVER, 2 << 20) as slices:
            assert sum(1 for _ in slices) == len(slices) > 2
        assert len(spilled) == wanted, order
        assert not any(directory.exists() for directory in spilled)


@pytest.mark.parametrize("order", ["time", "arrival", "card"])
@pytest.mark.parametrize("created", [None, "arrived"])
def test_answers_do_not_depend_on_the_memory_there_is(
    tmp_path: Path, order: str, created: str | None
) -> None:
    table = events(order)
    path = written(tmp_path / "archive", table)
    rng = np.random.default_rng(5)
    n = 3_000
    cards = [None if i % 50 == 0 else f"c-{c}" for i, c in enumerate(rng.integers(0, 320, n))]
    times = rng.integers(-10_000, SPAN + 10_000, n)
    keys = encode_entity_keys([strings(cards)])
    questions = [
        Question(view(name, path, created, *some), [a.feature for a in some], keys, times)
        for name, some in WINDOWS.items()
    ]
    plenty = windowed_features(questions, 1 << 30)
    scarce = windowed_features(questions, 16 << 20)  # slices, but tiles of all at once
    hardly = windowed_features(questions, 2 << 20)  # entities in groups, too
    for answers in (scarce, hardly):
        for one, other in zip(plenty, answers, strict=True):
            assert list(one) == list(other)
            for name, column in one.items():
                assert lists(column) == lists(other[name]), name
    known = np.maximum(table["at"], table["arrived"]) if created else table["at"]
    found = lists(plenty[0]["n"])
    for i in range(0, n, 7):
        if cards[i] is None:
            assert found[i] is None
            continue
        t = int(times[i])
        mine = (table["card"] == int(cards[i][2:])) & (known <= t)
        left = (t - 10_000) // 1_000 * 1_000
        assert found[i] == int((mine & (table["at"] >= left) & (table["at"] <= t)).sum())


def lists(column: Column) -> list[Any]:
    return column.to_pylist()


def test_arrival_times_must_be_timestamps(tmp_path: Path) -> None:
    path = written(tmp_path / "archive", events("time"))
    with (
        pytest.raises(ConfigurationError, match="arrival times 'amount' are double"),
        ArchiveSlices(source(path, "amount"), [], -FOREVER, FOREVER, 1 << 30) as slices,
    ):
        list(slices)
    with (
        pytest.raises(ConfigurationError, match="no column 'gone'"),
        ArchiveSlices(source(path, "gone"), [], -FOREVER, FOREVER, 1 << 30) as slices,
    ):
        list(slices)
