"""What is stored with the offsets of a group, as the client gives it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from streamsvc.transport.groups import MARK_LENGTH, _mark

ID = "7zGQzilTQ16DWpceeunhYw"


class _Overread:
    """As a TopicPartition whose stored bytes are followed by others in memory."""

    def __init__(self, stored: bytes) -> None:
        self._stored = stored

    @property
    def metadata(self) -> str:
        return self._stored.decode()


@pytest.mark.parametrize("behind", [b"", b"\x03", b"E", b"\xff\xffE"])
def test_a_topic_id_is_read_alone(behind: bytes) -> None:
    """Bytes behind it ended a worker, or would have had it answer all requests once more."""
    assert len(ID) == MARK_LENGTH
    assert _mark(_Overread(ID.encode() + behind)) == ID


def test_there_may_be_none() -> None:
    assert _mark(SimpleNamespace(metadata=None)) == ""
