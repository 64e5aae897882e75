"""A Redis Cluster: every command goes to the node that holds its slot, to all nodes at once.

redis-py's own pipeline of a cluster looks up every command's keys anew, which costs more than the
commands do; its table of slots, its connections and its redirections are used here.
"""

from __future__ import annotations

import time
from binascii import crc_hqx
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import redis
from redis.cluster import ClusterNode
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    RedisClusterException,
    RedisError,
    ResponseError,
    SlotNotCoveredError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

__all__ = ["Cluster", "Command", "slot_of"]

Command = Sequence[bytes | str | int]

_SLOTS = 16_384
_PAUSE_S = 0.1
_AGAIN = (
    ClusterDownError,
    MovedError,
    RedisConnectionError,
    RedisTimeoutError,
    SlotNotCoveredError,
    TryAgainError,
)
"""What may be over once another node has taken the slots."""
_SCRIPTS = ("EVAL", "EVALSHA")


def slot_of(key: bytes) -> int:
    """The slot of a key, by its hash tag; all of ours have one."""
    return crc_hqx(key[key.index(b"{") + 1 : key.index(b"}")], 0) % _SLOTS


class Cluster(redis.RedisCluster):
    """Thread-safe. `failover_s` is how long `run` waits for a node that does not answer."""

    failover_s: float = 0.0

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """The reply to every command; an error is a reply.

        Each names keys of one slot. Those of one slot run in order. A command may run twice if its
        node fails in between.
        """
        replies: list[Any] = [None] * len(commands)
        left = list(range(len(commands)))
        deadline = time.monotonic() + self.failover_s
        again = False
        while True:
            self._send(commands, left, replies)
            for i in left:
                if type(replies[i]) is AskError:  # the slot is on its way to another node
                    replies[i] = self._follow(commands[i])
            left = [i for i in left if isinstance(replies[i], _AGAIN)]
            if not left or (again and time.monotonic() >= deadline):
                return replies
            if again:
                time.sleep(_PAUSE_S)
            again = True
            self._look_again()

    def spread(self, keys: Iterable[bytes]) -> list[bytes]:
        """The first of these keys that every primary holds, as far as there are enough of them."""
        primaries = {nodes[0].name for nodes in self.nodes_manager.slots_cache.values() if nodes}
        found: dict[str, bytes] = {}
        for key in keys:
            with suppress(SlotNotCoveredError):
                found.setdefault(self.nodes_manager.get_node_from_slot(slot_of(key)).name, key)
            if len(found) >= len(primaries):
                break
        return list(found.values())

    def _send(self, commands: Sequence[Command], which: list[int], replies: list[Any]) -> None:
        by_node: dict[ClusterNode, list[int]] = {}
        for i in which:
            try:
                node = self.nodes_manager.get_node_from_slot(_slot(commands[i]))
            except SlotNotCoveredError as error:
                replies[i] = error
            else:
                by_node.setdefault(node, []).append(i)
        open_: list[tuple[Any, Any, list[int]]] = []
        try:
            # All are on their way before the first is waited for.
            for node, of_node in by_node.items():
                try:
                    pool = self.get_redis_connection(node).connection_pool
                    connection: Any = pool.get_connection()
                except (RedisConnectionError, RedisTimeoutError) as error:
                    _fill(replies, of_node, error)
                    continue
                open_.append((pool, connection, of_node))
                try:
                    packed = connection.pack_commands([commands[i] for i in of_node])
                    connection.send_packed_command(packed)
                except (RedisConnectionError, RedisTimeoutError) as error:
                    connection.disconnect()
                    _fill(replies, of_node, error)
                    of_node.clear()
            while open_:
                pool, connection, of_node = open_[-1]
                _read(connection, of_node, replies)
                open_.pop()
                pool.release(connection)
        finally:
            for pool, connection, _ in open_:
                connection.disconnect()  # replies may be under way that nobody waits for
                pool.release(connection)

    def _follow(self, command: Command) -> Any:
        execute: Any = self.execute_command
        try:
            return execute(*command)
        except (RedisError, RedisClusterException) as error:
            return error

    def _look_again(self) -> None:
        """Ask who holds which slots; if nobody says, what was known stays."""
        try:
            self.nodes_manager.initialize()
        except (RedisError, RedisClusterException):
            return


def _slot(command: Command) -> int:
    key = command[3 if command[0] in _SCRIPTS else 1]
    assert isinstance(key, bytes)
    return slot_of(key)


def _read(connection: Any, which: list[int], replies: list[Any]) -> None:
    for at, i in enumerate(which):
        try:
            replies[i] = connection.read_response()
        except ResponseError as error:
            replies[i] = error
        except (RedisConnectionError, RedisTimeoutError) as error:
            connection.disconnect()
            _fill(replies, which[at:], error)
            return


def _fill(replies: list[Any], which: list[int], error: RedisError) -> None:
    for i in which:
        replies[i] = error
