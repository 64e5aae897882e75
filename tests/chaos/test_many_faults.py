"""The short form of `make chaos`: faults of every kind into one run, on servers of its own."""

from __future__ import annotations

import pytest
from support.chaos.play import play

FAULTS = 24


@pytest.mark.usefixtures("triton")  # skipped where the servers cannot run
def test_nothing_is_lost_and_nothing_counts_twice(tmp_path):
    print(play(1, FAULTS, tmp_path))
