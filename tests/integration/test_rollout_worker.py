"""The rollout worker on real servers: when it decides, and what it has Triton load."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress

import msgspec
import pytest
from faust.types import TP
from support.models import small_model
from support.scoring import plan

from streamsvc.agents.reconciling import Reconciling
from streamsvc.agents.rollout_worker import RolloutWorker
from streamsvc.agents.topic_plan import rollout_topic
from streamsvc.models.rollout import Candidate, Revision, Words, start, undo
from streamsvc.models.rollout_log import RolloutLog, revision_key
from streamsvc.models.triton_control import TritonControl
from streamsvc.models.triton_repository import publish, serve
from streamsvc.monitor.metrics import RolloutMetrics
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import follow

WORDS = Words("test", 1, "because")


@pytest.fixture
def made(stack):
    found = plan(stack.unique("worker") + ".")
    topic = rollout_topic(stack.settings, found.project)
    Admin(stack.settings).ensure([topic.spec])
    yield found, topic.name
    Admin(stack.settings).delete([topic.name])


async def write(settings, topic, revisions):
    producer = BatchProducer(settings)
    await producer.start()
    for each in revisions:
        key = revision_key(each.service, each.revision, secrets.token_hex(4))
        await (await producer.send(topic, 0, [(key, msgspec.json.encode(each), ())]))
    await producer.stop()


async def test_a_worker_decides_nothing_until_it_has_read_what_was_said_before_it(stack, made):
    """The past of a topic holds rollouts that run; the last word about them may come later."""
    the_plan, topic = made
    began = start(Revision("risky", 0, 1), Candidate(2, "shadow", 100), WORDS, salt="s", policy={})
    await write(stack.settings, topic, [began, undo(began, WORDS)])
    worker = RolloutWorker(stack.settings, the_plan, RolloutMetrics())
    partition = TP(topic, 0)
    assert await worker.app.resume_from(frozenset([partition])) == {partition: 0}
    seen = []
    async for chunk in follow(stack.settings, topic, {0: 0}, 1):
        if chunk is not None:
            seen.append(worker.leads)
            worker.take(chunk)
        if worker.leads:
            break
    assert seen == [False, False]

    # What is somebody else's is not decided here.
    assert await worker.app.resume_from(frozenset()) == {}
    assert not worker.leads


async def test_a_worker_that_leads_has_every_triton_load_what_is_named(triton):
    tag, name = triton.unique("reconciled") + ".", triton.unique("model")
    the_plan = plan(tag, model=name)
    for number in (1, 2):
        model = small_model(number, name)
        publish(triton.model_repository, model.version(number, name), model.booster)
    serve(triton.model_repository, name, [1])
    service = the_plan.services[0].name
    began = start(Revision(service, 0, 1, name), Candidate(2, "shadow", 100), WORDS, salt="s")
    log = RolloutLog()
    log.add(revision_key(service, 1, "n"), msgspec.json.encode(began))
    away = "127.0.0.1:9"
    settings = triton.settings.model_copy(
        update={
            "model_repository": triton.model_repository,
            "triton_grpc_url": f"{away},{triton.settings.triton_grpc_url}",
        }
    )
    metrics = RolloutMetrics()
    counted = metrics.registry.get_sample_value
    task = asyncio.create_task(Reconciling(settings, the_plan, lambda: log, metrics).run())
    with TritonControl(triton.settings) as control:
        async with asyncio.timeout(60):
            loaded = {"model": name, "action": "loaded"}
            while counted("streamsvc_rollout_triton_versions_total", loaded) != 2:
                await asyncio.sleep(0.1)
        assert control.ready_versions(name) == [1, 2]
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        control.unload(name)
    assert counted("streamsvc_rollout_triton_unreconciled_total", {"triton": away}) >= 1
