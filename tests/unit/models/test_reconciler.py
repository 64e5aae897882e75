from __future__ import annotations

import msgspec

from streamsvc.models.reconciler import DRAIN_MS, wanted_versions
from streamsvc.models.rollout import Candidate, Revision, Words, promote, start, undo
from streamsvc.models.rollout_log import Applied, RolloutLog, applied_key, revision_key

NOW_MS = 1_000_000_000
DISK = [1, 2, 3, 4, 5]


def log_of(*revisions: Revision, applied: tuple[Applied, ...] = ()) -> RolloutLog:
    log = RolloutLog()
    for each in revisions:
        log.add(revision_key(each.service, each.revision, "n"), msgspec.json.encode(each))
    for said in applied:
        log.add(applied_key(said.service, said.worker), msgspec.json.encode(said))
    return log


def promoted(at_ms: int = NOW_MS) -> tuple[Revision, Revision]:
    first = start(
        Revision.unwritten("a", 2), Candidate(3, "canary", 10), Words("me", 1, ""), salt="s"
    )
    return first, promote(first, Words("me", at_ms, "better"))


def test_without_a_word_nothing_is_unloaded() -> None:
    assert wanted_versions("m", ["a"], DISK, log_of(), NOW_MS) == set(DISK)
    assert wanted_versions("m", ["a"], [], log_of(), NOW_MS) == frozenset()


def test_what_is_tried_what_was_before_and_what_waits() -> None:
    first, second = promoted()
    # The champion 2, the candidate 3, and those that wait for their turn.
    assert wanted_versions("m", ["a"], DISK, log_of(first), NOW_MS) == {2, 3, 4, 5}
    # 3 is champion; 2 can be gone back to.
    assert wanted_versions("m", ["a"], DISK, log_of(first, second), NOW_MS) == {2, 3, 4, 5}
    third = promote(second, Words("me", NOW_MS, ""), version=5)
    assert wanted_versions("m", ["a"], DISK, log_of(first, second, third), NOW_MS) == {3, 5}


def test_a_version_that_had_its_turn_waits_for_none() -> None:
    first, _ = promoted()
    back = undo(first, Words("me", NOW_MS, "worse"))
    assert wanted_versions("m", ["a"], DISK, log_of(first, back), NOW_MS) == {2, 4, 5}
    again = start(back, Candidate(3, "shadow", 10), Words("me", NOW_MS, ""), salt="t")
    assert wanted_versions("m", ["a"], DISK, log_of(first, back, again), NOW_MS) == {2, 3, 4, 5}


def test_a_version_is_kept_while_a_worker_runs_it() -> None:
    first, second = promoted()
    third = promote(second, Words("me", NOW_MS, ""), version=5)
    behind = Applied("a", "w1", 1, NOW_MS, 1, champion=2, candidate=4)
    log = log_of(first, second, third, applied=(behind,))
    assert wanted_versions("m", ["a"], DISK, log, NOW_MS) == {2, 3, 4, 5}
    # A worker that says nothing for ten minutes is gone.
    assert wanted_versions("m", ["a"], DISK, log, NOW_MS + DRAIN_MS) == {3, 5}


def test_a_route_that_names_another_model_by_now_is_not_concerned() -> None:
    other = msgspec.structs.replace(promoted()[0], model="before")
    assert wanted_versions("m", ["a"], DISK, log_of(other), NOW_MS) == set(DISK)
    assert wanted_versions("before", ["a"], DISK, log_of(other), NOW_MS) == {2, 3, 4, 5}


def test_two_services_share_a_model() -> None:
    first, second = promoted()
    third = promote(second, Words("me", NOW_MS, ""), version=5)
    log = log_of(first, second, third)
    assert wanted_versions("m", ["a", "b"], DISK, log, NOW_MS) == set(DISK)
    other = promote(Revision.unwritten("b", 5), Words("me", NOW_MS, ""), version=1)
    last = promote(other, Words("me", NOW_MS, ""), version=4)
    both = log_of(first, second, third, other, last)
    assert wanted_versions("m", ["b"], DISK, both, NOW_MS) == {1, 4, 5}
    assert wanted_versions("m", ["a", "b"], DISK, both, NOW_MS) == {1, 3, 4, 5}
    # A version that is wanted and not there cannot be loaded.
    assert wanted_versions("m", ["a"], [3], log, NOW_MS) == {3}
