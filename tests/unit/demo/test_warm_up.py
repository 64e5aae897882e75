from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streamsvc.definitions.plan import (
    LIFETIME_MS,
    Aggregate,
    EventField,
    EventSchema,
    Plan,
    Source,
    View,
)
from streamsvc.demo.warm_up import period

HOUR, DAY = 3_600_000, 86_400_000
OCTOBER = int(datetime(2013, 10, 1, tzinfo=UTC).timestamp() * 1_000)
YEAR_END = int(datetime(2014, 1, 1, tzinfo=UTC).timestamp() * 1_000)


def plan(*windows: tuple[int, int]) -> Plan:
    """A view for each window and hop."""
    schema = EventSchema((EventField("at", ("at",), "int64", nullable=False),), "at", "ms")
    source = Source("s", "t", schema, 0, 0, None, None)
    views = tuple(
        View(f"v{i}", source, (), (Aggregate("f", "at", "count", *each),), {}, None, None, "")
        for i, each in enumerate(windows)
    )
    return Plan("p", (source,), views, (), (), ())


@pytest.mark.parametrize(
    ("windows", "begin"),
    [
        ([], OCTOBER),
        ([(HOUR, HOUR // 60), (DAY, HOUR)], OCTOBER - DAY - HOUR),
        # Everything that happened counts, so that the features equal those of history.
        ([(DAY, HOUR), (LIFETIME_MS, LIFETIME_MS)], 0),
    ],
)
def test_the_warm_up_holds_what_the_windows_reach_back_to(
    windows: list[tuple[int, int]], begin: int
) -> None:
    found = period(plan(*windows), 2)
    assert found.before() == (begin, OCTOBER)
    assert found.end_ms == OCTOBER + 2 * DAY
    assert period(plan(*windows), 365).end_ms == YEAR_END
