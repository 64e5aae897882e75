"""A change of a registry is seen without reading it, in a file as in SQL."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from streamsvc.definitions.version import AppliedVersion
from streamsvc.errors import ConfigurationError

FILE = "registry: registry.db"
SQL = "registry:\n  registry_type: sql\n  path: sqlite:///{path}/registry.sqlite"


def repo(path: Path, registry: str) -> Path:
    text = f"project: p\nprovider: local\n{registry.format(path=path)}\n"
    (path / "feature_store.yaml").write_text(
        f"{text}offline_store: file\nonline_store: null\nentity_key_serialization_version: 3\n"
    )
    return path


@pytest.mark.parametrize("registry", [FILE, SQL])
def test_applying_changes_the_version_and_nothing_else_does(tmp_path, registry):
    from feast import Entity, FeatureStore

    where = repo(tmp_path, registry)
    store = FeatureStore(repo_path=str(where))
    store.apply([Entity(name="card")])
    # SQL registries keep whole seconds.
    long_ago = "UPDATE feast_metadata SET last_updated_timestamp = 1"
    if registry == SQL:
        from sqlalchemy import text

        with store.registry.write_engine.begin() as connection:
            connection.execute(text(long_ago))
    else:
        os.utime(where / "registry.db", ns=(1, 1))
    version = AppliedVersion(where)
    first = version.read()
    assert AppliedVersion(where).read() == version.read() == first
    store.apply([Entity(name="shop")])
    assert version.read() != first


def test_where_there_is_no_repo(tmp_path):
    with pytest.raises(ConfigurationError):
        AppliedVersion(tmp_path / "nowhere")
