"""What a benchmark has found, as a file that `report.py` makes tables and plots of.

    results.write("store", rows, "redis", "numpy", figures={"store_rows_per_s": 312_000.0})

A row maps the head of a column to a number or a text; rows need not have the same columns. What a
benchmark knows by itself (date, machine, versions, the command) is added here.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import machine

__all__ = ["DIRECTORY", "Row", "read_all", "write"]

Row = Mapping[str, Any]

DIRECTORY = Path(__file__).parent / "results"


def write(name: str, rows: Iterable[Row], *packages: str, **more: Any) -> Path:
    """Write `results/<name>.json`; the versions of `packages` go with it.

    Of `more`, `report.py` knows these, and keeps the others:
    - `note`: a sentence above the table;
    - `plots`: `{"title", "x", "y", "by"?, "where"?, "label"?, "log"?: "x" | "y" | "xy"}` with the
      heads of columns: a line for each value of `by`, of the rows that hold what `where` says, and
      `label` at the x axis;
    - `figures`: measure of `goals.py` -> number;
    - `machine`, `versions`, `command`: instead of what is found here.
    """
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    found = {
        "name": name,
        "date": machine.today(),
        "machine": machine.hardware(),
        "versions": machine.versions(*packages),
        "command": command,
        "rows": [dict(row) for row in rows],
        **more,
    }
    DIRECTORY.mkdir(exist_ok=True)
    path = DIRECTORY / f"{name}.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False, default=_plain) + "\n")
    return path


def read_all() -> dict[str, dict[str, Any]]:
    """Name -> what was written last."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(DIRECTORY.glob("*.json"))}


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    return value.item()
