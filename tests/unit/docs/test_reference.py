"""Documents that repeat what the code says are held against the code."""

from __future__ import annotations

import json
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest
from support.command_line import parse

from streamsvc.cli.main import EXIT_CODES
from streamsvc.events.wire import Reason
from streamsvc.monitor.metrics import (
    ArchiveMetrics,
    FeatureMetrics,
    ParityMetrics,
    RolloutMetrics,
    ScoringMetrics,
)

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
Metrics = FeatureMetrics | ScoringMetrics | ArchiveMetrics | ParityMetrics | RolloutMetrics
ROW = re.compile(r"^\| `(streamsvc_\w+)` \| (\w+) \|([^|]*)\| (.+) \|$", re.M)


def sections(text: str) -> dict[str, str]:
    """Heading of the second level -> what stands below it."""
    parts = re.split(r"^## (.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def in_code(
    metrics: Metrics,
) -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Metric as it is scraped -> (type, labels, help)."""
    found = {}
    for metric in (m for m in vars(metrics).values() if hasattr(m, "_labelnames")):
        name = metric._name + ("_total" if metric._type == "counter" else "")
        found[name] = (metric._type, tuple(metric._labelnames), metric._documentation)
    assert len(found) == len(metrics.registry._collector_to_names)
    return found


@pytest.mark.parametrize(
    ("heading", "metrics"),
    [
        ("Feature worker", FeatureMetrics()),
        ("Scoring worker", ScoringMetrics()),
        ("Archive worker", ArchiveMetrics()),
        ("Rollout worker", RolloutMetrics()),
        ("Parity", ParityMetrics()),
    ],
)
def test_every_metric_is_described_as_it_is(heading: str, metrics: Metrics) -> None:
    rows = ROW.findall(sections((DOCS / "metrics.md").read_text())[heading])
    told = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text)
        for name, kind, labels, text in rows
    }
    found = in_code(metrics)
    assert sorted(told) == sorted(found)
    for name, (kind, labels, text) in found.items():
        assert told[name][:2] == (kind, labels), name
        assert told[name][2].startswith(text), name


def test_settings_are_those_of_the_code() -> None:
    script = load(DOCS / "settings_table.py")
    assert script.TARGET.read_text() == script.table(), "run `python docs/settings_table.py`"


def load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_reason_of_a_dead_letter_is_explained() -> None:
    told = re.findall(r"^\| `(\w+)` \|", sections(operations())["Dead letters"], re.M)
    assert sorted(told) == sorted(get_args(Reason))


def test_every_exit_code_is_explained() -> None:
    told = set(re.findall(r"^\| (\d+) \|", sections(operations())["Exit codes"], re.M))
    assert told == {code for code, _ in EXIT_CODES}


def operations() -> str:
    return (DOCS / "operations.md").read_text()


DOCUMENTS = sorted(
    p
    for p in (*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("deploy/*.md"))
    if p.name != "CHANGELOG.md"
)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_that_a_document_names_exist(path: Path) -> None:
    text = path.read_text()
    named = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    for target in named:
        assert (path.parent / target).exists(), target
    for target in re.findall(r"`((?:docs|deploy|streamsvc|tests|benchmarks)/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_that_a_document_names_exist(path: Path) -> None:
    """Inline `streamsvc …` commands: the verb, and every option that is spelled out."""
    for line in re.findall(r"`streamsvc ([^`\n]+)`", path.read_text()):
        words = line.replace("…", "x").split()
        options = {w.partition("=")[0] for w in words if w.startswith("--")}
        verbs = [w for w in words if re.fullmatch(r"[a-z-]+", w) and not w.startswith("-")]
        check_command(verbs, options, line)


def check_command(verbs: list[str], options: set[str], line: str) -> None:
    import typer

    from streamsvc.cli.main import app

    command = typer.main.get_command(app)
    known: set[str] = set()
    for word in [None, *verbs]:
        if word is not None:
            if word not in getattr(command, "commands", {}):
                break
            command = command.commands[word]
        known |= {name for p in command.params for name in p.opts}
    assert command.name != "streamsvc" or options & {"--help", "--version"}, line
    assert options <= known | {"--help"}, line


def test_the_parser_of_command_lines_is_strict() -> None:
    parse(["worker", "features", "--instance-id", "a"])
    for wrong in (["worker", "featurez"], ["worker", "features", "--x"], ["train"]):
        with pytest.raises(Exception, match=r"No such|Missing"):
            parse(wrong)


def test_every_field_of_a_prediction_is_described() -> None:
    text = (DOCS / "predictions.md").read_text().partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", text, re.M)
    told = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    schema = json.loads((DOCS / "prediction.schema.json").read_text())
    assert sorted(told) == sorted(schema["properties"])


def test_decisions_are_numbered_once_each() -> None:
    numbers = [path.name[:4] for path in sorted((DOCS / "decisions").glob("*.md"))]
    assert all(re.fullmatch(r"\d{3}-", number) for number in numbers)
    assert len(set(numbers)) == len(numbers)
