"""Reading the servers' logs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["follow_logs", "last_lines"]

_POLL_S = 0.2


def last_lines(path: Path, n_lines: int) -> list[str]:
    """The last lines of a log, without line ends; empty if there is no log."""
    try:
        with path.open(errors="replace") as handle:
            return [line.rstrip("\n") for line in deque(handle, maxlen=n_lines)]
    except FileNotFoundError:
        return []


def follow_logs(paths: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Name and line, for ever, of every line written from now on; follows replaced files."""
    offsets = {name: path.stat().st_size for name, path in paths.items() if path.exists()}
    partial = dict.fromkeys(paths, "")
    while True:
        for name, path in paths.items():
            if not path.exists():
                continue
            offset = offsets.get(name, 0)
            # A log that shrank was replaced by a new one.
            offset = 0 if path.stat().st_size < offset else offset
            with path.open("rb") as handle:
                handle.seek(offset)
                written = handle.read()
            offsets[name] = offset + len(written)
            *lines, partial[name] = (partial[name] + written.decode(errors="replace")).split("\n")
            for line in lines:
                yield name, line
        time.sleep(_POLL_S)
