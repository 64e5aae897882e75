from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.models.calls import Calls
from streamsvc.models.gates import Evidence
from streamsvc.models.histogram import Histogram
from streamsvc.models.quality import Comparison
from streamsvc.models.rollout import Candidate, Revision
from streamsvc.models.rollout_decision import Standing, decide
from streamsvc.models.rollout_policy import Policy

START = 1_000_000
BINS = Histogram([0.25, 0.5, 0.75], [0, 0, 0, 0])


def traffic(
    calls: int = 40,
    rows: int = 10,
    ms: float = 5.0,
    failed: int = 0,
    fallbacks: int | None = None,
    scores: tuple[int, ...] = (1, 1, 1, 1),
) -> Calls:
    given = failed * rows if fallbacks is None else fallbacks
    return Calls(
        edges=BINS.edges,
        at_ms=START + 100 * np.arange(calls),
        rows=np.full(calls, rows),
        ms=np.full(calls, ms),
        failed=np.arange(calls) < failed,
        fallbacks=np.full(calls, given / calls if calls else 0),
        counts=np.tile([rows * share / sum(scores) for share in scores], (calls, 1)),
    )


def revision(mode: str = "canary", weight: float = 10.0) -> Revision:
    return Revision("s", 3, 1, status="running", candidate=Candidate(2, mode, weight))


def judged(
    candidate: Calls | None = None,
    champion: Calls | None = None,
    *,
    policy: Policy | None = None,
    mode: str = "canary",
    weight: float = 10.0,
    after_s: float = 60.0,
    standing: Standing | None = None,
    **more,
):
    # Calls without any are as good as None to `or`.
    champion = traffic() if champion is None else champion
    candidate = traffic() if candidate is None else candidate
    evidence = Evidence(champion, candidate, **more)
    return decide(
        revision(mode, weight),
        policy or Policy(),
        standing or Standing(START),
        evidence,
        START + int(1_000 * after_s),
    )


def worse(upper: float, lower: float = -0.2) -> list[Comparison]:
    return [Comparison("brier", True, (900, 900), 0.16, 0.20, lower, upper)]


def test_a_good_candidate_grows_and_is_promoted() -> None:
    policy, standing = Policy(), Standing(START)
    mode, weight, now = "shadow", 100.0, START
    seen = []
    while True:
        now += 60_000
        found = decide(
            revision(mode, weight), policy, standing, Evidence(traffic(), traffic()), now
        )
        seen.append((found.kind, found.weight))
        standing = found.standing
        if found.kind == "promote":
            break
        mode, weight = found.mode, found.weight
    assert seen == [*(("weigh", w) for w in (10.0, 20.0, 30.0, 40.0, 50.0)), ("promote", 0.0)]
    assert "400 requests" in found.why
    assert "held at 50 %" in found.why


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (
            traffic(calls=5, rows=1, failed=5),
            "5 of 5 calls in a row failed (5 requests), beside 0% of",
        ),
        (
            traffic(calls=5, rows=1, ms=200),
            "5 of 5 calls in a row took longer than 100 ms (5 requests)",
        ),
    ],
    ids=["raises", "slow"],
)
def test_the_unmistakable_stops_within_five_calls_and_before_any_interval(candidate, says) -> None:
    found = judged(candidate, after_s=0.2)
    assert found.kind == "undo"
    assert says in found.why


@pytest.mark.parametrize("calls", [1, 2, 3, 4])
def test_a_hiccup_of_all_batches_under_way_is_no_reason(calls: int) -> None:
    assert judged(traffic(calls=calls, failed=calls), after_s=0.2).kind == "wait"
    assert judged(traffic(calls=calls, ms=500), after_s=0.2).kind == "wait"


def test_a_good_past_excuses_nothing_and_a_hiccup_of_both_does() -> None:
    """An hour of good calls, then five that fail: unless the champion's fail at the same time."""
    candidate = traffic(calls=36_000)
    candidate.failed[-5:] = True
    found = judged(candidate, traffic(calls=36_000), after_s=1)
    assert (found.kind, "5 of 5 calls in a row failed" in found.why) == ("undo", True)
    both = traffic(calls=36_000)
    both.failed[-6:] = True
    assert judged(candidate, both, after_s=1).kind == "wait"
    earlier = traffic(calls=36_000)
    earlier.failed[:6] = True
    assert judged(candidate, earlier, after_s=1).kind == "undo"


def test_what_befalls_the_champion_too_is_not_the_candidates_fault() -> None:
    away = traffic(failed=40)
    assert judged(away, away).kind == "weigh"
    slow = traffic(ms=400)
    assert judged(slow, slow).kind == "weigh"
    assert judged(traffic(ms=700), slow).kind == "undo"


def test_an_outage_of_both_hides_nothing_that_is_the_candidates_alone() -> None:
    candidate, champion = traffic(calls=400), traffic(calls=400)
    candidate.failed[:200] = champion.failed[:200] = True
    assert judged(candidate, champion, after_s=1).kind == "wait"
    candidate.failed[300:306] = True
    found = judged(candidate, champion, after_s=1)
    assert (found.kind, "6 of 6 calls in a row failed" in found.why) == ("undo", True)


def test_a_version_that_cannot_run_is_stopped_before_any_request() -> None:
    found = judged(traffic(calls=0), after_s=0, refused={"w1": "its file is damaged."})
    assert (found.kind, found.why) == (
        "undo",
        "version 2 is stopped: worker w1 cannot run it: its file is damaged.",
    )


