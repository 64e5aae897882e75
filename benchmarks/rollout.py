"""Rollouts that decide themselves: what becomes of each kind of model, on live traffic.

    python benchmarks/rollout.py [--rate 200] [--interval 2] [--cases better raises …]
    python benchmarks/rollout.py gate [--models 200]

The first form starts servers of its own, two scoring workers and a rollout worker, and tries one
version after the other under a steady rate of requests: once as a shadow first, and once as a
canary from the start, so that requests see it. Models that fail do so after their 12th call, or
`at once`: then their golden vectors or their first calls tell. Labels follow each request at once.
Exit code 1 where a version ended otherwise than it should, a request has no answer, had it after
its deadline or by the default while a version was tried, or a worker took longer than a second
to go back.
`gate` needs no server: how often the quality gate calls an equal model worse in 1,000 looks, and
with how many labels it finds a worse one.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.rollouts import Answered, Rollouts, answered, labelled  # noqa: E402

from streamsvc.local.stack import LocalStack  # noqa: E402
from streamsvc.models.quality import Quality  # noqa: E402
from streamsvc.models.rollout import Revision  # noqa: E402
from streamsvc.models.rollout_policy import Policy  # noqa: E402
from streamsvc.settings import Settings, load_settings  # noqa: E402

DEADLINE_MS = 1_000
ROLLBACK_MS = 1_000
WORKERS = 2
QUIET_S = 5.0
"""Before the first rollout, and after each: whatever it did to requests is its own."""


@dataclass(frozen=True)
class Case:
    name: str
    ends: tuple[str, ...]
    """One of these is in its last sentence."""
    quality: str = "better"
    behaviour: str | None = None
    after: int | None = None
    """Calls after which the model behaves so; None for the support's own."""
    begins: tuple[str, ...] = ("shadow", "canary")

    @property
    def action(self) -> str:
        return "promote" if self.name == "better" else "undo"

    def policy(self, interval_s: float, begins: str) -> Policy:
        """Fast; what is about quality is not judged by how the scores are spread."""
        worse = self.name == "worse"
        # One that is worse stays where it is until labels have spoken.
        shadow_checks = 0 if begins == "canary" else 1_000 if worse else 1
        return Policy(
            interval_s=interval_s,
            step_weight=25,
            max_weight=50,
            min_requests=50,
            shadow_checks=shadow_checks,
            score_psi=None if self.quality == "worse" or self.name == "better" else 0.25,
            margin=0.0 if worse else None,
        )


FAILED, REFUSED = "in a row failed", "cannot run it"
CASES = (
    Case("better", ("is promoted",), begins=("shadow",)),
    Case("worse", ("it is worse",), "worse"),
    # Calls that wait for one another may take longer than they are given.
    Case("slow", ("in a row took longer", FAILED), behaviour="sleeps 200 ms", after=0),
    Case("raises", (FAILED,), behaviour="raises"),
    Case("raises at once", (FAILED,), behaviour="raises", after=0, begins=("canary",)),
    # The second worker may come to prove it when the first has asked it often enough.
    Case("NaN", (FAILED, REFUSED), behaviour="answers NaN"),
    Case("NaN at once", (REFUSED,), behaviour="answers NaN", after=0, begins=("canary",)),
    Case("corrupt file", (REFUSED,), behaviour="has a corrupt file"),
)


