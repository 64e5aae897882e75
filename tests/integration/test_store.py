from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import numpy as np
import pytest
import redis
from pydantic import SecretStr

from streamsvc.columns import BytesColumn, Columns, NumericColumn, numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import ConfigurationError, IntegrityError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.store.client import call, call_all, connect
from streamsvc.store.heartbeat import Heartbeat
from streamsvc.store.keys import heartbeat_key, marker_key, row_keys
from streamsvc.store.layouts import publish_layout
from streamsvc.store.markers import Marker, read_markers, write_marker
from streamsvc.store.read_positions import ReadPosition, SharedPositions
from streamsvc.store.reader import RowReader
from streamsvc.store.row import NEVER_MS, PackedRows, RowLayout
from streamsvc.store.row_store import PackedRowStore
from streamsvc.store.sweep import delete_older, delete_views
from streamsvc.store.writer import FencedWriter, Refusal

LAYOUT = RowLayout({"amount": "Float64", "last": "Int64"})


@pytest.fixture
def client(stack: Any) -> Iterator[redis.Redis]:
    with connect(stack.settings) as client:
        yield client


@pytest.fixture
def project(stack: Any) -> str:
    name: str = stack.unique("store")
    return name


def keys_of(*ids: int | None) -> BytesColumn:
    return encode_entity_keys([numeric(list(ids))])


def packed(values: list[int], incarnation: int = 1, offset: int = 0, as_of: int = 0) -> PackedRows:
    n = len(values)
    columns: Columns = {
        "amount": NumericColumn(np.array(values, np.float64), np.ones(n, np.bool_)),
        "last": NumericColumn(np.array(values, np.int64), np.ones(n, np.bool_)),
    }
    return LAYOUT.pack(
        columns, incarnation, offset, np.full(n, as_of, np.int64), np.full(n, NEVER_MS, np.int64)
    )


def test_rows_come_back_in_order_with_missing_and_null_keys(
    client: redis.Redis, project: str
) -> None:
    ids = np.random.default_rng(1).permutation(2_500)
    written = encode_entity_keys([numeric(ids)])
    assert FencedWriter(client, project).write("v", written, packed(ids.tolist(), 3, 7, 11)) == 0
    rows = RowReader(client, project).read("v", LAYOUT, keys_of(5, 9_999, None, 0, 2_499, 5))
    assert rows.present.tolist() == [True, False, False, True, True, True]
    assert rows.values["last"].to_pylist() == [5, None, None, 0, 2_499, 5]
    assert rows.incarnation.tolist() == [3, 0, 0, 3, 3, 3]
    assert rows.offset.tolist() == [7, 0, 0, 7, 7, 7]
    assert rows.as_of.tolist() == [11, 0, 0, 11, 11, 11]
    assert len(RowReader(client, project).read("v", LAYOUT, keys_of())) == 0


BIG = 2**53
GREATER = [
    ((1, 5, 5), (2, 0, 0)),
    ((1, 5, 5), (1, 6, 0)),
    ((1, 5, 5), (1, 5, 6)),
    ((1, BIG, 0), (1, BIG + 1, 0)),
    ((1, 2**62, 0), (1, 2**62 + 1, 0)),
    ((1, 2**32 - 1, 9), (1, 2**32, 0)),
    ((2**31 - 1, 0, 0), (2**31, 0, 0)),
    ((1, 0, -1), (1, 0, 0)),
    ((1, 0, -(2**63)), (1, 0, -(2**63) + 1)),
    ((1, 0, 2**63 - 2), (1, 0, 2**63 - 1)),
    ((1, 0x30, 0), (1, 0x41, 0)),
    ((1, 0x61, 0), (1, 0xE9, 0)),
]


@pytest.mark.parametrize(("low", "high"), GREATER)
def test_only_a_strictly_greater_position_replaces(
    client: redis.Redis, project: str, low: tuple[int, int, int], high: tuple[int, int, int]
) -> None:
    writer, reader, key = FencedWriter(client, project), RowReader(client, project), keys_of(1)

    def write(value: int, position: tuple[int, int, int]) -> tuple[int, Any]:
        refused = writer.write("v", key, packed([value], *position))
        return refused, reader.read("v", LAYOUT, key).values["last"].to_pylist()[0]

    assert write(1, low) == (0, 1)
    assert write(2, low) == (1, 1)
    assert write(3, high) == (0, 3)
    assert write(4, low) == (1, 3)
    assert write(5, high) == (1, 3)


