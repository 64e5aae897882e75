"""Which of Feast's views the engine runs, and what it makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feast import KafkaSource, StreamFeatureView

from streamsvc.definitions.plan import View
from streamsvc.definitions.sources import compile_sources
from streamsvc.definitions.views import compile_view
from streamsvc.errors import DefinitionError

__all__ = ["compiled", "is_windowed"]


def is_windowed(feast_view: Any) -> bool:
    """Whether the engine runs it: with windows, or for the latest row of a Kafka topic."""
    if not isinstance(feast_view, StreamFeatureView):
        return False
    return bool(feast_view.aggregations) or isinstance(feast_view.stream_source, KafkaSource)


def compiled(feast_views: Sequence[Any], repo: Path) -> dict[str, View]:
    """View name -> view. Raises DefinitionError listing every mistake in them."""
    mistakes: list[str] = []
    streams = {v.stream_source.name: v.stream_source for v in feast_views}
    sources = compile_sources(list(streams.values()), repo, 0, mistakes)
    broken = set(streams) - set(sources)
    found = {v.name: compile_view(v, sources, broken, mistakes) for v in feast_views}
    if mistakes:
        raise DefinitionError(mistakes)
    return {name: view for name, view in found.items() if view is not None}
