"""Ways to keep a card's 15 doubles of three views in a Redis, all with the same two calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import numeric
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.feast_import import import_feast
from streamsvc.scoring.fetch import StoreReads
from streamsvc.store.client import Client
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.sweep import delete_project
from streamsvc.store.writer import FencedWriter

__all__ = ["FEATURES", "VIEWS", "Bytes", "FeastStore", "Hashes", "Packed", "Side"]

VIEWS: Mapping[str, Sequence[str]] = {
    view: [f"{f}_{view}" for f in ("count", "max", "mean", "min", "sum")]
    for view in ("v10m", "v1d", "v1h")
}
FEATURES = [feature for features in VIEWS.values() for feature in features]

Ids = NDArray[np.int64]
Doubles = NDArray[np.float64]


class Side(Protocol):
    """One way to do it. `values` have shape (ids, features), in the order of FEATURES."""

    name: str

    def write(self, ids: Ids, values: Doubles) -> None: ...

    def written(self) -> None:
        """All has been written: what is still to do before it can be read."""

    def read(self, ids: Ids) -> NDArray[np.float32]: ...

    def remove(self, keys: int) -> None:
        """Leave nothing of these first cards."""


class Packed:
    """As a feature worker writes, and a scoring worker reads: fenced, with positions."""

    name = "streamsvc"

    def __init__(self, client: Client, project: str) -> None:
        self._client, self._project = client, project
        self._layouts = {v: RowLayout(dict.fromkeys(fs, "Float64")) for v, fs in VIEWS.items()}
        self._writer, self._reads = FencedWriter(client, project), StoreReads(client, project)

    def write(self, ids: Ids, values: Doubles) -> None:
        keys, stamps = encode_entity_keys([numeric(ids)]), np.zeros(len(ids), np.int64)
        column = dict(zip(FEATURES, map(numeric, values.T.copy()), strict=True))
        rows = [
            (view, keys, layout.pack(column, 1, 1, stamps, stamps + NEVER_MS))
            for view, layout in self._layouts.items()
        ]
        assert not any(self._writer.write_all(rows))

    def written(self) -> None:
        pass

    def read(self, ids: Ids) -> NDArray[np.float32]:
        keys = encode_entity_keys([numeric(ids)])
        wanted = [(view, layout, keys) for view, layout in self._layouts.items()]
        _, found = self._reads.read([], wanted)
        out = np.empty((len(ids), len(FEATURES)), np.float32)
        columns = [
            rows.values[f] for rows, fs in zip(found, VIEWS.values(), strict=True) for f in fs
        ]
        for j, column in enumerate(columns):
            out[:, j] = column.values  # type: ignore[union-attr]
            out[~column.valid, j] = np.nan
        return out

    def remove(self, keys: int) -> None:
        delete_project(self._client, self._project)


class Hashes:
    """redis-py as it is written by hand most often: a hash a card and view, numbers as text."""

    name = "redis-py, a hash a view, HMGET in a pipeline"

    def __init__(self, client: Any, project: str) -> None:
        self._client, self._project = client, project

    def _key(self, view: str, card: int) -> str:
        return f"{self._project}:h:{view}:{card}"

    def write(self, ids: Ids, values: Doubles) -> None:
        pipe = self._client.pipeline(transaction=False)
        for card, row in zip(ids.tolist(), values.tolist(), strict=True):
            low = 0
            for view, features in VIEWS.items():
                part = row[low : low + len(features)]
                pipe.hset(self._key(view, card), mapping=dict(zip(features, part, strict=True)))
                low += len(features)
        pipe.execute()

    def written(self) -> None:
        pass

    def read(self, ids: Ids) -> NDArray[np.float32]:
        pipe = self._client.pipeline(transaction=False)
        for card in ids.tolist():
            for view, features in VIEWS.items():
                pipe.hmget(self._key(view, card), features)
        texts = [text for row in pipe.execute() for text in row]
        found = np.array([float(text) for text in texts], np.float64)
        return found.reshape(len(ids), -1).astype(np.float32)

    def remove(self, keys: int) -> None:
        for low in range(0, keys, 1_000):
            cards = range(low, min(keys, low + 1_000))
            self._client.unlink(*(self._key(view, card) for card in cards for view in VIEWS))


class Bytes:
    """redis-py with nothing around it: MSET and MGET of the doubles, no fence, position, schema."""

    name = "redis-py, bare doubles, MSET and MGET"

    def __init__(self, client: Any, project: str) -> None:
        self._client, self._project = client, project

    def _keys(self, ids: Ids) -> list[bytes]:
        cards, project = ids.tolist(), self._project.encode()
        return [b"%b:b:%b:%d" % (project, v.encode(), c) for v in VIEWS for c in cards]

    def write(self, ids: Ids, values: Doubles) -> None:
        rows, low = [], 0
        for features in VIEWS.values():
            part = np.ascontiguousarray(values[:, low : low + len(features)])
            rows += [row.tobytes() for row in part]
            low += len(features)
        self._client.mset(dict(zip(self._keys(ids), rows, strict=True)))

    def written(self) -> None:
        pass

    def read(self, ids: Ids) -> NDArray[np.float32]:
        found = np.frombuffer(b"".join(self._client.mget(self._keys(ids))), np.float64)
        parts = found.reshape(len(VIEWS), len(ids), -1)
        return np.concatenate(parts, axis=1).astype(np.float32)

    def remove(self, keys: int) -> None:
        for low in range(0, keys, 10_000):
            self._client.unlink(*self._keys(np.arange(low, min(keys, low + 10_000))))


class FeastStore:
    """Through `FeatureStore`: `write_to_online_store` and `get_online_features(…).to_dict()`."""

    _NAMES: Mapping[str, str] = {
        "redis": "Feast with its Redis store",
        "precomputed": "the same, tuned: precomputed vectors, skip_dedup",
        "packed": "Feast with streamsvc's store",
    }

    def __init__(self, kind: str, url: str, project: str, directory: Path) -> None:
        import_feast()
        from feast import FeatureStore, RepoConfig

        self.name, self._kind = self._NAMES[kind], kind
        address, _, database = url.removeprefix("redis://").partition("/")
        section: dict[str, Any] = {
            "type": "redis",
            "connection_string": f"{address},db={database or 0}",
            "skip_dedup": kind == "precomputed",
        }
        if kind == "packed":
            section = {
                "type": "streamsvc.feast.PackedRedisOnlineStore",
                "connection_string": url,
            }
        config = RepoConfig(
            project=f"{project}{kind}",
            provider="local",
            registry=str(directory / f"{kind}.db"),
            online_store=section,
            entity_key_serialization_version=3,
            repo_path=directory,
        )
        self._store = FeatureStore(config=config)
        self._service = self._declare()

    def _declare(self) -> Any:
        from feast import Entity, FeatureService, FeatureView, Field, FileSource
        from feast.types import Float64
        from feast.value_type import ValueType

        card = Entity(name="card", join_keys=["card"], value_type=ValueType.INT64)
        views = [
            FeatureView(
                name=name,
                entities=[card],
                schema=[Field(name=feature, dtype=Float64) for feature in features],
                source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
            )
            for name, features in VIEWS.items()
        ]
        service = FeatureService(
            name="all", features=views, precompute_online=self._kind == "precomputed"
        )
        self._store.apply([card, *views, service])
        return self._store.get_feature_service("all")

    def write(self, ids: Ids, values: Doubles) -> None:
        import pandas as pd

        frame = pd.DataFrame(values, columns=FEATURES)
        frame["card"], frame["event_timestamp"] = ids, datetime.now(UTC)
        for view, features in VIEWS.items():
            self._store.write_to_online_store(view, frame[["card", "event_timestamp", *features]])

    def written(self) -> None:
        if self._kind == "precomputed":
            self._store.precompute_feature_service("all")

    def read(self, ids: Ids) -> NDArray[np.float32]:
        rows = [{"card": card} for card in ids.tolist()]
        # Precomputed vectors are found by their full names alone.
        full = self._kind == "precomputed"
        found = self._store.get_online_features(
            self._service, rows, full_feature_names=full
        ).to_dict()
        names = [f"{v}__{f}" if full else f for v, features in VIEWS.items() for f in features]
        return np.array([found[name] for name in names], np.float32).T

    def remove(self, keys: int) -> None:
        self._store.teardown()
