"""TLS in front of a server that does not speak it itself, as stunnel does.

The Valkey of the tests is built without TLS. One port for each way in which a link can be right or
wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Sequence

from support.certificates import Authority

KINDS = ("secure", "expired", "stranger", "mutual")


class TlsFront:
    """A context manager; `ports[kind]` is where clients connect."""

    def __init__(self, target: str, authority: Authority, *, alpn: Sequence[str] = ()) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._authority = authority
        self._alpn = alpn
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._servers: list[asyncio.Server] = []
        self.ports: dict[str, int] = {}

    def __enter__(self) -> TlsFront:
        self._thread.start()
        try:
            for kind in KINDS:
                self._run(self._listen(kind))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, call) -> None:
        asyncio.run_coroutine_threadsafe(call, self._loop).result(20)

    async def _listen(self, kind: str) -> None:
        host = "elsewhere.example" if kind == "stranger" else "127.0.0.1"
        certificate, key = self._authority.issue(
            f"front-{self._target[1]}-{kind}", host=host, expired=kind == "expired"
        )
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        if self._alpn:
            context.set_alpn_protocols(list(self._alpn))
        if kind == "mutual":
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self._authority.certificate)
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0, ssl=context)
        self._servers.append(server)
        self.ports[kind] = server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            try:
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
            finally:
                far_writer.close()
        writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()
