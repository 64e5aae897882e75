"""The view of a replay under way: a panel on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from streamsvc.demo.narrator import Narrator
from streamsvc.demo.scoreboard import Latencies, Standing

if TYPE_CHECKING:
    from rich.live import Live
    from rich.panel import Panel

__all__ = ["ReplayView"]

_LINE_EVERY_S = 10.0
_RATE_OVER_S = 5.0


class ReplayView:
    """A context manager; `show` it what is known, as often as you like."""

    def __init__(self, narrator: Narrator, total: int) -> None:
        self._narrator = narrator
        self._total = total
        self._seen: deque[tuple[float, int, int]] = deque()
        self._next_line = time.monotonic() + _LINE_EVERY_S
        self._live: Live | None = None

    def __enter__(self) -> ReplayView:
        if self._narrator.live:
            from rich.live import Live

            self._live = Live(console=self._narrator.console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, published: int, event_ms: int, standing: Standing, freshness: Latencies) -> None:
        """Draw, or print a line when it is time for one. `published` counts all records."""
        now = time.monotonic()
        self._seen.append((now, published, standing.predictions))
        while now - self._seen[0][0] > _RATE_OVER_S and len(self._seen) > 2:
            self._seen.popleft()
        if self._live is not None:
            self._live.update(self._panel(published, event_ms, standing, freshness), refresh=True)
        elif now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self._narrator.line(f"      {self._line(published, event_ms, standing)}")

    def _rates(self) -> tuple[float, float]:
        """Records and predictions a second, lately."""
        (began, records, predictions), (ended, *latest) = self._seen[0], self._seen[-1]
        seconds = ended - began
        if not seconds:
            return 0.0, 0.0
        return (latest[0] - records) / seconds, (latest[1] - predictions) / seconds

    def _line(self, published: int, event_ms: int, standing: Standing) -> str:
        events, predictions = self._rates()
        return (
            f"{_day(event_ms)}  {published / max(1, self._total):4.0%}  {events:,.0f} events/s  "
            f"{predictions:,.0f} predictions/s  p50 {_ms(standing.latency_ms.p50)}  "
            f"AUC {_auc(standing.rolling_auc)}"
        )

    def _panel(
        self, published: int, event_ms: int, standing: Standing, freshness: Latencies
    ) -> Panel:
        from rich.console import Group
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        events, predictions = self._rates()
        table = Table.grid(padding=(0, 3))
        for _ in range(4):
            table.add_column()
        latency = standing.latency_ms
        rows = (
            ("events/s", f"{events:,.0f}", "predictions/s", f"{predictions:,.0f}"),
            ("requests", f"{standing.requests:,}", "predictions", f"{standing.predictions:,}"),
            ("latency p50", _ms(latency.p50), "latency p99", _ms(latency.p99)),
            ("freshness p50", _ms(freshness.p50), "freshness p99", _ms(freshness.p99)),
            ("rolling AUC", _auc(standing.rolling_auc), "flights landed", f"{standing.labelled:,}"),
            ("fallbacks", f"{standing.fallbacks:,}", "duplicates", f"{standing.duplicates:,}"),
        )
        for left, value, right, other in rows:
            table.add_row(f"[dim]{left}", f"[bold]{value}", f"[dim]{right}", f"[bold]{other}")
        bar = ProgressBar(total=self._total, completed=published)
        return Panel(Group(table, bar), title=_day(event_ms), width=64, title_align="left")


def _day(event_ms: int) -> str:
    return f"{datetime.fromtimestamp(event_ms / 1e3, UTC):%Y-%m-%d %H:%M}"


def _ms(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0f} ms"


def _auc(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