def test_refused_rows_are_counted_and_the_rest_are_written(
    client: redis.Redis, project: str
) -> None:
    writer, reader = FencedWriter(client, project), RowReader(client, project)
    writer.write("v", keys_of(1, 3), packed([1, 3], offset=10))
    assert writer.write("v", keys_of(1, 2, 3, 4), packed([-1, -2, -3, -4], offset=9)) == 2
    rows = reader.read("v", LAYOUT, keys_of(1, 2, 3, 4))
    assert rows.values["last"].to_pylist() == [1, -2, 3, -4]


def test_of_refused_rows_those_are_told_that_hold_from_a_later_instant(
    client: redis.Redis, project: str
) -> None:
    writer, ids = FencedWriter(client, project), list(range(1_200))
    stored = {
        3: (1, 2**53 + 1, 7),
        600: (1, 9, 5),
        601: (1, 9, 4),
        602: (2, 9, 4),
        1_100: (1, 8, 9),
    }
    for key, position in stored.items():
        assert writer.write("v", keys_of(key), packed([0], *position)) == 0
    rows = packed(ids, 1, 8, 5)
    *_, [refusal] = writer.write_between((), [("v", keys_of(*ids), rows)], ())
    # 3 is older in time, too; 600 holds from the same instant; 602 is of another incarnation.
    assert refusal == Refusal(5, {601: 9})
    assert writer.write_between((), [("v", keys_of(3), packed([0], 1, 8, 8))], ())[2] == [
        Refusal(1, {0: 2**53 + 1})
    ]


def test_a_key_twice_in_one_write_keeps_the_greater_position(
    client: redis.Redis, project: str
) -> None:
    n = 3
    rows = LAYOUT.pack(
        {"amount": numeric([1.0, 2.0, 3.0]), "last": numeric([1, 2, 3])},
        1,
        1,
        np.array([5, 9, 7]),
        np.full(n, NEVER_MS),
    )
    assert FencedWriter(client, project).write("v", keys_of(8, 8, 8), rows) == 1
    read = RowReader(client, project).read("v", LAYOUT, keys_of(8))
    assert read.values["last"].to_pylist() == [2]


def test_rows_of_several_lengths(client: redis.Redis, project: str) -> None:
    layout = RowLayout({"s": "String", "x": "Float64"})
    texts = ["", "a", "ü" * 50, None, "x" * 70_000]
    n = len(texts)
    rows = layout.pack(
        {"s": strings(texts), "x": numeric([0.5] * n)},
        1,
        1,
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
    )
    assert FencedWriter(client, project).write("v", keys_of(*range(n)), rows) == 0
    read = RowReader(client, project).read("v", layout, keys_of(*range(n)))
    assert read.values["s"].to_pylist() == texts
    assert read.values["x"].to_pylist() == [0.5] * n


def test_what_is_not_a_row_is_replaced(client: redis.Redis, project: str) -> None:
    names = row_keys(project, "v", keys_of(1, 2))
    client.set(names[0], b"junk")
    client.rpush(names[1], b"a list")
    reader = RowReader(client, project)
    assert reader.read("v", LAYOUT, keys_of(1, 2)).present.tolist() == [False, False]
    assert FencedWriter(client, project).write("v", keys_of(1, 2), packed([1, 2])) == 0
    assert reader.read("v", LAYOUT, keys_of(1, 2)).values["last"].to_pylist() == [1, 2]


def test_ties_are_overwritten_only_when_asked(client: redis.Redis, project: str) -> None:
    writer, reader, key = FencedWriter(client, project), RowReader(client, project), keys_of(1)
    writer.write("v", key, packed([1], 0, 0, 100))
    assert writer.write("v", key, packed([2], 0, 0, 100)) == 1
    assert writer.write("v", key, packed([3], 0, 0, 100), overwrite_ties=True) == 0
    assert writer.write("v", key, packed([4], 0, 0, 99), overwrite_ties=True) == 1
    assert reader.read("v", LAYOUT, key).values["last"].to_pylist() == [3]


