"""A worker's process is set before it begins."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator

import pytest

from streamsvc.transport import process


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    gc.unfreeze()


class Libc:
    def __init__(self) -> None:
        self.told: dict[int, int] = {}

    def mallopt(self, what: int, value: int) -> int:
        self.told[what] = value
        return 1


def test_threads_collector_and_allocator_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    process.tune_process()
    assert sys.getswitchinterval() == pytest.approx(process.SWITCH_INTERVAL_S)
    assert gc.get_freeze_count() > 0
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h.
    assert libc.told == {-1: process.KEPT_BYTES, -3: 32 << 20}


def test_a_libc_without_mallopt_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    process.tune_process()
    assert gc.get_freeze_count() > 0
