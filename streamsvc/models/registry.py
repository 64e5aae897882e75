"""The registry of model versions, in MLflow: a SQLite file of the repo, or a server.

A version in the registry is a version in the model repository, under the same number. The registry
knows what was and is: aliases, metrics, a copy of the files; what is served lies in the model
repository, and no worker asks MLflow for anything.

This is the only module that imports MLflow, which takes seconds.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.models.artifact import ModelCard, load_card, served_versions
from streamsvc.settings import DATA_DIR, Settings

__all__ = ["CHALLENGER", "CHAMPION", "Registered", "Registry", "definitions_hash"]

CHAMPION = "champion"
CHALLENGER = "challenger"

_FOLDER = "mlflow"
_ARTIFACTS = "version"
_DATABASE = "mlflow.db"
# What MLflow would otherwise do: phone home, try a server that is away for minutes, and print
# addresses on the standard output, where `--json` has its document.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


@dataclass(frozen=True, slots=True)
class Registered:
    """One version as the registry knows it."""

    model: str
    version: int
    aliases: tuple[str, ...]
    created_ms: int
    service: str
    kind: str
    rows: int
    trained_from_ms: int
    trained_until_ms: int
    definitions: str
    """Hash of the FeatureService's definitions that the model was trained with."""
    metrics: dict[str, float]


def definitions_hash(card: ModelCard) -> str:
    """One digest for everything that the features meant; empty where the card does not say."""
    if not card.definitions:
        return ""
    return hashlib.sha256(msgspec.json.encode(sorted(card.definitions.items()))).hexdigest()


