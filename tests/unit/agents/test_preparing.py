"""What a feature worker refuses before it asks anybody anything."""

from __future__ import annotations

import pytest

from streamsvc.agents.preparing import prepare_topology
from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError
from streamsvc.settings import Settings


async def test_a_project_without_stream_views_is_one_sentence_and_needs_no_server() -> None:
    nowhere = Settings(kafka_bootstrap_servers="127.0.0.1:1")
    with pytest.raises(ConfigurationError, match="'shop' has no StreamFeatureView") as error:
        await prepare_topology(nowhere, Plan("shop", (), (), (), (), ()))
    assert "\n" not in str(error.value)
