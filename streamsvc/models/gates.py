"""The gates of a rollout: what a candidate must hold, each in one sentence with its numbers.

Two kinds. A *check* judges what an interval gave against the limits of the policy, and a rollout
survives some that fail. A *stop* is what no further traffic could put right: a version that cannot
be loaded, calls that fail or are slow beyond doubt, or a model that is shown to be worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from streamsvc.columns import I64, Bools
from streamsvc.models.calls import Calls
from streamsvc.models.confidence import share_evidence, worst_run
from streamsvc.models.drift import psi, psi_noise
from streamsvc.models.quality import Comparison
from streamsvc.models.rollout_policy import Policy

__all__ = ["Evidence", "failed_checks", "held", "stops", "unproven"]

_HOPELESS_SHARE = 0.1
_BEYOND_DOUBT = 1e4
"""A candidate is stopped at once when the evidence that more than a tenth of its calls fail, or are
slow, is as 10,000 to 1: five in a row. Four batches are under way at a time, and one hiccup of a
network or a machine may take all of them."""
_MARGIN_MS = 500
"""What befalls both need not be logged in the same instant."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known about a candidate and its champion at one instant."""

    champion: Calls
    candidate: Calls
    """Both of the interval that runs."""
    quality: Sequence[Comparison] = ()
    """Of all labels since the rollout began."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Workers that cannot run the candidate, and why."""
    recent: tuple[Calls, Calls] | None = None
    """Calls of the champion and the candidate that reach back into earlier intervals, for runs of
    calls that are slower than intervals; None for those of this one."""


def stops(policy: Policy, evidence: Evidence) -> list[str]:
    """Why the candidate is to be stopped at once; empty if it is not."""
    found = [
        f"worker {worker} cannot run it: {why.rstrip('.')}"
        for worker, why in sorted(evidence.refused.items())
    ]
    limit = _p99_limit(policy, evidence.champion)
    champion, candidate = evidence.recent or (evidence.champion, evidence.candidate)
    if run := _hopeless(candidate, candidate.failed, champion, champion.failed):
        calls, bad, requests, beside = run
        found.append(
            f"{bad:,} of {calls:,} calls in a row failed ({requests:,} requests), beside "
            f"{beside:.0%} of the champion's"
        )
    if run := _hopeless(candidate, candidate.ms > limit, champion, champion.ms > limit):
        calls, bad, requests, beside = run
        found.append(
            f"{bad:,} of {calls:,} calls in a row took longer than {limit:.0f} ms ({requests:,} "
            f"requests), beside {beside:.0%} of the champion's"
        )
    found += [_told(each, policy) + ": it is worse" for each in evidence.quality if each.upper < 0]
    return found


def failed_checks(policy: Policy, evidence: Evidence) -> list[str]:
    """What an interval's traffic does not hold; empty if it holds everything."""
    champion, candidate = evidence.champion, evidence.candidate
    found = []
    for name, share, beside, limit in (
        ("errors", candidate.error_share, champion.error_share, policy.error_share),
        ("fallbacks", candidate.fallback_share, champion.fallback_share, policy.fallback_share),
    ):
        if share > limit + beside:
            found.append(
                f"{name} {share:.2%}, allowed {limit:.2%} above the champion's {beside:.2%}"
            )
    limit = _p99_limit(policy, champion)
    if candidate.p99_ms > limit:
        found.append(
            f"p99 {candidate.p99_ms:.1f} ms, allowed {limit:.1f} ms (champion "
            f"{champion.p99_ms:.1f} ms)"
        )
    if policy.score_psi is not None and champion.requests:
        moved = psi(champion.scores, candidate.scores)
        noise = psi_noise(champion.scores, candidate.scores)
        if moved > policy.score_psi + noise:
            found.append(
                f"PSI of its scores against the champion's {moved:.2f}, allowed "
                f"{policy.score_psi:.2f} (and {noise:.2f} by chance)"
            )
    return found


def unproven(policy: Policy, evidence: Evidence) -> list[str]:
    """What labels have not shown yet that promotion waits for; empty if it waits for nothing."""
    if policy.margin is None:
        return []
    shown = {each.metric for each in evidence.quality if each.lower > -policy.margin}
    return [
        f"labels do not show yet that its {name} is at most {policy.margin:g} worse"
        for name in policy.metrics
        if name not in shown
    ]


def held(policy: Policy, evidence: Evidence) -> str:
    """The numbers of an interval that held everything, for the sentence about it."""
    champion, candidate = evidence.champion, evidence.candidate
    parts = [
        f"{candidate.requests:,} requests",
        f"errors {candidate.error_share:.2%}",
        f"fallbacks {candidate.fallback_share:.2%}",
        f"p99 {candidate.p99_ms:.1f} ms (champion {champion.p99_ms:.1f})",
    ]
    if champion.requests:
        parts.append(f"PSI {psi(champion.scores, candidate.scores):.2f}")
    parts += [_told(each, policy) for each in evidence.quality]
    return ", ".join(parts)


def _told(comparison: Comparison, policy: Policy) -> str:
    """A comparison in words."""
    ours, theirs = comparison.labels
    labels = f"{ours:,} labels" if comparison.paired else f"{ours:,} and {theirs:,} labels"
    return (
        f"{comparison.metric} {comparison.candidate:.4f} against {comparison.champion:.4f} on "
        f"{labels}, better by {comparison.lower:+.4f} to {comparison.upper:+.4f} "
        f"({1 - policy.risk:.0%} at any time)"
    )


def _p99_limit(policy: Policy, champion: Calls) -> float:
    """In ms. A machine that is slow is slow to both."""
    beside = champion.p99_ms if champion.requests else 0.0
    return max(policy.p99_ms, policy.p99_ratio * beside)


def _hopeless(
    candidate: Calls, bad: Bools, champion: Calls, champion_bad: Bools
) -> tuple[int, int, int, float] | None:
    """A run of calls that show beyond doubt that more than a tenth are bad, beyond the share of the
    champion's in the same time: calls, bad ones, requests in these, the champion's share.

    While most of the champion's calls are bad, too, the candidate's say nothing and are left out:
    else an outage of both would be the worst run, and hide what is the candidate's alone.
    """
    alone = ~_shared(candidate.at_ms, champion.at_ms, champion_bad)
    at_ms, rows, bad = candidate.at_ms[alone], candidate.rows[alone], bad[alone]
    start, end = worst_run(bad, _HOPELESS_SHARE)
    if start == end:
        return None
    since, until = at_ms[start] - _MARGIN_MS, at_ms[end - 1] + _MARGIN_MS
    meanwhile = champion_bad[(champion.at_ms >= since) & (champion.at_ms <= until)]
    beside = float(meanwhile.mean()) if len(meanwhile) else 0.0
    allowed, count = _HOPELESS_SHARE + beside, int(np.count_nonzero(bad[start:end]))
    if allowed >= 1 or share_evidence(count, end - start, allowed) < _BEYOND_DOUBT:
        return None
    requests = int(rows[start:end][bad[start:end]].sum())
    return end - start, count, requests, beside


def _shared(at_ms: I64, champion_at_ms: I64, champion_bad: Bools) -> Bools:
    """At which of these instants most of the champion's calls around them were bad."""
    until = np.concatenate([[0], np.cumsum(champion_bad)])
    first = np.searchsorted(champion_at_ms, at_ms - _MARGIN_MS)
    last = np.searchsorted(champion_at_ms, at_ms + _MARGIN_MS, side="right")
    shared: Bools = 2 * (until[last] - until[first]) > last - first
    return shared
