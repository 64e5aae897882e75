from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import load_card
from streamsvc.models.golden import check_golden
from streamsvc.models.local_model import LocalModel
from streamsvc.models.metrics import auc
from streamsvc.models.split import split_by_time
from streamsvc.models.train import TrainingJob, fit_and_publish
from streamsvc.models.training_data import Examples, matrix_of, read_labels

DAY_MS = 86_400_000


@given(st.lists(st.integers(0, 50), min_size=40, max_size=200))
def test_no_instant_is_in_two_parts(times: list[int]) -> None:
    event_ms = np.array(times, np.int64)
    try:
        split = split_by_time(event_ms)
    except ConfigurationError:
        return
    parts = [split.train, split.validation, split.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(times)))
    for earlier, later in pairwise(parts):
        assert event_ms[earlier].max() < event_ms[later].min()


def test_the_test_part_starts_at_the_date() -> None:
    event_ms = np.arange(100, dtype=np.int64)[::-1].copy()
    split = split_by_time(event_ms, 60)
    assert sorted(event_ms[split.test].tolist()) == list(range(60, 100))
    assert event_ms[split.validation].tolist() == list(range(51, 60))
    with pytest.raises(ConfigurationError, match="test part"):
        split_by_time(event_ms, 100)
    with pytest.raises(ConfigurationError, match="train part"):
        split_by_time(event_ms, 0)
    with pytest.raises(ConfigurationError, match="0 rows"):
        split_by_time(np.empty(0, np.int64))


def test_labels_from_both_kinds_of_file(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "who": ["a", "b", "c"],
            "event_timestamp": pd.to_datetime(["2024-01-01", "2024-01-02", "2024-01-03"], utc=True),
            "late": [1.0, np.nan, 0.0],
        }
    )
    frame.to_csv(tmp_path / "labels.csv", index=False)
    frame.to_parquet(tmp_path / "labels.parquet")
    for name in ("labels.csv", "labels.parquet"):
        labels = read_labels(tmp_path / name, "late")
        assert labels["who"].tolist() == ["a", "c"]
        assert labels["late"].tolist() == [True, False]
        assert str(labels["event_timestamp"].dt.tz) == "UTC"
    with pytest.raises(ConfigurationError, match="no column 'delayed'"):
        read_labels(tmp_path / "labels.csv", "delayed")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_labels(tmp_path / "missing.parquet", "late")
    with pytest.raises(ConfigurationError, match="is no number"):
        read_labels(tmp_path / "labels.csv", "who")
    frame.assign(late=[0, 1, 2]).to_csv(tmp_path / "three.csv")
    with pytest.raises(ConfigurationError, match="0 or 1"):
        read_labels(tmp_path / "three.csv", "late")


def test_the_matrix_is_in_the_order_asked_for() -> None:
    table = pa.table(
        {
            "v__b": pa.array([1, None], pa.int64()),
            "v__a": pa.array([True, False]),
            "w__a__b": pa.array([0.1, float("nan")], pa.float64()),
            "v__text": ["x", "y"],
        }
    )
    matrix = matrix_of(table, ["v:a", "w:a__b", "v:b"])
    expected = np.array([[1, np.float32(0.1), 1], [0, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(matrix, expected)
    assert matrix.dtype == np.float32
    with pytest.raises(ConfigurationError, match="Feature v:text is string"):
        matrix_of(table, ["v:text"])


def examples(n: int = 4_000) -> Examples:
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(n, 3)).astype(np.float32)
    labels = matrix[:, 0] + 0.5 * rng.normal(size=n) > 0
    matrix[rng.random(n) < 0.1, 1] = np.nan
    event_ms = rng.integers(0, 100 * DAY_MS, n)
    return Examples(["v:good", "v:sparse", "w:noise"], matrix, labels, event_ms)


def test_a_model_is_published_with_what_it_says_of_itself(tmp_path: Path) -> None:
    job = TrainingJob("late_arrival", tmp_path / "unused", "late", "m", test_from_ms=80 * DAY_MS)
    data = examples()
    trained = fit_and_publish(data, tmp_path / "models", job)
    card = load_card(trained.version_dir)
    assert card == trained.card
    assert card.version == 1
    assert card.trained_until_ms < 80 * DAY_MS
    assert card.rows == sum(card.histograms["w:noise"].counts) == sum(card.score.counts)
    assert card.histograms["v:sparse"].missing > 0
    assert max(trained.gain, key=lambda name: trained.gain[name]) == "v:good"
    assert sum(trained.gain.values()) == pytest.approx(1.0)

    model = LocalModel(trained.version_dir)
    assert check_golden(card, model.predict, "this process") == 0.0
    held_out = data.event_ms >= 80 * DAY_MS
    scores = model.predict(data.matrix[held_out])
    assert card.metrics["auc"] == pytest.approx(auc(data.labels[held_out], scores))
    assert card.metrics["auc"] > 0.9
    assert card.metrics["test_rows"] == held_out.sum()


def test_the_same_rows_give_the_same_booster(tmp_path: Path) -> None:
    job = TrainingJob("late_arrival", tmp_path / "unused", "late", "m")
    first = fit_and_publish(examples(), tmp_path / "models", job)
    second = fit_and_publish(examples(), tmp_path / "models", job)
    assert second.card.version == 2
    name = "xgboost.ubj"
    assert (first.version_dir / name).read_bytes() == (second.version_dir / name).read_bytes()
    assert first.card.golden == second.card.golden


def test_one_class_cannot_be_learned(tmp_path: Path) -> None:
    data = examples()
    same = Examples(data.features, data.matrix, np.zeros(len(data.labels), np.bool_), data.event_ms)
    job = TrainingJob("late_arrival", tmp_path / "unused", "late", "m")
    with pytest.raises(ConfigurationError, match="is the same"):
        fit_and_publish(same, tmp_path / "models", job)
