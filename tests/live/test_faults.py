"""What dies comes back, and no task is lost, done twice, or charged for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import httpx
import pytest

from functions.media.upscale import upscale
from tests.live.conftest import Api, Nereid, client_of, final_events, frozen

MakeSystem = Callable[..., Nereid]

POLICY = upscale.policy
RETRIES_S = sum(POLICY.backoff_s)
"""Longer than all retries of a job together, had each of them counted."""
WITHIN_LEASES = 1.8
"""After the worker's death its lease runs out, and no second one."""


@asynccontextmanager
async def api_of(nereid: Nereid) -> AsyncIterator[Api]:
    async with client_of(nereid, "me") as http:
        yield Api(http)


async def readiness(http: httpx.AsyncClient, wanted: dict[str, str]) -> None:
    """Return when /health/ready says so of these parts."""
    async with asyncio.timeout(120):
        while True:
            answer = await http.get("/health/ready")
            parts = answer.json()["parts"]
            well = set(parts.values()) <= {"ok", "loading"}
            assert answer.status_code == (200 if well else 503)
            if parts | wanted == parts and ("unreachable" in wanted.values()) == (
                answer.status_code == 503
            ):
                return
            await asyncio.sleep(0.02)


def moment(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["at"])


async def a_killed_workers_task_starts_again(nereid: Nereid, photo: bytes) -> None:
    async with api_of(nereid) as api:
        task_id = await api.process(await api.upload(photo), model="realesrgan-x4plus")
        await api.first(task_id, lambda event: event.data["progress"] > 0)
        worker = nereid.part("worker")
        worker.kill()
        killed = time.time()
        again = await api.first(task_id, lambda event: event.data["attempts"] == 2)
        waited = moment(again.data).timestamp() - killed
        row = await api.finished(task_id)
        events = [event.data async for event in api.events(task_id)]
        assert nereid.part("worker").pid != worker.pid
    assert waited < WITHIN_LEASES * POLICY.ack_wait_s
    assert (row["status"], row["attempts"]) == ("completed", 2)
    progress = [event["progress"] for event in events]
    assert progress == sorted(progress)
    (final,) = await final_events(nereid, task_id)
    assert (final["status"], final["attempts"]) == ("completed", 1)
    results = nereid.data / "s3" / "nereid" / "results" / task_id
    assert len([file for file in results.iterdir() if "thumbnail" not in file.name]) == 1


async def a_task_outwaits_triton(nereid: Nereid, photo: bytes) -> None:
    async with api_of(nereid) as api:
        await api.run(photo)
        path = await api.upload(photo)
        with frozen(nereid, "triton"):
            task_ids = [await api.process(path), await api.process(path, scale_factor=3)]
            began = time.monotonic()
            await readiness(api.http, {"triton": "unreachable", "queue": "ok", "database": "ok"})
            for task_id in task_ids:
                await api.first(task_id, lambda event: event.name == "processing")
            await asyncio.sleep(began + RETRIES_S + 4 - time.monotonic())  # the outage itself
            for task_id in task_ids:
                assert (await api.status(task_id))["status"] == "processing"
        await readiness(api.http, {"triton": "ok"})
        for task_id in task_ids:
            row = await api.finished(task_id)
            assert (row["status"], row["attempts"]) == ("completed", 1)
            assert len(await final_events(nereid, task_id)) == 1

        task_id = await api.process(await api.upload(photo), model="realesrgan-x4plus")
        await api.first(task_id, lambda event: event.data["progress"] > 0)
        nereid.part("triton").kill()
        row = await api.finished(task_id)
        assert (row["status"], row["attempts"]) == ("completed", 1)


async def servers_that_die_one_after_another_cost_no_accepted_task(
    nereid: Nereid, photo: bytes
) -> None:
    accepted: list[str] = []
    refused: list[httpx.Response] = []
    enough = asyncio.Event()

    async def keep_sending(api: Api, path: str) -> None:
        while not enough.is_set():
            answer = await api.send(path)
            if answer.status_code == 202:
                accepted.append(answer.json()["task_id"])
            else:
                refused.append(answer)
            await asyncio.sleep(0.2)  # the pace of the load

    async with api_of(nereid) as api:
        await readiness(api.http, {"queue": "ok", "database": "ok", "s3": "ok", "triton": "ok"})
        sending = asyncio.create_task(keep_sending(api, await api.upload(photo)))
        for name in ("queue", "database", "s3", "triton"):
            before = len(accepted)
            with frozen(nereid, name) as main:
                await readiness(api.http, {name: "unreachable"})
                main.kill()
            await readiness(api.http, {name: "ok"})
            while len(accepted) < before + 3:
                assert not sending.done()
                await asyncio.sleep(0.05)
        enough.set()
        await sending
        for answer in refused:
            assert answer.status_code == 503, answer.text
            assert int(answer.headers["retry-after"]) > 0
            assert answer.headers["content-type"] == "application/problem+json"
        rows = [await api.finished(task_id) for task_id in accepted]
        assert {row["status"] for row in rows} == {"completed"}
        assert len({row["result"]["sha256"] for row in rows}) == 1
        for task_id in accepted:
            assert len(await final_events(nereid, task_id)) == 1


@pytest.mark.long  # test_chaos.py has the same promises, with more parts
@pytest.mark.timeout(900)
async def test_dead_workers_and_servers_lose_no_task_repeat_none_and_charge_none(
    own_system: MakeSystem, photo: bytes
) -> None:
    """Three systems at once, since each spends its time in waiting."""
    killed, stopped, beheaded = await asyncio.gather(
        asyncio.to_thread(own_system),
        # a tile that Triton does not answer in this time counts as its sickness
        asyncio.to_thread(own_system, inference_timeout_s=10),
        asyncio.to_thread(own_system),
    )
    await asyncio.gather(
        a_killed_workers_task_starts_again(killed, photo),
        a_task_outwaits_triton(stopped, photo),
        servers_that_die_one_after_another_cost_no_accepted_task(beheaded, photo),
    )
    await asyncio.gather(
        *(asyncio.to_thread(nereid.stop) for nereid in (killed, stopped, beheaded))
    )
