"""A request that nobody made: scored once before the worker joins its group.

Kernels are compiled (or loaded from their cache) and connections opened then, and not while the
first real request's deadline runs.
"""

from __future__ import annotations

from types import SimpleNamespace

from streamsvc.definitions.plan import Source
from streamsvc.events.sample import sample_value
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.fetch_decoding import chunk_of_records

__all__ = ["sample_chunk"]


def sample_chunk(source: Source) -> Chunk:
    """Two records of a source's schema, with and without an ordinary header."""
    encoded = sample_value(source.schema)
    records = [
        SimpleNamespace(offset=i, timestamp=-1, key=None, value=encoded, headers=headers)
        for i, headers in enumerate([(), (("sample", b"1"),)])
    ]
    return chunk_of_records(source.topic, 0, records, 0, len(records))
