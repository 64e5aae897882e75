"""Finding dead letters by what somebody named on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamsvc.agents.letters import Contents, Letter, Letters, Position
    from streamsvc.cli.context import CliContext
    from streamsvc.definitions.plan import Plan, Source

__all__ = ["contents_of", "one_source", "plan_of", "position_of", "read", "sources_of"]


def plan_of(context: CliContext) -> Plan:
    """The plan of the repo."""
    from streamsvc.definitions.registry import load_plan

    return load_plan(context.repo, context.settings.max_future_ms)


def sources_of(plan: Plan, topics: Sequence[str]) -> dict[str, Source]:
    """Topics that records are refused from -> their source, in the order asked for."""
    from streamsvc.errors import ConfigurationError
    from streamsvc.events.wire import DEAD_SUFFIX

    known = {view.source.topic: view.source for view in plan.views}
    for service in plan.services:
        if service.route is not None and service.request is not None:
            known.setdefault(service.route.requests, service.request)
    found = {}
    for asked in topics or known:
        topic = asked if asked in known else asked.removesuffix(DEAD_SUFFIX)
        if topic not in known:
            raise ConfigurationError(
                f"No view reads topic {asked!r}, and no route; there are {', '.join(known)}."
            )
        found[topic] = known[topic]
    return found


def one_source(plan: Plan, at: Position) -> Source:
    """The source that the record at a position belongs to."""
    return next(iter(sources_of(plan, [at.topic]).values()))


def position_of(text: str) -> Position:
    """Raises ConfigurationError for what is no position."""
    from streamsvc.agents.letters import Position
    from streamsvc.errors import ConfigurationError

    try:
        return Position.parse(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{text!r} is no position; give TOPIC/PARTITION/OFFSET, such as payments/3/1234"
        ) from error


def read(context: CliContext, topic: str) -> Letters:
    """All letters of a source topic."""
    import asyncio

    from streamsvc.agents.letters import read_letters

    return asyncio.run(read_letters(context.settings, topic))


def contents_of(context: CliContext, letter: Letter) -> Contents:
    """The record of a letter, as it was."""
    import asyncio

    from streamsvc.agents.letters import read_contents

    async def only() -> Contents:
        found = read_contents(context.settings, letter.source.topic, [letter.place])
        return await anext(contents async for _, contents in found)

    return asyncio.run(only())
