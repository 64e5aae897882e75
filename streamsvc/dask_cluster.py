"""The door to a Dask cluster that is there. Dask is imported when somebody goes through it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from streamsvc.errors import ConfigurationError, UnavailableError

__all__ = ["CONNECT_S", "dask_cluster", "import_distributed"]

CONNECT_S = 30


def import_distributed(what: str) -> Any:
    """Dask's module of clusters. Raises ConfigurationError where it is not installed.

    `what` is the command that needs it.
    """
    try:
        import distributed
    except ImportError as error:
        raise ConfigurationError(
            f"{what} runs on Dask, which is not installed: pip install 'streamsvc[backfill]'"
        ) from error
    return distributed


@contextmanager
def dask_cluster(scheduler: str, what: str) -> Iterator[Any]:
    """A client of the cluster whose scheduler is at that address, with one worker at least.

    Raises ConfigurationError where Dask is not installed, UnavailableError if nobody answers.
    """
    distributed = import_distributed(what)
    try:
        client = distributed.Client(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise UnavailableError(f"No Dask scheduler at {scheduler}: {error}") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise UnavailableError(
                f"The Dask scheduler at {scheduler} has no workers: start some with "
                f"`dask worker {scheduler}`, where streamsvc is installed"
            ) from error
        yield client