def test_another_schema_of_the_same_incarnation_is_overwritten_when_ties_are(
    client: redis.Redis, project: str
) -> None:
    writer, key = FencedWriter(client, project), keys_of(1)
    other = RowLayout({"amount": "Float64"})
    late = other.pack({"amount": numeric([1.0])}, 0, 0, np.array([200]), np.array([NEVER_MS]))
    writer.write("v", key, late)
    assert writer.write("v", key, packed([2], 0, 0, 100)) == 1
    assert writer.write("v", key, packed([2], 0, 0, 100), overwrite_ties=True) == 0
    read = RowReader(client, project).read("v", LAYOUT, key)
    assert read.values["last"].to_pylist() == [2]
    streamed = other.pack({"amount": numeric([1.0])}, 4, 1, np.array([1]), np.array([NEVER_MS]))
    writer.write("v", key, streamed)
    assert writer.write("v", key, packed([9], 0, 0, 300), overwrite_ties=True) == 1


def test_time_to_live_is_set_on_what_is_written(client: redis.Redis, project: str) -> None:
    writer = FencedWriter(client, project)
    writer.write("v", keys_of(1, 2), packed([1, 2]), ttl_ms=60_000)
    writer.write("v", keys_of(2), packed([2], offset=5))
    first, second = row_keys(project, "v", keys_of(1, 2))
    assert 0 < int(client.pttl(first)) <= 60_000
    assert client.pttl(second) == -1


def test_the_script_is_sent_again_to_a_server_that_forgot_it(
    client: redis.Redis, project: str
) -> None:
    writer = FencedWriter(client, project)
    writer.write("v", keys_of(1), packed([1]))
    client.script_flush()
    assert writer.write("v", keys_of(1), packed([2], offset=1)) == 0
    assert writer.write("v", keys_of(1), packed([3], offset=1)) == 1


def test_two_writers_race_and_the_greatest_position_wins(stack: Any, project: str) -> None:
    """Each writer goes through its own positions in order; the result is that of the log."""
    ids = list(range(200))
    start = threading.Barrier(2)

    def write(offsets: range) -> int:
        with connect(stack.settings) as client:
            writer = FencedWriter(client, project)
            start.wait(timeout=30)
            return sum(
                writer.write("v", keys_of(*ids), packed([o] * len(ids), 1, BIG + o))
                for o in offsets
            )

    with ThreadPoolExecutor(2) as pool:
        refused = list(pool.map(write, [range(0, 100, 2), range(1, 100, 2)]))
    with connect(stack.settings) as client:
        rows = RowReader(client, project).read("v", LAYOUT, keys_of(*ids))
    assert rows.values["last"].to_pylist() == [99] * len(ids)
    assert rows.offset.tolist() == [BIG + 99] * len(ids)
    assert sum(refused) <= 99 * len(ids)


def test_rows_without_a_key_and_uneven_arguments_are_refused(
    client: redis.Redis, project: str
) -> None:
    writer = FencedWriter(client, project)
    with pytest.raises(ValueError, match="without an entity key"):
        writer.write("v", keys_of(1, None), packed([1, 2]))
    with pytest.raises(ValueError, match="1 keys for 2 rows"):
        writer.write("v", keys_of(1), packed([1, 2]))


def test_markers_round_trip(client: redis.Redis, project: str) -> None:
    marker = Marker(3, {"events": {0: BIG + 1, 7: 5}}, 1_700_000_000_000, -5)
    write_marker(client, project, "v", 4, marker)
    assert read_markers(client, project, "v", [3, 4]) == [None, marker]
    assert read_markers(client, project, "v", []) == []
    assert marker.covers("events", 0, BIG)
    assert not marker.covers("events", 0, BIG + 1)
    assert not marker.covers("events", 1, 0)
    assert not marker.covers("other", 0, 0)


def test_a_damaged_marker_names_its_key(client: redis.Redis, project: str) -> None:
    client.set(marker_key(project, "v", 0), b"\xc1junk")
    with pytest.raises(IntegrityError, match=r"/applied\}0"):
        read_markers(client, project, "v", [0])


def test_a_store_that_is_away_is_unavailable_and_names_the_fix() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"redis://127.0.0.1:{free.getsockname()[1]}/0"
        with (
            connect(Settings(redis_url=SecretStr(url))) as client,
            pytest.raises(UnavailableError, match=r"127.0.0.1:\d+/0.*STREAMSVC_REDIS_URL"),
        ):
            RowReader(client, "p").read("v", LAYOUT, keys_of(1))


