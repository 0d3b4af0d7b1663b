"""Streams of events end with their gateway: clients come back at once, with `Last-Event-ID`."""

from __future__ import annotations

import asyncio

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, ReceiveMessage, Scope, Send


def with_ending_streams(app: ASGIApp, stop: asyncio.Event) -> ASGIApp:
    """`app`, whose event streams end as soon as `stop` is set; all other requests are finished.

    Without it a gateway with one follower waits its whole grace before it stops.
    """

    async def ending(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP:
            await app(scope, receive, send)
            return
        stream = _Stream(receive, send, stop)
        await app(scope, stream.receive, stream.send)
        await stream.close()

    return ending


class _Stream:
    """One request; until its answer begins it is no stream."""

    def __init__(self, receive: Receive, send: Send, stop: asyncio.Event) -> None:
        self._receive = receive
        self._send = send
        self._stop = stop
        self._open = False

    async def send(self, message: Message) -> None:
        """As the server's, and looks whether this is a stream of events."""
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._open = kind.startswith(b"text/event-stream")
        elif message["type"] == "http.response.body" and not message["more_body"]:
            self._open = False
        await self._send(message)

    async def receive(self) -> ReceiveMessage:
        """As the server's; the end of the server is the end of a stream's client."""
        if not self._open:
            return await self._receive()
        hearing = asyncio.ensure_future(self._receive())
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({hearing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if hearing.done():
                return hearing.result()
            return {"type": "http.disconnect"}
        finally:
            hearing.cancel()
            stopping.cancel()

    async def close(self) -> None:
        """End an answer that the stop has cut short."""
        if self._open and self._stop.is_set():
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
