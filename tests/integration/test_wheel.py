"""The built wheel, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from itertools import product
from pathlib import Path

import pytest

from streamsvc.cli.templates import TEMPLATES

ROOT = Path(__file__).parents[2]
LEFT_BY_A_RUN = (
    ".streamsvc/kafka/data/log",
    "data/registry.db",
    "data/departed.parquet",
    "demo-report.json",
    "__pycache__/views.cpython-311.pyc",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of what the checkout holds, with what running leaves beside it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    ignored = shutil.ignore_patterns("__pycache__", ".streamsvc", "data")
    for name in ("streamsvc", *TEMPLATES.values()):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for template, left in product(TEMPLATES.values(), LEFT_BY_A_RUN):
        (source / template / left).parent.mkdir(parents=True, exist_ok=True)
        (source / template / left).write_text("left by a run")
    target = tmp_path_factory.mktemp("wheel")
    uv(source, "build", "--quiet", "--wheel", "--out-dir", str(target), str(source))
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    uv(site, "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel))
    return site


def uv(where: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "uv", *arguments],
        cwd=where, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0 and "hatchling" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"the build backend cannot be fetched: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def streamsvc(site: Path, where: Path, *arguments: str) -> str:
    """The command of the installed wheel; the checkout is not on the path."""
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import streamsvc; "
        f"assert streamsvc.__file__.startswith({str(site)!r}), streamsvc.__file__; "
        "from streamsvc.cli.main import main; main()"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("STREAMSVC_")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=where, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_holds_every_module_and_data_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "streamsvc"
    expected = {
        f.relative_to(ROOT).as_posix()
        for f in package.rglob("*")
        if f.is_file() and "__pycache__" not in f.parts and not f.name.startswith(".")
    }
    assert expected <= names(wheel)
    for needed in ("py.typed", "local/kafka.lock.toml", "local/triton.lock"):
        assert f"streamsvc/{needed}" in names(wheel)


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_holds_the_templates_without_what_running_them_leaves(wheel: Path, name: str) -> None:
    folder = f"streamsvc/templates/{name}"
    template = {n for n in names(wheel) if n.startswith(f"{folder}/")}
    assert {f"{folder}/README.md", f"{folder}/.feastignore"} <= template
    assert not {f"{folder}/{left}" for left in LEFT_BY_A_RUN} & template


def test_holds_nothing_else(wheel: Path) -> None:
    roots = {name.partition("/")[0] for name in names(wheel)}
    assert {r for r in roots if not r.endswith(".dist-info")} == {"streamsvc"}


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_init_works_from_an_installed_wheel(installed: Path, tmp_path: Path, name: str) -> None:
    assert "streamsvc" in streamsvc(installed, tmp_path, "--version")
    streamsvc(installed, tmp_path, "init", "mine", "--template", name)
    copied = {f.relative_to(tmp_path / "mine") for f in (tmp_path / "mine").rglob("*")}
    template = installed / "streamsvc" / "templates" / name
    assert copied == {
        f.relative_to(template) for f in template.rglob("*") if "__pycache__" not in f.parts
    }