def test_a_wrong_password_is_a_wrong_setting(stack: Any) -> None:
    plain = stack.settings.redis_url.get_secret_value()
    url = plain.replace("redis://", "redis://nobody:wrong@")
    settings = Settings(redis_url=SecretStr(url))
    with (
        connect(settings) as client,
        pytest.raises(ConfigurationError, match="refuses this user") as caught,
    ):
        call(client, "GET", "x")
    assert "wrong@" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "fix"),
    [
        (b"-READONLY You can't write against a read only replica.", "point .* at the primary"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.", "raise `maxmemory`"),
        (b"-MISCONF Errors writing to the AOF file", "free disk space"),
        (b"-LOADING Valkey is loading the dataset in memory", "try again"),
        (b"-ERR unknown command 'EVALSHA'", "Valkey or Redis 6.2"),
        (b"-ERR something else", "server's log"),
    ],
)
def test_each_refusal_of_a_server_names_its_fix(reply: bytes, fix: str) -> None:
    """A server that answers every command with one error, as a failing real one does."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(ConnectionResetError):
                    while request := connection.recv(65_536):
                        greeting = b"CLIENT" in request or b"SELECT" in request
                        connection.sendall((b"+OK" if greeting else reply) + b"\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = SecretStr(f"redis://127.0.0.1:{server.getsockname()[1]}/0?lib_name=&lib_version=")
        with (
            connect(Settings(redis_url=url)) as client,
            pytest.raises(UnavailableError, match=fix),
        ):
            FencedWriter(client, "p").write("v", keys_of(1), packed([1]))
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def test_workers_are_told_of_deleted_views_also_when_that_is_interrupted(
    client: redis.Redis, project: str
) -> None:
    heart = Heartbeat(client, project, "worker")

    def intact() -> bool:
        return heart.intact(call_all(client, heart.commands()))

    assert intact()
    keys, writer, reader = keys_of(1, 2), FencedWriter(client, project), RowReader(client, project)

    def views() -> Iterator[str]:
        yield "v"
        raise KeyboardInterrupt

    for names, error in ((iter(["v"]), nullcontext()), (views(), pytest.raises(KeyboardInterrupt))):
        writer.write("v", keys, packed([1, 2]))
        write_marker(client, project, "v", 0, Marker(1, {"t": {0: 7}}, 11, 13))
        with error:
            assert delete_views(client, project, names) == {"v": 2}
        assert read_markers(client, project, "v", [0]) == [None]
        assert not reader.read("v", LAYOUT, keys).present.any()
        assert not intact()
        assert intact()


def test_positions_are_shared_and_those_of_others_read(client: redis.Redis, project: str) -> None:
    one = SharedPositions(project, {("a", 1): ReadPosition(7, 11)}, {"a": 2, "b": 1})
    assert one.found(call_all(client, one.commands)) == {"a": {1: ReadPosition(7, 11)}, "b": {}}
    two = SharedPositions(project, {("b", 0): ReadPosition(2, 5)}, {"a": 2})
    assert two.found(call_all(client, two.commands)) == {"a": {1: ReadPosition(7, 11)}}
    assert SharedPositions(project, {}, {}).commands == []
    assert SharedPositions(project, {}, {}).found([]) == {}


def test_commands_go_ahead_of_rows_and_behind_them(client: redis.Redis, project: str) -> None:
    writer = FencedWriter(client, project)
    assert writer.write_between([("INCR", f"{project}-n")], [], []) == ([1], [[]], [])
    assert writer.write_between([], [], []) == ([], [], [])
    keys = keys_of(*range(33 * 500))
    names = row_keys(project, "v", keys)
    replies, behind, refused = writer.write_between(
        [("INCR", f"{project}-n"), ("EXISTS", names[0])],
        [("v", keys, packed([0] * len(keys)))],
        [("EXISTS", names[32 * 500 - 1], names[-1]), ("INCR", f"{project}-n")],
    )
    assert (replies, refused) == ([2, 0], [Refusal(0, {})])
    assert behind == [[1, 3], [2, 4]], "behind each part, and so behind all"
    assert RowReader(client, project).read("v", LAYOUT, keys).present.all()


def test_what_comes_behind_rows_does_so_where_the_script_was_forgotten(
    client: redis.Redis, project: str
) -> None:
    writer, keys = FencedWriter(client, project), keys_of(1, 2)
    writer._sha = "0" * 40  # the tests beside this one may teach the server the real one again
    last = [("EXISTS", *row_keys(project, "v", keys))]
    assert writer.write_between([], [("v", keys, packed([1, 2]))], last) == (
        [],
        [[0], [2]],
        [Refusal(0, {})],
    )


def test_a_store_that_goes_back_in_time_between_two_parts_of_a_write_is_noticed(
    client: redis.Redis, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover to a replica that lacks the first part of the rows."""
    rows, keys = PackedRowStore(client, project, "worker"), keys_of(*range(33 * 500))
    batch = ("v", keys, packed([0] * len(keys)))
    assert rows.write([batch], {}, {}).intact
    assert rows.write([batch], {}, {}).intact
    count = heartbeat_key(project, "worker")
    parts: list[list[Any]] = []
    before = client.get(count)

    def failing_over(*args: Any) -> list[Any]:
        replies = call_all(*args)
        parts.append(replies)
        if len(parts) == 1:
            client.set(count, before)
        return replies

    monkeypatch.setattr("streamsvc.store.writer.call_all", failing_over)
    assert not rows.write([batch], {}, {}).intact
    assert len(parts) == 2
    assert rows.write([batch], {}, {}).intact


