"""The hot paths have not become slower: ratios to library calls, beside those of the baseline.

`make test` runs these alone, after all others: what runs beside them takes the caches.
"""

from __future__ import annotations

import os
from statistics import median

import pytest
from support.speed import CASES, LOSS, baseline, measured, processor

PROCESSES = 5
WHERE, BASELINE = baseline()


@pytest.fixture(scope="module", autouse=True)
def _same_processor() -> None:
    """Another processor has other ratios; that of CI is the one that the baseline must be of."""
    if processor() != WHERE and os.environ.get("CI", "").lower() not in ("1", "true"):
        pytest.skip(
            f"the baseline is of {WHERE}, and this is {processor()}: make speed ARGS=--write"
        )


@pytest.fixture(scope="module")
def ratios() -> dict[str, list[float]]:
    return measured(PROCESSES)


@pytest.mark.parametrize("name", CASES)
def test_no_hot_path_takes_a_third_longer(ratios: dict[str, list[float]], name: str) -> None:
    before, found = BASELINE[name], ratios[name]
    if median(found) > LOSS * before:  # a loss is still there in other processes; noise is not
        found = found + measured(2 * PROCESSES, [name])[name]
    times = median(found) / before
    assert times <= LOSS, (
        f"{name} takes {times:.2f} times what it took beside the same library call, in the middle "
        f"of {len(found)} processes; if that is meant, run "
        "`make speed ARGS=--write`"
    )


def test_a_loss_is_found(ratios: dict[str, list[float]]) -> None:
    # Beside today's ratio: that of the baseline may be a seventh away, and a loss be lost in it.
    found = measured(PROCESSES, ["decoding"], times=2.0)["decoding"]
    assert median(found) > LOSS * median(ratios["decoding"])
