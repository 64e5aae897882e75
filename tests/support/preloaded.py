"""What a process has that has been up for a while: imported by the one that `forked` forks from."""

from __future__ import annotations

# First, as in a worker: Feast's metrics would put it into multi-process mode.
import prometheus_client  # noqa: F401

from streamsvc.feast_import import import_feast

import_feast()

import streamsvc.agents.archive  # noqa: E402
import streamsvc.agents.run_features  # noqa: E402
import streamsvc.agents.run_scoring  # noqa: E402
import streamsvc.cli.main  # noqa: E402, F401
from streamsvc.agents.warm import warm  # noqa: E402

warm()
