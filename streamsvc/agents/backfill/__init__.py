"""`streamsvc backfill`: a view's state from its source's archive, and the stream goes on there.

`extent` says what of the archive is taken, `tiles` makes tiles of it, `logs` and `rows` bring them
to the changelog and the store, `cluster` spreads the work with Dask, and `run` does it in order.
"""
