from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.definitions.validate import check_window
from streamsvc.definitions.windows import (
    LEAST_HOP_MS,
    default_hop_ms,
    udf_fingerprint,
)


@given(st.integers(LEAST_HOP_MS, 400 * 86_400_000))
def test_the_default_hop_divides_the_window_into_at_most_sixty_parts(window: int) -> None:
    hop = default_hop_ms(window)
    assert window % hop == 0
    assert hop >= LEAST_HOP_MS
    assert window // hop <= 60
    if window % 60 == 0 and window >= 60_000:
        assert hop == window // 60


@pytest.mark.parametrize(
    ("window", "slide", "tiling", "hop"),
    [
        (600_000, 10_000, 60_000, 10_000),  # slide_interval wins
        (600_000, 600_000, 60_000, 60_000),  # Feast's default slide is the window: not a wish
        (600_000, None, 60_000, 60_000),
        (600_000, 600_000, None, 10_000),
        (600_000, None, 600_000, 600_000),
    ],
)
def test_where_the_hop_comes_from(
    window: int, slide: int | None, tiling: int | None, hop: int
) -> None:
    assert check_window("x", window, slide, tiling) == hop


@pytest.mark.parametrize(
    ("window", "slide", "tiling", "told"),
    [
        (500, None, None, "at least 1 s"),
        (600_000, 7_000, None, "not a multiple of its slide_interval of 7 s"),
        (600_000, None, 3_600_000, "not a multiple of its tiling_hop_size"),
        (600_000, 500, None, "the least is 1 s"),
        (30 * 86_400_000, 10_000, None, "259200 tiles; set slide_interval to at least 259.2 s"),
    ],
)
def test_windows_that_cannot_be(
    window: int, slide: int | None, tiling: int | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        check_window("x", window, slide, tiling)


def _function(source: str, **names: Any) -> Any:
    found = dict(names)
    exec(textwrap.dedent(source), found)
    return found["f"]


def test_the_fingerprint_of_a_udf_follows_its_meaning_not_its_layout() -> None:
    plain = "def f(df):\n    return df[df.a > LIMIT]\n"
    spaced = "def f(df):\n    # big ones\n    return df[ df.a>LIMIT ]\n"
    other = "def f(df):\n    return df[df.a >= LIMIT]\n"
    reference = udf_fingerprint(_function(plain, LIMIT=3), plain)
    assert udf_fingerprint(_function(spaced, LIMIT=3), spaced) == reference
    assert udf_fingerprint(_function(other, LIMIT=3), other) != reference
    assert udf_fingerprint(_function(plain, LIMIT=4), plain) != reference


def test_decorators_are_no_part_of_a_udf() -> None:
    plain = "def f(df):\n    return df\n"
    decorated = "@stream_feature_view(ttl=timedelta(0))\ndef f(df):\n    return df\n"
    udf = _function(plain)
    assert udf_fingerprint(udf, decorated) == udf_fingerprint(udf, plain)


def test_without_source_the_bytecode_tells_them_apart() -> None:
    one, two = _function("def f(df): return df.a + 1"), _function("def f(df): return df.a + 2")
    assert udf_fingerprint(one, None) != udf_fingerprint(two, None)
    assert udf_fingerprint(one, "lambda df: (") == udf_fingerprint(one, None)


def test_the_fingerprint_is_the_same_in_every_process() -> None:
    code = textwrap.dedent("""
        from streamsvc.definitions.windows import udf_fingerprint
        WANTED = {"aa", "bb", "cc", "dd"}
        def f(df): return df[df.a.isin(WANTED) & (df.b in {"x", "y", "z"})]
        print(udf_fingerprint(f, None))
    """)
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(runs) == 1
