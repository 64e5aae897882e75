"""Removing a view or a project from the store, without stopping the server for anybody else."""

from __future__ import annotations

from collections.abc import Iterable

from streamsvc.store.client import Client, call, store_errors
from streamsvc.store.keys import (
    heartbeat_pattern,
    marker_pattern,
    project_pattern,
    row_pattern,
)
from streamsvc.store.many_keys import unlink

__all__ = ["delete_older", "delete_older_rows", "delete_project", "delete_view", "delete_views"]

_SCAN_KEYS = 1_000

# KEYS of one shard. ARGV: the least incarnation that stays. A row begins with its own.
_DELETE_OLDER = """\
local deleted = 0
for _, key in ipairs(KEYS) do
  local head = redis.call('GETRANGE', key, 0, 3)
  if #head == 4 and struct.unpack('>I4', head) < tonumber(ARGV[1]) then
    deleted = deleted + redis.call('UNLINK', key)
  end
end
return deleted
"""


def delete_view(client: Client, project: str, view: str) -> int:
    """Delete every marker and row of a view, in small steps; return how many rows there were.

    Markers go first: should this be interrupted, a worker that starts later sees from the missing
    ones that the rows cannot be trusted. One that runs goes on and writes them again; it has to be
    told, as `delete_views` does.
    """
    _delete(client, marker_pattern(project, view))
    return _delete(client, row_pattern(project, view))


def delete_views(client: Client, project: str, views: Iterable[str]) -> dict[str, int]:
    """Delete markers and rows of views, and let the feature workers write all their rows again.

    Returns how many rows each view had. Workers are told last, also when this is interrupted: what
    they wrote in between may be gone, too.
    """
    try:
        return {view: delete_view(client, project, view) for view in views}
    finally:
        _delete(client, heartbeat_pattern(project))


def delete_older(client: Client, project: str, view: str, incarnation: int) -> int:
    """Delete a view's markers, and its rows of incarnations before this one; how many rows.

    A worker of this incarnation that runs already writes its markers again, and keeps its rows.
    """
    _delete(client, marker_pattern(project, view))
    return delete_older_rows(client, project, view, incarnation)


def delete_older_rows(client: Client, project: str, view: str, incarnation: int) -> int:
    """Delete a view's rows of incarnations before this one, and nothing else; how many."""
    deleted = 0
    with store_errors(client):
        shard: dict[bytes, list[bytes]] = {}
        for key in client.scan_iter(match=row_pattern(project, view), count=_SCAN_KEYS):
            keys = shard.setdefault(key[: key.index(b"}")], [])
            keys.append(key)
            if len(keys) == _SCAN_KEYS:
                deleted += int(call(client, "EVAL", _DELETE_OLDER, len(keys), *keys, incarnation))
                keys.clear()
        for keys in filter(None, shard.values()):
            deleted += int(call(client, "EVAL", _DELETE_OLDER, len(keys), *keys, incarnation))
    return deleted


def delete_project(client: Client, project: str) -> int:
    """Delete every marker and row of a project, in small steps; return how many keys there were."""
    return _delete(client, project_pattern(project))


def _delete(client: Client, pattern: bytes) -> int:
    deleted = 0
    batch: list[bytes] = []
    with store_errors(client):
        for key in client.scan_iter(match=pattern, count=_SCAN_KEYS):
            batch.append(key)
            if len(batch) == _SCAN_KEYS:
                deleted += unlink(client, batch)
                batch.clear()
        return deleted + unlink(client, batch)
