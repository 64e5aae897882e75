"""A TCP relay: a server that is cut off, hangs or answers slowly, without touching the real one."""

from __future__ import annotations

import asyncio
import contextlib


class Relay:
    """Use as an async context manager; `address` is where clients connect."""

    def __init__(self, target: str = "127.0.0.1:1") -> None:
        self.aim(target)
        self.delay_s = 0.0
        """Added to whatever passes, in both directions."""
        self._port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def aim(self, target: str) -> None:
        """Where connections that are opened from now on lead."""
        host, _, port = target.rpartition(":")
        self._target = host, int(port)

    async def __aenter__(self) -> Relay:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._flowing.set()
        await self.cut()

    async def restore(self) -> None:
        """Listen again, on the same port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """As if the server had been killed: connections break, new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.sever()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def sever(self) -> None:
        """Connections break; new ones are welcome."""
        for writer in list(self._writers):
            writer.transport.abort()

    def hang(self) -> None:
        """As if the server had been stopped: connections stay, nothing passes."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        mine = {writer}
        self._writers |= mine
        try:
            with contextlib.suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection(*self._target)
                mine.add(far_writer)
                self._writers |= mine
                await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._writers -= mine
            for each in mine:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
