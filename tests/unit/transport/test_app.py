"""What is said of a start that fails."""

from __future__ import annotations

import socket

import pytest

from streamsvc.errors import UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.app import create_app, serve


async def test_a_broker_that_is_away_while_the_app_starts_is_unavailable():
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        settings = Settings(kafka_bootstrap_servers=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(UnavailableError, match="The worker stopped: KafkaConnectionError"):
            await serve(create_app(settings, "nobody"))
