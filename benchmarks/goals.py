"""What streamsvc wants to reach, each measure with the benchmark that tells how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["GOALS", "Goal", "rows"]


@dataclass(frozen=True, slots=True)
class Goal:
    """A measure whose figure should be at least, or at most, a bound."""

    name: str
    """By which results tell their figure."""
    measure: str
    bound: float
    unit: str
    at_least: bool = True

    def met(self, figure: float) -> bool:
        """Whether a figure is good enough."""
        return figure >= self.bound if self.at_least else figure <= self.bound


ENGINES = "the engines' job, one process, latest values in the store"
DIRECT, SHUFFLED = "event → readable in the store, declared key", "the same, shuffled"
PREDICTION = "event → prediction, with its own event"
MS = " ms"

GOALS = (
    Goal("job_events_per_s", f"{ENGINES}: events/s", 1_000_000, ""),
    Goal("job_times_kafka_streams_ring", f"{ENGINES}: times Kafka Streams' ring", 8, ""),
    Goal("job_times_best_python", f"{ENGINES}: times the best Python engine", 40, ""),
    Goal("zipf_events_per_s", "Zipf(1.1) keys, 15 features: events/s", 1_000_000, ""),
    Goal("shuffled_share", "the same through the shuffle: share of the direct figure", 0.6, ""),
    Goal(
        "json_updates_per_s", "every event's features as a JSON record, too: events/s", 200_000, ""
    ),
    Goal("stored_p99_1k", f"{DIRECT}: p99 at 1,000 events/s", 8, MS, at_least=False),
    Goal("stored_p99_10k", f"{DIRECT}: p99 at 10,000 events/s", 25, MS, at_least=False),
    Goal("stored_shuffled_p99_1k", f"{SHUFFLED}: p99 at 1,000 events/s", 14, MS, at_least=False),
    Goal("stored_shuffled_p99_10k", f"{SHUFFLED}: p99 at 10,000 events/s", 31, MS, at_least=False),
    Goal("prediction_p50_1k", f"{PREDICTION}: p50 at 1,000 events/s", 8, MS, at_least=False),
    Goal("prediction_p99_1k", f"{PREDICTION}: p99 at 1,000 events/s", 15, MS, at_least=False),
    Goal("prediction_p50_10k", f"{PREDICTION}: p50 at 10,000 events/s", 12, MS, at_least=False),
    Goal("prediction_p99_10k", f"{PREDICTION}: p99 at 10,000 events/s", 40, MS, at_least=False),
    Goal("predictions_per_s", "one scoring process, every vector logged: predictions/s", 1e5, ""),
    Goal("predictions_times_batches", "times the loop of Feast SDK and Triton, batches", 80, ""),
    Goal("predictions_times_single", "times the same loop, one by one", 400, ""),
    Goal("store_rows_per_s", "rows/s read in chunks, three views a row", 300_000, ""),
    Goal("store_row_p99", "one row of three views, read: p99", 1, MS, at_least=False),
    Goal("restore_tiles_per_s", "restore: live tiles/s", 1_000_000, ""),
    Goal("backfill_events_per_core_s", "backfill: events/s a core", 2_000_000, ""),
    Goal("backfill_speedup", "backfill: times with 2 processes", 1.9, ""),
    Goal("engine_growth", "engine: cost of an event, 1 M keys against 1 k", 1.5, "", False),
    Goal("tile_bytes", "memory of a live tile of 5 aggregates", 120, " bytes", at_least=False),
    Goal("memory_growth", "worker's memory, end against middle of half an hour", 1.02, "", False),
)


def rows(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The table of goals: what was measured last, by which command, and whether it is enough."""
    told = [(result, result.get("figures", {})) for result in found.values()]
    table = []
    for goal in GOALS:
        result, figures = next((each for each in told if goal.name in each[1]), ({}, {}))
        figure = figures.get(goal.name)
        sign = "≥" if goal.at_least else "≤"
        table.append(
            {
                "measure": goal.measure,
                "goal": f"{sign} {_text(goal.bound)}{goal.unit}",
                "figure": "not measured" if figure is None else f"{_text(figure)}{goal.unit}",
                "": "" if figure is None else "met" if goal.met(figure) else "**missed**",
                "command": f"`{result['command']}`" if result else "",
            }
        )
    return table


def _text(figure: float) -> str:
    return f"{figure:,.0f}" if abs(figure) >= 100 or figure == int(figure) else f"{figure:.3g}"
