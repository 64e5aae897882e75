"""What may follow what in a rollout, whoever acts and in whatever order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.errors import ConfigurationError
from streamsvc.models.rollout import (
    Candidate,
    Revision,
    Words,
    pause,
    promote,
    resume,
    start,
    undo,
    weigh,
)
from streamsvc.models.rollout_log import (
    Applied,
    Progress,
    RolloutLog,
    applied_key,
    progress_key,
    revision_key,
)

WORDS = Words("ops", 1_700_000_000_000, "because")
FIRST = Revision.unwritten("risk", 3)
CANARY = Candidate(4, "canary", 10)


def trying(**changed):
    return msgspec.structs.replace(start(FIRST, CANARY, WORDS, salt="s"), **changed)


def test_a_version_is_tried_weighed_and_promoted():
    tried = trying()
    assert (tried.revision, tried.status, tried.versions) == (1, "running", (3, 4))
    heavier = weigh(tried, 30, WORDS)
    assert heavier.candidate == Candidate(4, "canary", 30)
    assert heavier.salt == tried.salt  # who is in the experiment already stays in it
    done = promote(heavier, WORDS)
    assert (done.champion, done.previous, done.candidate, done.status) == (4, 3, None, "steady")


def test_a_shadow_becomes_a_canary():
    tried = start(FIRST, Candidate(4, "shadow", 100), WORDS, salt="s")
    assert weigh(tried, 5, WORDS, mode="canary").candidate == Candidate(4, "canary", 5)


def test_undo_drops_the_candidate_and_then_the_champion():
    dropped = undo(trying(), WORDS)
    assert (dropped.champion, dropped.candidate, dropped.status) == (3, None, "steady")
    promoted = promote(trying(), WORDS)
    before = undo(promoted, WORDS)
    assert (before.champion, before.previous) == (3, 4)
    assert undo(before, WORDS).champion == 4


def test_a_pause_leaves_traffic_as_it_is():
    paused = pause(trying(), WORDS)
    assert paused.candidate == CANARY
    assert resume(paused, WORDS).status == "running"
    assert promote(paused, WORDS).champion == 4


def test_any_version_can_be_made_champion_while_none_is_tried():
    assert promote(FIRST, WORDS, version=2).champion == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda: start(trying(), Candidate(5, "arm", 50), WORDS, salt="s"), "4 .* is being tried"),
        (lambda: start(FIRST, Candidate(3, "canary", 1), WORDS, salt="s"), "champion .* already"),
        (lambda: weigh(FIRST, 10, WORDS), "No version"),
        (lambda: weigh(trying(status="paused"), 10, WORDS), "resume"),
        (lambda: pause(FIRST, WORDS), "No version"),
        (lambda: pause(trying(status="paused"), WORDS), "paused already"),
        (lambda: resume(trying(), WORDS), "not paused"),
        (lambda: promote(FIRST, WORDS), "No version"),
        (lambda: promote(FIRST, WORDS, version=3), "champion .* already"),
        (lambda: promote(trying(), WORDS, version=5), "being tried"),
        (lambda: undo(FIRST, WORDS), "nothing to undo"),
        (lambda: Candidate(4, "canary", 101), "0 to 100"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(change, told):
    with pytest.raises(ConfigurationError, match=told):
        change()


CHANGES = {
    "start": lambda now, n: start(now, Candidate(n, "canary", n), WORDS, salt=str(n)),
    "weigh": lambda now, n: weigh(now, n, WORDS),
    "pause": lambda now, _: pause(now, WORDS),
    "resume": lambda now, _: resume(now, WORDS),
    "promote": lambda now, n: promote(now, WORDS, version=n if n % 2 else None),
    "undo": lambda now, _: undo(now, WORDS),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(1, 6))))
def test_every_sequence_of_changes_stays_sound(steps):
    now, champions = FIRST, {FIRST.champion}
    for action, n in steps:
        before = now
        try:
            now = CHANGES[action](now, n)
        except ConfigurationError:
            continue
        champions.add(now.champion)
        assert now.revision == before.revision + 1
        assert now.action == action
        assert (now.candidate is None) == (now.status == "steady")
        assert len(set(now.versions)) == len(now.versions)
        assert now.previous is None or (now.previous in champions and now.previous != now.champion)
        if action not in ("promote", "undo"):
            assert now.champion == before.champion
        assert msgspec.json.decode(msgspec.json.encode(now), type=Revision) == now


def records(*revisions):
    return [
        (revision_key(r.service, r.revision, str(i)), msgspec.json.encode(r))
        for i, r in enumerate(revisions)
    ]


def test_of_two_changes_at_once_the_first_in_the_log_holds():
    tried = trying()
    mine, theirs = promote(tried, WORDS), undo(tried, WORDS)
    log = RolloutLog()
    assert [log.add(*r) for r in records(tried, mine, theirs)] == ["risk", "risk", None]
    assert log.current("risk") == mine
    assert log.revisions["risk"] == [tried, mine]
    assert log.current("other") is None


@given(st.data())
def test_compaction_takes_nothing_that_holds(data):
    """Any later record of the same key may have replaced one; the fold must not change."""
    written, now = [], FIRST
    for _ in range(data.draw(st.integers(1, 6))):
        rivals = [
            promote(now, Words(f"w{i}", i, ""), version=now.champion + 1 + i)
            for i in range(data.draw(st.integers(1, 3)))
        ]
        written += rivals
        now = rivals[0]
    whole = records(*written)
    log, compacted = RolloutLog(), RolloutLog()
    for record in whole:
        log.add(*record)
    for record in dict(whole).items():
        compacted.add(*record)
    assert log.revisions == compacted.revisions
    assert log.current("risk") == now


def test_workers_say_what_runs_and_leave():
    log = RolloutLog()
    said = Applied("risk", "a/1", 2, 5, running=1, champion=3, refused="no file")
    log.add(applied_key("risk", "a/1"), msgspec.json.encode(said))
    assert log.applied["risk"] == {"a/1": said}
    log.add(applied_key("risk", "a/1"), None)
    assert log.applied["risk"] == {}


def test_a_controller_finds_its_progress_and_unknown_records_are_passed_over():
    log = RolloutLog()
    progress = Progress("risk", 2, 5, {"failed": 1})
    log.add(progress_key("risk"), msgspec.json.encode(progress))
    log.add(b"later/kind", b"?")
    log.add(None, b"?")
    assert log.progress == {"risk": progress}
