"""What becomes of a rollout, given its policy and the evidence at one instant.

    shadow ──checks hold──► canary at step_weight ──each──► + step_weight … max_weight ──► promoted
       │                        │
       └─ stop, or allowed_failures checks that fail ─► undone

Pure: the same revision, policy, standing, evidence and instant always give the same decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import msgspec

from streamsvc.models.gates import Evidence, failed_checks, held, stops, unproven
from streamsvc.models.rollout import Candidate, Mode, Revision
from streamsvc.models.rollout_policy import Policy

__all__ = ["Decision", "Kind", "Standing", "decide"]

Kind: TypeAlias = Literal["wait", "hold", "pass", "fail", "weigh", "promote", "undo"]
"""`wait`: the interval is not over. `hold`: it is, and says too little. `pass` and `fail`: a check
that changes no traffic. The others change it."""


class Standing(msgspec.Struct, frozen=True):
    """How a rollout stands between two decisions; kept in the rollout topic."""

    since_ms: int
    """When the interval that runs began."""
    failures: int = 0
    passed: int = 0
    """Checks that have held while shadowed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why in one sentence."""

    kind: Kind
    why: str
    standing: Standing
    """From now on."""
    mode: Mode = "canary"
    weight: float = 0.0
    """Of the candidate from now on, if `kind` is `weigh`."""


def decide(
    revision: Revision, policy: Policy, standing: Standing, evidence: Evidence, now_ms: int
) -> Decision:
    """The next step of a rollout that is running.

    An `arm` is watched, and stopped where there is reason to, but its weight is nobody's to change.
    """
    candidate = revision.candidate
    assert candidate is not None
    name = f"version {candidate.version}"
    if reasons := stops(policy, evidence):
        return Decision("undo", f"{name} is stopped: {'; '.join(reasons)}.", standing)
    over_s = (now_ms - standing.since_ms) / 1e3
    if over_s < policy.interval_s:
        return Decision("wait", f"{name}: {over_s:.0f} s of {policy.interval_s:g} s.", standing)
    if candidate.mode == "arm":
        begun = Standing(now_ms, standing.failures, standing.passed)
        return Decision("wait", f"{name} stays at {candidate.weight:g} %.", begun)
    requests = evidence.candidate.requests
    if requests < policy.min_requests:
        needed = f"{policy.min_requests:,} needed"
        return Decision("hold", f"{name} had {requests:,} requests, of {needed}.", standing)
    if failed := failed_checks(policy, evidence):
        what = f"{name} after {requests:,} requests"
        return _failed(policy, standing, now_ms, what, "; ".join(failed))
    return _passed(candidate, policy, standing, evidence, now_ms)


def _passed(
    candidate: Candidate, policy: Policy, standing: Standing, evidence: Evidence, now_ms: int
) -> Decision:
    """What follows a check that holds."""
    name, numbers = f"version {candidate.version}", held(policy, evidence)
    begun = Standing(now_ms, standing.failures, standing.passed)
    at = f"at {candidate.weight:g} %"
    if candidate.mode == "shadow":
        passed = standing.passed + 1
        if passed < policy.shadow_checks:
            why = f"{name} held as a shadow, {passed} of {policy.shadow_checks}: {numbers}."
            return Decision("pass", why, Standing(now_ms, standing.failures, passed))
        weight, at = policy.step_weight, "as a shadow"
    else:
        weight = candidate.weight + policy.step_weight
    if candidate.mode == "shadow" or candidate.weight < policy.max_weight:
        weight = min(weight, policy.max_weight)
        why = f"{name} gets {weight:g} %, for it held {at}: {numbers}."
        return Decision("weigh", why, begun, "canary", weight)
    if missing := unproven(policy, evidence):
        return Decision("hold", f"{name} held {at}, but {'; '.join(missing)}: {numbers}.", begun)
    return Decision("promote", f"{name} is promoted, for it held {at}: {numbers}.", begun)


def _failed(policy: Policy, standing: Standing, now_ms: int, what: str, reasons: str) -> Decision:
    failures = standing.failures + 1
    why = f"{what}: {reasons} (failed check {failures} of {policy.allowed_failures})."
    begun = Standing(now_ms, failures, standing.passed)
    return Decision("undo" if failures >= policy.allowed_failures else "fail", why, begun)
