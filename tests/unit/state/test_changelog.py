"""A restore equals the newest complete commit of the newest owner, whatever zombies append."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import Aggregate
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.state.blocks import unpack_block
from streamsvc.state.changelog import End, Restorer, encode_end, encode_open, encode_tiles

SPEC = WindowSpec.of([Aggregate("s", "x", "sum", 60_000, 1_000)], {"x": "float64"})


def end(applied: int) -> End:
    return End(applied, applied, 1_000 + applied, 5, False, {0: applied})


class Owner:
    """A worker that applies offset after offset and commits; `crash_after` cuts a commit short."""

    def __init__(self, name: str, log: list[bytes]) -> None:
        self.name, self.log = name, log
        log.append(encode_open(name, 1))
        self.state, found = restored(log)
        self.applied = found.applied if found else 0

    def apply(self, n: int) -> None:
        offsets = np.arange(self.applied, self.applied + n)
        keys = encode_entity_keys([strings([f"k{o % 3}" for o in offsets])])
        values = {"x": numeric([float(2**o % 1009) for o in offsets.tolist()])}
        self.state.apply(keys, 1_000 + offsets, offsets * 0, offsets, values)
        self.state.emit()
        self.applied += n

    def commit(self, *, complete: bool) -> None:
        self.log += encode_tiles(self.name, self.state.take_changed_tiles(), SPEC)
        if complete:
            self.log.append(encode_end(self.name, end(self.applied)))


def restored(log: list[bytes]) -> tuple[WindowState, End | None]:
    restorer, state = Restorer(), WindowState(SPEC)
    for record in log:
        for tiles in restorer.feed(unpack_block(record)):
            state.load(tiles)
    return state, restorer.end


def values(state: WindowState) -> dict[bytes, float]:
    state.advance(60_000)
    state.mark_all_changed()
    emission = state.emit()
    sums = emission.values["s"].to_pylist()
    return dict(zip(emission.keys.to_bytes_list(), sums, strict=True))


steps = st.lists(
    st.tuples(
        st.sampled_from(["apply", "commit", "torn", "take over", "zombie"]), st.integers(1, 5)
    ),
    max_size=25,
)


@settings(deadline=None)  # the first example compiles the kernels
@given(steps)
def test_restoring_is_exact(actions):
    log: list[bytes] = []
    owner, zombie = Owner("first", log), None
    durable = 0
    for i, (action, n) in enumerate(actions):
        if action == "apply":
            owner.apply(n)
        elif action == "commit":
            owner.commit(complete=True)
            durable = owner.applied
        elif action == "torn":  # died in the middle: the next owner takes over
            owner.apply(n)
            owner.commit(complete=False)
            owner = Owner(f"o{i}", log)
        elif action == "take over":
            zombie, owner = owner, Owner(f"o{i}", log)
        elif zombie is not None:
            zombie.apply(n)
            zombie.commit(complete=n % 2 == 0)
        state, found = restored(log)
        assert (found.applied if found else 0) == durable
        fresh = Owner("fresh", [])
        fresh.apply(durable)
        assert values(state) == values(fresh.state)
