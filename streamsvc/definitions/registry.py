"""The applied Feast registry -> a Plan.

Feast takes seconds to import, so nothing here does before `load_plan` is called.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamsvc.definitions.plan import BatchView, OnDemandView, Plan, Service, View
from streamsvc.definitions.repo_files import importing_from
from streamsvc.definitions.request_views import compile_batch_view, compile_on_demand_view
from streamsvc.definitions.services import compile_service
from streamsvc.definitions.sources import compile_sources
from streamsvc.definitions.updates import check_updates
from streamsvc.definitions.views import compile_view
from streamsvc.errors import ConfigurationError, DefinitionError
from streamsvc.feast_import import import_feast

__all__ = ["FeastObjects", "compile_plan", "load_plan", "open_store", "read_files", "read_registry"]

DEFAULT_MAX_FUTURE_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class FeastObjects:
    """The Feast objects of one project that mean something here."""

    project: str
    kafka_sources: Sequence[Any] = ()
    stream_views: Sequence[Any] = ()
    batch_views: Sequence[Any] = ()
    on_demand_views: Sequence[Any] = ()
    services: Sequence[Any] = ()


def load_plan(repo: Path, settings_max_future_ms: int = DEFAULT_MAX_FUTURE_MS) -> Plan:
    """What the registry of a Feast repo directory asks for, as of the last `feast apply`.

    Raises DefinitionError listing every mistake, and ConfigurationError where there is no repo or
    nothing was applied.
    """
    return compile_plan(read_registry(repo), repo, settings_max_future_ms)


def read_registry(repo: Path) -> FeastObjects:
    """The applied objects. Raises ConfigurationError where there is no repo or nothing applied."""
    store = open_store(repo)
    from feast.data_source import KafkaSource

    project, registry = store.project, store.registry
    try:
        with warnings.catch_warnings():
            # Feast calls stream views experimental each time one is read.
            warnings.simplefilter("ignore", RuntimeWarning)
            stream_views = registry.list_stream_feature_views(project)
        on_demand_views = registry.list_on_demand_feature_views(project)
    except (ImportError, AttributeError) as error:
        # Feast pickles a plain function by its module, which exists only in the repo directory.
        raise DefinitionError(
            [
                f"A udf of the repo cannot be loaded ({error}); declare its view with "
                f"@stream_feature_view or @on_demand_feature_view, and import inside the function."
            ]
        ) from error
    found = FeastObjects(
        project=project,
        kafka_sources=[
            s for s in registry.list_data_sources(project) if isinstance(s, KafkaSource)
        ],
        stream_views=stream_views,
        batch_views=registry.list_feature_views(project),
        on_demand_views=on_demand_views,
        services=registry.list_feature_services(project),
    )
    if not (found.kafka_sources or found.batch_views or found.services):
        raise ConfigurationError(
            f"Nothing is applied for project {project!r}; run `feast -c {repo} apply`."
        )
    return found


def read_files(repo: Path) -> FeastObjects:
    """The objects in a repo's Python files, as `feast apply` would register them now.

    Raises ConfigurationError where there is no repo, or its files cannot be read.
    """
    store = open_store(repo)
    from feast import Project
    from feast.data_source import KafkaSource
    from feast.repo_operations import parse_repo

    with contextlib.chdir(repo), importing_from(repo), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = parse_repo(repo)
            if not found.projects:
                found.projects.append(Project(name=store.project))
            store.plan(found)  # completes the objects: types of features, join keys
        except Exception as error:  # whatever the user's files raise
            raise ConfigurationError(
                f"The definitions in {repo} do not load: {type(error).__name__}: {error}. "
                f"If an argument has the wrong type, `feast apply` names it."
            ) from error
    return FeastObjects(
        project=store.project,
        kafka_sources=[s for s in found.data_sources if isinstance(s, KafkaSource)],
        stream_views=found.stream_feature_views,
        batch_views=found.feature_views,
        on_demand_views=found.on_demand_feature_views,
        services=found.feature_services,
    )


def open_store(repo: Path) -> Any:
    """Feast's FeatureStore of a repo directory. Raises ConfigurationError where there is none."""
    if not (repo / "feature_store.yaml").is_file():
        raise ConfigurationError(
            f"{repo} is no Feast repo (it has no feature_store.yaml); name it with --chdir, or "
            f"make one with `streamsvc init`."
        )
    import_feast()
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo))


def compile_plan(
    objects: FeastObjects, repo: Path, max_future_ms: int = DEFAULT_MAX_FUTURE_MS
) -> Plan:
    """The Plan of these objects. Raises DefinitionError listing every mistake."""
    mistakes: list[str] = []
    sources = compile_sources(list(objects.kafka_sources), repo, max_future_ms, mistakes)
    broken = {s.name for s in objects.kafka_sources} - set(sources)

    windowed: list[View] = []
    batch: list[BatchView] = []
    on_demand: list[OnDemandView] = []
    services: list[Service] = []
    for feast_view in sorted(objects.stream_views, key=_name):
        if (view := compile_view(feast_view, sources, broken, mistakes)) is not None:
            windowed.append(view)
    for feast_view in sorted(objects.batch_views, key=_name):
        if (batch_view := compile_batch_view(feast_view, mistakes)) is not None:
            batch.append(batch_view)
    for feast_view in sorted(objects.on_demand_views, key=_name):
        if (on_demand_view := compile_on_demand_view(feast_view, mistakes)) is not None:
            on_demand.append(on_demand_view)

    everything: list[View | BatchView | OnDemandView] = [*windowed, *batch, *on_demand]
    views = {view.name: view for view in everything}
    declared = [*objects.stream_views, *objects.batch_views, *objects.on_demand_views]
    broken_views = {v.name for v in declared} - set(views)
    for feast_service in sorted(objects.services, key=_name):
        service = compile_service(feast_service, sources, views, broken_views, mistakes)
        if service is not None:
            services.append(service)
    mistakes += check_updates(windowed, sources.values(), services)
    if mistakes:
        raise DefinitionError(mistakes)
    return Plan(
        project=objects.project,
        sources=tuple(sources.values()),
        views=tuple(windowed),
        batch_views=tuple(batch),
        on_demand_views=tuple(on_demand),
        services=tuple(services),
    )


def _name(feast_object: Any) -> str:
    return str(feast_object.name)
