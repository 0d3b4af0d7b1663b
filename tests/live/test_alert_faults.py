"""Whatever dies, refuses or fills up: every accepted frame becomes its alerts, once each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from nats.aio.client import Client

from tests.live.cameras import Bucket, Camera, bucket_of, camera_of, held, nats_of, position
from tests.live.conftest import Api, Event, Nereid, client_of, frozen
from tests.live.load import AWAY, KINDS, RULES, Load, first_pass
from tests.live.sick_triton import SickTriton, sick_triton

MakeSystem = Callable[..., Nereid]

PARTS = ("gateway", "worker", "s3", "triton", "queue", "database")
BETWEEN_DEATHS = 20
"""Events between one death and the next: all is at work again by then."""
LIFE_S = 120.0
"""By then it is: a lease of 30 s may lie between."""
SENDERS = 4
"""Over HTTP, and as many over NATS."""
SETTLED_S = 400.0
"""What a killed worker had in hand comes back after its lease of 30 s; the rest is the work."""
WAITING = 40
"""Frames that come while Triton has no memory."""
QUEUE = 48
"""Frames of one camera that may wait, where the queue is to be full."""
MARGIN_S = 60
"""For a busy machine."""


async def killed(nereid: Nereid, name: str) -> None:
    """Kill a part with SIGKILL and return when another process has taken its place."""
    before = nereid.part(name)
    before.kill()
    async with asyncio.timeout(120):
        while True:
            with suppress(StopIteration, psutil.NoSuchProcess):
                if nereid.part(name) != before:
                    return
            await asyncio.sleep(0.05)


async def told(queue: Client) -> int:
    """How far the stream of events has come; it grows with every alert."""
    while True:
        with suppress(*AWAY):
            return int(await position(queue))
        await asyncio.sleep(0.05)


async def every_alert(camera: Camera, queue: Client) -> list[dict[str, Any]]:
    """The camera's alerts once nothing waits any more and all that was told is recorded."""
    subjects = ("frames.>", "jobs.alerts.keep", "jobs.alerts.discard")
    async with asyncio.timeout(SETTLED_S):
        while any([await held(queue, subject) for subject in subjects]):
            await asyncio.sleep(0.2)
    count = await held(queue, f"events.alert.{camera.camera_id}")
    return await camera.recorded(count, within_s=120)


async def every_part_dies_and_no_alert_is_lost_or_doubled(nereid: Nereid, frames: int) -> None:
    async with (
        camera_of(nereid, "quiet", **RULES) as quiet,
        camera_of(nereid, "yard", **RULES) as camera,
        nats_of(nereid) as queue,
        bucket_of(nereid) as bucket,
    ):
        known = await first_pass(quiet)
        load = Load(camera)
        began = time.monotonic()
        enough = asyncio.Event()
        share = frames // 2 // SENDERS
        sending = asyncio.gather(
            *(load.post_until(enough, share) for _ in range(SENDERS)),
            *(load.publish(share, bucket, queue) for _ in range(SENDERS)),
        )
        for part in PARTS:
            before = await told(queue)
            async with asyncio.timeout(LIFE_S):
                while await told(queue) < before + BETWEEN_DEATHS:
                    await asyncio.sleep(0.05)
            await killed(nereid, part)
        enough.set()
        await sending
        assert len(load.accepted) >= 2 * share * SENDERS
        alerts = await every_alert(camera, queue)
        took = time.monotonic() - began
        load.check(alerts, known)
        await load.check_pictures(Api(camera.http), alerts)
        keys = set(await load.check_facts(queue, alerts))
        left = await bucket.keys("frames/")
        assert not left & keys
        assert not {key for key in left if Path(key).stem in load.frame_ids}
        assert len(left) <= len(load.unsure)  # put there and never told of: the sweeper's
        assert await held(queue, "dead.>") == 0
        print(  # noqa: T201 - shown by `pytest -s`
            f"{len(load.accepted)} frames, {len(alerts)} alerts, {took:.0f} s; "
            f"refused: {dict(load.refusals)}, left behind by them: {len(left)}"
        )


async def health(http: httpx.AsyncClient) -> tuple[int, dict[str, Any]]:
    answer = await http.get("/health/ready")
    return answer.status_code, answer.json()


async def a_triton_without_memory_costs_no_frame_and_no_attempt(
    nereid: Nereid, door: SickTriton, outage_s: float
) -> None:
    async with (
        camera_of(nereid, "quiet", **RULES) as quiet,
        camera_of(nereid, "yard", **RULES) as camera,
        nats_of(nereid) as queue,
    ):
        known = await first_pass(quiet)
        load = Load(camera)
        door.out_of_memory = True
        until = time.monotonic() + outage_s
        await load.post(WAITING)
        assert load.refusals == {}
        async with asyncio.timeout(60):
            while (await health(camera.http))[0] == 200:
                await asyncio.sleep(0.1)
        while time.monotonic() < until:
            status, body = await health(camera.http)
            assert (status, body["status"]) == (503, "not ready")
            assert body["parts"] == dict.fromkeys(body["parts"], "ok") | {"triton": "failing"}
            assert "out of memory" in body["reasons"]["triton"]
            assert await held(queue, "frames.yard") == WAITING
            await asyncio.sleep(0.2)
        assert door.refused > len(KINDS)
        assert await camera.alerts() == []

        door.out_of_memory = False
        alerts = await every_alert(camera, queue)
        load.check(alerts, known)
        await load.check_facts(queue, alerts)
        async with asyncio.timeout(60):
            while (await health(camera.http))[0] != 200:
                await asyncio.sleep(0.1)
        assert (await health(camera.http))[1]["reasons"] == {}
        assert await held(queue, "dead.>") == 0
        consumer = await queue.jetstream().consumer_info("FRAMES", "alerts_detect")
        assert consumer.delivered.consumer_seq == len(KINDS) + WAITING  # each once


