"""What each role is allowed, and how it is printed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.scoring import plan as small_plan

from streamsvc.agents.topic_acls import WORK, acls
from streamsvc.agents.topic_plan import named_topics
from streamsvc.cli.acl_lines import acl_lines, chosen_roles
from streamsvc.definitions.plan import Updates
from streamsvc.errors import ConfigurationError
from streamsvc.settings import Settings
from streamsvc.store.acls import rules

PLAN = small_plan()
SETTINGS = Settings(topic_prefix="eu.")


def allowed(role, plan=PLAN):
    return {
        (acl.resource, acl.name + "*" * acl.prefixed): set(acl.operations)
        for acl in acls(SETTINGS, plan, role)
    }


def test_a_feature_worker_reads_events_and_writes_state_but_makes_nothing():
    assert allowed("features") == {
        ("topic", "payments"): {"Read"},
        ("topic", "payments.dead"): {"Write"},
        ("topic", f"eu.streamsvc.{PLAN.project}.*"): {
            *("Read", "Write", "Delete", "DescribeConfigs")
        },
        ("group", f"eu.streamsvc.{PLAN.project}.features"): {"Read"},
    }


def test_whoever_computes_a_view_writes_its_updates():
    views = (replace(PLAN.views[0], updates=Updates("spend.updates")), *PLAN.views[1:])
    plan = replace(PLAN, views=views)
    assert allowed("features", plan)["topic", "spend.updates"] == {"Write"}
    assert allowed("operator", plan)["topic", "spend.updates"] >= {"Read", "Create"}
    assert not any(name == "spend.updates" for _, name in allowed("scoring", plan))


def test_a_scoring_worker_reads_requests_and_sees_events():
    route, name = PLAN.services[0].route, PLAN.services[0].name
    assert allowed("scoring") == {
        ("topic", "payments"): {"Describe"},
        ("topic", "requests"): {"Read"},
        ("topic", "requests.dead"): {"Write"},
        ("topic", route.predictions): {"Write"},
        ("topic", f"served.{name}"): {"Write"},
        ("topic", f"eu.streamsvc.{PLAN.project}.control"): {"Read"},
        ("topic", f"eu.streamsvc.{PLAN.project}.rollout"): {"Read", "Write"},
        ("group", f"eu.streamsvc.{PLAN.project}.scoring.{name}"): {"Read"},
    }


def test_a_rollout_worker_reads_what_was_served_and_what_happened():
    service = PLAN.services[0]
    route = replace(service.route, labels="outcomes", label_field="bad")
    found = allowed("rollout", replace(PLAN, services=(replace(service, route=route),)))
    assert found == {
        ("topic", f"served.{service.name}"): {"Read"},
        ("topic", "outcomes"): {"Read"},
        ("topic", f"eu.streamsvc.{PLAN.project}.rollout"): {"Read", "Write"},
        ("group", f"eu.streamsvc.{PLAN.project}.rollout"): {"Read"},
    }
    assert allowed("rollout", replace(PLAN, services=())) == {}


def test_dead_letters_of_an_event_topic_are_the_feature_workers():
    service = PLAN.services[0]
    route = replace(service.route, requests="payments")
    request = replace(service.request, topic="payments")
    found = allowed(
        "scoring", replace(PLAN, services=(replace(service, route=route, request=request),))
    )
    assert found["topic", "payments"] == {"Read"}
    assert found["topic", "payments.dead"] == {"Describe"}


def test_exactly_once_needs_transactions():
    service = PLAN.services[0]
    route = replace(service.route, delivery="exactly_once")
    found = allowed("scoring", replace(PLAN, services=(replace(service, route=route),)))
    group = f"eu.streamsvc.{PLAN.project}.scoring.{service.name}"
    assert found["transactional-id", f"{group}*"] == {"Write"}


def test_an_operator_makes_every_topic_and_only_who_needs_no_kafka_gets_nothing():
    found = allowed("operator")
    named = [t.name for t in named_topics(SETTINGS, PLAN) if not t.name.startswith("eu.")]
    for name in (*named, f"eu.streamsvc.{PLAN.project}.*"):
        assert {"Create", "DescribeConfigs", "Read"} <= found["topic", name]
    scoring = f"scoring.{PLAN.services[0].name}"
    for group in ("features", scoring):
        assert found["group", f"eu.streamsvc.{PLAN.project}.{group}"] == {"Describe"}
    assert allowed("archive") == {}


def test_resources_that_allow_the_same_are_one_command():
    lines = list(acl_lines("a:1,b:2", "User:O'Hara", acls(SETTINGS, PLAN, "features")))
    assert len(lines) == 4
    assert lines[0] == (
        "kafka-acls.sh --bootstrap-server a:1,b:2 --add --allow-principal 'User:O'\"'\"'Hara' "
        f"--operation Read --group eu.streamsvc.{PLAN.project}.features"
    )
    assert lines[-1].endswith(
        f"--topic eu.streamsvc.{PLAN.project}. --resource-pattern-type prefixed"
    )
    operator = list(acl_lines("a:1", "User:o", acls(SETTINGS, PLAN, "operator")))
    [both] = [line for line in operator if "--topic payments " in f"{line} "]
    assert both.count("--topic ") > 1


def test_roles_are_chosen_by_name():
    assert chosen_roles(None, WORK) == list(WORK)
    assert chosen_roles(["scoring", "features"], WORK) == ["features", "scoring"]
    with pytest.raises(ConfigurationError, match="no role 'x'; there are features"):
        chosen_roles(["x"], WORK)


def test_rules_of_the_store():
    features = rules(PLAN, "features", cluster=False)
    view = PLAN.views[0].name
    assert f"~{{{PLAN.project}/{view}/[0-3][0-9a-f]}}*" in features
    assert f"~{{{PLAN.project}/{view}/applied}}*" in features
    assert f"~{{{PLAN.project}/{view}/layout}}*" in features
    assert "~{" + PLAN.project + "/payments/read}*" in features
    assert {"+incr", "+evalsha", "+mset"} <= set(features)
    assert "+cluster|slots" not in features
    scoring = rules(PLAN, "scoring", cluster=True)
    assert [rule for rule in scoring if "~" in rule and not rule.startswith("%R~")] == []
    batch = PLAN.batch_views[0].name
    assert f"%R~{{{PLAN.project}/{batch}/[0-3][0-9a-f]}}*" in scoring
    assert f"%R~{{{PLAN.project}/{batch}/written}}" in scoring
    assert f"%R~{{{PLAN.project}/{batch}/layout}}*" in scoring
    assert "+cluster|slots" in scoring
    assert f"%R~{{{PLAN.project}/{view}/layout}}*" in scoring
    assert {"+set", "+mset", "+evalsha"}.isdisjoint(scoring)
    (service, *_) = [s for s in PLAN.services if s.route is not None]
    sharing = replace(service, route=replace(service.route, shared_cache_s=60))
    shared = rules(replace(PLAN, services=(sharing,)), "scoring", cluster=False)
    scores = f"~{{{PLAN.project}/{sharing.route.model}/score.[0-3][0-9a-f]}}*"
    assert [rule for rule in shared if "~" in rule and not rule.startswith("%R~")] == [scores]
    assert {rule for rule in shared if rule.startswith("+")} >= {"+mget", "+set"}
    assert "+getrange" in rules(PLAN, "operator", cluster=False)  # `delete_older`, in a script
    assert f"~{{{PLAN.project}/*" in rules(PLAN, "operator", cluster=False)
