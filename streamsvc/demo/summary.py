"""The end of a demo on the screen: what was measured, and what to try next."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamsvc.demo.report import DemoReport, Percentiles

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["next_commands", "stop_command", "summary_table"]


def summary_table(report: DemoReport) -> Table:
    """The report for people."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(style="bold")
    table.add_column(style="dim")
    rows = (
        (
            "AUC, streaming",
            f"{report.auc_streaming:.4f}",
            f"offline {report.auc_offline:.4f}: the same model on features from history",
        ),
        (
            "predictions",
            f"{report.predictions:,}",
            f"of {report.requests:,} requests; {report.missing} missing, "
            f"{report.duplicates} repeated, {report.dead_letters} dead letters",
        ),
        (
            "vectors",
            f"{report.vectors_identical_share:.4%}",
            f"equal history bit for bit; {report.vectors_from_future} from the future",
        ),
        (
            "by Triton",
            f"{report.triton_inferences:,}",
            f"inferences; {report.fallbacks} fallbacks",
        ),
        ("latency", _percentiles(report.latency_ms), "from a request to its prediction"),
        ("freshness", _percentiles(report.freshness_ms), "from an event to its features"),
        (
            "speed",
            f"{report.events_per_second:,.0f} events/s",
            "in lockstep, where each request waits for the one before",
        ),
    )
    for row in rows:
        table.add_row(*row)
    return table


def next_commands(repo: Path) -> list[tuple[str, str]]:
    """Three commands to try next, and what each shows."""
    where = _shown(repo)
    return [
        (
            f"streamsvc -c {where} predictions tail late_arrival --from-beginning -n 5",
            "what came out of Kafka",
        ),
        (
            f"feast -c {where} get-online-features -e origin=JFK "
            "-f origin_departures:origin_dep_delay_mean_1h",
            "the features as Feast serves them",
        ),
        (f"streamsvc -c {where} demo --days 92", "the whole autumn"),
    ]


def stop_command(repo: Path) -> str:
    """How to stop the servers."""
    return f"streamsvc -c {_shown(repo)} down"


def _shown(repo: Path) -> str:
    """The repo as one would type it from here."""
    try:
        return str(repo.relative_to(Path.cwd()))
    except ValueError:
        return str(repo)


def _percentiles(values: Percentiles) -> str:
    shown = ("–" if v is None else f"{v:.0f}" for v in (values.p50, values.p99))
    return "p50 {} ms, p99 {} ms".format(*shown)