@dataclass(frozen=True)
class Tried:
    """What became of one version."""

    case: Case
    begins: str
    version: int
    revisions: list[Revision]
    applied_ms: dict[str, int]
    """Worker -> until the last of them ran there."""

    @property
    def name(self) -> str:
        return f"{self.case.name} ({self.begins})"

    @property
    def began_ms(self) -> int:
        return self.revisions[0].at_ms

    @property
    def ended_ms(self) -> int:
        return self.revisions[-1].at_ms

    def saw_it(self, seen: Answered) -> np.ndarray:
        """Which requests were answered by it while it was tried."""
        mine = seen.version == self.version
        return mine & (seen.variant != "champion")

    def meanwhile(self, seen: Answered) -> np.ndarray:
        """Which requests came from its start until a moment after its end."""
        until_ms = self.ended_ms + 1_000 * QUIET_S
        return (seen.asked_ms >= self.began_ms) & (seen.asked_ms < until_ms)

    def faults(self, seen: Answered) -> list[str]:
        """What is not as it should be."""
        last, saw, found = self.revisions[-1], self.saw_it(seen), []
        if last.action != self.case.action or not any(e in last.why for e in self.case.ends):
            found.append(f"{self.name}: {last.action}, and not for {' or '.join(self.case.ends)}")
        if (late := seen.take(self.meanwhile(seen)).late(DEADLINE_MS)) > 0:
            found.append(f"{self.name}: {late} requests late or answered by the default")
        if (slowest := max(self.applied_ms.values())) > ROLLBACK_MS:
            found.append(f"{self.name}: its end took {slowest} ms on a worker")
        later = self.case.behaviour is not None and self.case.after is None
        if self.begins == "shadow" and not later and last.action == "undo" and saw.any():
            found.append(f"{self.name}: requests saw it")
        return found


@contextmanager
def servers() -> Iterator[tuple[Settings, Path]]:
    """Kafka, Valkey and Triton, and a directory for logs."""
    with tempfile.TemporaryDirectory(prefix="rollout-") as made:
        stack = LocalStack(Path(made))
        try:
            stack.up(["kafka", "valkey", "triton"])
            assert stack.in_process_because is None, stack.in_process_because
            settings = load_settings(Path(made))
            yield settings.model_copy(update={"model_server": "triton"}), Path(made)
        finally:
            stack.down(volumes=True)


async def try_one(w: Rollouts, case: Case, begins: str, interval_s: float) -> Tried:
    version = w.publish(case.quality, case.behaviour, after=case.after)
    began = await w.roll_out(version, case.policy(interval_s, begins))
    revisions = await w.until_steady(began.revision)
    applied = await w.applied(revisions[-1], WORKERS)
    tried = Tried(case, begins, version, revisions, applied)
    print(f"{tried.name}: {revisions[-1].why}", flush=True)
    if revisions[-1].action == "undo":
        w.delete(version)
    await asyncio.sleep(QUIET_S)
    return tried


async def live(args: argparse.Namespace) -> None:
    with servers() as (settings, folder):
        route = {"model": "risk", "deadline_ms": DEADLINE_MS}
        plan = labelled(f"bench-{uuid.uuid4().hex[:8]}.", **route)
        w = Rollouts(settings, plan, folder / settings.model_repository)
        tried = []
        async with (
            w.process(folder / "one.log", "one", model_server="triton") as one,
            w.process(folder / "two.log", "two", model_server="triton") as two,
            w.process(folder / "rollout.log", kind="rollout") as controller,
        ):
            await controller.started()
            await w.started(one, two)
            async with w.traffic(args.rate):
                await asyncio.sleep(QUIET_S)
                for case in (case for case in CASES if case.name in args.cases):
                    for begins in case.begins:
                        tried.append(await try_one(w, case, begins, args.interval))
            seen = await answered(w)
    report(args, w, tried, seen)
    faults = [fault for each in tried for fault in each.faults(seen)]
    for fault in faults:
        print(f"NOT AS IT SHOULD BE: {fault}")
    if faults:
        raise SystemExit(1)


