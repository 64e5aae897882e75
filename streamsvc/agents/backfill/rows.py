"""The rows of a built state partition into the online store, where no worker does it.

Read back from the changelog, as a worker would, but without an open record: nobody takes over.
"""

from __future__ import annotations

from streamsvc.agents.topology import RunningView
from streamsvc.features.engine import WindowState
from streamsvc.settings import Settings
from streamsvc.state.blocks import unpack_block
from streamsvc.state.changelog import Restorer
from streamsvc.store.client import connect
from streamsvc.store.markers import Marker
from streamsvc.store.writer import FencedWriter
from streamsvc.transport.reader import read_to_end

__all__ = ["write_rows"]

_ROWS = 20_000


async def write_rows(
    settings: Settings, project: str, running: RunningView, partition: int
) -> tuple[int, Marker]:
    """Write all rows of a state partition whose commit is complete; how many, and the marker that
    may promise them.
    """
    view, state, restorer = running.view, WindowState(running.spec), Restorer()
    async for chunk in read_to_end(settings, running.changelog, {partition: 0}):
        for i in range(len(chunk)):
            value = chunk.value(i)
            if value is not None:
                for tiles in restorer.feed(unpack_block(value)):
                    state.load(tiles)
    end = restorer.end
    assert end is not None
    writer = FencedWriter(connect(settings), project)
    state.mark_all_changed()
    written = 0
    while state.n_changed:
        rows = state.emit(_ROWS)
        packed = running.layout.pack(
            rows.values, running.incarnation, end.applied, rows.as_of, rows.valid_until
        )
        written += len(packed) - writer.write(view.name, rows.keys, packed)
    # Until when this was all that the broker held is for workers to say: at 0 nobody relies on it.
    sources = {view.source.topic: dict(end.vector)}
    return written, Marker(running.incarnation, sources, 0, state.clock_ms)
