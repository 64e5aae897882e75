"""Training sets that are larger than the memory there is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from streamsvc.models import booster
from streamsvc.models.booster import fit
from streamsvc.models.spool import Spool
from streamsvc.models.training_data import Examples

# 147 MB of features, and a limit on what may be allocated beside what the libraries take.
LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
import xgboost
from streamsvc.models import booster
from streamsvc.models.spool import Spool

ROWS, COLUMNS = 400_000, 96
folder = Path(sys.argv[1])
spool, rng = Spool(folder, COLUMNS), np.random.default_rng(0)
labels = np.zeros(ROWS, np.bool_)
for start in range(0, ROWS, 50_000):
    block = rng.random((50_000, COLUMNS), np.float32)
    labels[start : start + 50_000] = block[:, 0] > 0.5
    spool.add(block)
del block
xgboost.train({"nthread": 2}, xgboost.DMatrix(np.zeros((9, 2)), np.arange(9) % 2), 1)
used = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
limit = int(used.split()[1]) * 1024 + 130 * 2**20
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
matrix = spool.matrix()
try:
    np.array(matrix)
except MemoryError:
    print("too large")
booster.MOST_ROUNDS = 2
train, validation = slice(0, 350_000), slice(350_000, ROWS)
fitted = booster.fit(
    (matrix[train], labels[train]), (matrix[validation], labels[validation]),
    [str(i) for i in range(COLUMNS)], seed=0, threads=2, pages=folder,
)
print(fitted.gain["0"])
"""


def test_a_set_on_disk_trains_within_a_limit_that_its_features_exceed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    refused, gain = done.stdout.splitlines()
    assert refused == "too large"
    assert float(gain) > 0.9


@pytest.mark.parametrize("rows", [1, 299, 300, 1_000])
def test_a_set_on_disk_gives_the_same_booster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(booster, "BLOCK_ROWS", 300)
    rng = np.random.default_rng(rows)
    matrix = rng.normal(size=(2_000 + rows, 4)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    labels = np.nan_to_num(matrix[:, 0]) + rng.normal(size=len(matrix)) > 0
    spool = Spool(tmp_path, 4)
    for start in range(0, len(matrix), 700):
        spool.add(matrix[start : start + 700])
    held = spool.matrix()
    np.testing.assert_array_equal(held, matrix)

    def fitted(source: np.ndarray, pages: Path | None) -> bytes:
        parts = slice(0, 2_000), slice(2_000, None)
        train, validation = ((source[part], labels[part]) for part in parts)
        return fit(train, validation, list("abcd"), seed=1, threads=1, pages=pages).raw

    assert fitted(held, tmp_path) == fitted(matrix, None)


def test_rows_that_lie_together_are_not_copied() -> None:
    matrix = np.arange(40, dtype=np.float32).reshape(10, 4)
    examples = Examples(list("abcd"), matrix, np.zeros(10, np.bool_), np.arange(10))
    together, apart = np.arange(3, 7), np.array([3, 5, 4, 6])
    assert np.shares_memory(examples.rows(together), matrix)
    for chosen in (together, apart, np.empty(0, np.int64)):
        np.testing.assert_array_equal(examples.rows(chosen), matrix[chosen])
