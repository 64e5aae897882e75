"""The registry on a database of its own, which MLflow takes seconds to make: once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.models import small_model

from streamsvc.agents.alias_following import AliasFollowing
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.models.aliases import follow
from streamsvc.models.entering import enter
from streamsvc.models.registry import Registry, definitions_hash
from streamsvc.models.rollout import Candidate, Revision, Words, promote, start, undo
from streamsvc.models.rollout_log import RolloutLog, revision_key
from streamsvc.models.triton_repository import configured_versions, publish, remove, serve
from streamsvc.monitor.metrics import RolloutMetrics
from streamsvc.settings import Settings


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    repo = tmp_path_factory.mktemp("repo")
    found = Registry.open(Settings(), repo)
    assert (repo / ".streamsvc" / "mlflow" / "mlflow.db").is_file()
    return found


def put(registry: Registry | None, repository: Path, name: str, seed: int = 1) -> Any:
    model = small_model(seed, name)
    return enter(
        msgspec.structs.replace(model.card, definitions={"view:a": "1"}),
        repository,
        registry,
        lambda card: publish(repository, card, model.booster),
    )


def test_the_first_version_is_champion_and_later_ones_challenge(
    registry: Registry, tmp_path: Path
) -> None:
    card, version_dir, alias = put(registry, tmp_path / "models", "first")
    assert (card.version, alias) == (1, "champion")
    assert version_dir == tmp_path / "models" / "first" / "1"
    assert put(registry, tmp_path / "models", "first", 2)[1:] == (
        tmp_path / "models" / "first" / "2",
        "challenger",
    )
    assert put(registry, tmp_path / "models", "first", 3)[2] == "challenger"
    versions = registry.versions("first")
    assert [(v.version, v.aliases) for v in versions] == [
        (1, ("champion",)),
        (2, ()),
        (3, ("challenger",)),
    ]
    one = versions[0]
    assert (one.service, one.kind, one.rows) == ("late_arrival", "xgboost", 500)
    assert (one.trained_from_ms, one.trained_until_ms) == (1, 2)
    assert one.metrics == {"auc": 0.9}
    assert one.definitions == definitions_hash(card) != ""
    # The copy in MLflow is the whole card, with histograms, golden vectors and digests of files.
    assert registry.card("first", 1) == card
    assert set(card.files) == {"xgboost.ubj"}

    registry.set_alias("first", "champion", 3)
    assert registry.resolve("first", "champion") == registry.resolve("first", "3") == 3
    assert [v.aliases for v in registry.versions("first")] == [(), (), ("challenger", "champion")]
    with pytest.raises(ConfigurationError, match=r"it has 1, 2, 3 \(challenger\) \(champion\)"):
        registry.resolve("first", "best")
    with pytest.raises(ConfigurationError, match=r"the models in it are .*first"):
        registry.resolve("nothing", "1")


def test_aliases_follow_the_rollouts(registry: Registry, tmp_path: Path) -> None:
    for seed in range(4):
        put(registry, tmp_path / "models", "rolled", seed)
    words = Words("me", 1, "")

    def aliases(*revisions: Revision) -> dict[int, tuple[str, ...]]:
        follow(registry, "rolled", revisions)
        assert follow(registry, "rolled", revisions) == {}
        return {v.version: v.aliases for v in registry.versions("rolled") if v.aliases}

    assert {v.version: v.aliases for v in registry.versions("rolled") if v.aliases} == {
        1: ("champion",),
        4: ("challenger",),
    }
    first = start(Revision("s", 0, 1, "rolled"), Candidate(2, "shadow", 100), words, salt="")
    assert aliases(first) == {1: ("champion",), 2: ("challenger",)}
    second = promote(first, words)
    assert aliases(first, second) == {2: ("champion",)}
    registry.set_alias("rolled", "challenger", 4)  # as registering another does
    back = undo(second, words)
    assert aliases(first, second, back) == {1: ("champion",), 4: ("challenger",)}
    third = start(back, Candidate(4, "canary", 10), words, salt="")
    fourth = undo(third, words)
    assert aliases(first, second, back, third, fourth) == {1: ("champion",)}
    # A version that was published beside the registry has no place in it.
    beside = promote(fourth, words, version=9)
    assert aliases(first, second, back, third, fourth, beside) == {1: ("champion",)}


async def test_a_registry_that_is_away_is_told_later(registry: Registry, tmp_path: Path) -> None:
    for seed in range(2):
        put(registry, tmp_path / "models", "later", seed)
    began = start(
        Revision("s", 0, 1, "later"), Candidate(2, "shadow", 100), Words("me", 1, ""), salt=""
    )
    log = RolloutLog()
    for each in (began, promote(began, Words("me", 2, "better"))):
        log.add(revision_key("s", each.revision, "n"), msgspec.json.encode(each))
    metrics, said = RolloutMetrics(), [None, log]
    opened = [lambda: None, lambda: Registry("http://127.0.0.1:9", None), lambda: registry]

    def opening() -> Registry | None:
        return opened[0]()

    following = AliasFollowing({"s": "later"}, opening, lambda: said[0], metrics)
    assert await following.follow("s")  # another worker leads
    said.pop(0)
    assert await following.follow("s")  # there is no registry
    opened.pop(0)
    assert not await following.follow("s")
    assert metrics.registry.get_sample_value("streamsvc_rollout_aliases_failed_total") == 1
    opened.pop(0)
    assert await following.follow("s")
    assert registry.resolve("later", "champion") == 2


def test_a_registry_that_was_never_made_is_not_made_to_be_told(tmp_path: Path) -> None:
    assert Registry.open_existing(Settings(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_number_is_never_given_twice(registry: Registry, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for _ in range(2):
        put(registry, repository, "deleted")
    serve(repository, "deleted", [1])
    remove(repository, "deleted", 2)
    registry.delete("deleted", 2)
    assert [v.version for v in registry.versions("deleted")] == [1]
    assert put(registry, repository, "deleted")[0].version == 3
    assert configured_versions(repository / "deleted") == [1, 3]


def test_versions_that_are_older_than_the_registry_are_entered(
    registry: Registry, tmp_path: Path
) -> None:
    repository = tmp_path / "models"
    for _ in range(3):
        put(None, repository, "old")
    remove(repository, "old", 2)
    card, _, alias = put(registry, repository, "old")
    assert (card.version, alias) == (4, "challenger")
    # Workers run the newest version until somebody says otherwise.
    assert [(v.version, v.aliases) for v in registry.versions("old")] == [
        (1, ()),
        (3, ("champion",)),
        (4, ("challenger",)),
    ]


def test_a_version_that_was_not_published_is_not_registered(
    registry: Registry, tmp_path: Path
) -> None:
    def broken(card: Any) -> Path:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        enter(small_model(1, "broken").card, tmp_path / "models", registry, broken)
    assert registry.versions("broken") == []
    assert put(registry, tmp_path / "models", "broken")[0].version == 2


def test_a_registry_that_is_away_says_so() -> None:
    with pytest.raises(UnavailableError, match="mlflow_tracking_uri names it") as told:
        Registry("http://me:secret@127.0.0.1:9", None).versions("x")
    assert "secret" not in str(told.value)
