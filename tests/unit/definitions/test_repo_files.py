from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from streamsvc.definitions.repo_files import hide_from_apply, importing_from


def repo(path: Path, value: int) -> Path:
    (path / "shared_by_two_repos").mkdir(parents=True)
    (path / "shared_by_two_repos" / "__init__.py").write_text("from values_of_repo import VALUE")
    (path / "values_of_repo.py").write_text(f"VALUE = {value}")
    return path


def test_repos_with_files_of_one_name_do_not_see_each_other(tmp_path: Path) -> None:
    path, modules = list(sys.path), set(sys.modules)
    for name, value in (("a", 1), ("b", 2)):
        with importing_from(repo(tmp_path / name, value)):
            assert value == importlib.import_module("shared_by_two_repos").VALUE
    assert sys.path == path
    assert set(sys.modules) == modules


def test_a_file_that_raises_is_forgotten_too(tmp_path: Path) -> None:
    before = set(sys.modules)
    broken = repo(tmp_path / "broken", 3)
    (broken / "definitions.py").write_text("import shared_by_two_repos\nraise ValueError('no')")
    with pytest.raises(ValueError, match="no"), importing_from(broken):
        importlib.import_module("definitions")
    assert set(sys.modules) == before


def test_modules_from_elsewhere_stay(tmp_path: Path) -> None:
    with importing_from(repo(tmp_path / "repo", 4)):
        kept = importlib.import_module("this")
    assert sys.modules["this"] is kept


def test_packages_of_an_environment_inside_the_repo_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = repo(tmp_path / "repo", 5)
    installed = root / ".venv" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "package_of_the_environment.py").touch()
    monkeypatch.syspath_prepend(installed)
    try:
        with importing_from(root):
            kept = importlib.import_module("package_of_the_environment")
        assert sys.modules["package_of_the_environment"] is kept
    finally:
        sys.modules.pop("package_of_the_environment", None)


def test_what_is_not_the_users_is_hidden_from_apply_once(tmp_path: Path) -> None:
    ignored = tmp_path / ".feastignore"
    for _ in range(2):
        hide_from_apply(tmp_path, Path(".streamsvc/models"))
    assert ignored.read_text() == ".streamsvc\n"
    ignored.write_text("# mine\nscripts")
    hide_from_apply(tmp_path, tmp_path / "served", Path("/elsewhere/models"), Path("served/b"))
    assert ignored.read_text() == "# mine\nscripts\nserved\n"
    ignored.write_text("served/\n")
    hide_from_apply(tmp_path, Path("served/models"))
    assert ignored.read_text() == "served/\n"
