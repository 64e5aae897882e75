from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from streamsvc.cli.main import app


def test_without_a_terminal_nothing_is_deleted_unasked(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["-c", str(tmp_path), "store", "rebuild"])
    assert result.exit_code == 2
    assert "add --yes" in result.stderr
