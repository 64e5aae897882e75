from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from streamsvc.local import ports


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind((ports.HOST, 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_a_listening_port_is_not_free(taken: int) -> None:
    assert not ports.is_free(taken)


def test_the_first_free_one_is_chosen(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port != taken)
    assert ports.choose([taken, 9092], ()) == 9092
    assert ports.choose([9192, 9092], ()) == 9192


def test_taken_or_spoken_for_goes_up_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port not in (9092, 9102))
    assert ports.choose([9092], {9112}) == 9122


def test_never_among_the_ports_of_outgoing_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(ports, "is_free", lambda port: bool(asked.append(port)))
    with pytest.raises(Exception, match="no free port"):
        ports.choose([32_700], ())
    assert max(asked) < 32_768


def test_a_port_that_is_being_closed_is_waited_for() -> None:
    """A server that was killed came back on another port, and nobody found it."""
    with socket.create_server((ports.HOST, 0)) as held:
        port = held.getsockname()[1]
        closing = threading.Timer(0.1, held.close)
        closing.start()
        ports.await_free(port, 30)
        assert ports.is_free(port)
        closing.join()


def test_a_port_that_stays_taken_is_not_waited_for_long() -> None:
    with socket.create_server((ports.HOST, 0)) as held:
        ports.await_free(held.getsockname()[1], 0.05)
        assert not ports.is_free(held.getsockname()[1])
