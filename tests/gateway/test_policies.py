"""Every HTTP handler is held to its policy."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import httpx
import pytest
from litestar import get

from functions._kit.fakes import FakeClientStore
from functions._kit.policy import HttpPolicy
from gateway.asgi import create_app
from gateway.auth import Authenticator, Tokens
from gateway.registry import Function

SECRET = "a secret of the tests, of 256 bits or more"


def an_app(handler: Any) -> Any:
    """An app of this handler alone."""
    tokens = Tokens(SECRET, 3600)
    function = Function("tests.policies", "", routes=[handler])
    return create_app([function], {}, Authenticator(FakeClientStore(), tokens, SECRET))


@pytest.mark.parametrize(
    ("status", "code"), [(429, "too_many_requests"), (503, "busy")], ids=["429", "503"]
)
async def test_one_request_more_than_the_policy_allows_is_told_to_come_back(
    status: Literal[429, 503], code: str
) -> None:
    inside, go = asyncio.Semaphore(0), asyncio.Event()

    @get("/held", opt={"policy": HttpPolicy(scope=None, concurrency=2, busy_status=status)})
    async def held() -> None:
        inside.release()
        await go.wait()

    transport = httpx.ASGITransport(an_app(held))
    async with httpx.AsyncClient(transport=transport, base_url="http://nereid.test") as caller:
        running = [asyncio.create_task(caller.get("/held")) for _ in range(2)]
        for _ in running:
            await inside.acquire()
        refused = await caller.get("/held")
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert int(refused.headers["retry-after"]) >= 1
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*running)] == [200, 200]
        assert (await caller.get("/held")).status_code == 200


async def test_a_request_beyond_its_time_is_given_up() -> None:
    @get("/slow", opt={"policy": HttpPolicy(scope=None, timeout_s=0.01)})
    async def slow() -> None:
        await asyncio.Event().wait()

    transport = httpx.ASGITransport(an_app(slow))
    async with httpx.AsyncClient(transport=transport, base_url="http://nereid.test") as caller:
        answer = await caller.get("/slow")
        assert (answer.status_code, answer.json()["code"]) == (503, "function_unavailable")


async def test_a_route_without_a_policy_is_for_nobody() -> None:
    """The registry refuses such a function; should one come in another way, it stays shut."""

    @get("/open")
    async def opened() -> str:
        return "secret"

    transport = httpx.ASGITransport(an_app(opened))
    async with httpx.AsyncClient(transport=transport, base_url="http://nereid.test") as caller:
        answer = await caller.get("/open")
        assert (answer.status_code, answer.json()["code"]) == (403, "no_policy")
        assert (await caller.get("/schema/openapi.json")).status_code == 200
