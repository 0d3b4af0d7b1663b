"""What the tests of camera alerts share: cameras over HTTP, on NATS, and frames in S3."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aioboto3
import httpx
import nats
import pyvips
from aiobotocore.config import AioConfig
from nats.aio.client import Client

from tests.live.conftest import Event, Nereid, client_of, encoded

DATA = Path(__file__).parents[1] / "data"
CUP = DATA / "coffee.png"
PHOTOS = DATA / "detection"
BUCKET = "nereid"
RECORDED_S = 60.0
"""The recorder is at most half a second behind; the rest is for a busy machine."""


def jpeg(photo: Path, *, width: int, crop: tuple[int, int, int, int] | None = None) -> bytes:
    """`photo`, or what is of it within `crop` (left, top, width, height), `width` pixels wide."""
    image = pyvips.Image.new_from_file(str(photo))
    if crop is not None:
        image = image.crop(*crop)
    return encoded(image.thumbnail_image(width, height=10_000, size="down"), ".jpg", Q=90)


def numbered(picture: bytes, number: int) -> bytes:
    """The same picture as another file: `number` in a JPEG comment (marker FFFE)."""
    text = f"{number:08}".encode()
    return picture[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2) + text + picture[2:]


def moments(count: int) -> list[datetime]:
    """Times of capture, a millisecond apart, that end now."""
    last = datetime.now(UTC).replace(microsecond=0)
    return [last - timedelta(milliseconds=count - number) for number in range(count)]


@dataclass(frozen=True, slots=True)
class Bucket:
    """The bucket, as another program that has the keys sees it."""

    s3: Any

    async def put(self, key: str, body: bytes, content_type: str = "image/jpeg") -> str:
        await self.s3.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType=content_type)
        return key

    async def keys(self, prefix: str) -> set[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {item["Key"] async for page in pages for item in page.get("Contents", ())}

    async def read(self, key: str) -> bytes:
        answer = await self.s3.get_object(Bucket=BUCKET, Key=key)
        body: bytes = await answer["Body"].read()
        return body


@asynccontextmanager
async def bucket_of(nereid: Nereid) -> AsyncIterator[Bucket]:
    """S3 with the keys of running.json."""
    running = nereid.running
    client = aioboto3.Session().client(
        "s3",
        endpoint_url=running["s3_endpoint"],
        aws_access_key_id=running["s3_access_key"],
        aws_secret_access_key=running["s3_secret_key"],
        region_name="us-east-1",
        config=AioConfig(s3={"addressing_style": "path"}, max_pool_connections=32),
    )
    async with client as s3:
        yield Bucket(s3)


@asynccontextmanager
async def nats_of(nereid: Nereid) -> AsyncIterator[Client]:
    """NATS with the credentials of running.json."""
    connection = await nats.connect(nereid.running["nats_url"])
    try:
        yield connection
    finally:
        await connection.close()


async def held(connection: Client, subject: str) -> int:
    """How many messages the queue holds on `subject`, those in hand included."""
    js = connection.jetstream()
    stream = await js.find_stream_name_by_subject(subject)
    info = await js.stream_info(stream, subjects_filter=subject)
    return sum((info.state.subjects or {}).values())


async def events(connection: Client, subject: str) -> list[Any]:
    """Everything that the stream EVENTS holds on `subject` now, read by a consumer of our own."""
    wanted = await held(connection, subject)
    subscription = await connection.jetstream().subscribe(subject, ordered_consumer=True)
    found = [json.loads((await subscription.next_msg(timeout=60)).data) for _ in range(wanted)]
    await subscription.unsubscribe()
    return found


async def position(connection: Client) -> str:
    """The id of the newest server-sent event, for `Last-Event-ID`."""
    return str((await connection.jetstream().stream_info("EVENTS")).state.last_seq)


async def facts(connection: Client, camera_id: str) -> list[Any]:
    """The facts that a camera's alerts were, without those that tell of their pictures."""
    return await events(connection, f"events.alert.{camera_id}")


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of a system, over HTTP."""

    camera_id: str
    http: httpx.AsyncClient

    async def set(self, **rules: Any) -> None:
        answer = await self.http.put(f"/api/v1/cameras/{self.camera_id}", json=rules)
        assert answer.status_code == 200, answer.text

    async def post(self, frame: bytes, captured_at: datetime | None = None) -> httpx.Response:
        query = {"camera_id": self.camera_id}
        if captured_at is not None:
            query["captured_at"] = captured_at.isoformat()
        return await self.http.post("/api/v1/frames", params=query, content=frame)

    async def send(self, frame: bytes, captured_at: datetime | None = None) -> dict[str, Any]:
        """Send a frame that is accepted; what the answer says."""
        answer = await self.post(frame, captured_at)
        assert answer.status_code == 202, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted

    async def page(self, **query: Any) -> dict[str, Any]:
        answer = await self.http.get("/api/v1/alerts", params={"camera_id": self.camera_id} | query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def alerts(self, **query: Any) -> list[dict[str, Any]]:
        """All alerts, over all pages."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.page(**{"limit": 200} | query | cursor)
            found += page["items"]
            if page["next_cursor"] is None:
                return found
            cursor = {"cursor": page["next_cursor"]}

    async def recorded(
        self, count: int, within_s: float = RECORDED_S, **query: Any
    ) -> list[dict[str, Any]]:
        """The camera's alerts once there are `count`, each with its picture."""
        async with asyncio.timeout(within_s):
            while True:
                found = await self.alerts(**query)
                assert len(found) <= count, found
                if len(found) == count and all(alert["image_url"] for alert in found):
                    return found
                await asyncio.sleep(0.05)

    async def any_recorded(self, within_s: float = RECORDED_S) -> list[dict[str, Any]]:
        """The camera's alerts once there are some: those of one frame come together."""
        async with asyncio.timeout(within_s):
            while not (found := await self.alerts()):
                await asyncio.sleep(0.05)
        return await self.recorded(len(found))

    async def counts(self) -> dict[str, int]:
        """What has happened to the camera's frames, over all hours."""
        answer = await self.http.get(f"/api/v1/cameras/{self.camera_id}/counts")
        assert answer.status_code == 200, answer.text
        sums: dict[str, int] = {}
        for item in answer.json()["items"]:
            for name, count in item["counts"].items():
                sums[name] = sums.get(name, 0) + count
        return sums

    async def counted(self, wanted: dict[str, int], within_s: float = RECORDED_S) -> dict[str, int]:
        """The counts, once those of `wanted` are so."""
        counts: dict[str, int] = {}
        try:
            async with asyncio.timeout(within_s):
                while (counts := await self.counts()) | wanted != counts:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise AssertionError(f"{counts}, not {wanted}") from None
        return counts

    async def follow(self, after: str | None = None) -> AsyncGenerator[Event, None]:
        """The camera's server-sent events, without end."""
        headers = {} if after is None else {"Last-Event-ID": after}
        query = {"camera_id": self.camera_id}
        path = "/api/v1/alerts/stream"
        async with self.http.stream("GET", path, params=query, headers=headers) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            fields: dict[str, str] = {}
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if line:
                    fields[name] = value
                elif "data" in fields:
                    yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
                    fields = {}

    async def followed(self, count: int, after: str | None = None) -> list[Event]:
        """The next `count` server-sent events."""
        found: list[Event] = []
        async with asyncio.timeout(60), aclosing(self.follow(after)) as events:
            async for event in events:
                found.append(event)
                if len(found) == count:
                    break
        return found


@asynccontextmanager
async def camera_of(
    nereid: Nereid, camera_id: str, client: str = "me", **rules: Any
) -> AsyncIterator[Camera]:
    """A camera of `nereid` with `rules`, as `client` sees it."""
    async with client_of(nereid, client) as http:
        camera = Camera(camera_id, http)
        await camera.set(**rules)
        yield camera


def only(found: Iterable[Any]) -> Any:
    """The one thing that was found."""
    (one,) = found
    return one
