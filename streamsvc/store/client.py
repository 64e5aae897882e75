"""The connection to the online store, and what its errors mean to a user.

One place turns redis-py's exceptions into ours, so that every message says which server it was and
what to do about it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import redis
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import SSLConnection, parse_url
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from streamsvc.errors import ConfigurationError, StreamsvcError, UnavailableError
from streamsvc.links import Link, ssl_error_of, store_link, store_link_of
from streamsvc.settings import Settings, redis_nodes
from streamsvc.store.cluster import Cluster, Command

__all__ = ["Client", "Command", "call", "call_all", "connect", "spread", "store_errors"]

Client: TypeAlias = redis.Redis | Cluster


def connect(settings: Settings, *, failover_s: float = 0.0) -> Client:
    """A thread-safe client of the store in `settings`; to one server it connects on first use.

    A call is given up after `redis_timeout_ms`, and on a cluster tried again for `failover_s` while
    another node takes over. A connection that turns out to be dead is opened again once; every call
    that streamsvc makes may be repeated, because rows are fenced.
    """
    timeout_s = settings.redis_timeout_ms / 1_000
    # RESP3 would cost one more round trip per connection and brings nothing for these calls.
    options: dict[str, Any] = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "protocol": 2,
    }
    link = store_link(settings)
    if link.tls:
        link.context()  # the client would not say which setting names the file
        files = {"ssl_ca_certs": link.ca, "ssl_certfile": link.cert, "ssl_keyfile": link.key}
        options |= {name: str(path) for name, path in files.items() if path is not None}
    url = settings.redis_url.get_secret_value()
    if not settings.redis_cluster:
        retry = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
        return redis.Redis.from_url(url, retry=retry, **options)
    nodes = redis_nodes(url)
    options |= {k: v for k, v in _parsed(nodes[0]).items() if k in ("username", "password")}
    startup = [_node(node) for node in nodes]
    try:
        client = Cluster(
            startup_nodes=startup,
            ssl=link.tls,
            require_full_coverage=False,
            retry=Retry(NoBackoff(), 1),
            **options,
        )
    except (RedisError, RedisClusterException) as error:
        raise _translated(_root(error), link, startup[0].host, startup[0].port) from error
    client.failover_s = failover_s
    return client


@contextmanager
def store_errors(client: Client) -> Iterator[None]:
    """Run store calls inside this: redis-py's errors leave it as ours.

    Raises UnavailableError for a server that is away, loading, read-only, full or failing, and
    ConfigurationError for one that refuses our user. NoScriptError passes: the caller sends the
    script again.
    """
    try:
        yield
    except NoScriptError:
        raise
    except (RedisError, RedisClusterException) as error:
        raise _translated(_root(error), *_place(client)) from error


def call(client: Client, *command: bytes | str | int) -> Any:
    """One command and its bare reply; raises what `store_errors` says."""
    [reply] = call_all(client, [command])
    if isinstance(reply, NoScriptError):
        raise reply
    return reply


def call_all(client: Client, commands: Sequence[Command]) -> list[Any]:
    """Several commands in one round trip, run in order, and their bare replies.

    On a cluster each must keep to keys of one hash tag, and the order is that of each node. All of
    them run, whatever becomes of the others; then the first error is raised, as `store_errors`
    says. A NoScriptError is a reply.
    """
    with store_errors(client):
        if isinstance(client, Cluster):
            replies = client.run(commands)
        else:
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
            # Not the pool's make_connection: it counts those it has ever made, and refuses for good
            # after a hundred, which are soon made while a server is away.
            pool = client.connection_pool
            connection = pool.connection_class(**pool.connection_kwargs)
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


def spread(client: Client, keys: Iterable[bytes]) -> list[bytes]:
    """The first of these keys that every server which keeps data holds one of."""
    if isinstance(client, Cluster):
        return client.spread(keys)
    return list(islice(keys, 1))


def _translated(
    error: BaseException, link: Link, host: str, port: int, database: str = ""
) -> StreamsvcError:
    text = str(error).rstrip(".")
    where = f"The online store at {host}:{port}{database}"
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError) or (
        text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")) or "ACL failure" in text
    ):
        return ConfigurationError(
            f"{where} refuses this user: {text}. Check user and password in STREAMSVC_REDIS_URL "
            "(redis_url), and its ACL: `streamsvc store acls` prints the one of every role."
        )
    if isinstance(error, MovedError):
        return ConfigurationError(f"{where} is a cluster: set redis_cluster = true.")
    if "cluster support disabled" in text:
        return ConfigurationError(f"{where} is no cluster: set redis_cluster = false.")
    if isinstance(error, RedisConnectionError) or text == "Timeout connecting to server":
        if (failed := ssl_error_of(error)) is not None:
            return link.explained(failed, host, port)
        if (fault := link.fault(host, port)) is not None:
            return fault
    return UnavailableError(f"{where} failed: {text}. {_remedy(error, text)}")


_REMEDIES: tuple[tuple[type[Exception], str, str], ...] = (
    # Kind of error, what its text may begin with instead, and what to do.
    (BusyLoadingError, "LOADING", "It is still loading its data; try again in a moment."),
    (
        ReadOnlyError,
        "READONLY",
        "This is a read-only replica; point STREAMSVC_REDIS_URL at the primary.",
    ),
    (
        OutOfMemoryError,
        "OOM",
        "It is full; raise `maxmemory`, or give its rows a time to live (`key_ttl_seconds`).",
    ),
    (
        ClusterDownError,
        "CLUSTERDOWN",
        "A part of the cluster has no primary; see to it that it has one.",
    ),
    (
        RedisConnectionError,
        "Connection",
        "Start it (`streamsvc up`), or point STREAMSVC_REDIS_URL at one that runs.",
    ),
    (
        RedisTimeoutError,
        "Timeout",
        "Start it (`streamsvc up`), or point STREAMSVC_REDIS_URL at one that runs.",
    ),
)


def _remedy(error: BaseException, text: str) -> str:
    for kind, begins, remedy in _REMEDIES:
        if isinstance(error, kind) or text.startswith(begins):
            return remedy
    if "MISCONF" in text:
        return "It cannot save to disk and so refuses writes; free disk space on its machine."
    if "unknown command" in text:
        return "It lacks a command that is needed; use Valkey or Redis 6.2 or newer."
    return "Look into the server's log."


def _root(error: BaseException) -> BaseException:
    """What a cluster's client could not cope with: it says only that there is no cluster."""
    while isinstance(error, RedisClusterException) and (error.__cause__ or error.__context__):
        error = error.__cause__ or error.__context__ or error
    return error


def _place(client: Client) -> tuple[Link, str, int, str]:
    """How the client connects, for a sentence about what went wrong."""
    if isinstance(client, Cluster):
        options: dict[str, Any] = client.nodes_manager.connection_kwargs
        node = next(iter(client.nodes_manager.startup_nodes.values()))
        host, port, tls = node.host, int(node.port), bool(options.get("ssl"))
        database = ""
    else:
        options = client.connection_pool.connection_kwargs
        host = str(options.get("host") or options.get("path") or "localhost")
        port, database = int(options.get("port", 6379)), f"/{options.get('db', 0)}"
        tls = issubclass(client.connection_pool.connection_class, SSLConnection)
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    ca, cert, key = (Path(options[n]) if options.get(n) else None for n in names)
    return store_link_of(tls, ca, cert, key), host, port, database


def _node(url: str) -> Any:
    found, make = _parsed(url), cast(Any, ClusterNode)
    return make(found.get("host", "localhost"), found.get("port", 6379))


def _parsed(url: str) -> dict[str, Any]:
    parse: Callable[[str], dict[str, Any]] = parse_url
    return parse(url)
