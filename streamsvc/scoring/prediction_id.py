"""A prediction id taken apart: whose answer it is, to which request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from streamsvc.definitions.plan import Service
from streamsvc.errors import ConfigurationError

__all__ = ["RequestPlace", "parse_prediction_id"]

# A topic id may hold hyphens, and so may names; its length is fixed, and offsets have only digits.
_FORM = re.compile(r"(?P<names>.+)-(?P<partition>\d+)-(?P<offset>\d+)-(?P<topic_id>.{8})", re.ASCII)


class RequestPlace(NamedTuple):
    """The request that a service answered."""

    service: Service
    topic: str
    partition: int
    offset: int
    topic_id: str
    """The first eight characters of the id of the topic, as it was then."""


def parse_prediction_id(prediction_id: str, services: Iterable[Service]) -> RequestPlace:
    """Raises ConfigurationError for what is no id, or is of none of the services' routes."""
    found = _FORM.fullmatch(prediction_id)
    if found is None:
        raise ConfigurationError(
            f"{prediction_id!r} is no prediction id: they are "
            "<service>-<topic>-<partition>-<offset>-<topic id>, as `streamsvc predictions tail "
            "SERVICE --json` prints them"
        )
    for service in services:
        route = service.route
        if route is not None and f"{service.name}-{route.requests}" == found["names"]:
            place = int(found["partition"]), int(found["offset"])
            return RequestPlace(service, route.requests, *place, found["topic_id"])
    raise ConfigurationError(
        f"No FeatureService with a route that {prediction_id!r} could be of: none has a name and a "
        f"request topic that make {found['names']!r}"
    )
