"""Which dead letters are sent again."""

from __future__ import annotations

import pytest

from streamsvc.agents.letter_choice import Choice, choose
from streamsvc.agents.letters import Letter, Letters, Position


def letter(offset, reason="bad_json", *, replays=0, source_ms=1_000, refused_ms=2_000):
    place, source = Position("t.dead", 0, offset + 100), Position("t", 0, offset)
    return Letter(place, source, reason, "why", source_ms, refused_ms, replays)


def chosen(letters, choice=Choice(), *, views=1, rebuilt_ms=0, corrected=False, sent=()):  # noqa: B008
    box = Letters("t", {x.record: x for x in letters})
    box.sent = {x.record: Position("t", 0, 999) for x in letters if x.source.offset in sent}
    found = choose(box, choice, views=views, rebuilt_ms=rebuilt_ms, corrected=corrected)
    return [x.source.offset for x in found.letters], sum(found.left_out.values())


def test_filters_by_reason_time_and_either_position():
    letters = [letter(1), letter(2, "wrong_key"), letter(3, source_ms=5_000)]
    assert chosen(letters) == ([1, 2, 3], 0)
    assert chosen(letters, Choice(reasons=["wrong_key"])) == ([2], 0)
    assert chosen(letters, Choice(from_ms=1_001)) == ([3], 0)
    assert chosen(letters, Choice(until_ms=5_000)) == ([1, 2], 0)
    places = [Position("t", 0, 1), Position("t.dead", 0, 103)]
    assert chosen(letters, Choice(positions=places)) == ([1, 3], 0)


def test_nothing_is_sent_twice():
    assert chosen([letter(1), letter(2)], Choice(again=True, counted=True), sent=[1]) == ([2], 0)


@pytest.mark.parametrize(
    ("one", "told", "unlocked"),
    [
        (letter(1, replays=1), {}, Choice(again=True)),
        (letter(1, "null_entity"), {"views": 2}, Choice(counted=True)),
        (letter(1, "udf_failed"), {"views": 2}, Choice(counted=True)),
        (letter(1), {"rebuilt_ms": 2_001}, Choice(counted=True)),
        (letter(1, "late"), {}, Choice(counted=True)),
    ],
)
def test_what_may_count_twice_or_in_vain_is_left_out_unless_insisted_on(one, told, unlocked):
    assert chosen([one], **told) == ([], 1)
    assert chosen([one], unlocked, **told) == ([1], 0)


def test_a_corrected_record_may_be_refused_before_and_late():
    letters = [letter(1, replays=2), letter(2, "late"), letter(3, "null_entity")]
    assert chosen(letters, views=2, corrected=True) == ([1, 2], 1)


def test_a_topic_made_anew_has_records_of_its_own():
    old, new = letter(1, source_ms=1_000), letter(1, source_ms=9_000, refused_ms=9_500)
    box = Letters("t", {x.record: x for x in (old, new)}, sent={old.record: Position("t", 0, 7)})
    assert box.open == [new]
    assert box.find(Position("t", 0, 1)) == new
