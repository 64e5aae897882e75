from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.state.incarnations import (
    Claim,
    Handover,
    Identity,
    decide,
    newest_claim,
    open_reservation,
    replaces_rows,
)

identities = st.sampled_from(
    [Identity("t1", 4, "d1"), Identity("t2", 4, "d1"), Identity("t1", 8, "d1")]
)


def test_the_first_worker_claims_number_one():
    verdict = decide("v", Identity("t", 4, "d"), [])
    assert verdict.number is None
    assert verdict.claim == Claim.of("v", 1, Identity("t", 4, "d"))


def test_a_known_identity_keeps_its_number():
    identity = Identity("t", 4, "d")
    assert decide("v", identity, [Claim.of("v", 1, identity)]).number == 1


def test_a_superseded_identity_that_comes_back_gets_a_new_number():
    old, new = Identity("t", 4, "old"), Identity("t", 4, "new")
    claims = [Claim.of("v", 1, old), Claim.of("v", 2, new)]
    verdict = decide("v", old, claims)
    assert verdict.claim is not None
    assert verdict.claim.number == 3


@given(st.lists(identities, min_size=1, max_size=8), st.integers(0, 2))
def test_workers_that_race_agree_in_the_end(racing, stale):
    """Each appends what it decided on a view of the log that is `stale` records old."""
    log: list[Claim] = []
    for identity in racing:
        claim = decide("v", identity, log[: max(0, len(log) - stale)]).claim
        if claim is not None:
            log.append(claim)
    keys = [claim.key for claim in log]
    compacted = [c for i, c in enumerate(log) if c.key not in keys[i + 1 :]]
    for identity in racing:
        assert decide("v", identity, log).number == decide("v", identity, log).number
        if len(keys) == len(set(keys)):
            assert decide("v", identity, compacted) == decide("v", identity, log)


def test_of_two_that_begin_elsewhere_the_first_counts_after_compaction_too():
    """`latest` is another place for each of two workers that race."""
    claim = Claim.of("v", 1, Identity("t", 4, "d"), start="latest")
    first, second = (msgspec.structs.replace(claim, starts={0: at, 1: 7}) for at in (5, 6))
    assert first.key != second.key
    assert newest_claim("v", [first, second]) == first
    assert msgspec.json.decode(msgspec.json.encode(first), type=Claim) == first


def test_views_do_not_share_numbers():
    identity = Identity("t", 4, "d")
    verdict = decide("b", identity, [Claim.of("a", 1, identity), Claim.of("a", 2, identity)])
    assert verdict.claim is not None
    assert verdict.claim.number == 1


BUILT = Handover({0: 10, 1: 20}, {0: 1_000, 1: 2_000})


def test_a_reservation_changes_nothing_but_the_next_number():
    old, new = Identity("t", 4, "old"), Identity("t", 4, "new")
    reserved = Claim.of("v", 2, new, BUILT, reserved=True)
    log = [Claim.of("v", 1, old), reserved]
    assert decide("v", old, log).number == 1
    assert open_reservation("v", new, log) == reserved
    assert open_reservation("v", old, log) is None
    claim = decide("v", new, log).claim
    assert claim is not None
    assert claim.number == 3
    assert decide("v", new, [*log, reserved.confirmed]).number == 2
    assert open_reservation("v", new, [*log, reserved.confirmed]) is None
    assert open_reservation("v", new, [*log, claim]) is None, "another number came first"


def test_a_reserved_number_is_nobody_elses():
    """Also not of a worker that decided before it saw the reservation; and compaction or not."""
    old, new = Identity("t", 4, "old"), Identity("t", 4, "new")
    reserved = Claim.of("v", 2, new, BUILT, reserved=True)
    log = [Claim.of("v", 1, old), reserved, Claim.of("v", 2, new), Claim.of("v", 2, old)]
    assert newest_claim("v", log) == Claim.of("v", 1, old)
    assert newest_claim("v", [*log, reserved.confirmed]) == reserved.confirmed
    assert len({claim.key for claim in log}) == len(log)


def test_a_claim_comes_back_from_the_log_as_it_was():
    reserved = Claim.of("v", 2, Identity("t", 4, "d"), BUILT, reserved=True)
    assert msgspec.json.decode(msgspec.json.encode(reserved), type=Claim) == reserved


def test_a_view_is_quiet_where_rows_of_its_topic_may_be_served():
    def claim(view, number=1, topic_id="t", **more):
        return Claim.of(view, number, Identity(topic_id, 4, "d"), **more)

    void = Claim.of("v", 2, Identity("", 0, "begin anew"))
    assert not replaces_rows("v", "t", [])
    assert not replaces_rows("v", "t", [claim("s/shuffle"), claim("s/key")])
    assert not replaces_rows("v", "t", [claim("w", topic_id="other")])
    assert not replaces_rows("v", "t", [claim("w", reserved=True)]), "nobody has run it"
    assert replaces_rows("v", "t", [claim("w")])
    assert replaces_rows("v", "t", [claim("v")])
    assert replaces_rows("v", "t", [claim("v"), void]), "it begins anew beside its old rows"
    assert not replaces_rows("v", "made anew", [claim("v")]), "its rows are gone"
