"""JSON records as producers write them, and as they should not: strategies."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from([2**53, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64]).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(-1e6, 1e6).map(lambda x: f"{x:.3f}"),
    st.from_regex(r"-?(0|[1-9][0-9]{0,22})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(
        ["-0", "-0.0", "0e5", "1e400", "01", "+1", "1.", ".5", "-", "1e", "NaN", "-Infinity", "3.0"]
    ),
)
STRINGS = st.one_of(
    st.text(max_size=12).map(lambda s: json.dumps(s, ensure_ascii=False)),
    st.text(max_size=12).map(json.dumps),
    st.text(alphabet="abc é€😀", max_size=12).map(lambda s: f'"{s}"'),
    st.sampled_from(['"\\ud800"', '"a\tb"', '"\\x"', '"', '"\x7f"', "'a'"]),
)
TIMES = st.one_of(
    st.datetimes().map(lambda t: f'"{t.isoformat()}"'),
    st.datetimes().map(lambda t: f'"{t:%Y-%m-%d %H:%M}+02:00"'),
    st.sampled_from(['"2013-01-01T05:15:00Z"', '"2013-01-01"', '"1600-01-01T00:00:00Z"']),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, STRINGS, TIMES, st.sampled_from(["true", "false", "null", "nul", ""])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"),
        st.dictionaries(st.sampled_from(["id", "n", "x"]), inner, max_size=3).map(
            lambda d: "{" + ",".join(f'"{k}":{v}' for k, v in d.items()) + "}"
        ),
    ),
    max_leaves=4,
)
SPACES = st.sampled_from(["", "", "", " ", "\n", " \t\r\n"])


@st.composite
def records(draw: st.DrawFn, good: dict[str, st.SearchStrategy[str]], unknown: list[str]) -> bytes:
    """The text of one object: mostly `good` fields, some with any value, doubled, or unknown."""
    items: list[tuple[str, str]] = []
    for name, strategy in good.items():
        if draw(st.integers(0, 9)) > 0:
            items.append((name, draw(st.one_of(strategy, strategy, strategy, VALUES))))
    if draw(st.integers(0, 3)) == 0:
        items.append((draw(st.sampled_from(unknown)), draw(VALUES)))
    if draw(st.integers(0, 9)) == 0 and items:
        items.append((draw(st.sampled_from(items))[0], draw(VALUES)))
    items = draw(st.permutations(items)) if draw(st.booleans()) else items
    text = "{"
    for k, (name, value) in enumerate(items):
        key = json.dumps(name, ensure_ascii=draw(st.booleans()))
        space = [draw(SPACES) for _ in range(4)]
        text += ("," if k else "") + space[0] + key + space[1] + ":" + space[2] + value + space[3]
    return (draw(SPACES) + text + "}" + draw(SPACES)).encode("utf-8", "surrogatepass")


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A record with a few bytes cut out, put in or changed."""
    raw: Any = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        byte = draw(st.one_of(st.sampled_from(b'{}[]",:\\0e-. '), st.integers(0, 255)))
        match draw(st.integers(0, 2)):
            case 0:
                raw[at:at] = bytes([byte])
            case 1:
                del raw[at : at + draw(st.integers(1, 4))]
            case _:
                raw[at : at + 1] = bytes([byte])
    return bytes(raw)
