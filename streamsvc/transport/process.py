"""How a worker's process is set: its threads, its garbage collector, its memory."""

from __future__ import annotations

import ctypes
import gc
import sys

__all__ = ["ALLOCATOR", "tune_process"]

SWITCH_INTERVAL_S = 0.0005
KEPT_BYTES = 32 << 20
"""What each arena of the allocator keeps of what was freed."""
_LARGEST_MMAP_THRESHOLD = 32 << 20  # that glibc takes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": KEPT_BYTES,
    "MALLOC_MMAP_THRESHOLD_": _LARGEST_MMAP_THRESHOLD,
}
"""The environment that sets glibc's allocator likewise in a process that is yet to start."""


def tune_process() -> None:
    """To be called once all is imported."""
    # Threads hand a chunk to one another, and each waits this long for one that computes:
    # with Python's 5 ms a quiet round through the feature worker took 52 ms, with this 38.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What is loaded by now stays: a full collection would walk all of it for a tenth of a second.
    gc.collect()
    gc.freeze()
    # A fetch takes megabytes three times over, and the system clears each page that it hands out:
    # a tenth of the CPU of a restore, if they are given back in between. Only glibc has this.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
