from __future__ import annotations

import sys
from pathlib import Path

from support.forked import fork


def _tell() -> None:
    print({"streamsvc.agents.features", "feast", "support.preloaded"} <= set(sys.modules))


def test_a_fork_has_imported_what_a_worker_needs(tmp_path: Path) -> None:
    log = tmp_path / "log"
    fork(log, _tell).join()
    assert log.read_text() == "True\n"
