"""What is left to be done about a flush."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from streamsvc.agents.flusher import Flush
from streamsvc.transport.producer import Send


@pytest.mark.parametrize("publishes", [False, True])
@pytest.mark.parametrize("commits", [False, True])
def test_a_flush_is_over_once_nobody_waits_for_more(publishes: bool, commits: bool) -> None:
    written: Future[list[Send]] = Future()
    flush = Flush([], written, publishes, commits)
    assert not flush.over
    # Also where nothing is to be told in the end: what was offered has to be taken back.
    written.set_result([])
    assert flush.over == (not publishes and not commits)


def test_a_flush_that_failed_is_for_somebody_to_hear_of() -> None:
    written: Future[list[Send]] = Future()
    written.set_exception(RuntimeError("the store"))
    assert not Flush([], written, publishes=False, commits=False).over
