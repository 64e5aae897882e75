"""The Feast plug-ins, by the names that `feature_store.yaml` gives them.

Importing this package imports Feast, which takes seconds; nothing that must start fast does.
"""

from streamsvc.feast_import import import_feast

import_feast()  # before the modules below do; where Feast imports this package, it did already

# ruff: noqa: E402
from streamsvc.feast.compute_engine import WindowedComputeEngine, WindowedComputeEngineConfig
from streamsvc.feast.offline_store import WindowedOfflineStore, WindowedOfflineStoreConfig
from streamsvc.feast.online_store import PackedRedisOnlineStore, PackedRedisOnlineStoreConfig

__all__ = [
    "PackedRedisOnlineStore",
    "PackedRedisOnlineStoreConfig",
    "WindowedComputeEngine",
    "WindowedComputeEngineConfig",
    "WindowedOfflineStore",
    "WindowedOfflineStoreConfig",
]