def test_rows_of_older_incarnations_go_and_others_stay(client: redis.Redis, project: str) -> None:
    writer = FencedWriter(client, project)
    ids = list(range(3_000))
    writer.write("view", keys_of(*ids), packed(ids, incarnation=2))
    writer.write("view", keys_of(1, 2), packed([10, 20], incarnation=3))
    writer.write("view", keys_of(5_000), packed([50], incarnation=4))
    writer.write("views", keys_of(1), packed([1], incarnation=1))
    write_marker(client, project, "view", 0, Marker(2, {}, 0, 0))
    assert delete_older(client, project, "view", 3) == 2_998
    found = RowReader(client, project).read("view", LAYOUT, keys_of(0, 1, 2, 5_000))
    assert found.present.tolist() == [False, True, True, True]
    assert read_markers(client, project, "view", [0]) == [None]
    assert RowReader(client, project).read("views", LAYOUT, keys_of(1)).present.all()
    assert delete_older(client, project, "view", 3) == 0


def test_rows_of_another_schema_show_what_both_have(client: redis.Redis, project: str) -> None:
    """Half of a view is rebuilt: `last` is new, `amount` stays, `place` has gone."""
    before = RowLayout({"amount": "Float64", "place": "String"})
    unknown = RowLayout({"amount": "Float64", "nobody": "Int64"})
    after = RowLayout({"amount": "Float64", "last": "Int64", "name": "String"})
    reader, writer = RowReader(client, project), FencedWriter(client, project)
    publish_layout(client, project, "v", before)
    publish_layout(client, project, "v", after)

    def write(layout: RowLayout, ids: list[int], incarnation: int, **columns: Any) -> None:
        at = np.zeros(len(ids), np.int64)
        rows = layout.pack(columns, incarnation, 0, at, at + NEVER_MS)
        assert writer.write("v", keys_of(*ids), rows) == 0

    write(before, [1, 2, 3], 1, amount=numeric([1.0, 2.0, None]), place=strings(["a", "b", "c"]))
    write(
        after, [2, 4], 2, amount=numeric([5.0, 6.0]), last=numeric([7, 8]), name=strings(["x", "y"])
    )
    write(unknown, [5], 1, amount=numeric([9.0]), nobody=numeric([1]))
    keys = keys_of(4, 3, 2, 1, 5, 6)
    old, new = reader.read("v", before, keys), reader.read("v", after, keys)
    for rows in (old, new):
        assert rows.present.tolist() == [True, True, True, True, False, False]
        assert rows.values["amount"].to_pylist() == [6.0, None, 5.0, 1.0, None, None]
        assert rows.incarnation.tolist() == [2, 1, 2, 1, 0, 0]
        assert rows.foreign == 1
    assert new.values["last"].to_pylist() == [8, None, 7, None, None, None]
    assert new.values["name"].to_pylist() == ["y", None, "x", None, None, None]
    assert old.values["place"].to_pylist() == [None, "c", None, "a", None, None]
