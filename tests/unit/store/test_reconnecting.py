from __future__ import annotations

import socket

import pytest

from streamsvc.errors import UnavailableError
from streamsvc.settings import Settings
from streamsvc.store.client import call, connect


def test_a_server_may_be_away_for_as_long_as_it_likes() -> None:
    """redis-py's pool counts the connections it has made, and refused the hundred and first."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else answers there
        client = connect(Settings(redis_url=f"redis://127.0.0.1:{taken.getsockname()[1]}/0"))
        for _ in range(250):
            with pytest.raises(UnavailableError) as refused:
                call(client, b"PING")
            assert "Too many" not in str(refused.value)
