"""Every operation of the OpenAPI document, over fakes: answers are as described, none is a 500."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from gateway.edge.rates import Rates
from tests.describing import is_stream, operations, problems
from tests.functions.conftest import MEDIA, World
from tests.fuzz.asked import MINUTES, SEED, times

EXAMPLES = times(3, 12)
SCOPES = (
    *MEDIA, "frames:write", "alerts:read", "alerts:write", "audio:write",
    "models:read", "models:write", "system:read", "system:write",
)  # fmt: skip


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """Hypothesis calls functions that are not asynchronous."""
    with asyncio.Runner() as runner:
        yield runner


def sender(runner: asyncio.Runner, http: httpx.AsyncClient) -> Any:
    def send(method: str, url: str, headers: dict[str, str], body: bytes) -> httpx.Response:
        async def answer() -> httpx.Response:
            async with asyncio.timeout(60):
                return await http.request(
                    method, url, headers={**http.headers, **headers}, content=body
                )

        return runner.run(answer())

    return send


@pytest.mark.timeout(300 + MINUTES * 120)
@pytest.mark.parametrize("way", ["right", "wrong", "without credentials"])
def test_answers_are_as_described(
    make_world: Callable[..., World], runner: asyncio.Runner, photo: bytes, way: str
) -> None:
    world = make_world()
    app = world.new_app(described=True, rates=Rates(tokens_per_address=1_000_000))
    anyone = runner.run(world.http(app))
    document = runner.run(anyone.get("/schema/openapi.json")).json()
    known = runner.run(furnish(world, photo))
    caller = anyone if way == "without credentials" else runner.run(known_caller(world, app))
    send = sender(runner, caller)
    found: list[str] = []
    for operation in operations(document):
        if is_stream(operation) and way != "without credentials":
            continue
        found += problems(operation, send, examples=EXAMPLES, negative=way == "wrong", seed=SEED)
        if way == "right" and "{" in operation.path:
            found += problems(operation, send, examples=EXAMPLES, known=known, seed=SEED)
    assert not found, "\n\n".join(found)


async def known_caller(world: World, app: Any) -> httpx.AsyncClient:
    caller = await world.caller("alice", *SCOPES)
    return await world.http(app, Authorization=caller.headers["Authorization"])


async def furnish(world: World, photo: bytes) -> dict[str, str]:
    """Ids of things that there are."""
    task = await world.add_task()
    return {"task_id": task.task_id, "camera_id": "gate"}
