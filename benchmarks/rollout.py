"""Rollouts that decide themselves: what becomes of each kind of model, on live traffic.

    python benchmarks/rollout.py [--rate 200] [--interval 2] [--cases better raises …]
    python benchmarks/rollout.py gate [--models 200]

All servers on the same machine; run this where `streamsvc up` was run (`model_repository` must be
what Triton reads). The first form starts a scoring worker and a rollout worker, and tries one
version after the other: once as a shadow first, and once as a canary from the start, so that
requests see it. Models that fail do so after their 12th call, because one that fails at once never
gets past its golden vectors (those cases are marked `at once`). Every request has an answer, once,
or there is no table.
`gate` needs no server: how often the quality gate calls an equal model worse in 1,000 looks, and
with how many labels it finds a worse one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from machine import machine

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.rollouts import Rollouts, answered, labelled, remove_topics  # noqa: E402
from support.scoring_world import remove  # noqa: E402

from streamsvc.models.quality import Quality  # noqa: E402
from streamsvc.models.rollout import Revision  # noqa: E402
from streamsvc.models.rollout_policy import Policy  # noqa: E402
from streamsvc.models.triton_control import TritonControl  # noqa: E402
from streamsvc.settings import load_settings  # noqa: E402

DEADLINE_MS = 1_000


@dataclass(frozen=True)
class Case:
    name: str
    quality: str = "better"
    behaviour: str | None = None
    after: int | None = None
    """Calls after which the model behaves so; None for the support's own."""


CASES = (
    Case("better"),
    Case("worse", "worse"),
    Case("slow", behaviour="sleeps 200 ms", after=0),
    Case("raises", behaviour="raises"),
    Case("raises at once", behaviour="raises", after=0),
    Case("nan", behaviour="answers NaN"),
    Case("nan at once", behaviour="answers NaN", after=0),
    Case("corrupt", behaviour="has a corrupt file"),
)


async def try_one(w: Rollouts, case: Case, policy: Policy) -> tuple[list[Revision], int]:
    """The revisions of one rollout, and the version that it tried."""
    version = w.publish(case.quality, case.behaviour, after=case.after)
    began = await w.roll_out(version, policy)
    return await w.until_steady(began.revision), version


async def live(args: argparse.Namespace) -> None:
    settings = load_settings().model_copy(update={"model_server": "triton"})
    tag = f"bench-{uuid.uuid4().hex[:8]}."
    w = Rollouts(
        settings,
        labelled(tag, model=f"risk-{uuid.uuid4().hex[:8]}", deadline_ms=DEADLINE_MS),
        settings.model_repository.resolve(),
    )
    base = Policy(
        interval_s=args.interval, step_weight=25, max_weight=50, min_requests=50, score_psi=None
    )
    chosen = [case for case in CASES if case.name in args.cases]
    rows = []
    with tempfile.TemporaryDirectory() as logs:
        try:
            async with (
                w.process(Path(logs) / "scoring.log", model_server="triton") as worker,
                w.controller(),
            ):
                await w.started(worker)
                async with w.traffic(args.rate):
                    await asyncio.sleep(3)  # the worker's first batches
                    # The better one last: it becomes the champion, and nobody is better than it.
                    for case in sorted(chosen, key=lambda case: case.name == "better"):
                        for first in ("shadow", "canary"):
                            if case.name == "better" and first == "canary":
                                continue
                            # Held where it is until the labels have spoken.
                            hold = 1_000 if case.name == "worse" else 1
                            policy = msgspec.structs.replace(
                                base,
                                shadow_checks=hold if first == "shadow" else 0,
                                margin=0.0 if case.name == "worse" else None,
                            )
                            found, version = await try_one(w, case, policy)
                            rows.append((case.name, first, found, version))
                            last = found[-1]
                            print(f"{case.name} ({first}): {last.action}: {last.why}", flush=True)
                seen = await answered(w)
        finally:
            remove(w)
            remove_topics(w)
            with TritonControl(settings) as control:
                control.unload(w.route.model)
    print(machine("tritonclient", "xgboost"))
    print(f"{w.sent:,} requests at {args.rate:g}/s, deadline {DEADLINE_MS} ms, checks each "
          f"{args.interval:g} s; late or without a model's answer: {seen.late(DEADLINE_MS)}; "
          f"latency p50 {np.median(seen.took_ms):.0f}, p99 {np.quantile(seen.took_ms, 0.99):.0f}, "
          f"most {seen.took_ms.max()} ms")  # fmt: skip
    print(f"{'model':15} {'begins as':9} {'ends':8} {'after s':>8} {'asked':>7} {'fell back':>9}")
    for name, first, found, version in rows:
        took_s = (found[-1].at_ms - found[0].at_ms) / 1e3
        mine = seen.version == version
        if found[-1].action == "promote":
            mine &= seen.asked_ms < found[-1].at_ms
        fell = int((mine & (seen.fallback != "")).sum())
        print(
            f"{name:15} {first:9} {found[-1].action:8} {took_s:8.1f} {int(mine.sum()):7,} {fell:9,}"
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
    gate(args) if args.mode == "gate" else asyncio.run(live(args))


if __name__ == "__main__":
    main()
