"""The list of topics, and how a topic that is not as planned is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.scoring import plan as small_plan

from streamsvc.agents.topic_check import differences
from streamsvc.agents.topic_plan import named_topics, service_topics, state_topics
from streamsvc.cli.topics import create_line
from streamsvc.settings import Settings
from streamsvc.state.topics import LOG_CONFIG
from streamsvc.transport.admin import TopicSpec, TopicState

PLAN = small_plan()
SETTINGS = Settings(topic_prefix="eu.", topic_partitions=3, topic_replication_factor=2)


def roles(plan=PLAN, settings=SETTINGS):
    return {topic.name: topic.role for topic in named_topics(settings, plan)}


def test_every_topic_stands_there_once_with_its_role():
    route = PLAN.services[0].route
    name = PLAN.services[0].name
    assert roles() == {
        "payments": "events",
        route.requests: "requests",
        "payments.dead": "dead letters",
        f"{route.requests}.dead": "dead letters",
        route.predictions: "predictions",
        f"served.{name}": "served log",
        f"eu.streamsvc.{PLAN.project}.rollout": "rollout",
        f"eu.streamsvc.{PLAN.project}.control": "control",
        f"eu.streamsvc.{PLAN.project}.progress": "progress",
    }


def test_requests_on_an_event_topic_are_that_topic():
    service = PLAN.services[0]
    route = replace(service.route, requests="payments")
    found = roles(replace(PLAN, services=(replace(service, route=route),)))
    assert found["payments"] == "events"
    assert "requests" not in found.values()


def test_no_served_log_needs_no_topic():
    settings = SETTINGS.model_copy(update={"served_log": False})
    topics = service_topics(settings, PLAN.project, PLAN.services[0])
    assert "served log" not in {topic.role for topic in topics}


def state(partitions):
    return TopicState("log", "id", partitions, 1)


@pytest.mark.parametrize(
    ("partitions", "changed", "told"),
    [
        (4, {}, {}),
        (5, {}, {"partitions": True}),
        (4, {"cleanup.policy": "compact"}, {"cleanup.policy": True}),
        (4, {"retention.ms": "604800000"}, {"retention.ms": True}),
        (4, {"segment.bytes": "1"}, {"segment.bytes": False}),
    ],
)
def test_what_would_lose_state_is_essential(partitions, changed, told):
    [changelog] = state_topics("log", None, 4)
    config = {**LOG_CONFIG, "flush.ms": "9", **changed}
    found = differences(changelog, state(partitions), config)
    assert {d.what: d.essential for d in found} == told


def test_settings_that_we_may_not_see_are_not_judged():
    [changelog] = state_topics("log", None, 4)
    assert differences(changelog, state(4), {}) == []


def test_an_event_topic_may_have_any_number_of_partitions():
    [events] = [t for t in named_topics(SETTINGS, PLAN) if t.role == "events"]
    assert differences(events, state(7), {}) == []


def test_the_command_is_quoted_for_a_shell():
    settings = SETTINGS.model_copy(update={"kafka_bootstrap_servers": "a:1,b:2"})
    line = create_line(TopicSpec("it's", 3, {"retention.ms": "-1"}), settings)
    assert line == (
        "kafka-topics.sh --bootstrap-server a:1,b:2 --create --if-not-exists "
        "--topic 'it'\"'\"'s' --partitions 3 --replication-factor 2 --config retention.ms=-1"
    )
