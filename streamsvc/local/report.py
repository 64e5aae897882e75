"""Telling the user what goes on while downloads run; silent without a console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["Report"]


class Report:
    """Lines and progress bars on a console, or nowhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    def line(self, text: str) -> None:
        """One line of rich markup."""
        if self._console is not None:
            self._console.print(text, highlight=False)

    def working(self, text: str) -> AbstractContextManager[object]:
        """A spinner beside `text` for as long as the block runs."""
        return nullcontext() if self._console is None else self._console.status(text)

    @contextmanager
    def downloading(self, text: str, n_files: int) -> Iterator[_Downloads]:
        """Progress over `n_files` files."""
        if self._console is None:
            yield _Downloads(None, text, n_files)
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[files]}"),
            DownloadColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield _Downloads(progress, text, n_files)


class _Downloads:
    """Progress of several files shown as one bar."""

    def __init__(self, progress: Progress | None, text: str, n_files: int) -> None:
        self._progress = progress
        self._n_files = n_files
        self._done = 0
        self._total_bytes = 0
        self._task = None if progress is None else progress.add_task(text, total=None, files="")

    @contextmanager
    def file(self, _name: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """One file, as jgo's progress callback wants it: tell what it yields of arriving bytes."""
        self._total_bytes += total_bytes
        self._show(0)
        yield self._show
        self._done += 1

    def _show(self, n_bytes: int) -> None:
        if self._progress is not None and self._task is not None:
            files = f"{self._done + 1}/{self._n_files}"
            self._progress.update(self._task, advance=n_bytes, total=self._total_bytes, files=files)
