from __future__ import annotations

import aiokafka
import pytest
from faust.transport import by_url

from streamsvc.errors import ConfigurationError
from streamsvc.settings import Settings
from streamsvc.transport.app import create_app
from streamsvc.transport.chunks import chunk_topic
from streamsvc.transport.columnar_fetch import install
from streamsvc.transport.faust_transport import Transport


def test_an_unknown_version_of_aiokafka_is_refused(monkeypatch):
    monkeypatch.setattr(aiokafka, "__version__", "0.99.0")
    with pytest.raises(ConfigurationError, match=r"aiokafka 0\.99\.0 .* 0\.14\.x"):
        install()


def test_the_scheme_is_a_faust_plug_in():
    assert by_url("streamsvc://localhost:9092") is Transport


async def test_a_topic_cannot_be_read_both_ways():
    app = create_app(Settings(), "both")
    app.topics.add(chunk_topic(app, "events"))
    app.topics.add(app.topic("events"))
    with pytest.raises(ConfigurationError, match="events"):
        await app.consumer.subscribe(["events"])


async def test_settings_reach_the_app():
    app = create_app(
        Settings(session_timeout_ms=6_000, heartbeat_interval_ms=250), "group", instance_id="w-1"
    )
    assert app.conf.id == "group"
    assert app.conf.broker_session_timeout == 6.0
    assert app.conf.broker_heartbeat_interval == 0.25
    assert app.conf.consumer_group_instance_id == "w-1"
    assert create_app(Settings(), "other").conf.consumer_group_instance_id is None
    assert isinstance(app.transport, Transport)