def report(args: argparse.Namespace, w: Rollouts, tried: list[Tried], seen: Answered) -> None:
    during = np.any([each.meanwhile(seen) for each in tried], axis=0)
    other = seen.take(~during)
    print(machine("tritonclient", "xgboost"))
    print(
        f"{w.sent:,} requests at {args.rate:g}/s, all answered ({seen.repeats} twice); "
        f"{WORKERS} scoring workers; "
        f"deadline {DEADLINE_MS:,} ms; a check each {args.interval:g} s. Latency p50 "
        f"{np.median(seen.took_ms):.0f} ms, p99 {np.quantile(seen.took_ms, 0.99):.0f}, most "
        f"{seen.took_ms.max()}. Outside of rollouts: {len(other.took_ms):,} requests, "
        f"{other.late(DEADLINE_MS)} late or by the default."
    )
    print(
        f"{'version':24} {'ends':8} {'after s':>8} {'saw it':>7} {'fell back':>9} {'requests':>9} "
        f"{'p99 ms':>7} {'late':>5}  applied ms by worker, last answer after"
    )
    for each in tried:
        saw, meanwhile = each.saw_it(seen), seen.take(each.meanwhile(seen))
        fell = int((saw & (seen.fallback != "")).sum())
        out_ms = (seen.asked_ms + seen.took_ms)[saw]
        applied = ", ".join(f"{ms}" for ms in each.applied_ms.values())
        last = f"{out_ms.max() - each.ended_ms:+,}" if len(out_ms) else "-"
        print(
            f"{each.name:24} {each.revisions[-1].action:8} "
            f"{(each.ended_ms - each.began_ms) / 1e3:8.1f} {int(saw.sum()):7,} {fell:9,} "
            f"{len(meanwhile.took_ms):9,} {np.quantile(meanwhile.took_ms, 0.99):7.0f} "
            f"{meanwhile.late(DEADLINE_MS):5}  {applied}; {last}"
        )


def gate(args: argparse.Namespace) -> None:
    """The whole quality gate, two metrics, on models whose truth is known."""

    def run(seed: int, steep: float, noise: float, looks: int, share: float | None) -> int | None:
        rng = np.random.default_rng(seed)
        n = looks * 10
        z = rng.normal(size=n)
        labels = (rng.random(n) < 1 / (1 + np.exp(-(1.6 * z - 1)))).astype(float)
        champion, candidate = (
            1 / (1 + np.exp(-(s * z + e * rng.normal(size=n) - 1)))
            for s, e in ((1.0, 0.3), (steep, noise))
        )
        mine = rng.random(n) < (share or 1)
        quality = Quality(("auc", "brier"))
        for start in range(0, n, 10):
            at = slice(start, start + 10)
            if share is None:
                quality.add_paired(labels[at], champion[at], candidate[at])
            else:
                y, ours = labels[at], mine[at]
                quality.add_apart(y[~ours], champion[at][~ours], candidate=False)
                quality.add_apart(y[ours], candidate[at][ours], candidate=True)
            if any(c.upper < 0 for c in quality.comparisons(0.05)):
                return int(mine[: start + 10].sum())
        return None

    print(machine("numpy"))
    for share, name in ((None, "shadow"), (0.3, "canary of 30 %")):
        began = time.monotonic()
        equal = [run(seed, 1.0, 0.3, 1_000, share) for seed in range(args.models)]
        wrong = sum(each is not None for each in equal)
        print(f"{name}: {wrong} of {args.models} equal models called worse in 1,000 looks "
              f"({time.monotonic() - began:.0f} s)")  # fmt: skip
        for auc, steep, noise in ((0.70, 0.5, 0.8), (0.76, 0.8, 0.6)):
            found = [run(seed, steep, noise, 3_000, share) for seed in range(args.models // 5)]
            seen = sorted(each for each in found if each is not None)
            spread = f"median {seen[len(seen) // 2]:,}, most {seen[-1]:,} labels" if seen else ""
            print(
                f"{name}: AUC {auc} instead of 0.79 found in {len(seen)} of {len(found)}; {spread}"
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(dest="mode")
    parser.add_argument("--rate", type=float, default=200)
    parser.add_argument("--interval", type=float, default=2)
    names = [case.name for case in CASES]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    modes.add_parser("gate").add_argument("--models", type=int, default=200)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the servers then, too
    gate(args) if args.mode == "gate" else asyncio.run(live(args))


if __name__ == "__main__":
    main()
