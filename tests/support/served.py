"""Whether what a running repo serves is what the oracle says."""

from __future__ import annotations

import json
import random

from support.payments import DAY, HOUR, KEYED_VIEWS, MINUTE, by_key, differences, read_truth

from streamsvc.transport.kafka_config import librdkafka_config

SAMPLE = 10_000


def assert_served(repo, views, decode=json.loads):
    """Compare at several later instants; returns the truth about the topic.

    `decode` makes an event of a value, as `read_truth` wants it.
    """
    keyed = views is KEYED_VIEWS
    truth = read_truth(librdkafka_config(repo.settings), repo.topic, keyed=keyed, decode=decode)
    last = max(e["at"] for e in truth.events)
    groups = {view: by_key(truth, view) for view in views}
    rng = random.Random(7)
    # Time went on with the wall while we read, so the first instant lies well ahead of it. The
    # later ones age quiet keys, the last beyond most windows.
    for instant in (last + 7 * MINUTE, last + 65 * MINUTE, last + DAY + HOUR):
        repo.send_clocks(instant)
        repo.wait_until_applied()
        for view, features in views.items():
            keys = sorted(groups[view], key=str)
            sample = rng.sample(keys, min(len(keys), SAMPLE // len(views)))
            wrong = differences(repo.store, features, groups[view], view, sample, instant)
            assert not wrong, f"{view} at +{instant - last} ms: {len(wrong)} differ: {wrong[:3]}"
    return truth
