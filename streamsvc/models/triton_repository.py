"""Models as Triton finds them on disk: `<model>/config.pbtxt`, `<model>/<version>/…`.

Every version is written twice with the same booster and card: to the repository itself for the
Python backend, and to the sibling `models-fil/` for the FIL backend of NVIDIA's container. A
version appears whole or not at all, and is never changed afterwards.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import BOOSTER_FILE, ModelCard, save_card, served_versions
from streamsvc.models.triton_config import fil_config, python_config

__all__ = ["FIL_SIBLING", "SERVED_MODEL_FILE", "fil_repository", "next_version", "publish"]

FIL_SIBLING = "models-fil"
SERVED_MODEL_FILE = "model.py"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def next_version(repository: Path, model: str) -> int:
    """One more than the greatest version of the model; 1 for a new model.

    Raises ConfigurationError for a name that cannot be a directory of Triton's.
    """
    if not NAME.fullmatch(model):
        raise ConfigurationError(
            f"{model!r} cannot be a model's name: use letters, digits, '_', '.' and '-'"
        )
    return max(served_versions(repository / model), default=0) + 1


def fil_repository(repository: Path) -> Path:
    """Where the FIL form of the models of this repository lies."""
    return repository.parent / FIL_SIBLING


def publish(repository: Path, card: ModelCard, booster: bytes) -> Path:
    """Write one version in both forms; `booster` is XGBoost's UBJSON. Returns its directory.

    The configuration serves every version on disk, so that older ones stay as fallbacks. A server
    takes notice at its next explicit load. Raises ConfigurationError if the version exists.
    """
    source = Path(__file__).with_name("served_model.py")
    n_features = len(card.features)
    version_dir = _write(
        repository,
        card,
        booster,
        lambda versions: python_config(card.model, n_features, versions),
        extra={SERVED_MODEL_FILE: source.read_bytes()},
    )
    _write(
        fil_repository(repository),
        card,
        booster,
        lambda versions: fil_config(card.model, n_features, versions, card.threshold),
        extra={},
    )
    return version_dir


def _write(
    repository: Path,
    card: ModelCard,
    booster: bytes,
    config: Callable[[list[int]], str],
    extra: dict[str, bytes],
) -> Path:
    model_dir = repository / card.model
    model_dir.mkdir(parents=True, exist_ok=True)
    target = model_dir / str(card.version)
    if target.exists():
        raise ConfigurationError(f"{target} exists: a version is never overwritten")
    # Not a whole number, so that no reader takes the unfinished directory for a version.
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=model_dir))
    try:
        (building / BOOSTER_FILE).write_bytes(booster)
        save_card(card, building)
        for name, content in extra.items():
            (building / name).write_bytes(content)
        building.chmod(0o755)  # the server may run as another user
        os.rename(building, target)  # noqa: PTH104
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    _replace_text(model_dir / "config.pbtxt", config(served_versions(model_dir)))
    return target


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
