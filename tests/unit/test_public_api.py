"""What other people's code may import, and that nothing else is offered."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest

import streamsvc

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "streamsvc").rglob("*.py"))


def test_the_package_exports_exactly_this() -> None:
    assert streamsvc.__all__ == ["ScoringRoute", "__version__"]
    public = {name for name in vars(streamsvc) if not name.startswith("_")}
    rooms = {p.stem for p in FILES} | {p.name for p in (ROOT / "streamsvc").iterdir()}
    assert public - rooms == {"ScoringRoute"}


def test_the_version_is_that_of_the_project() -> None:
    assert f'version = "{streamsvc.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_plug_ins_of_feast_are_where_feature_stores_name_them() -> None:
    plug_ins = import_module("streamsvc.feast")
    for name in plug_ins.__all__:
        assert getattr(plug_ins, name).__name__ == name
    # Feast finds a plug-in's configuration by its name and "Config".
    stores = [name for name in plug_ins.__all__ if not name.endswith("Config")]
    assert sorted(stores) == [
        "PackedRedisOnlineStore",
        "WindowedComputeEngine",
        "WindowedOfflineStore",
    ]
    assert {f"{name}Config" for name in stores} <= set(plug_ins.__all__)


def test_faust_finds_the_transport() -> None:
    from importlib.metadata import entry_points

    (found,) = entry_points(group="faust.transports", name="streamsvc")
    assert found.load().__name__ == "Transport"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_with_public_names_says_which(path: Path) -> None:
    tree = ast.parse(path.read_text())
    defined: set[str] = set()
    exported: set[str] | None = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            defined |= names
            if names == {"__all__"}:
                assert isinstance(node.value, ast.List)
                exported = set(ast.literal_eval(node.value))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    own = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    if exported is None:
        assert not own, f"no __all__, and {sorted(own)} look public"
    else:
        assert exported <= defined, sorted(exported - defined)
