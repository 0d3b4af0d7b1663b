"""Camera frames with known content, sent to a system in which parts die."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import nats.errors
from botocore.exceptions import BotoCoreError, ClientError
from nats.aio.client import Client

from tests.live.cameras import PHOTOS, Bucket, Camera, events, jpeg, numbered
from tests.live.conftest import Api

RULES: dict[str, Any] = {
    "labels": ["person", "cup", "cat"],
    "min_score": 0.33,
    "cooldown_seconds": 0,
}
KINDS = (
    jpeg(PHOTOS / "coffee.jpg", width=160),
    jpeg(PHOTOS / "astronaut.jpg", width=160),
    jpeg(PHOTOS / "chelsea.jpg", width=451),
    jpeg(PHOTOS / "coffee.jpg", width=160, crop=(0, 0, 160, 120)),
)
"""Two cups (0.53, 0.37), a person (0.73), a cat (0.53), and a table: nothing above 0.29."""
SEEN = (("cup", "cup"), ("person",), ("cat",), ())
AWAY = (BotoCoreError, ClientError, nats.errors.Error, OSError)
"""What S3's and NATS's clients raise while their server is away."""
PAUSE_S = 0.1
"""After a refusal, as a camera that tries again."""
PACE_S = 0.25
"""Between two frames of a camera."""
DOWNLOADS = 16

Sight = list[tuple[str, tuple[float, ...]]]


def sight(alerts: Iterable[dict[str, Any]]) -> Sight:
    """Labels and boxes, to a tenth: in another batch an engine adds in another order."""
    sides = ("x", "y", "width", "height")
    return sorted((a["label"], tuple(round(a["box"][side], 1) for side in sides)) for a in alerts)


def by_capture(alerts: Iterable[dict[str, Any]]) -> dict[datetime, list[dict[str, Any]]]:
    """Alerts by their frame."""
    found: dict[datetime, list[dict[str, Any]]] = {}
    for alert in alerts:
        found.setdefault(datetime.fromisoformat(alert["captured_at"]), []).append(alert)
    return found


@dataclass
class Load:
    """Frames of one camera; each has a time of capture and a file of its own."""

    camera: Camera
    start: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))
    made: int = 0
    accepted: dict[datetime, int] = field(default_factory=dict)
    unsure: dict[datetime, int] = field(default_factory=dict)
    """Frames over HTTP that were not accepted: nobody said that they were lost either."""
    refusals: Counter[str] = field(default_factory=Counter)
    frame_ids: set[str] = field(default_factory=set)

    def next(self) -> tuple[datetime, int]:
        """A time of capture that no other frame has, and the frame's number."""
        number = self.made
        self.made += 1
        return self.start + timedelta(milliseconds=number), number

    @staticmethod
    def picture(number: int) -> bytes:
        """The frame of this number, of each kind in turn."""
        return numbered(KINDS[number % len(KINDS)], number)

    async def post_until(self, enough: asyncio.Event, count: int) -> None:
        """Send `count` frames over HTTP at a camera's pace, and go on until `enough`."""
        while count > 0 or not enough.is_set():
            await self.post(1)
            count -= 1
            await asyncio.sleep(PACE_S)

    async def post(self, count: int) -> None:
        """Send frames over HTTP until `count` are accepted."""
        left = count
        while left:
            at, number = self.next()
            try:
                answer = await self.camera.post(self.picture(number), at)
            except httpx.TransportError as error:
                refusal = type(error).__name__
            else:
                if answer.status_code == 202:
                    self.accepted[at] = number
                    self.frame_ids.add(answer.json()["frame_id"])
                    left -= 1
                    continue
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) > 0
                refusal = answer.json()["code"]
            self.unsure[at] = number
            self.refusals[refusal] += 1
            await asyncio.sleep(PAUSE_S)

    async def publish(self, count: int, bucket: Bucket, queue: Client) -> None:
        """Put `count` frames into S3 and publish each until the queue has it once."""
        js = queue.jetstream()
        for _ in range(count):
            at, number = self.next()
            key = f"mine/{number}.jpg"
            message = json.dumps({"key": key, "captured_at": at.isoformat()}).encode()
            await until_done(bucket.put, key, self.picture(number))
            await until_done(
                js.publish,
                f"frames.{self.camera.camera_id}",
                message,
                headers={"Nats-Msg-Id": f"mine-{number}"},
            )
            self.accepted[at] = number

    def expected(self) -> int:
        """How many alerts the accepted frames make."""
        return sum(len(SEEN[number % len(KINDS)]) for number in self.accepted.values())

    def check(self, alerts: list[dict[str, Any]], known: list[Sight]) -> None:
        """Every accepted frame made its alerts once, and no frame makes half of them."""
        assert len({alert["alert_id"] for alert in alerts}) == len(alerts)
        found = by_capture(alerts)
        frames = self.accepted | {at: n for at, n in self.unsure.items() if at in found}
        assert found.keys() <= frames.keys()
        for at, number in frames.items():
            assert sight(found.get(at, [])) == known[number % len(KINDS)], number

    async def check_pictures(self, api: Api, alerts: list[dict[str, Any]]) -> None:
        """Every alert's picture is there, and is its frame."""
        numbers = self.accepted | self.unsure
        slots = asyncio.Semaphore(DOWNLOADS)

        async def check(alert: dict[str, Any]) -> None:
            number = numbers[datetime.fromisoformat(alert["captured_at"])]
            async with slots:
                assert await api.download(alert["image_url"]) == self.picture(number)

        await asyncio.gather(*map(check, alerts))

    async def check_facts(self, queue: Client, alerts: list[dict[str, Any]]) -> list[str]:
        """The stream tells each alert once, and its picture once; return the frames' keys."""
        ids = sorted(alert["alert_id"] for alert in alerts)
        subject = f"events.alert.{self.camera.camera_id}"
        told = await events(queue, subject)
        assert sorted(fact["alert_id"] for fact in told) == ids
        kept = await events(queue, f"{subject}.image")
        assert sorted(fact["alert_id"] for fact in kept) == ids
        return [fact["frame_key"] for fact in told]


async def until_done(call: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> None:
    """Repeat `call` while its server is away."""
    while True:
        try:
            await call(*args, **named)
        except AWAY:
            await asyncio.sleep(PAUSE_S)
        else:
            return


async def first_pass(camera: Camera) -> list[Sight]:
    """What is seen in each kind while nothing disturbs: what must be seen ever after."""
    load = Load(camera)
    for _ in KINDS:
        await load.post(1)
    await camera.counted({"frames": len(KINDS)})
    found = by_capture(await camera.recorded(load.expected()))
    known = [sight(found.get(at, [])) for at in load.accepted]
    assert [tuple(label for label, _ in seen) for seen in known] == list(SEEN)
    return known
