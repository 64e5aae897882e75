"""Another revision of a service: made, published, and heard of from the workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from streamsvc.cli.context import CliContext
from streamsvc.cli.rollout_text import print_change, revision_json, worker_json

if TYPE_CHECKING:
    from pathlib import Path

    from streamsvc.models.rollout import Revision, Words
    from streamsvc.models.rollout_log import Applied, RolloutLog

__all__ = ["Rollout", "words"]

PATIENCE_S = 15.0
"""What a command waits for workers: longer than one that was killed stays in its group."""


class Rollout:
    """One service of the repo, and what the rollout topic says of it."""

    def __init__(self, context: CliContext, service: str) -> None:
        """Reads the topic. Raises ConfigurationError if there is no such service with a route."""
        import asyncio

        from streamsvc.agents.rollouts import read_rollouts
        from streamsvc.agents.scoring_targets import routed_services
        from streamsvc.definitions.registry import load_plan

        self.context, self.service = context, service
        self.plan = load_plan(context.repo, context.settings.max_future_ms)
        (found,) = routed_services(self.plan, [service])
        assert found.route is not None
        self.route, self.model = found.route, found.route.model
        self.model_dir: Path = context.repo / context.settings.model_repository / self.model
        self.log: RolloutLog = asyncio.run(read_rollouts(context.settings, self.plan.project))

    @property
    def now(self) -> Revision:
        """What shall run."""
        from streamsvc.agents.rollouts import standing

        return standing(self.log, self.service, self.model_dir)

    @property
    def workers(self) -> frozenset[str]:
        """Those that run now."""
        from streamsvc.agents.rollouts import live_workers

        return live_workers(self.context.settings, self.plan.project, self.service)

    def change(self, change: Callable[[Revision], Revision], *, json: bool) -> None:
        """Let another revision hold, and wait until the workers run it; prints what they say.

        Raises CheckFailedError naming the workers where it does not run.
        """
        import asyncio

        from streamsvc.agents.rollouts import acknowledged, append_revision
        from streamsvc.errors import CheckFailedError

        settings, project = self.context.settings, self.plan.project
        self._hear()
        before = self.now
        after = change(before)
        self._make_ready(set(after.versions) - set(before.versions))
        workers = self.workers

        async def append() -> dict[str, Applied]:
            await append_revision(settings, project, after)
            return await acknowledged(settings, project, self.log, after, workers, PATIENCE_S)

        said = asyncio.run(append())
        if json:
            self.context.print_json(
                {"before": revision_json(before), "after": revision_json(after)}
                | {"workers": [worker_json(w, said.get(w), after) for w in sorted(workers)]}
            )
        else:
            print_change(self.context, before, after, workers, said)
        self._tell_registry(after)
        refused = {w: a.refused for w, a in said.items() if a.refused is not None}
        if refused:
            worker, why = min(refused.items())
            raise CheckFailedError(
                f"Revision {after.revision} of {self.service} does not run on {len(refused)} of "
                f"{len(workers)} workers, which go on as before; {worker}: {why}"
            )
        if len(said) < len(workers):
            raise CheckFailedError(
                f"{', '.join(sorted(workers - said.keys()))}: no word within {PATIENCE_S:g} s. "
                f"`streamsvc rollout status {self.service}` tells later ones."
            )

    def _hear(self) -> None:
        """Know what runs where no revision says it: else the newest version on disk, which nobody
        may have tried, would pass for the champion.

        Raises CheckFailedError naming the workers that do not tell.
        """
        import asyncio

        from streamsvc.agents.rollouts import hear
        from streamsvc.errors import CheckFailedError

        if self.log.current(self.service) is not None or not (workers := self.workers):
            return
        settings, project = self.context.settings, self.plan.project
        silent = asyncio.run(hear(settings, project, self.log, self.service, workers, PATIENCE_S))
        if silent:
            raise CheckFailedError(
                f"{', '.join(sorted(silent))}: did not say within {PATIENCE_S:g} s which version "
                f"of {self.model} runs there, so nothing is changed. `streamsvc rollout status "
                f"{self.service}` shows when it has."
            )

    def _make_ready(self, versions: set[int]) -> None:
        """Have Triton load these; it may have been told to unload them since they were published.

        Without it, workers answer for them. Raises CheckFailedError where it cannot run one.
        """
        from streamsvc.errors import UnavailableError
        from streamsvc.models.reconciler import make_ready

        try:
            make_ready(self.context.settings, self.model_dir.parent, self.model, versions)
        except UnavailableError as error:
            self._warn(f"{error}. Until then workers run the model themselves.")

    def _warn(self, text: str) -> None:
        self.context.error_console.print(text, style="yellow", highlight=False, soft_wrap=True)

    def _tell_registry(self, after: Revision) -> None:
        """Move the aliases in the registry of models, if there is one; a rollout does not wait for
        one that is away, and a rollout worker tells it later."""
        from streamsvc.errors import StreamsvcError
        from streamsvc.models.aliases import follow
        from streamsvc.models.registry import Registry

        try:
            registry = Registry.open_existing(self.context.settings, self.context.repo)
            if registry is not None:
                held = self.log.revisions.get(self.service, [])
                follow(registry, self.model, [*held, after])
        except StreamsvcError as error:
            self._warn(f"The aliases in the registry of models stay as they were: {error}")


def words(why: str) -> Words:
    """Whoever runs this command, now."""
    import getpass
    import time

    from streamsvc.models.rollout import Words

    return Words(getpass.getuser(), time.time_ns() // 1_000_000, why)
