"""Camera frames become alerts, as cameras, subscribers and readers see it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.live.cameras import (
    CUP,
    PHOTOS,
    Camera,
    bucket_of,
    camera_of,
    facts,
    held,
    jpeg,
    moments,
    nats_of,
    numbered,
    only,
    position,
)
from tests.live.conftest import Api, Nereid, frozen

FRAME = jpeg(CUP, width=160)
"""The detector sees two cups in it: one with its saucer (0.53), and the one on it (0.38)."""
CUPS: dict[str, Any] = {"labels": ["cup"], "min_score": 0.3, "cooldown_seconds": 0}
"""Rules by which it makes two alerts."""
RULED_S = 60
"""A rule holds within a second; the rest is for a busy machine."""
REMOVED_S = 60
"""A frame that nobody needs is removed within a second or two; the rest is for a busy machine."""


def overlap(one: dict[str, float], other: dict[str, float]) -> float:
    """Intersection over union of two boxes."""
    width, height = (
        min(one[at] + one[size], other[at] + other[size]) - max(one[at], other[at])
        for at, size in (("x", "width"), ("y", "height"))
    )
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one["width"] * one["height"] + other["width"] * other["height"] - shared)


async def test_subscribers_stream_and_query_show_the_same_alerts_once_each(
    system: Nereid, api: Api, word: str
) -> None:
    times = moments(3)
    frames = {at: numbered(FRAME, number) for number, at in enumerate(times)}
    told: list[Msg] = []

    async def hear(message: Msg) -> None:
        told.append(message)

    async with (
        camera_of(system, word, **CUPS) as camera,
        nats_of(system) as queue,
        bucket_of(system) as bucket,
    ):
        await queue.subscribe(f"events.alert.{word}", cb=hear)
        await queue.flush()
        streaming = asyncio.create_task(camera.followed(12, after=await position(queue)))
        for at, frame in frames.items():
            accepted = await camera.send(frame, at)
            assert accepted["camera_id"] == word
            assert datetime.fromisoformat(accepted["captured_at"]) == at
        alerts = await camera.recorded(6)
        events = await streaming
        stored = await facts(queue, word)

        async with asyncio.timeout(REMOVED_S):
            while await bucket.keys(f"frames/{word}/"):
                await asyncio.sleep(0.1)
        for alert in alerts:
            assert alert == (await api.http.get(f"/api/v1/alerts/{alert['alert_id']}")).json() | {
                "image_url": alert["image_url"]
            }
            picture = await api.download(alert["image_url"])
            assert picture == frames[datetime.fromisoformat(alert["captured_at"])]

    by_id = {alert["alert_id"]: alert for alert in alerts}
    assert len(by_id) == 6
    assert [alert["captured_at"] for alert in alerts] == sorted(
        (alert["captured_at"] for alert in alerts), reverse=True
    )
    assert {(a["label"], a["zone"], a["reviewed"], a["model"]) for a in alerts} == {
        ("cup", None, False, "nanodet-g-416")
    }
    for seen in ([json.loads(message.data) for message in told], stored):
        assert sorted(fact["alert_id"] for fact in seen) == sorted(by_id)
        assert all(fact["box"] == by_id[fact["alert_id"]]["box"] for fact in seen)
    assert [int(event.id) for event in events] == sorted({int(event.id) for event in events})
    for name in ("alert", "image"):
        shown = [event.data for event in events if event.name == name]
        assert sorted(one["alert_id"] for one in shown) == sorted(by_id)
        for one in shown:
            assert (one["image_url"] is None) == (name == "alert")
            assert one | {"image_url": None} == by_id[one["alert_id"]] | {"image_url": None}


async def test_a_stream_without_last_event_id_begins_with_what_comes(
    system: Nereid, word: str
) -> None:
    async with camera_of(system, word, **CUPS) as camera:
        old = {alert["alert_id"] for alert in await _sent(camera, 2)}
        streaming = asyncio.create_task(camera.followed(1))
        while not streaming.done():
            await camera.send(FRAME)
            await asyncio.wait({streaming}, timeout=0.3)  # until the stream is open
        assert (await streaming)[0].data["alert_id"] not in old


async def _sent(camera: Camera, alerts: int) -> list[dict[str, Any]]:
    """Send a frame that makes `alerts`; return them."""
    await camera.send(FRAME)
    return await camera.recorded(alerts)


async def test_frames_that_lie_in_s3_come_over_nats_and_stay_their_owners(
    system: Nereid, api: Api, word: str
) -> None:
    at = moments(1)[0]
    async with (
        camera_of(system, word, **CUPS) as camera,
        nats_of(system) as queue,
        bucket_of(system) as bucket,
    ):
        mine = await bucket.put(f"cameras of mine/{word} ü.jpg", FRAME)
        js = queue.jetstream()
        message = {"key": mine, "captured_at": at.isoformat()}
        await js.publish(f"frames.{word}", json.dumps(message).encode())
        alerts = await camera.recorded(2)
        assert {datetime.fromisoformat(alert["captured_at"]) for alert in alerts} == {at}
        assert [await api.download(alert["image_url"]) for alert in alerts] == [FRAME, FRAME]

        before = datetime.now(UTC)
        await js.publish(f"frames.{word}", json.dumps({"key": f"/{mine}"}).encode())
        newest = (await camera.recorded(4))[0]
        arrived = datetime.fromisoformat(newest["captured_at"])
        assert before <= arrived <= datetime.now(UTC)

        await camera.send(FRAME)  # what is removed after it would be removed by then
        await camera.recorded(6)
        async with asyncio.timeout(REMOVED_S):
            while await bucket.keys(f"frames/{word}/"):
                await asyncio.sleep(0.1)
        assert await bucket.read(mine) == FRAME


@pytest.mark.parametrize(
    ("photo", "size", "label", "box"),
    [  # written down by eye in the photos' own pixels: x, y, width, height
        ("astronaut", (512, 512), "person", (22, 15, 340, 497)),
        ("chelsea", (451, 300), "cat", (0, 0, 392, 300)),
        ("coffee", (600, 400), "cup", (172, 18, 240, 266)),
    ],
)
async def test_a_real_photo_makes_an_alert_with_the_right_label_and_box(
    system: Nereid,
    word: str,
    photo: str,
    size: tuple[int, int],
    label: str,
    box: tuple[int, int, int, int],
) -> None:
    x, y, width, height = (pixels / side for pixels, side in zip(box, size * 2, strict=True))
    expected = {"x": x, "y": y, "width": width, "height": height}
    labels = ["person", "cat", "cup"]
    async with camera_of(system, word, labels=labels, min_score=0.25, cooldown_seconds=0) as camera:
        await camera.send((PHOTOS / f"{photo}.jpg").read_bytes())
        alerts = await camera.any_recorded()
    assert {alert["label"] for alert in alerts} == {label}
    assert max(overlap(alert["box"], expected) for alert in alerts) >= 0.5


async def looked_at(camera: Camera, queue: Client) -> tuple[int, int]:
    """Send a frame that goes nowhere but into the detector; its alerts, and its ignored cups."""
    before = await camera.counts()
    told = await held(queue, f"events.alert.{camera.camera_id}")
    await camera.send(FRAME)
    after = await camera.counted({"frames": before.get("frames", 0) + 1})
    alerts = await held(queue, f"events.alert.{camera.camera_id}") - told
    return alerts, after.get("ignored.cup", 0) - before.get("ignored.cup", 0)


async def test_rules_hold_soon_after_they_were_set(system: Nereid, word: str) -> None:
    changes: list[tuple[dict[str, Any], int]] = [
        ({"labels": ["cat"]}, 0),
        ({"labels": ["cup"]}, 2),
        ({"min_score": 0.45}, 1),
        ({"min_score": 0.99}, 0),
        ({"zones": [{"name": "all", "polygon": [(0, 0), (1, 0), (1, 1), (0, 1)]}]}, 2),
    ]
    async with camera_of(system, word, **CUPS) as camera, nats_of(system) as queue:
        for change, alerts in changes:
            await camera.set(**CUPS | change)
            async with asyncio.timeout(RULED_S):  # each gives another count than the one before
                while (seen := await looked_at(camera, queue)) != (alerts, 2 - alerts):
                    assert sum(seen) == 2
        answer = await camera.http.delete(f"/api/v1/cameras/{word}")
        assert answer.status_code == 204
        async with asyncio.timeout(RULED_S):  # no cup among the default labels
            while await looked_at(camera, queue) != (0, 2):
                pass
        told = await held(queue, f"events.alert.{word}")
        assert len(await camera.recorded(told)) == told


async def test_an_object_counts_in_each_zone_that_the_middle_of_its_lower_edge_is_in(
    system: Nereid, word: str
) -> None:
    def band(name: str, top: float, bottom: float) -> dict[str, Any]:
        return {"name": name, "polygon": [(0, top), (1, top), (1, bottom), (0, bottom)]}

    bands = [band("table", 0.9, 1), band("middle", 0.5, 0.8), band("lower", 0.5, 1)]
    left = {"name": "left", "polygon": [(0, 0), (0.3, 0), (0.3, 1), (0, 1)]}
    async with camera_of(system, word, **CUPS, zones=[*bands, left]) as camera:
        await camera.send(FRAME)
        alerts = await camera.recorded(4)
        zones = Counter(alert["zone"] for alert in alerts)
        assert zones == {"table": 1, "middle": 1, "lower": 2}
        by_zone = {alert["zone"]: alert for alert in alerts}
        assert by_zone["table"]["score"] > by_zone["middle"]["score"]
        assert by_zone["table"]["box"]["height"] > 0.9 > by_zone["middle"]["box"]["height"]
        await camera.counted({"frames": 1})
        await camera.set(**CUPS, zones=[left])
        async with asyncio.timeout(RULED_S), nats_of(system) as queue:
            while (seen := await looked_at(camera, queue)) != (0, 2):
                assert seen == (4, 0)


async def test_a_cooldown_is_quiet_for_its_label_and_zone_alone(system: Nereid, word: str) -> None:
    at = moments(1)[0]
    frame = (PHOTOS / "astronaut.jpg").read_bytes()  # a person (0.73) and a chair (0.33)
    rules: dict[str, Any] = {
        "labels": ["person", "chair"],
        "min_score": 0.28,
        "cooldown_seconds": 60,
    }
    async with camera_of(system, word, **rules) as camera:
        await camera.send(frame, at)
        first = await camera.recorded(2)
        assert {alert["label"] for alert in first} == {"person", "chair"}
        for seconds in (59, -59):
            await camera.send(frame, at + timedelta(seconds=seconds))
        await camera.counted({"frames": 3, "cooled.person": 2, "cooled.chair": 2})
        assert len(await camera.alerts()) == 2
        for alerts, seconds in ((4, 60), (6, 120)):
            await camera.send(frame, at + timedelta(seconds=seconds))
            await camera.recorded(alerts)


async def test_of_equals_in_a_frame_a_cooldown_lets_the_best_pass(
    system: Nereid, word: str
) -> None:
    async with camera_of(system, word, **CUPS | {"cooldown_seconds": 60}) as camera:
        await camera.send(FRAME)
        await camera.counted({"frames": 1, "cooled.cup": 1})
        assert only(await camera.recorded(1))["score"] > 0.5


async def test_two_workers_make_one_alert_of_what_one_cooldown_covers(
    system: Nereid, word: str
) -> None:
    second = system.spawn("work")
    assert second.stdout is not None
    try:
        assert (await asyncio.to_thread(second.stdout.readline)).startswith("ready")
        async with (
            camera_of(system, word, **CUPS | {"cooldown_seconds": 3600}) as camera,
            nats_of(system) as queue,
            bucket_of(system) as bucket,
        ):
            key = await bucket.put(f"{word}.jpg", FRAME)
            js = queue.jetstream()
            await asyncio.gather(
                *(
                    js.publish(
                        f"frames.{word}",
                        json.dumps({"key": key, "captured_at": at.isoformat()}).encode(),
                    )
                    for at in moments(40)
                )
            )
            counts = await camera.counted({"frames": 40})
            assert counts["cooled.cup"] == 2 * 40 - 1
            assert len(await facts(queue, word)) == 1
            fact = only(await facts(queue, word))
            alert = only(await camera.recorded(1))
            assert alert["alert_id"] == fact["alert_id"]
    finally:
        second.terminate()
        assert await asyncio.to_thread(second.wait, 120) == 0
        second.stdout.close()


async def test_pages_show_each_alert_once_while_new_ones_come(system: Nereid, word: str) -> None:
    *times, middle, newest = moments(10)
    async with camera_of(system, word, **CUPS) as camera:
        for at in times:
            await camera.send(FRAME, at)
        first = {alert["alert_id"] for alert in await camera.recorded(16)}
        shown: list[str] = []
        query: dict[str, Any] = {"limit": 3}
        for pages in range(1, 20):
            page = await camera.page(**query)
            shown += [alert["alert_id"] for alert in page["items"]]
            if page["next_cursor"] is None:
                break
            query["cursor"] = page["next_cursor"]
            if pages in {1, 3}:  # newer than all, so it belongs before the first page
                await camera.send(FRAME, newest if pages == 1 else middle)
                await camera.recorded(18 if pages == 1 else 20)
        assert len(shown) == len(set(shown))
        assert set(shown) == first
        assert [alert["alert_id"] for alert in await camera.alerts(limit=3)][4:] == shown


async def test_readers_filter_mark_and_count(system: Nereid, word: str) -> None:
    at = moments(1)[0]
    hour = at.replace(minute=0, second=0, microsecond=0)
    async with camera_of(system, word, **CUPS) as camera:
        for captured_at in (at - timedelta(hours=5), at):
            await camera.send(FRAME, captured_at)
        alerts = await camera.recorded(4)

        async def ids(**query: Any) -> set[str]:
            return {alert["alert_id"] for alert in await camera.alerts(**query)}

        everything = await ids()
        newer = {alert["alert_id"] for alert in alerts[:2]}
        strong = {alert["alert_id"] for alert in alerts if alert["score"] >= 0.45}
        assert len(strong) == 2
        assert await ids(min_score=0.45) == strong
        assert await ids(label="cup") == everything
        assert await ids(label="cat") == set()
        assert await ids(**{"from": at.isoformat()}) == newer
        assert await ids(to=at.isoformat()) == everything - newer

        marked = alerts[0]["alert_id"]
        path = f"/api/v1/alerts/{marked}"
        answer = await camera.http.patch(path, json={"reviewed": True})
        assert (answer.status_code, answer.json()["reviewed"]) == (200, True)
        assert await ids(reviewed=True) == {marked}
        assert await ids(reviewed=False) == everything - {marked}
        answer = await camera.http.patch(path, json={"reviewed": False})
        assert (answer.status_code, answer.json()["reviewed"]) == (200, False)
        assert await ids(reviewed=False) == everything

        chart = await camera.http.get("/api/v1/alerts/counts", params={"camera_id": word})
        rows = [(datetime.fromisoformat(row.pop("hour")), row) for row in chart.json()["items"]]
        row = {"camera_id": word, "label": "cup", "count": 2}
        assert rows == [(hour - timedelta(hours=5), row), (hour, row)]


async def test_a_camera_that_wants_fresh_frames_sheds_the_old_ones_and_another_loses_nothing(
    system: Nereid, word: str
) -> None:
    burst = 100
    async with (
        camera_of(system, f"{word}_fresh", **CUPS, backlog="latest", max_waiting=5) as fresh,
        camera_of(system, f"{word}_all", **CUPS) as every,
        nats_of(system) as queue,
        bucket_of(system) as bucket,
    ):
        key = await bucket.put(f"{word}.jpg", FRAME)
        js = queue.jetstream()
        with frozen(system, "worker"):  # all are there before the first is looked at
            await asyncio.gather(
                *(
                    js.publish(
                        f"frames.{camera.camera_id}",
                        json.dumps({"key": key, "captured_at": at.isoformat()}).encode(),
                    )
                    for at in moments(burst)
                    for camera in (fresh, every)
                )
            )
        counts = await every.counted({"frames": burst}, within_s=200)
        assert "shed" not in counts
        await every.recorded(2 * burst, within_s=200)

        async with asyncio.timeout(60):
            counts = await fresh.counts()
            while counts.get("frames", 0) + counts.get("shed", 0) < burst:
                await asyncio.sleep(0.1)
                counts = await fresh.counts()
        assert counts["frames"] + counts["shed"] == burst
        assert 1 <= counts["frames"] <= 30
        alerts = await fresh.recorded(2 * counts["frames"])
        assert alerts[0]["captured_at"] == (await every.page(limit=1))["items"][0]["captured_at"]
