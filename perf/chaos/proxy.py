"""A TCP proxy before a part, that can cut its connections, refuse new ones, and swallow bytes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

CHUNK = 1 << 16
WAIT_S = 0.05


class Proxy:
    """Forwards to `port` on loopback; `listening` is the port that others are told."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.listening = 0
        self.refusing = False
        """New connections are closed at once, those that are open are cut."""
        self.swallowing = False
        """Nothing passes and nothing is closed, as when a cable is pulled."""
        self._open: set[asyncio.StreamWriter] = set()
        self._running: set[asyncio.Task[None]] = set()

    def cut(self) -> int:
        """Reset all connections; how many there were."""
        cut = len(self._open)
        for writer in self._open:
            writer.transport.abort()
        return cut // 2

    def refuse(self) -> None:
        """Cut, and take no connection until `refusing` is false again."""
        self.refusing = True
        self.cut()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its start to its end."""
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        if self.refusing:
            writer.transport.abort()
            return
        try:
            upstream, down = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, down}
        self._open |= ends
        try:
            await asyncio.gather(self._pass(reader, down), self._pass(upstream, writer))
        finally:
            self._open -= ends
            for end in ends:
                end.transport.abort()

    async def close(self) -> None:
        """End every connection."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # uvloop's word for a closed transport
            while data := await reader.read(CHUNK):
                while self.swallowing:
                    await asyncio.sleep(WAIT_S)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            if writer.can_write_eof():
                writer.write_eof()


@asynccontextmanager
async def proxy_to(port: int, listening: int = 0) -> AsyncIterator[Proxy]:
    """A proxy to `port`, at `listening` or a free port."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", listening)
    proxy.listening = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
