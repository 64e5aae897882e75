"""Feast's own part: `feast apply` and `feast materialize`, in this process.

Importing Feast takes seconds, so the demo does it once, and calls what the `feast` command calls.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamsvc.definitions.repo_files import importing_from
from streamsvc.feast_import import import_feast

__all__ = ["apply", "materialize", "open_store", "quiet_feast"]


@contextlib.contextmanager
def quiet_feast(log: Path) -> Iterator[None]:
    """Send what Feast prints to a file, and leave out what it warns of once per view."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a") as handle,
        contextlib.redirect_stdout(handle),
        contextlib.redirect_stderr(handle),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def apply(repo: Path) -> None:
    """`feast apply` in a repo."""
    import_feast()
    from feast.repo_config import load_repo_config
    from feast.repo_operations import apply_total

    config = load_repo_config(repo, repo / "feature_store.yaml")
    with contextlib.chdir(repo), importing_from(repo):
        apply_total(config, repo, skip_source_validation=False)


def open_store(repo: Path) -> Any:
    """The repo's FeatureStore."""
    import_feast()
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo))


def materialize(store: Any, until_ms: int) -> list[str]:
    """`feast materialize` of every batch view up to an instant; their names."""
    views = [view.name for view in store.list_batch_feature_views()]
    if views:
        start = datetime(2000, 1, 1, tzinfo=UTC)
        store.materialize(start, datetime.fromtimestamp(until_ms / 1e3, UTC), feature_views=views)
    return views
