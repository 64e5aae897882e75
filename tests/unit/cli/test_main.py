from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import structlog
import typer
from typer.testing import CliRunner

from streamsvc import __version__, errors
from streamsvc.cli.main import VERBS, app, main

HEAVY = {
    "aiokafka", "confluent_kafka", "dask", "duckdb", "faust", "feast", "grpc", "jgo", "mlflow",
    "numba", "numpy", "pandas", "pyarrow", "pydantic", "redis", "rich", "sklearn",
    "tritonclient", "xgboost",
}  # fmt: skip


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    for name in ("STREAMSVC_KAFKA_BOOTSTRAP_SERVERS", "STREAMSVC_REDIS_URL"):
        monkeypatch.delenv(name, raising=False)
    return CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1"})


def test_help_shows_every_verb_in_its_panel_and_the_exit_codes(runner: CliRunner) -> None:
    shown = runner.invoke(app, ["--help"])
    assert shown.exit_code == 0
    for name, _, panel in VERBS:
        assert f"\n  {name} " in shown.output
        assert f"\n{panel}:\n" in shown.output
    assert "\nExit codes:\n  0    done\n" in shown.output


def test_panels_come_in_the_order_of_the_table(runner: CliRunner) -> None:
    shown = runner.invoke(app, ["--help"]).output
    places = [shown.index(f"\n{panel}:\n") for panel in dict.fromkeys(p for _, _, p in VERBS)]
    assert places == sorted(places)


def test_every_verb_explains_itself(runner: CliRunner) -> None:
    for name, _, _ in VERBS:
        shown = runner.invoke(app, [name, "--help"])
        assert shown.exit_code == 0, name
        assert "Usage" in shown.output


def test_version(runner: CliRunner) -> None:
    assert runner.invoke(app, ["--version"]).output == f"streamsvc {__version__}\n"


@pytest.mark.parametrize(
    "code", ["import streamsvc", "from streamsvc.cli.main import app; app(['--help'])"]
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    listing = (
        "import atexit, sys; atexit.register(lambda: print(*"
        f"{{m.partition('.')[0] for m in sys.modules}}, file=sys.stderr)); {code}"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True
    )
    names = set(loaded.stderr.split())
    assert "streamsvc" in names
    assert names & HEAVY == set()


def test_a_missing_directory_is_a_wrong_argument(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(app, ["-c", str(tmp_path / "nowhere"), "env"])
    assert result.exit_code == 2
    assert "no such directory" in result.stderr


def test_a_wrong_setting_ends_with_code_2_and_names_the_nearest(
    runner: CliRunner, tmp_path: Path
) -> None:
    (tmp_path / "streamsvc.toml").write_text('redis_ulr = "redis://elsewhere:1/0"\n')
    result = runner.invoke(app, ["-c", str(tmp_path), "env"])
    assert result.exit_code == 2
    assert "redis_ulr" in result.stderr
    assert "Did you mean 'redis_url'?" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CheckFailedError("vectors differ"), 1),
        (errors.ConfigurationError("no such setting"), 2),
        (errors.DefinitionError(["view a: no entity"]), 2),
        (errors.UnavailableError("broker [127.0.0.1] is away"), 3),
        (errors.IntegrityError("topic was recreated"), 4),
    ],
)
def test_every_error_ends_as_one_message_and_its_code(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, error: errors.StreamsvcError, code: int
) -> None:
    from streamsvc.cli.context import CliContext

    def fail(_: CliContext) -> None:
        raise error

    monkeypatch.setattr(CliContext, "settings", property(fail))
    result = runner.invoke(app, ["env"])
    assert result.exit_code == code
    assert result.stderr.replace("\n", " ") == f"error: {error} ".replace("\n", " ")


def test_an_unknown_verb_is_a_wrong_argument(runner: CliRunner) -> None:
    assert runner.invoke(app, ["frobnicate"]).exit_code == 2


def test_verbs_are_ordinary_functions_or_groups() -> None:
    assert isinstance(app, typer.Typer)
    assert len({name for name, _, _ in VERBS}) == len(VERBS)


def test_an_interrupt_that_typer_does_not_hear_ends_with_its_code_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("streamsvc.cli.main.app", interrupted)
    with pytest.raises(SystemExit) as raised:
        main()
    assert raised.value.code == 130


def test_what_a_command_logs_is_not_in_its_output(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def check() -> None:
        structlog.get_logger("test").warning("waits_for_somebody")
        print("{}")

    monkeypatch.setattr(app.registered_commands[0], "callback", check)
    name = app.registered_commands[0].name
    before = structlog.get_config()["logger_factory"]
    try:
        shown = runner.invoke(app, ["-c", str(tmp_path), str(name)])
    finally:
        structlog.configure(logger_factory=before)
    assert shown.exit_code == 0, shown.output
    assert shown.stdout == "{}\n"
    assert "waits_for_somebody" in shown.stderr
