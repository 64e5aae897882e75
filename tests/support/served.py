"""Whether what a running repo serves is what the oracle says."""

from __future__ import annotations

import json
import random
import time

from support.payments import DAY, HOUR, KEYED_VIEWS, MINUTE, by_key, differences, read_truth

from streamsvc.transport.kafka_config import librdkafka_config

SAMPLE = 10_000
HOP_MS = 10_000


def assert_served(repo, views, decode=json.loads, *, kafka_time=False):
    """Compare at several later instants; returns the truth about the topic.

    `decode` makes an event of a value, as `read_truth` wants it, and `kafka_time` is its, too.
    """
    keyed = views is KEYED_VIEWS
    kafka = librdkafka_config(repo.settings)
    truth = read_truth(kafka, repo.topic, keyed=keyed, decode=decode, kafka_time=kafka_time)
    last = max(e["at"] for e in truth.events)
    groups = {view: by_key(truth, view) for view in views}
    rng = random.Random(7)
    # Ahead of where time has gone with the wall while we read; later, quiet keys have aged, in the
    # end beyond most windows.
    for least_ms in (7 * MINUTE, 65 * MINUTE, DAY + HOUR):
        after_ms, wrong = least_ms, ["not compared"]
        while wrong:
            # Tiles leave windows on this grid, and time goes on with the wall: from just behind a
            # line on there is a hop of it in which values stay as they are.
            instant = (last + after_ms) // HOP_MS * HOP_MS + 1
            began = time.monotonic()
            repo.send_clocks(instant)
            repo.wait_until_applied()
            wrong = []
            for view, features in views.items():
                keys = sorted(groups[view], key=str)
                sample = rng.sample(keys, min(len(keys), SAMPLE // len(views)))
                wrong += differences(repo.store, features, groups[view], view, sample, instant)
            took_ms = 1_000 * (time.monotonic() - began)
            assert not wrong or took_ms > HOP_MS, f"+{after_ms} ms: {len(wrong)}: {wrong[:3]}"
            after_ms += int(took_ms) + HOP_MS
    return truth
