from __future__ import annotations

from dataclasses import replace

import pytest
from support.scoring import plan, predictions

from streamsvc.errors import ConfigurationError
from streamsvc.scoring.prediction_id import parse_prediction_id
from streamsvc.scoring.records import prediction_ids


@pytest.mark.parametrize("topic_id", ["AbCdEfGh", "-bC-1-2-", "12345678", "--------"])
@pytest.mark.parametrize("tag", ["", "a-1-2-b-"])
def test_an_id_gives_back_what_it_was_made_of(tag: str, topic_id: str) -> None:
    services = [*plan("other-").services, *plan(tag).services]
    made = predictions(
        2, service=services[1].name, topic=f"{tag}requests", topic_id=f"{topic_id}IjKlMnOp"
    )
    for i, prediction_id in enumerate(prediction_ids(made).to_pylist()):
        place = parse_prediction_id(prediction_id, services)
        assert place.service is services[1]
        assert place[1:] == (made.topic, made.partition[i], made.offset[i], topic_id)


def test_a_service_without_a_route_has_no_predictions() -> None:
    (service,) = plan().services
    (prediction_id,) = prediction_ids(predictions(1, service=service.name)).to_pylist()
    with pytest.raises(ConfigurationError, match="No FeatureService with a route"):
        parse_prediction_id(prediction_id, [replace(service, route=None)])
