"""The store on a Redis Cluster: three primaries with a replica each."""

from __future__ import annotations

import signal
import uuid

import numpy as np
import pytest
from support.valkey_cluster import ValkeyCluster, alive

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.store.client import call_all, connect
from streamsvc.store.cluster import slot_of
from streamsvc.store.heartbeat import Heartbeat
from streamsvc.store.keys import marker_key, row_keys
from streamsvc.store.many_keys import mget, mset, unlink
from streamsvc.store.markers import Marker, delete_markers, read_markers, write_markers
from streamsvc.store.read_positions import ReadPosition, SharedPositions
from streamsvc.store.reader import RowReader
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.sweep import delete_older, delete_project, delete_views
from streamsvc.store.writer import FencedWriter

LAYOUT = RowLayout({"n": "Int64", "text": "String"})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with ValkeyCluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def client(cluster):
    found = connect(Settings(redis_url=cluster.url, redis_cluster=True), failover_s=30)
    yield found
    found.close()


@pytest.fixture
def project():
    return f"p{uuid.uuid4().hex[:8]}"


def keys_of(ids):
    return encode_entity_keys([numeric(np.array(ids))])


def packed(ids, offset=1, incarnation=1):
    values = {"n": numeric(np.array(ids)), "text": strings([b"x" * (i % 7) for i in ids])}
    at = np.zeros(len(ids), np.int64)
    return LAYOUT.pack(values, incarnation, offset, at, at + NEVER_MS)


def read(client, project, ids):
    rows = RowReader(client, project).read("v", LAYOUT, keys_of(ids))
    return [
        (n, text) if there else None
        for there, n, text in zip(
            rows.present.tolist(),
            rows.values["n"].to_pylist(),
            rows.values["text"].to_pylist(),
            strict=True,
        )
    ]


def test_rows_of_any_length_go_in_by_the_fence_and_come_out_in_order(client, project):
    ids = [7, 3, *range(100, 3_000), 3]
    writer = FencedWriter(client, project)
    assert writer.write("v", keys_of(ids[:-1]), packed(ids[:-1])) == 0
    assert writer.write("v", keys_of(ids[:-1]), packed(ids[:-1])) == len(ids) - 1
    assert writer.write("v", keys_of([3, 9, 3]), packed([3, 9, 3], offset=2)) == 1
    assert read(client, project, [*ids, 4]) == [(i, "x" * (i % 7)) for i in ids] + [None]
    assert len({slot_of(key) for key in row_keys(project, "v", keys_of(ids))}) > 32
    assert delete_older(client, project, "v", 2) == len(ids)
    assert delete_project(client, project) == 0


def test_markers_positions_and_keys_of_many_slots(client, project):
    ids = [(view, p) for view in ("a", "b", "c") for p in range(3)]
    markers = {at: Marker(1, {"t": {0: i}}, i, i) for i, at in enumerate(ids)}
    write_markers(client, project, markers)
    for view, p in ids:
        assert read_markers(client, project, view, [p]) == [markers[view, p]]
    delete_markers(client, project, ids)
    assert read_markers(client, project, "a", [0, 1]) == [None, None]

    ours = {("t", 0): ReadPosition(1, 2), ("u", 1): ReadPosition(3, 4)}
    shared = SharedPositions(project, ours, {"t": 1, "u": 2, "w": 1})
    assert shared.found(call_all(client, shared.commands)) == {
        "t": {0: ReadPosition(1, 2)},
        "u": {1: ReadPosition(3, 4)},
        "w": {},
    }
    names = [f"{{{project}/{i}}}".encode() for i in range(50)]
    mset(client, {name: name for name in names})
    assert mget(client, [*names, b"{none}"]) == [*names, None]
    assert unlink(client, names) == 50


def test_every_primary_has_a_heartbeat_and_a_rebuild_stops_them_all(client, project):
    heart = Heartbeat(client, project, "me")

    def intact():
        return heart.intact(call_all(client, heart.commands()))

    assert intact()
    assert len(heart.commands()) == 2 * 3
    FencedWriter(client, project).write("v", keys_of([1]), packed([1]))
    assert delete_views(client, project, ["v"]) == {"v": 1}
    assert not intact()
    assert intact()


def test_what_a_failover_loses_is_noticed_and_what_it_keeps_is_there(cluster, project):
    """A replica that was cut off takes over: it lacks the newest rows of one primary."""
    client = connect(Settings(redis_url=cluster.url, redis_cluster=True), failover_s=30)
    ids, later = list(range(500)), list(range(500, 1_000))
    heart = Heartbeat(client, project, "me")
    writer = FencedWriter(client, project)

    def write(rows):
        _, told, _ = writer.write_between(
            [], [("v", keys_of(rows), packed(rows))], heart.commands()
        )
        found = [heart.intact(replies) for replies in told]
        return all(found)

    assert write(ids)
    primary = cluster.primary_of(slot_of(row_keys(project, "v", keys_of([1]))[0]))
    replica = cluster.replica_of(primary)
    cluster.clients[primary].wait(1, 10_000)
    cluster.cut_off(replica, primary)
    assert write(later)
    cluster.kill(primary)
    cluster.processes[replica].send_signal(signal.SIGCONT)

    assert not write([0]), "the new primary has forgotten a count"
    assert write([0])
    found = read(client, project, [*ids, *later])
    assert None not in found[:500]
    assert 0 < found[500:].count(None) < 500
    writer.write("v", keys_of(later), packed(later))
    assert None not in read(client, project, later)
    assert cluster.primary_of(slot_of(row_keys(project, "v", keys_of([1]))[0])) == replica
    client.close()


def test_one_setting_tells_servers_from_clusters(stack, cluster):
    node = next(i for i, process in enumerate(cluster.processes) if alive(process))
    single = connect(Settings(redis_url=f"redis://127.0.0.1:{cluster.ports[node]}"))
    elsewhere = next(
        f"p{i}"
        for i in range(50)
        if cluster.primary_of(slot_of(marker_key(f"p{i}", "v", 0))) != node
    )
    with pytest.raises(ConfigurationError, match="is a cluster: set redis_cluster = true"):
        read_markers(single, elsewhere, "v", [0])
    with pytest.raises(ConfigurationError, match="no cluster: set redis_cluster = false"):
        connect(Settings(redis_url=stack.settings.redis_url, redis_cluster=True))
    with pytest.raises(UnavailableError, match=r"127\.0\.0\.1:1 failed"):
        connect(Settings(redis_url="redis://127.0.0.1:1", redis_cluster=True))