def test_a_model_that_is_shown_to_be_worse_is_stopped() -> None:
    assert judged(after_s=1, quality=worse(upper=0.001)).kind == "wait"
    found = judged(after_s=1, quality=worse(upper=-0.001))
    assert found.kind == "undo"
    assert "brier 0.2000 against 0.1600 on 900 labels" in found.why
    assert "better by -0.2000 to -0.0010 (95% at any time)" in found.why


@pytest.mark.parametrize(
    ("candidate", "says"),
    [
        (traffic(failed=1), "errors 2.50%, allowed 1.00% above the champion's 0.00%"),
        (traffic(fallbacks=40), "fallbacks 10.00%"),
        (traffic(scores=(9, 1, 1, 1)), "PSI of its scores against the champion's 1.09"),
    ],
    ids=["errors", "fallbacks", "drift"],
)
def test_a_failed_check_counts_and_the_fifth_ends_it(candidate, says) -> None:
    standing, kinds = Standing(START), []
    for check in range(1, 6):
        found = judged(candidate, standing=standing, after_s=60 * check)
        kinds.append(found.kind)
        standing = found.standing
        assert says in found.why
    assert kinds == ["fail"] * 4 + ["undo"]
    assert "(failed check 5 of 5)" in found.why


def test_a_tail_of_slow_calls_fails_a_check_without_being_beyond_doubt() -> None:
    candidate = traffic()
    candidate.ms[:3] = 150
    found = judged(candidate)
    assert found.kind == "fail"
    assert "p99 150.0 ms, allowed 100.0 ms (champion 5.0 ms)" in found.why


def test_few_requests_say_nothing_and_the_interval_goes_on() -> None:
    standing = Standing(START, failures=2)
    found = judged(traffic(calls=9), standing=standing, after_s=500)
    assert (found.kind, found.standing) == ("hold", standing)


def test_promotion_waits_for_labels_where_a_margin_is_set() -> None:
    policy = Policy(margin=0.01, metrics=("brier",))
    waiting = judged(policy=policy, weight=50.0, quality=worse(0.02, lower=-0.02))
    assert waiting.kind == "hold"
    assert "labels do not show yet that its brier is at most 0.01 worse" in waiting.why
    shown = judged(policy=policy, weight=50.0, quality=worse(0.02, lower=-0.005))
    assert shown.kind == "promote"


def test_the_weight_of_an_arm_is_nobodys_to_change() -> None:
    assert judged(mode="arm", weight=50.0, after_s=10_000).kind == "wait"
    assert judged(traffic(calls=9, failed=9), mode="arm", after_s=1).kind == "undo"


def test_shadow_checks_may_be_several() -> None:
    policy = Policy(shadow_checks=2)
    first = judged(policy=policy, mode="shadow", weight=100.0)
    assert (first.kind, first.standing.passed) == ("pass", 1)
    second = judged(
        policy=policy, mode="shadow", weight=100.0, standing=first.standing, after_s=120
    )
    assert (second.kind, second.mode, second.weight) == ("weigh", "canary", 10.0)


traffics = st.builds(
    traffic,
    calls=st.integers(0, 60),
    rows=st.integers(1, 50),
    ms=st.floats(0.1, 5_000),
    failed=st.integers(0, 60),
    scores=st.tuples(*[st.integers(1, 9)] * 4),
)


@settings(max_examples=40)
@given(
    candidate=traffics,
    champion=traffics,
    policy=st.builds(
        Policy,
        interval_s=st.floats(0.5, 120),
        step_weight=st.floats(1, 60),
        max_weight=st.floats(1, 100),
        allowed_failures=st.integers(1, 6),
        shadow_checks=st.integers(0, 3),
        min_requests=st.integers(1, 500),
        margin=st.none() | st.floats(0, 0.1),
    ),
    mode=st.sampled_from(["shadow", "canary", "arm"]),
    weight=st.floats(0, 100),
    after_s=st.floats(0, 300),
    failures=st.integers(0, 5),
    upper=st.floats(-0.1, 0.3),
)
def test_whatever_the_evidence(
    candidate, champion, policy, mode, weight, after_s, failures, upper
) -> None:
    standing = Standing(START, failures)
    found = judged(
        candidate,
        champion,
        policy=policy,
        mode=mode,
        weight=weight,
        after_s=after_s,
        standing=standing,
        quality=worse(upper),
    )
    over = int(1_000 * after_s) / 1e3 >= policy.interval_s
    assert found.why.startswith("version 2")
    assert found.why.endswith(".")
    if upper < 0:
        assert found.kind == "undo"
    if found.kind in {"pass", "fail", "weigh", "promote"}:
        assert over
        assert candidate.requests >= policy.min_requests
    if found.kind == "weigh":
        assert 0 < found.weight <= policy.max_weight
        assert found.weight > weight or mode == "shadow"
        assert found.weight <= policy.step_weight + (0 if mode == "shadow" else weight)
    if found.kind == "promote":
        assert mode == "canary"
        assert weight >= policy.max_weight
        assert candidate.error_share <= policy.error_share + champion.error_share
    if mode == "arm":
        assert found.kind in {"wait", "undo"}
    assert failures <= found.standing.failures <= failures + 1
    assert found.standing.since_ms in {START, START + int(1_000 * after_s)}
