"""A gateway that stops ends its streams of events, and finishes everything else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx
import uvicorn
from litestar import Litestar, get
from litestar.response import ServerSentEvent

from functions._kit.ports import Record
from functions._kit.sse import HEARTBEAT, with_heartbeats
from gateway.edge.protocol import BoundedProtocol
from gateway.edge.streams import with_ending_streams
from gateway.serving import Server

WAIT_S = 60


async def test_streams_end_with_their_gateway_and_other_requests_are_finished() -> None:
    asked, answer, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def records() -> AsyncIterator[Record]:
        try:
            yield Record(1, "events.task.x", b"{}", None)
            await asyncio.Event().wait()
        finally:
            closed.set()

    @get("/events")
    async def events() -> ServerSentEvent:
        async def told() -> AsyncIterator[str]:
            async for record in with_heartbeats(records()):
                yield "first" if record is not None else str(HEARTBEAT)

        return ServerSentEvent(told())

    @get("/slow")
    async def slow() -> str:
        asked.set()
        await answer.wait()
        return "whole"

    stop = asyncio.Event()
    app = Litestar([events, slow], openapi_config=None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = Server(
            uvicorn.Config(
                with_ending_streams(app, stop),
                http=BoundedProtocol,
                ws="none",
                log_config=None,
                lifespan="off",
                timeout_graceful_shutdown=None,  # who waits for a stream here waits for ever
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with asyncio.timeout(WAIT_S), httpx.AsyncClient(base_url=url, timeout=None) as caller:
            waiting = asyncio.create_task(caller.get("/slow"))
            async with caller.stream("GET", "/events") as stream:
                lines = stream.aiter_lines()
                assert await anext(lines) == "data: first"
                await asked.wait()
                stop.set()
                server.should_exit = True
                assert [line async for line in lines if line] == []
            await closed.wait()
            assert not waiting.done()
            answer.set()
            assert (await waiting).text == "whole"
            await serving
