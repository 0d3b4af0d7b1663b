"""What functions with server-sent events share: positions and heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from litestar.response import ServerSentEventMessage

from functions._kit.ports import Record

HEARTBEAT_S = 15.0
"""A comment this often keeps proxies from closing a quiet stream (WHATWG HTML, 9.2.7)."""
HEARTBEAT = ServerSentEventMessage(data=None, comment="still here")


def position(last_event_id: str | None) -> int:
    """The sequence number that a client has seen, 0 for none or nonsense."""
    if last_event_id and last_event_id.isascii() and last_event_id.isdigit():
        return int(last_event_id[:20])
    return 0


async def with_heartbeats(records: AsyncIterator[Record]) -> AsyncGenerator[Record | None, None]:
    """`records`, with a None whenever `HEARTBEAT_S` pass without one."""
    pending: asyncio.Task[Record] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(records))
            done, _ = await asyncio.wait({pending}, timeout=HEARTBEAT_S)
            if not done:
                yield None
                continue
            finished, pending = pending, None
            try:
                yield finished.result()
            except StopAsyncIteration:
                return
    finally:
        if pending is not None:
            pending.cancel()
        aclose = getattr(records, "aclose", None)
        if aclose is not None:
            await asyncio.gather(*([pending] if pending else []), return_exceptions=True)
            await aclose()
