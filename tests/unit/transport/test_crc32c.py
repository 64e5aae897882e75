"""CRC-32C: both ways say the same, and what RFC 3720 says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.transport import crc32c
from streamsvc.transport.crc32c import checksum, first_mismatch

WAYS = [
    pytest.param(crc32c._by_tables, id="tables"),
    pytest.param(
        crc32c._by_instruction,
        id="instruction",
        marks=pytest.mark.skipif(
            not crc32c._has_instruction(), reason="this processor has no CRC-32C instruction"
        ),
    ),
]
RFC_3720 = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (b"123456789", 0xE3069283),
]


def bitwise(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def crc_of(way: Callable[..., int], data: bytes, shift: int = 0) -> int:
    raw = np.frombuffer(bytes(shift) + data + b"more", np.uint8)
    return int(way(raw, shift, shift + len(data), crc32c._TABLES))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("data", "crc"), RFC_3720)
def test_the_values_of_the_standard(way: Callable[..., int], data: bytes, crc: int) -> None:
    assert crc_of(way, data) == crc


@pytest.mark.parametrize("way", WAYS)
@given(data=st.binary(max_size=70), shift=st.integers(0, 9))
def test_any_bytes_at_any_place(way: Callable[..., int], data: bytes, shift: int) -> None:
    assert crc_of(way, data, shift) == bitwise(data)


def test_the_first_that_differs_is_named() -> None:
    good, bad = b"\xe3\x06\x92\x83123456789", b"\xe3\x06\x92\x83123456780"
    raw = np.frombuffer(good + bad + bad, np.uint8)
    at = np.arange(3) * 13
    assert first_mismatch(raw, at, at + 4, at + 13) == 1
    assert first_mismatch(raw, at[:1], at[:1] + 4, at[:1] + 13) == -1
    assert checksum(raw, 4, 13) == 0xE3069283
