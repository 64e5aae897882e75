from __future__ import annotations

import io

from rich.console import Console

from streamsvc.local.report import Report


def use(report: Report) -> None:
    report.line("[yellow]careful[/yellow]")
    with report.working("Thinking"):
        pass
    with report.downloading("Downloading Kafka", 2) as progress:
        for name in ("a.jar", "b.jar"):
            with progress.file(name, 100) as advance:
                advance(60)
                advance(40)


def test_a_console_shows_lines_and_progress() -> None:
    output = io.StringIO()
    use(Report(Console(file=output, force_terminal=True, width=100)))
    assert "careful" in output.getvalue()
    assert "Downloading Kafka" in output.getvalue()
    assert "2/2" in output.getvalue()


def test_without_a_console_nothing_is_said(capsys) -> None:
    use(Report())
    assert capsys.readouterr() == ("", "")
