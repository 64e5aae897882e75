"""What is said of a start that fails, and of what a worker stops for."""

from __future__ import annotations

import asyncio
import socket

import pytest
from structlog.testing import capture_logs

from streamsvc.errors import IntegrityError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.app import create_app, serve


async def test_a_broker_that_is_away_while_the_app_starts_is_unavailable():
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UnavailableError, match="The worker stopped: KafkaConnectionError"):
            await serve(create_app(settings, "nobody"))


async def test_a_worker_stops_for_the_first_error_and_says_it_once():
    app = create_app(Settings(), "failing")
    first = IntegrityError("a hole")
    with capture_logs() as said:
        app.fail(ExceptionGroup("tasks", [first, ValueError("unheard")]))
        app.fail(ValueError("later"))
        await app._crashed.wait()
        app.fail(ValueError("latest"))
    assert app.crash_reason is first
    told = [each for each in said if each["event"] == "worker_stops"]
    assert [(each["error"], each["kind"], each["exc_info"]) for each in told] == [
        ("a hole", "IntegrityError", None)
    ]


async def test_a_watched_task_stops_the_worker_only_if_it_raises():
    async def ends() -> None: ...

    async def raises() -> None:
        raise ValueError("unforeseen")

    app = create_app(Settings(), "watching")
    cancelled, ended = asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(ends())
    for task in (cancelled, ended):
        app.watch(task)
    cancelled.cancel()
    await asyncio.wait([cancelled, ended])
    assert app.crash_reason is None
    with capture_logs() as said:
        app.watch(asyncio.create_task(raises()))
        await app._crashed.wait()
    assert str(app.crash_reason) == "unforeseen"
    [told] = [each for each in said if each["event"] == "worker_stops"]
    assert told["exc_info"] is app.crash_reason