async def read_on(nereid: Nereid, after: str, seen: list[Event], count: int) -> None:
    """Follow the camera's events up to `count` of them, as a browser does through a restart."""
    while True:
        async with client_of(nereid, "me") as http:
            with suppress(httpx.TransportError):
                async with aclosing(Camera("yard", http).follow(after)) as events:
                    async for event in events:
                        seen.append(event)
                        after = event.id
                        if len(seen) == count:
                            return
        await asyncio.sleep(0.1)  # a browser waits longer


async def fill(camera: Camera, queue: Client, bucket: Bucket, load: Load) -> None:
    """Fill the camera's queue, which is told, and leaves nothing of a frame that is too many."""
    before = await bucket.keys("frames/yard/")
    await load.post(QUEUE)
    for _ in range(2):
        answer = await camera.post(load.picture(0))
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
    other = await Camera("another", camera.http).post(KINDS[-1])
    assert other.status_code == 202
    assert await held(queue, "frames.yard") == QUEUE
    assert len(await bucket.keys("frames/yard/") - before) == QUEUE


async def a_full_queue_refuses_a_restart_goes_on_and_old_alerts_go(nereid: Nereid) -> None:
    seen: list[Event] = []
    async with (
        camera_of(nereid, "quiet", **RULES) as quiet,
        camera_of(nereid, "yard", **RULES) as camera,
        nats_of(nereid) as queue,
        bucket_of(nereid) as bucket,
    ):
        known = await first_pass(quiet)
        load = Load(camera)
        after = await position(queue)
        await load.post(len(KINDS))
        await camera.recorded(load.expected())
        async with asyncio.timeout(60):  # an alert is told before its frame is acknowledged
            while await held(queue, "frames.yard"):
                await asyncio.sleep(0.02)
        with frozen(nereid, "worker"):
            await fill(camera, queue, bucket, load)
            count = 2 * load.expected()  # each alert, and then its picture
            reading = asyncio.create_task(read_on(nereid, after, seen, count))
            while not seen:
                await asyncio.sleep(0.05)
            gateway = nereid.part("gateway")
            stopping = asyncio.ensure_future(asyncio.to_thread(nereid.stop))
            async with asyncio.timeout(60):
                while gateway.is_running():
                    await asyncio.sleep(0.05)
        await stopping  # the worker had no time for what waits
    stopped_at = datetime.now(UTC)
    await asyncio.to_thread(nereid.start)
    async with (
        client_of(nereid, "me") as http,
        nats_of(nereid) as queue,
        bucket_of(nereid) as bucket,
    ):
        camera = Camera("yard", http)
        alerts = await every_alert(camera, queue)
        load.camera = camera
        load.check(alerts, known)
        await load.check_facts(queue, alerts)
        assert sum(datetime.fromisoformat(a["created_at"]) > stopped_at for a in alerts) > QUEUE / 2
        async with asyncio.timeout(60):
            await reading
        check_stream(seen, alerts)
        await retained(camera, bucket)


def check_stream(seen: list[Event], alerts: list[dict[str, Any]]) -> None:
    """The events show each alert once, and its picture once, in the stream's order."""
    positions = [int(event.id) for event in seen]
    assert positions == sorted(set(positions))
    ids = sorted(alert["alert_id"] for alert in alerts)
    for name in ("alert", "image"):
        assert sorted(event.data["alert_id"] for event in seen if event.name == name) == ids


async def retained(camera: Camera, bucket: Bucket) -> None:
    """What is older than its camera keeps it goes within a minute; other cameras keep theirs."""
    quiet = Camera("quiet", camera.http)
    others = await quiet.alerts()
    assert len(await bucket.keys("alerts/")) > len(others)
    await camera.set(**RULES, retention_days=1e-6)
    async with asyncio.timeout(60 + MARGIN_S):
        while await camera.alerts() or len(await bucket.keys("alerts/")) > len(others):
            await asyncio.sleep(0.5)
    api = Api(camera.http)
    assert [a["alert_id"] for a in await quiet.alerts()] == [a["alert_id"] for a in others]
    assert all([await api.download(alert["image_url"]) for alert in await quiet.alerts()])


@pytest.mark.long  # test_chaos.py has the same promises, with more parts
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("frames", "outage_s"), [(160, 6.0), (2000, 120.0)])
async def test_whatever_dies_refuses_or_fills_up_every_frame_becomes_its_alerts_once(
    own_system: MakeSystem, triton_url: str, frames: int, outage_s: float
) -> None:
    """Three systems at once, since each spends its time in waiting."""
    async with sick_triton(triton_url) as door:
        dying, starved, full = systems = await asyncio.gather(
            asyncio.to_thread(own_system),
            asyncio.to_thread(own_system, triton_url=door.url),
            asyncio.to_thread(own_system, frames_max_messages=QUEUE, drain_s=1),
        )
        await asyncio.gather(
            every_part_dies_and_no_alert_is_lost_or_doubled(dying, frames),
            a_triton_without_memory_costs_no_frame_and_no_attempt(starved, door, outage_s),
            a_full_queue_refuses_a_restart_goes_on_and_old_alerts_go(full),
        )
        await asyncio.gather(*(asyncio.to_thread(nereid.stop) for nereid in systems))
