"""Choosing ports: the one used last, else the customary one, else the next free one up.

A port can be taken between the choice and the server's own bind; the stack then sees the server
exit, finds the port taken, and comes back here for another.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Collection, Iterable, Iterator

from streamsvc.errors import UnavailableError

__all__ = ["HOST", "await_free", "choose", "is_free"]

HOST = "127.0.0.1"

_STEP = 10
# Linux gives outgoing connections ports from 32768 up: a server's port must not be among them.
_LIMIT = 32_768


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: the last owner's closed connections do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def await_free(port: int, timeout_s: float) -> None:
    """Return once a server could listen on this port, or after `timeout_s`.

    A process that was killed is gone before everything that it held open is closed.
    """
    deadline = time.monotonic() + timeout_s
    while not is_free(port) and time.monotonic() < deadline:
        time.sleep(0.02)


def choose(preferred: Iterable[int], avoid: Collection[int]) -> int:
    """The first free port of `preferred`, or else above the last of them; none of `avoid`."""
    for port in _candidates(list(preferred)):
        if port not in avoid and is_free(port):
            return port
    raise UnavailableError(f"There is no free port on {HOST} below {_LIMIT}.")


def _candidates(preferred: list[int]) -> Iterator[int]:
    yield from preferred
    yield from range(preferred[-1] + _STEP, _LIMIT, _STEP)
