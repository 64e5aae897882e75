"""The same fit on the workers of a Dask cluster: rows on many machines, one booster."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from streamsvc.dask_cluster import dask_cluster
from streamsvc.errors import UnavailableError
from streamsvc.models.booster import (
    BLOCK_ROWS,
    MOST_ROUNDS,
    PARAMETERS,
    PATIENCE,
    Fitted,
    Rows,
    fitted_of,
)

__all__ = ["fit_on_cluster"]


STOP_BY = "logloss"
"""What stops boosting: a mean over all rows, whichever worker has them. XGBoost's AUC of a cluster
is that of the workers' own."""


def fit_on_cluster(
    scheduler: str,
    train: Rows,
    validation: Rows,
    features: list[str],
    *,
    seed: int,
    threads: int,
) -> Fitted:
    """As `booster.fit`, by all workers of the cluster at that address.

    Rows are handed on a block at a time, so they need not fit into memory here. Workers find the
    cuts of the bins together, from what each has seen of its own rows, and the validation log loss
    decides when boosting stops; so the booster is as good as one that was fitted in one place, and
    not the same. Raises UnavailableError if the cluster is away or is lost.
    """
    with dask_cluster(scheduler, "train --scheduler") as client:
        import distributed
        import xgboost
        from xgboost import dask as distributed_xgboost

        workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
        bins = {"max_bin": PARAMETERS["max_bin"]}
        try:
            first = distributed_xgboost.DaskQuantileDMatrix(
                client, *_spread(client, workers, train), **bins
            )
            second = distributed_xgboost.DaskQuantileDMatrix(
                client, *_spread(client, workers, validation), ref=first, **bins
            )
            trained = distributed_xgboost.train(
                client,
                {**PARAMETERS, "eval_metric": STOP_BY, "seed": seed},
                first,
                MOST_ROUNDS,
                evals=[(second, "validation")],
                early_stopping_rounds=PATIENCE,
                verbose_eval=False,
            )
        except (
            xgboost.core.XGBoostError,
            distributed.KilledWorker,
            distributed.CancelledError,
        ) as error:
            raise UnavailableError(
                f"The Dask cluster at {scheduler} did not finish: {str(error).splitlines()[0]}. "
                "Run the same command again"
            ) from error
    where = f"{len(workers)} Dask worker{'s' if len(workers) > 1 else ''}"
    return fitted_of(trained["booster"], features, threads, where)


def _spread(client: Any, workers: list[str], rows: Rows) -> tuple[Any, Any]:
    """A matrix and its labels as Dask arrays, whose blocks lie on the workers in turn."""
    from dask import array, delayed

    matrix, labels = rows
    block = max(1, min(BLOCK_ROWS, math.ceil(len(matrix) / len(workers))))
    values, targets = [], []
    for i, start in enumerate(range(0, len(matrix), block)):
        part = slice(start, start + block)
        pieces = np.array(matrix[part]), np.array(labels[part], np.float32)
        there = [workers[i % len(workers)]]
        held = [client.scatter(piece, workers=there, hash=False) for piece in pieces]
        x, y = (
            array.from_delayed(delayed(future), piece.shape, piece.dtype)
            for future, piece in zip(held, pieces, strict=True)
        )
        values.append(x)
        targets.append(y)
    return array.concatenate(values), array.concatenate(targets)
