"""What the demo says while it works: a line when a step begins, and one when it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Narrator", "Step"]


@dataclass(slots=True)
class Step:
    """A step under way; `outcome` is shown once it is done."""

    outcome: str = "done"


class Narrator:
    """Numbers the steps and times them. `live` shows a spinner, and lets steps draw."""

    def __init__(self, console: Console, steps: int, *, live: bool) -> None:
        self.console = console
        self.live = live
        self._steps = steps
        self._step = 0

    @contextmanager
    def step(self, title: str, *, spinner: bool = True) -> Iterator[Step]:
        """Announce a step, run the block, say how long it took. A failure is left to the caller.

        `spinner` is false for a step that draws on the terminal itself.
        """
        self._step += 1
        self.line(f"[bold][{self._step}/{self._steps}][/bold] {title}")
        step = Step()
        began = time.monotonic()
        with self.console.status("working") if self.live and spinner else nullcontext():
            yield step
        self.line(f"      {step.outcome} [dim]· {time.monotonic() - began:.1f} s[/dim]")

    def line(self, text: str) -> None:
        """One line of rich markup."""
        self.console.print(
            text.replace("[/bold] [", "[/bold] \\["), highlight=False, soft_wrap=True
        )
