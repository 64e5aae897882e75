"""Models as Triton finds them on disk: `<model>/config.pbtxt`, `<model>/<version>/…`.

Every version is written twice with the same model file and card: to the repository itself for the
Python backend, and to the sibling `models-nvidia/` for the backends of NVIDIA's container. A
version appears whole or not at all, and is never changed afterwards.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import structlog

from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import ModelCard, load_card, save_card, served_versions
from streamsvc.models.files import digest_of
from streamsvc.models.runtimes import MODEL_FILES
from streamsvc.models.triton_config import native_config, python_config

__all__ = [
    "NATIVE_SIBLING",
    "alike",
    "check_name",
    "configured_versions",
    "configuring",
    "native_repository",
    "next_version",
    "publish",
    "remove",
    "serve",
    "serve_besides",
]

log = structlog.get_logger(__name__)

NATIVE_SIBLING = "models-nvidia"
SERVER_CODE = {"model.py": "served_model.py", "runtimes.py": "runtimes.py"}
"""What the Python backend runs -> our file that it is a copy of."""
CONFIG_FILE = "config.pbtxt"
VERSIONS = re.compile(r"version_policy \{ specific \{ versions: \[ ([\d, ]+) \] \} \}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_name(model: str) -> str:
    """The name itself. Raises ConfigurationError if it cannot be a directory of Triton's."""
    if not NAME.fullmatch(model):
        raise ConfigurationError(
            f"{model!r} cannot be a model's name: use letters, digits, '_', '.' and '-'"
        )
    return model


def next_version(repository: Path, model: str) -> int:
    """One more than the greatest version of the model; 1 for a new model."""
    return max(served_versions(repository / check_name(model)), default=0) + 1


def native_repository(repository: Path) -> Path:
    """Where the form for NVIDIA's container of the models of this repository lies."""
    return repository.parent / NATIVE_SIBLING


def publish(repository: Path, card: ModelCard, content: bytes) -> Path:
    """Write one version in both forms; `content` is the model file of the card's kind.

    Returns its directory. It is served beside what was served before. A server takes notice at its
    next explicit load. Raises ConfigurationError if the version exists.
    """
    file = MODEL_FILES[card.kind]
    card = msgspec.structs.replace(card, files={file: digest_of(content)})
    here = Path(__file__).parent
    code = {name: (here / source).read_bytes() for name, source in SERVER_CODE.items()}
    version_dir = _write(repository, card, {file: content, **code})
    _write(native_repository(repository), card, {file: content})
    with configuring(repository):
        serve_besides(repository, card.model, [card.version])
    return version_dir


@contextmanager
def configuring(repository: Path) -> Iterator[None]:
    """Keep other processes from changing what is served meanwhile; waits for them to finish, and
    says so: a server may take minutes to load something.

    Whoever has a server load what was configured holds it until that is done.
    """
    repository.mkdir(parents=True, exist_ok=True)
    # The directory itself is the lock: somebody who may only read it can hold it, too.
    directory = os.open(repository, os.O_RDONLY)
    try:
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            why = "another command or worker is having Triton load something from it"
            log.warning("waits_for_model_repository", repository=str(repository), why=why)
            fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def configured_versions(model_dir: Path) -> list[int]:
    """The versions that `config.pbtxt` has a server load, ascending; none without such a file."""
    try:
        text = (model_dir / CONFIG_FILE).read_text()
    except FileNotFoundError:
        return []
    found = VERSIONS.search(text)
    return sorted(int(number) for number in found[1].split(",")) if found else []


def serve(repository: Path, model: str, versions: Collection[int]) -> None:
    """Write both configurations so that a server loads these versions and no others.

    With no versions there is no configuration, and the model cannot be loaded. Raises
    ConfigurationError for a version without a card.
    """
    wanted = sorted(versions)
    cards = [load_card(repository / model / str(version)) for version in wanted]
    places = repository / model / CONFIG_FILE, native_repository(repository) / model / CONFIG_FILE
    if not cards:
        for path in places:
            path.unlink(missing_ok=True)
        return
    _replace_text(places[0], python_config(model, wanted))
    together = alike(cards)
    _replace_text(places[1], native_config(together[-1], [card.version for card in together]))


def serve_besides(repository: Path, model: str, versions: Collection[int]) -> None:
    """Have a server load these versions, too, when it next loads the model.

    Raises ConfigurationError for a version without a card.
    """
    model_dir = repository / model
    before = {*configured_versions(model_dir)} & {*served_versions(model_dir)}
    if not before.issuperset(versions):
        serve(repository, model, {*before, *versions})


def alike(cards: Sequence[ModelCard]) -> list[ModelCard]:
    """Those that NVIDIA's backends can serve under one name: they know one width and one type.

    The oldest version decides, because it is the one that serves already.
    """
    return [card for card in cards if _form(card) == _form(cards[0])]


def _form(card: ModelCard) -> tuple[object, ...]:
    return (
        *(card.kind, card.task, len(card.features), card.outputs),
        *(card.instances, card.tensorrt),
    )


def remove(repository: Path, model: str, version: int) -> None:
    """Delete the files of a version that is not served any more, in both forms."""
    for place in (repository, native_repository(repository)):
        # Out of every reader's sight at once, whatever interrupts the rest.
        gone = place / model / f".deleted-{version}"
        with suppress(FileNotFoundError):
            (place / model / str(version)).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(OSError):  # it has other versions
            (place / model).rmdir()


def _write(repository: Path, card: ModelCard, files: Mapping[str, bytes]) -> Path:
    model_dir = repository / card.model
    model_dir.mkdir(parents=True, exist_ok=True)
    target = model_dir / str(card.version)
    if target.exists():
        raise ConfigurationError(f"{target} exists: a version is never overwritten")
    # Not a whole number, so that no reader takes the unfinished directory for a version.
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=model_dir))
    try:
        save_card(card, building)
        for name, content in files.items():
            (building / name).write_bytes(content)
        building.chmod(0o755)  # the server may run as another user
        os.rename(building, target)  # noqa: PTH104
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return target


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.replace(path)
