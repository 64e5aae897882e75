"""The connection to the online store, and what its errors mean to a user.

One place turns redis-py's exceptions into ours, so that every message says which server it was and
what to do about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from streamsvc.errors import ConfigurationError, StreamsvcError, UnavailableError
from streamsvc.settings import Settings

__all__ = ["Command", "call", "call_all", "connect", "store_errors"]

Command: TypeAlias = Sequence[bytes | str | int]


def connect(settings: Settings) -> redis.Redis:
    """A thread-safe client of the store in `settings`; it opens connections on first use.

    A call is given up after `redis_timeout_ms`. A connection that turns out to be dead is opened
    again once; every call that streamsvc makes may be repeated, because rows are fenced.
    """
    timeout_s = settings.redis_timeout_ms / 1_000
    url = settings.redis_url.get_secret_value()
    tls: dict[str, str] = {}
    if url.startswith("rediss://") and settings.redis_ssl_ca is not None:
        tls["ssl_ca_certs"] = str(settings.redis_ssl_ca)
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        # RESP3 would cost one more round trip per connection and brings nothing for these calls.
        protocol=2,
        **tls,
    )


@contextmanager
def store_errors(client: redis.Redis) -> Iterator[None]:
    """Run store calls inside this: redis-py's errors leave it as ours.

    Raises UnavailableError for a server that is away, loading, read-only, full or failing, and
    ConfigurationError for one that refuses our user. NoScriptError passes: the caller sends the
    script again.
    """
    try:
        yield
    except NoScriptError:
        raise
    except RedisError as error:
        raise _translated(error, _address(client)) from error


def call(client: redis.Redis, *command: bytes | str | int) -> Any:
    """One command and its bare reply; raises what `store_errors` says."""
    with store_errors(client):
        (reply,) = _exchange(client, [command])
        if isinstance(reply, Exception):
            raise reply
    return reply


def call_all(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Several commands in one round trip, run in order, and their bare replies.

    All of them run, whatever becomes of the others; then the first error is raised, as
    `store_errors` says. A NoScriptError is a reply.
    """
    with store_errors(client):
        replies = _exchange(client, commands)
        for reply in replies:
            if isinstance(reply, Exception) and not isinstance(reply, NoScriptError):
                raise reply
    return replies


# Connections that nobody uses just now. Appending and popping are atomic.
_idle: WeakKeyDictionary[redis.Redis, deque[Any]] = WeakKeyDictionary()


def _exchange(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands and read as many replies, errors among them, on a connection of our own.

    redis-py's connections, without its commands, pipelines and pool: these take 100 us of CPU for
    a command and 175 for four of them, this takes 20 and 25, and a worker at a quiet time makes
    several hundred calls a second. A connection that turns out to be dead is opened again once, and
    all others with it.
    """
    idle = _idle.setdefault(client, deque())
    # The stubs of hiredis want a tuple of one element.
    request = b"".join([pack_command(cast(Any, tuple(command))) for command in commands])
    for again in (True, False):
        try:
            connection = idle.pop()
        except IndexError:
            connection = client.connection_pool.make_connection()
        try:
            connection.send_packed_command([request], check_health=False)
            replies = [_reply(connection) for _ in commands]
        except BaseException as error:
            connection.disconnect()
            if not (again and isinstance(error, RedisConnectionError)):
                raise
            idle.clear()
        else:
            idle.append(connection)
            return replies
    raise AssertionError("unreachable")


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _translated(error: RedisError, where: str) -> StreamsvcError:
    text = str(error).rstrip(".")
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError) or (
        text.startswith(("NOAUTH", "WRONGPASS", "NOPERM"))
    ):
        return ConfigurationError(
            f"The online store at {where} refuses this user: {text}. Check user and password in "
            "STREAMSVC_REDIS_URL, and that its ACL allows GET, MGET, MSET, SET, SCAN, UNLINK, "
            "INCR, PEXPIRE, EVAL and EVALSHA on the project's keys."
        )
    if isinstance(error, BusyLoadingError):
        fix = "It is still loading its data; try again in a moment."
    elif isinstance(error, RedisConnectionError | RedisTimeoutError):
        fix = "Start it (`streamsvc up`), or point STREAMSVC_REDIS_URL at one that runs."
    elif isinstance(error, ReadOnlyError) or "READONLY" in text:
        fix = "This is a read-only replica; point STREAMSVC_REDIS_URL at the primary."
    elif isinstance(error, OutOfMemoryError) or text.startswith("OOM"):
        fix = "It is full; raise `maxmemory`, or give its rows a time to live (`key_ttl_seconds`)."
    elif "MISCONF" in text:
        fix = "It cannot save to disk and so refuses writes; free disk space on its machine."
    elif isinstance(error, ResponseError) and "unknown command" in text:
        fix = "It lacks a command that is needed; use Valkey or Redis 6.2 or newer."
    else:
        fix = "Look into the server's log."
    return UnavailableError(f"The online store at {where} failed: {text}. {fix}")


def _address(client: redis.Redis) -> str:
    options = client.connection_pool.connection_kwargs
    if "path" in options:
        return str(options["path"])
    return f"{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"
