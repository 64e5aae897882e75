"""The loop that a Feast user writes today: features in Feast's Redis store, predictions out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import oracle
from engine import Launch, RecordsEngine, Run
from feast_repo import applied
from job import FUNCTIONS, Payments

from streamsvc.feast_import import import_feast

__all__ = ["FeastLoop"]

CHUNK = 2_000


@dataclass(frozen=True)
class FeastLoop(RecordsEngine):
    """Latest values lie in the online store; each payment is answered by a record with a score."""

    form: ClassVar[str] = "store"

    def launch(self, run: Run) -> Launch:
        found = super().launch(run)
        url = run.settings.redis_url.get_secret_value()
        address, _, number = url.removeprefix("redis://").partition("/")
        repo = run.work / "repo"
        env = {
            **found.env,
            "REDIS": f"{address},db={number or 0}",
            "REPO": str(repo),
            "FEAST_USAGE": "False",
            "OMP_NUM_THREADS": "1",
        }
        applied(self.folder, repo, env)
        return Launch(found.command, env)

    def verify(self, run: Run, payments: Payments) -> str:
        updates = super().verify(run, payments)
        if not run.limits:  # it goes on: only what came out can be compared
            return updates
        payments = payments.first(self.events)
        users = np.unique(payments.users)
        last = np.zeros(payments.keys, np.int64)
        np.maximum.at(last, payments.users, payments.times)
        got = self._stored(run, users)
        checked = oracle.check_store(payments, users, last[users], got)
        return f"{updates}, {checked:,} values of all {len(users):,} users"

    def _stored(self, run: Run, users: np.ndarray) -> dict[str, np.ndarray]:
        """What `get_online_features` has for these users."""
        import_feast()
        from feast import FeatureStore

        store = FeatureStore(str(run.work / "repo"))
        references = [f"spend:{name}" for name in FUNCTIONS]
        found: dict[str, list[float]] = {name: [] for name in FUNCTIONS}
        for low in range(0, len(users), CHUNK):
            rows = [{"user": f"u{user}"} for user in users[low : low + CHUNK].tolist()]
            answer = store.get_online_features(features=references, entity_rows=rows).to_dict()
            for name in FUNCTIONS:
                found[name] += answer[name]
        return {name: np.array(column, np.float64) for name, column in found.items()}

    def clean(self, run: Run) -> None:
        from feast import FeatureStore

        FeatureStore(str(run.work / "repo")).teardown()
        super().clean(run)
