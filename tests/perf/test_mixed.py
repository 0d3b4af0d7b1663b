"""The load's own client, and the probe that asks at a fixed rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from mixed import api as api_module
from mixed.api import Api, FailedError, Record
from mixed.probe import Order, Probe

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Handler], Awaitable[str]]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Serve]:
    """A server on this machine that answers every path by one handler; gives its address."""
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


async def test_429_is_obeyed_and_no_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    slept: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            busy = {"code": "too_many_requests"}
            return web.json_response(busy, status=429, headers={"Retry-After": "7"})
        return web.json_response({"fine": True})

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    # for the module alone: the server and its client sleep on
    monkeypatch.setattr(api_module, "asyncio", SimpleNamespace(sleep=sleep))
    record = Record()
    async with aiohttp.ClientSession(await serve(handler)) as http:
        assert (await Api(http, record).ask("x", "GET", "/"))[2] == {"fine": True}
    assert slept == [7]
    assert record.refused == {"x: too_many_requests": 1}
    assert (record.done, record.errors) == ({"x": 1}, {})


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [(429, {}, "x: 429"), (503, {"code": "busy"}, "x: 503 busy"), (500, {}, "x: 500")],
)
async def test_any_other_refusal_is_an_error(
    serve: Serve, status: int, body: dict[str, str], error: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    record = Record()
    async with aiohttp.ClientSession(await serve(handler)) as http:
        with pytest.raises(FailedError, match=error):
            await Api(http, record).ask("x", "GET", "/")
    assert record.errors == {error: 1}


async def test_events_are_followed_to_a_final_one_or_that_is_an_error(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.Response:
        done = "whole" in request.path
        text = "id: 1\nevent: queued\ndata: {}\n\n: still here\n\n"
        text += "id: 2\nevent: completed\ndata: {}\n\n" if done else ""
        return web.Response(text=text, content_type="text/event-stream")

    record = Record()
    async with aiohttp.ClientSession(await serve(handler)) as http:
        assert await Api(http, record).final("photo", "whole") == "completed"
        with pytest.raises(FailedError):
            await Api(http, record).final("photo", "half")
    assert record.errors == {"photo: its events ended with queued": 1}


async def test_a_system_that_stands_still_is_asked_all_the_same(serve: Serve) -> None:
    """No coordinated omission: what waits behind the first question counts as waiting."""
    asked, go = 0, asyncio.Event()

    async def handler(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        if asked == 20:  # not before all have been asked does any get an answer
            go.set()
        await go.wait()
        return web.json_response({})

    order = Order(url=await serve(handler), token="t", per_s=200, seconds=0.1, task_ids=["a"])
    async with aiohttp.ClientSession(order.url) as http:
        probe = Probe(http, order)
        await probe.run()
    assert asked == len(probe.answers) == len(probe.sent_late) == 20
    assert [at for at, _ in sorted(probe.answers)] == [n / 200 for n in range(20)]
    # the last is sent 95 ms after the first, which has waited for it
    assert max(seconds for _, seconds in probe.answers) >= 0.095
    assert probe.errors == {}
