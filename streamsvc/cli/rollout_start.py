"""`streamsvc rollout start`, `pause` and `resume`: rollouts that a policy decides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamsvc.cli.context import cli_context
from streamsvc.cli.rollout_change import Rollout, words

if TYPE_CHECKING:
    from streamsvc.models.rollout import Mode

__all__ = ["pause", "resume", "start"]

Service = Annotated[str, typer.Argument(metavar="SERVICE", help="The FeatureService.")]
Why = Annotated[str, typer.Option("--why", help="The reason, for the history.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def start(
    ctx: typer.Context,
    service: Service,
    model: Annotated[int, typer.Option("--model", metavar="VERSION", help="The version to try.")],
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            help="TOML of what it is decided by, relative to the repo directory; the defaults "
            "without.",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE", help="A field of the policy; wins over the file."
        ),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="shadow, canary or arm: how it begins. By default a shadow, unless the policy's "
            "shadow_checks is 0; an arm keeps its weight.",
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            "--weight",
            help="Per cent of the entities to begin with: 100 of a shadow, else the policy's "
            "step_weight.",
        ),
    ] = None,
    by_hand: Annotated[
        bool, typer.Option("--by-hand", help="Nobody but people decides: no policy.")
    ] = False,
    why: Why = "by hand",
    json: Json = False,
) -> None:
    """Try a version beside the champion, and let `streamsvc worker rollout` decide what follows.

    It is shadowed first, then it answers for a growing share of the entities, and is promoted or
    undone by the numbers.
    """
    import secrets

    from streamsvc.errors import ConfigurationError
    from streamsvc.models.artifact import load_card
    from streamsvc.models.compatibility import check_judgeable
    from streamsvc.models.rollout import Candidate
    from streamsvc.models.rollout import start as started
    from streamsvc.models.rollout_policy import fields_of, read_policy

    context = cli_context(ctx)
    given = dict(_option(text) for text in options or ())
    if by_hand and (policy is not None or given):
        raise ConfigurationError("--by-hand has no policy; leave --policy and --set out.")
    chosen = read_policy(None if policy is None else context.repo / policy, given)
    how = _mode(mode or ("shadow" if chosen.shadow_checks else "canary"))
    share = weight if weight is not None else 100.0 if how == "shadow" else chosen.step_weight
    rollout = Rollout(context, service)
    card = load_card(rollout.model_dir / str(model))
    if not by_hand:
        check_judgeable(card, rollout.route, chosen.metrics)
    candidate, salt = Candidate(model, how, share), secrets.token_hex(4)
    decided_by = None if by_hand else fields_of(chosen)
    rollout.change(
        lambda now: started(now, candidate, words(why), salt=salt, policy=decided_by), json=json
    )


def pause(ctx: typer.Context, service: Service, why: Why = "by hand", json: Json = False) -> None:
    """Leave traffic as it is until somebody resumes."""
    from streamsvc.models.rollout import pause as paused

    Rollout(cli_context(ctx), service).change(lambda now: paused(now, words(why)), json=json)


def resume(ctx: typer.Context, service: Service, why: Why = "by hand", json: Json = False) -> None:
    """Go on after a pause, with a new interval."""
    from streamsvc.models.rollout import resume as resumed

    Rollout(cli_context(ctx), service).change(lambda now: resumed(now, words(why)), json=json)


def _option(text: str) -> tuple[str, str]:
    from streamsvc.errors import ConfigurationError

    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--set {text}: give FIELD=VALUE.")
    return name.strip(), value.strip()


def _mode(text: str) -> Mode:
    from typing import get_args

    from streamsvc.errors import ConfigurationError
    from streamsvc.models.rollout import Mode

    for mode in get_args(Mode):
        if text == mode:
            found: Mode = mode
            return found
    raise ConfigurationError(f"--mode {text!r} is none of {', '.join(get_args(Mode))}.")