class Registry:
    """Versions and aliases. Blocking; one thread at a time.

    Every call raises UnavailableError if the server does not answer, and ConfigurationError for
    what it refuses.
    """

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        """`artifacts` is where copies of files go; None leaves that to the server."""
        self._password = urlsplit(uri).password
        self.where = self._told(uri)
        self._artifacts = artifacts
        with self._errors():
            self._client: Any = _connect(uri)

    @classmethod
    def open(cls, settings: Settings, repo: Path) -> Registry:
        """The registry that the settings name. Makes the local one if it is not there."""
        if settings.mlflow_tracking_uri:
            return cls(settings.mlflow_tracking_uri.get_secret_value(), None)
        folder = repo / DATA_DIR / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return cls(f"sqlite:///{folder / _DATABASE}", folder / "files")

    @classmethod
    def open_existing(cls, settings: Settings, repo: Path) -> Registry | None:
        """As `open`; None where no server is named and the local one was never made."""
        there = (repo / DATA_DIR / _FOLDER / _DATABASE).is_file()
        return cls.open(settings, repo) if there or settings.mlflow_tracking_uri else None

    def reserve(self, model: str, repository: Path) -> int:
        """The number of the next version, taken in the registry before anything has it on disk.

        Numbers are never given twice, not even after a version was deleted. Versions that lie in
        the model repository and not in the registry are entered first, so that both count alike.
        """
        on_disk = served_versions(repository / model)
        known = {item.version for item in self.versions(model)}
        with self._errors():
            self._ensure_model(model)
            while True:
                number = self._create(model)
                if number > max(on_disk, default=0):
                    break
                if number in on_disk and number not in known:
                    version_dir = repository / model / str(number)
                    self._fill(load_card(version_dir), version_dir)
                else:  # a gap on disk: the number must not be given to another model
                    self._client.delete_model_version(model, str(number))
            if on_disk and CHAMPION not in self._client.get_registered_model(model).aliases:
                # Workers that nobody told otherwise run the newest.
                self._client.set_registered_model_alias(model, CHAMPION, str(on_disk[-1]))
        return number

    def release(self, model: str, version: int) -> None:
        """Give up a reserved number, because no version came of it."""
        with self._errors():
            self._client.delete_model_version(model, str(version))

    def add(self, card: ModelCard, version_dir: Path) -> str:
        """Enter a published version under its reserved number. Returns the alias it was given:
        the first version of a model is its champion, any other its challenger.
        """
        with self._errors():
            self._fill(card, version_dir)
            aliases = self._client.get_registered_model(card.model).aliases
            alias = CHALLENGER if CHAMPION in aliases else CHAMPION
            self._client.set_registered_model_alias(card.model, alias, str(card.version))
            return alias

    def set_alias(self, model: str, alias: str, version: int) -> None:
        """Point an alias at a version; it leaves the one that had it."""
        with self._errors():
            self._client.set_registered_model_alias(model, alias, str(version))

    def drop_alias(self, model: str, alias: str) -> None:
        """Take an alias away from whatever version has it."""
        with self._errors():
            self._client.delete_registered_model_alias(model, alias)

    def models(self) -> list[str]:
        """Names, sorted."""
        with self._errors():
            return sorted(model.name for model in _pages(self._client.search_registered_models))

    def versions(self, model: str) -> list[Registered]:
        """Every version of a model that was entered, ascending; none for an unknown model."""
        with self._errors():
            found = list(
                _pages(self._client.search_model_versions, filter_string=f"name = '{model}'")
            )
            if not found:
                return []
            aliases: dict[int, list[str]] = {}
            for alias, version in self._client.get_registered_model(model).aliases.items():
                aliases.setdefault(int(version), []).append(alias)
            versions = [
                self._registered(item, aliases.get(int(item.version), []))
                for item in found
                if "streamsvc.service" in item.tags
            ]
        return sorted(versions, key=lambda item: item.version)

    def resolve(self, model: str, name: str) -> int:
        """The number that a version's number or alias stands for. Raises ConfigurationError."""
        versions = self.versions(model)
        for item in versions:
            if name == str(item.version) or name in item.aliases:
                return item.version
        known = ", ".join(
            f"{item.version}" + "".join(f" ({alias})" for alias in item.aliases)
            for item in versions
        )
        raise ConfigurationError(
            f"{model} has no version {name!r} in the registry; "
            + (f"it has {known}." if known else f"the models in it are {self._names()}.")
        )

    def card(self, model: str, version: int) -> ModelCard:
        """The card as it was registered, from MLflow's copy of the files."""
        with self._errors():
            run = self._client.get_model_version(model, str(version)).run_id
            return load_card(Path(self._client.download_artifacts(run, _ARTIFACTS)))

    def delete(self, model: str, version: int) -> None:
        """Take a version out, with its metrics and the copy of its files."""
        with self._errors():
            item = self._client.get_model_version(model, str(version))
            self._client.delete_model_version(model, str(version))
            if item.run_id:
                self._client.delete_run(item.run_id)

    def _names(self) -> str:
        return ", ".join(self.models()) or "none"

    def _ensure_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _experiment(self, model: str) -> str:
        found = self._client.get_experiment_by_name(model)
        if found is not None:
            return str(found.experiment_id)
        place = None if self._artifacts is None else (self._artifacts / model).as_uri()
        return str(self._client.create_experiment(model, artifact_location=place))

    def _create(self, model: str) -> int:
        run = self._client.create_run(self._experiment(model))
        source = f"runs:/{run.info.run_id}/{_ARTIFACTS}"
        # There is nothing to wait for: the files come with `_fill`.
        made = self._client.create_model_version(
            model, source, run_id=run.info.run_id, await_creation_for=0
        )
        self._client.update_run(run.info.run_id, name=f"{model} {made.version}")
        return int(made.version)

    def _fill(self, card: ModelCard, version_dir: Path) -> None:
        name, version = card.model, str(card.version)
        run = self._client.get_model_version(name, version).run_id
        for metric, measured in card.metrics.items():
            self._client.log_metric(run, metric, measured)
        self._client.log_artifacts(run, str(version_dir), _ARTIFACTS)
        self._client.set_terminated(run)
        tags = {
            "definitions": definitions_hash(card),
            "files": msgspec.json.encode(card.files).decode(),
            "kind": card.kind,
            "rows": card.rows,
            "trained_from_ms": card.trained_from_ms,
            "trained_until_ms": card.trained_until_ms,
            "service": card.service,  # last: with it the version counts as entered
        }
        for key, value in tags.items():
            self._client.set_model_version_tag(name, version, f"streamsvc.{key}", str(value))

    def _registered(self, item: Any, aliases: list[str]) -> Registered:
        tags = {key.removeprefix("streamsvc."): value for key, value in item.tags.items()}
        return Registered(
            model=item.name,
            version=int(item.version),
            aliases=tuple(sorted(aliases)),
            created_ms=int(item.creation_timestamp),
            service=tags["service"],
            kind=tags["kind"],
            rows=int(tags["rows"]),
            trained_from_ms=int(tags["trained_from_ms"]),
            trained_until_ms=int(tags["trained_until_ms"]),
            definitions=tags["definitions"],
            metrics=dict(self._client.get_run(item.run_id).data.metrics),
        )

    def _told(self, words: object) -> str:
        """Words of MLflow's, which quote the address, without the password in it."""
        text = str(words)
        return text.replace(f":{self._password}@", ":***@") if self._password else text

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise ConfigurationError(
                f"The registry of models needs MLflow ({error}): pip install 'streamsvc[train]'"
            ) from error
        except Exception as error:
            code = getattr(error, "error_code", None)
            if code is None:  # not MLflow's own
                raise
            if code in {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "UNAVAILABLE"}:
                raise UnavailableError(
                    f"The registry at {self.where} does not work: {self._told(error)}. "
                    "mlflow_tracking_uri names it"
                ) from error
            raise ConfigurationError(
                f"The registry at {self.where}: {self._told(error)}"
            ) from error


def _connect(uri: str) -> Any:
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, uri)


def _pages(search: Any, **arguments: Any) -> Iterator[Any]:
    token = None
    while True:
        page = search(**arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
