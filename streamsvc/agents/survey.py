"""What feature workers would run, or run already, found out without claiming or making anything."""

from __future__ import annotations

from collections.abc import Mapping

from streamsvc.agents.claims import read_claims
from streamsvc.agents.identities import identities, shuffle_name
from streamsvc.agents.topic_plan import PlannedTopic, named_topics
from streamsvc.agents.topology import RunningView, logs_of_state, running_view
from streamsvc.definitions.plan import Plan
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Identity, decide
from streamsvc.state.topics import InternalTopics
from streamsvc.transport.admin import Admin

__all__ = ["standing_views", "survey_topics"]


async def survey_topics(settings: Settings, plan: Plan) -> list[PlannedTopic]:
    """Every topic that the plan needs, changing nothing.

    Logs of state stand there under the incarnations that workers would agree on now.
    """
    admin = Admin(settings)
    topics = InternalTopics(settings.topic_prefix, plan.project)
    named = named_topics(settings, plan)
    states = admin.describe([topic.name for topic in named])
    claims = await read_claims(settings, topics.control) if topics.control in states else ()
    wanted = identities(settings, plan, states)
    numbers = {}
    for name, identity in wanted.items():
        verdict = decide(name, identity, claims)
        numbers[name] = verdict.claim.number if verdict.claim else verdict.number or 0
    running = [running_view(view, numbers, topics) for view in plan.views]
    return [*named, *logs_of_state(running, wanted)]


async def standing_views(
    settings: Settings, plan: Plan
) -> tuple[dict[str, RunningView], Mapping[str, Identity]]:
    """Views as workers run them now, and the identities of all; nothing is claimed or created.

    A view that no worker has run as it is defined now is not among them. Raises ConfigurationError
    where no feature worker ever ran.
    """
    topics = InternalTopics(settings.topic_prefix, plan.project)
    states = Admin(settings).describe([view.source.topic for view in plan.views])
    wanted = identities(settings, plan, states)
    claims = await read_claims(settings, topics.control)
    verdicts = {name: decide(name, identity, claims).number for name, identity in wanted.items()}
    numbers = {name: number for name, number in verdicts.items() if number is not None}
    return {
        view.name: running_view(view, numbers, topics)
        for view in plan.views
        if view.name in numbers and (not view.shuffled or shuffle_name(view) in numbers)
    }, wanted
