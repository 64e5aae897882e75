from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamsvc.cli import templates
from streamsvc.cli.main import app
from streamsvc.errors import ConfigurationError


def test_copies_the_files_that_people_wrote_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    kept = ["feature_store.yaml", "seeds/events.jsonl", ".feastignore"]
    made = [".streamsvc/endpoints.json", "data/departed.parquet", "__pycache__/a.pyc"]
    made += ["registry.db", "demo-report.json"]
    for name in kept + made:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    monkeypatch.setattr(templates, "template_path", lambda _: source)
    written = templates.copy_template("flights", tmp_path / "new" / "repo")
    assert sorted(f.relative_to(tmp_path / "new/repo").as_posix() for f in written) == sorted(kept)
    assert (tmp_path / "new/repo/seeds/events.jsonl").read_text() == "seeds/events.jsonl"


@pytest.mark.parametrize("template", sorted(templates.TEMPLATES))
def test_overwrites_nothing(tmp_path: Path, template: str) -> None:
    templates.copy_template(template, tmp_path)
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
    with pytest.raises(ConfigurationError, match="already holds"):
        templates.copy_template(template, tmp_path)
    assert before == {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}


def test_the_command_takes_the_directory_relative_to_chdir(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["-c", str(tmp_path), "init", "mine"])
    assert result.exit_code == 0, result.output
    assert any((tmp_path / "mine").iterdir())


def test_an_unknown_template_names_the_known_ones(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["-c", str(tmp_path), "init", "-t", "trains"])
    assert result.exit_code == 2
    assert "flights" in result.stderr
