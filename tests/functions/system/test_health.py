from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from functions.system import health

if TYPE_CHECKING:
    from tests.functions.conftest import World

ALL_OK = {"queue": "ok", "s3": "ok", "database": "ok", "triton": "ok"}


async def test_a_process_that_answers_is_alive_whatever_is_sick(
    world: World, nobody: httpx.AsyncClient
) -> None:
    world.stream.sick = world.store.sick = True
    answer = await nobody.get("/health/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_ready_when_every_part_answers(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.get("/health/ready")
    body = {"status": "ready", "parts": ALL_OK, "reasons": {}}
    assert (answer.status_code, answer.json()) == (200, body)


@pytest.mark.parametrize(
    ("part", "port"),
    [("queue", "stream"), ("s3", "objects"), ("database", "store"), ("triton", "inference")],
)
async def test_not_ready_names_the_part_that_is_away(
    world: World, nobody: httpx.AsyncClient, part: str, port: str
) -> None:
    getattr(world, port).sick = True
    answer = await nobody.get("/health/ready")
    assert answer.status_code == 503
    parts = ALL_OK | {part: "unreachable"}
    assert answer.json() == {"status": "not ready", "parts": parts, "reasons": {}}


async def test_a_part_that_answers_and_fails_its_workers_is_failing_and_says_why(
    world: World, nobody: httpx.AsyncClient
) -> None:
    world.sickness["triton"] = "CUDA out of memory"
    answer = await nobody.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        "status": "not ready",
        "parts": ALL_OK | {"triton": "failing"},
        "reasons": {"triton": "CUDA out of memory"},
    }
    world.sickness.clear()
    assert (await nobody.get("/health/ready")).json()["status"] == "ready"


async def test_models_that_are_loading_are_told_and_keep_nobody_away(
    world: World, nobody: httpx.AsyncClient
) -> None:
    world.loading["models"] = "nanodet-g-416 is being loaded, 2 of 4"
    answer = await nobody.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "parts": ALL_OK | {"models": "loading"},
        "reasons": world.loading,
    }


async def test_a_part_that_is_away_is_unreachable_whatever_workers_say(
    world: World, nobody: httpx.AsyncClient
) -> None:
    world.sickness["triton"] = "does not answer"
    world.inference.sick = True
    body = (await nobody.get("/health/ready")).json()
    assert body["parts"] == ALL_OK | {"triton": "unreachable"}
    assert body["reasons"] == {"triton": "does not answer"}


async def test_a_part_that_hangs_is_unreachable_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> bool:
        await asyncio.Event().wait()
        return True

    monkeypatch.setattr(health, "PROBE_TIMEOUT_S", 0.05)
    world.objects.healthy = hang  # type: ignore[method-assign]
    caller = await world.http(world.new_app())
    async with asyncio.timeout(60):
        answer = await caller.get("/health/ready")
    assert answer.json()["parts"] == ALL_OK | {"s3": "unreachable"}


async def test_reasons_tell_strangers_no_address(world: World, nobody: httpx.AsyncClient) -> None:
    world.sickness = {
        "database": 'PostgreSQL cannot be reached: connection to server at "10.1.2.3", port 5432 '
        'failed: FATAL: password authentication failed for user "nereid"',
        "s3": "S3 cannot be reached: ClientConnectorError(host='s3.inner', port=9000)",
        "queue": "NATS cannot be reached: nats://u:pw@10.1.2.4:4222 [fd00::12]:4222\nand more",
    }
    reasons = (await nobody.get("/health/ready")).json()["reasons"]
    told = " ".join(reasons.values())
    assert reasons["database"].startswith("PostgreSQL cannot be reached")
    for place in ("10.1.2", "5432", "nereid", "s3.inner", "9000", "pw", "fd00", "more"):
        assert place not in told
