"""The model server's client keeps its connection, and notices a dead one.

Pings come ten times as often. The server is gRPC's own with its defaults for pings, which are
Triton's, too.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest
from support.proxy import Relay

from streamsvc.scoring.triton_client import CHANNEL_ARGS

PING = "grpc.keepalive_time_ms"
PING_S = dict(CHANNEL_ARGS)[PING] / 10_000
ARGS = [
    *((name, round(PING_S * 1_000) if name == PING else value) for name, value in CHANNEL_ARGS),
    ("grpc.use_local_subchannel_pool", 1),  # a connection for each channel
]
TOO_MANY = 7
"""Pings: at the fourth or fifth that comes too soon a server closes the connection."""
PATIENCE_S = 40


async def answered(request: bytes, _context: object) -> bytes:
    """After as long as the request says."""
    await asyncio.sleep(float(request))
    return b"answer"


@pytest.fixture
async def address():
    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(answered)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("model", {"infer": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def test_only_a_dead_server_loses_its_client(address):
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as each:
        each.create_task(is_quiet_for_long(address))
        each.create_task(waits_for_long(address))
        each.create_task(waits_for_a_dead_one(address))


async def is_quiet_for_long(address):
    async with grpc.aio.insecure_channel(address, options=ARGS) as channel:
        call = channel.unary_unary("/model/infer")
        assert await call(b"0") == b"answer"
        ready = channel.get_state()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(TOO_MANY * PING_S):
                await channel.wait_for_state_change(ready)
        assert await call(b"0") == b"answer"
        assert channel.get_state() == ready


async def waits_for_long(address):
    """As for a model that is being loaded."""
    async with grpc.aio.insecure_channel(address, options=ARGS) as channel:
        call = channel.unary_unary("/model/infer")
        assert await call(b"%f" % (TOO_MANY * PING_S)) == b"answer"


async def waits_for_a_dead_one(address):
    async with (
        Relay(address) as relay,
        grpc.aio.insecure_channel(relay.address, options=ARGS) as channel,
    ):
        call = channel.unary_unary("/model/infer")
        assert await call(b"0") == b"answer"
        relay.hang()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(b"0")
        assert failed.value.code() == grpc.StatusCode.UNAVAILABLE
        relay.resume()
