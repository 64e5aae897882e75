"""Training data from a served log on a real broker."""

from __future__ import annotations

import asyncio

import numpy as np
import pandas as pd
import pytest
from support.scoring import FEATURES, plan, request
from support.scoring_world import World, now_ms, remove, some

from streamsvc.agents.served_examples import served_examples
from streamsvc.errors import ConfigurationError


@pytest.fixture
def world(stack, tmp_path):
    tag = stack.unique("scoring") + "."
    made = World(stack.settings, plan(tag, deadline_ms=600_000), tmp_path / "models")
    yield made
    remove(made)


async def test_labels_are_joined_with_the_vectors_that_were_served(world):
    asked, at = some(60), now_ms()
    async with world.worker():
        world.send([request(*a, at + i) for i, a in enumerate(asked)])
        answers = {a["request_time_ms"] - at: a for a in await world.predictions(60)}
    frame = pd.DataFrame(
        {
            "card": [card for card, _, _ in asked],
            "shop": [shop for _, shop, _ in asked],
            "event_timestamp": pd.to_datetime(np.arange(60) + at, unit="ms", utc=True),
            "fraud": np.arange(60) % 3 == 0,
            "prediction_id": [answers[i]["prediction_id"] for i in range(60)],
        }
    )
    # Labels come late, in any order, and of payments that nobody asked about, too.
    stranger = frame.iloc[:2].assign(card="unheard of", prediction_id="x-0-0-AAAAAAAA")
    shuffled = pd.concat([frame.iloc[:50], stranger]).sample(frac=1, random_state=0)

    def examples(labels):
        return served_examples(world.settings, world.service, labels, "fraud")

    features = [str(ref) for ref in world.service.features]
    want = np.array([world.vector(*a) for a in asked], np.float32)
    want = want[:, [FEATURES.index(name) for name in features]]
    for labels in (shuffled, shuffled.drop(columns="prediction_id")):
        found = await asyncio.to_thread(examples, labels)
        assert found.examples.features == features
        np.testing.assert_array_equal(found.examples.event_ms, at + np.arange(50))
        np.testing.assert_array_equal(found.examples.labels, np.arange(50) % 3 == 0)
        np.testing.assert_array_equal(found.examples.matrix, want[:50])
        assert found.left_out == {"not in the served log": 2}
    for labels, why in (
        (stranger, "No label has a vector in .* 2 not in the served log"),
        (shuffled.drop(columns=["prediction_id", "shop"]), "have no column 'shop'"),
    ):
        with pytest.raises(ConfigurationError, match=why):
            await asyncio.to_thread(examples, labels)
