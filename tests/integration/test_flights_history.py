"""A year of flights through `get_historical_features`, against an oracle in NumPy.

`python benchmarks/history.py flights` does the same for every row.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.flights_history import expected_history

from streamsvc.demo import feast_repo, flights

REPO = Path(__file__).parents[2] / "feature_repo"
ROWS = 30_000


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = tmp_path_factory.mktemp("history") / "flights"
    ignored = shutil.ignore_patterns("data", ".streamsvc", "__pycache__", "*.db")
    shutil.copytree(REPO, repo, ignore=ignored)
    flights.write_flights(repo / "data")
    with contextlib.redirect_stdout(sys.stderr):
        feast_repo.apply(repo)
    return repo


@pytest.mark.parametrize("memory_mb", [1_024, 96])
def test_history_equals_the_definition(
    memory_mb: int, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSVC_HISTORY_MEMORY_MB", str(memory_mb))
    store = feast_repo.open_store(repo)
    asked = pd.read_parquet(repo / "data" / flights.LABELS).sample(ROWS, random_state=3)
    asked = asked.drop(columns=["arr_delay", "late"]).reset_index(drop=True)
    service = store.get_feature_service("late_arrival")
    found = store.get_historical_features(asked, service, full_feature_names=True).to_df()
    assert found["flight_id"].tolist() == asked["flight_id"].tolist()
    wanted = expected_history(store, repo / "data", asked)
    assert len(wanted) == 39
    for name, want in wanted.items():
        got = pd.to_numeric(found[name]).to_numpy(np.float64, na_value=np.nan)
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9, err_msg=name)
