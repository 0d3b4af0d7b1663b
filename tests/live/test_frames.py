"""Frames that cannot be looked at: refused over HTTP, dead letters with their reason on NATS."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
import pyvips

from tests.live.cameras import (
    CUP,
    Bucket,
    Camera,
    bucket_of,
    camera_of,
    held,
    jpeg,
    moments,
    nats_of,
    only,
)
from tests.live.conftest import Api, Nereid, client_of, encoded
from tests.live.test_bad_input import png

FRAME = jpeg(CUP, width=160)
CUPS: dict[str, Any] = {"labels": ["cup"], "min_score": 0.3, "cooldown_seconds": 0}
BURIED_S = 60
HUGE = png(20_000, 20_000, zlib.compress(bytes(100_000), 9))
ONE_PIXEL = encoded(pyvips.Image.black(1, 1), ".png")
UNREADABLE = {
    "no JSON": b"\xff\xd8 a picture itself",
    "no key": b"{}",
    "a time without its zone": b'{"key": "a.jpg", "captured_at": "2026-01-31T12:00:00"}',
    "a list": b"[1]",
    "nothing": b"",
}
BAD_OBJECTS = {
    "corrupt_picture": (FRAME[: len(FRAME) // 2], "image/jpeg"),
    "unsupported_media_type": (b"this is not a picture", "image/jpeg"),
    "picture_too_small": (ONE_PIXEL, "image/png"),
    "picture_too_large": (HUGE, "image/png"),
    "wrong_content_type": (FRAME, "text/plain"),
}
"""By the code of their letter: the object, and the type that it is declared with."""


@pytest_asyncio.fixture
async def camera(system: Nereid, word: str) -> AsyncIterator[Camera]:
    async with camera_of(system, word, **CUPS) as camera:
        yield camera


@pytest_asyncio.fixture
async def bucket(system: Nereid) -> AsyncIterator[Bucket]:
    async with bucket_of(system) as bucket:
        yield bucket


@pytest_asyncio.fixture
async def operator(system: Nereid) -> AsyncIterator[httpx.AsyncClient]:
    """Who may read and send again what no function could deal with."""
    async with client_of(system, "operator") as http:
        yield http


async def letters(operator: httpx.AsyncClient, camera: Camera) -> list[dict[str, Any]]:
    """The dead letters of a camera, over all pages."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"function": "alerts.detect", "limit": 3}
    while True:
        answer = await operator.get("/api/v1/deadletters", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        if page["next_cursor"] is None:
            return [one for one in found if one["subject"] == f"frames.{camera.camera_id}"]
        query["cursor"] = page["next_cursor"]


async def buried(operator: httpx.AsyncClient, camera: Camera, count: int) -> list[dict[str, Any]]:
    """The camera's letters once there are `count`, each after one attempt."""
    async with asyncio.timeout(BURIED_S):
        while len(found := await letters(operator, camera)) < count:
            await asyncio.sleep(0.1)
    assert len(found) == count
    for letter in found:
        assert letter["attempts"] == 1
        assert len(letter["message"]) > 20
    return found


async def publish(system: Nereid, camera_id: str, *frames: dict[str, Any] | bytes) -> None:
    async with nats_of(system) as queue:
        for frame in frames:
            data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
            await queue.jetstream().publish(f"frames.{camera_id}", data)


async def test_bad_pictures_in_s3_become_dead_letters_at_once_each_with_its_reason(
    system: Nereid, camera: Camera, bucket: Bucket, operator: httpx.AsyncClient, word: str
) -> None:
    keys = {
        await bucket.put(f"{word}/{code}", body, content_type): code
        for code, (body, content_type) in BAD_OBJECTS.items()
    }
    keys[f"{word}/was-never-there.jpg"] = "file_not_found"
    await publish(system, word, *({"key": key} for key in keys))
    found = await buried(operator, camera, len(keys))
    assert {letter["payload"]["key"]: letter["code"] for letter in found} == keys
    assert await bucket.keys(f"{word}/") == keys.keys() - {f"{word}/was-never-there.jpg"}
    await camera.send(FRAME)  # the next one is looked at as if nothing had been
    await camera.recorded(2)


async def test_keys_of_other_owners_become_dead_letters_and_are_not_looked_at(
    system: Nereid, camera: Camera, api: Api, operator: httpx.AsyncClient, word: str
) -> None:
    async with client_of(system, "other") as http:
        private = await Api(http).upload(FRAME)
    mine = await api.upload(FRAME)
    refused = {
        private: "key_not_allowed",
        private.removeprefix("/"): "key_not_allowed",
        f"frames/another-{word}/1.jpg": "key_not_allowed",
        "results/a/b.jpg": "key_not_allowed",
        "alerts/2026-01-31/yard/1.jpg": "key_not_allowed",
        f"mine/../{private.removeprefix('/')}": "invalid_file_path",
        "": "invalid_file_path",
    }
    await publish(system, word, *({"key": key} for key in refused))
    await publish(system, word, {"key": private, "client_id": "me"})
    found = await buried(operator, camera, len(refused) + 1)
    newest, *others = found
    assert newest["code"] == "key_not_allowed"
    assert {letter["payload"]["key"]: letter["code"] for letter in others} == refused
    await publish(system, word, {"key": mine, "client_id": "me"})
    assert len(await camera.recorded(2)) == 2


async def test_messages_that_are_no_frames_become_dead_letters(
    system: Nereid, camera: Camera, operator: httpx.AsyncClient, word: str
) -> None:
    await publish(system, word, *UNREADABLE.values())
    found = await buried(operator, camera, len(UNREADABLE))
    assert {letter["code"] for letter in found} == {"unreadable"}
    await publish(system, word, {"key": "a.jpg", "captured_at": "9999-12-31T23:59:59Z"})
    newest, *_ = await buried(operator, camera, len(UNREADABLE) + 1)
    assert newest["code"] == "invalid_captured_at"


async def test_a_frame_of_a_camera_that_cannot_be_becomes_a_dead_letter(
    system: Nereid, operator: httpx.AsyncClient, word: str
) -> None:
    name = f"{word}-käse"
    await publish(system, name, {"key": "a.jpg"})
    async with client_of(system, "me") as http:
        letter = only(await buried(operator, Camera(name, http), 1))
    assert letter["code"] == "invalid_camera_id"


async def test_a_mended_frame_is_sent_again_and_makes_its_alerts(
    system: Nereid, camera: Camera, bucket: Bucket, operator: httpx.AsyncClient, word: str
) -> None:
    key = f"{word}/late.jpg"
    at = moments(1)[0]
    await publish(system, word, {"key": key, "captured_at": at.isoformat()})
    letter = only(await buried(operator, camera, 1))
    path = f"/api/v1/deadletters/{letter['letter_id']}"
    assert (await operator.get(path)).json() == letter
    assert (await camera.http.get(path)).status_code == 403
    assert (await camera.http.post(f"{path}:resend")).status_code == 403

    await bucket.put(key, FRAME)
    answer = await operator.post(f"{path}:resend")
    assert answer.status_code == 202, answer.text
    alerts = await camera.recorded(2)
    assert {datetime.fromisoformat(alert["captured_at"]) for alert in alerts} == {at}
    assert await letters(operator, camera) == []
    assert (await operator.post(f"{path}:resend")).status_code == 404


async def test_a_frame_sent_again_without_mending_comes_back_as_a_letter(
    system: Nereid, camera: Camera, operator: httpx.AsyncClient, word: str
) -> None:
    await publish(system, word, {"key": f"{word}/never.jpg"})
    first = only(await buried(operator, camera, 1))
    answer = await operator.post(f"/api/v1/deadletters/{first['letter_id']}:resend")
    assert answer.status_code == 202
    async with asyncio.timeout(BURIED_S):
        while not (found := await letters(operator, camera)):
            await asyncio.sleep(0.1)
    second = only(found)
    assert second["letter_id"] != first["letter_id"]
    assert (second["code"], second["payload"]) == (first["code"], first["payload"])
    removed = await operator.delete(f"/api/v1/deadletters/{second['letter_id']}")
    assert removed.status_code == 204
    assert await letters(operator, camera) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (FRAME[:20], 422, "corrupt_picture"),
        (b"this is not a picture", 415, "unsupported_media_type"),
        (HUGE, 422, "picture_too_large"),
        (b"", 422, "empty_body"),
    ],
    ids=["corrupt", "no picture", "huge", "empty"],
)
async def test_a_bad_frame_is_refused_over_http_and_leaves_nothing(
    system: Nereid, camera: Camera, bucket: Bucket, body: bytes, status: int, code: str
) -> None:
    answer = await camera.post(body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 20
    assert await bucket.keys(f"frames/{camera.camera_id}/") == set()
    async with nats_of(system) as queue:
        assert await held(queue, f"frames.{camera.camera_id}") == 0


async def test_a_frame_that_breaks_off_after_its_header_is_kept_beside_its_letter(
    system: Nereid, camera: Camera, bucket: Bucket, operator: httpx.AsyncClient
) -> None:
    await camera.send(FRAME[: len(FRAME) // 2])
    letter = only(await buried(operator, camera, 1))
    assert letter["code"] == "corrupt_picture"
    assert await bucket.keys(f"frames/{camera.camera_id}/") == {letter["payload"]["key"]}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({}, "camera_id"),
        ({"camera_id": "my camera"}, "camera_id"),
        ({"camera_id": "a.b"}, "camera_id"),
        ({"camera_id": ">"}, "camera_id"),
        ({"camera_id": "a" * 65}, "camera_id"),
        ({"camera_id": "a", "captured_at": "yesterday"}, "captured_at"),
        ({"camera_id": "a", "captured_at": "2026-01-31T12:00:00"}, "captured_at"),
    ],
)
async def test_a_frame_whose_query_does_not_fit_is_refused_by_field(
    api: Api, query: dict[str, str], field: str
) -> None:
    answer = await api.http.post("/api/v1/frames", params=query, content=FRAME)
    assert answer.status_code in {400, 422}
    assert field in answer.text
    assert answer.headers["content-type"] == "application/problem+json"


async def test_a_form_with_a_file_is_a_frame_too(camera: Camera) -> None:
    answer = await camera.http.post(
        "/api/v1/frames",
        params={"camera_id": camera.camera_id},
        files={"file": ("any name.jpeg", FRAME)},
    )
    assert answer.status_code == 202, answer.text
    assert len(await camera.recorded(2)) == 2
