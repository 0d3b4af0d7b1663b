"""What is wrong with a request or a picture is said at once, and the worker lives on."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import aioboto3
import numpy as np
import pytest
import pytest_asyncio
import pyvips

from tests.live.conftest import KEY, Api, Nereid, encoded

PROBLEM = "application/problem+json"
LARGEST_UPLOAD_BYTES = 4_000_000  # as the fixture `system` sets it


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A greyscale PNG whose pixels may be anything."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


BOMB = png(65_500, 65_500, zlib.compress(bytes(1_000_000), 9))


@pytest_asyncio.fixture(autouse=True)
async def the_worker_lives_on(system: Nereid, api: Api, photo: bytes) -> AsyncIterator[None]:
    before = system.part("worker"), system.part("gateway")
    yield
    await api.run(photo)
    assert (system.part("worker"), system.part("gateway")) == before


@pytest_asyncio.fixture
async def bucket(system: Nereid) -> AsyncIterator[Any]:
    """S3 itself, for files that no upload takes."""
    session = aioboto3.Session(
        system.running["s3_access_key"], system.running["s3_secret_key"], region_name="us-east-1"
    )
    async with session.client("s3", endpoint_url=system.running["s3_endpoint"]) as client:
        yield client


async def failure(api: Api, file_path: str) -> str:
    """The code of a task's failure, which cost one attempt: nothing was tried again."""
    row = await api.finished(await api.process(file_path))
    assert (row["status"], row["attempts"], row["result"]) == ("failed", 1, None)
    assert len(row["error"]["message"]) > 20
    return str(row["error"]["code"])


def truncated(photo: bytes) -> bytes:
    return photo[: len(photo) // 2]


def damaged_png(image: pyvips.Image) -> bytes:
    file = bytearray(encoded(image, ".png"))
    middle = len(file) // 2
    file[middle : middle + 64] = bytes(64)
    return bytes(file)


async def test_a_truncated_jpeg_fails_at_once(api: Api, photo: bytes) -> None:
    assert await failure(api, await api.upload(truncated(photo))) == "corrupt_picture"


async def test_a_damaged_png_fails_at_once(api: Api, image: pyvips.Image) -> None:
    assert await failure(api, await api.upload(damaged_png(image))) == "corrupt_picture"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (BOMB, 422, "picture_too_large"),
        (b"not a picture at all\n" * 50, 415, "unsupported_media_type"),
        (b"", 422, "empty_body"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", 422, "corrupt_picture"),
        (bytes(LARGEST_UPLOAD_BYTES + 1), 413, "body_too_large"),
    ],
    ids=["bomb", "text", "empty", "stump", "large"],
)
async def test_an_upload_that_is_no_photo_is_refused_and_not_stored(
    api: Api, system: Nereid, content: bytes, status: int, code: str
) -> None:
    stored = sorted((system.data / "s3" / "nereid").rglob("*"))
    for form in (False, True):
        sent: dict[str, Any] = {"files": {"file": ("x.jpg", content)}} if form else {}
        answer = await api.http.post(
            "/api/v1/media",
            **(sent or {"content": content, "headers": {"Content-Type": "image/jpeg"}}),
        )
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["content-type"] == PROBLEM
        assert answer.json()["field"] == "file"
    assert sorted((system.data / "s3" / "nereid").rglob("*")) == stored


async def test_a_body_that_hides_its_size_is_cut_off_at_the_limit(api: Api) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(LARGEST_UPLOAD_BYTES // 100_000 + 2):
            yield bytes(100_000)

    answer = await api.http.post("/api/v1/media", content=endless())
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("member", "value", "status", "field"),
    [
        ("file_path", "../credentials.json", 422, "file_path"),
        ("file_path", "uploads/../../credentials.json", 422, "file_path"),
        ("file_path", "/..", 422, "file_path"),
        ("file_path", "a\x00b.jpg", 422, "file_path"),
        ("file_path", "x" * 1_000_000, 422, "file_path"),
        ("file_path", "", 422, "file_path"),
        ("file_path", None, 422, "file_path"),
        ("file_path", "nothing/here.jpg", 404, "file_path"),
        ("workflow", "x" * 1_000_000, 422, "workflow"),
        ("workflow", "no-such-workflow", 422, "workflow"),
        ("workflow", "document-processing-pipeline", 422, "workflow"),
        ("priority", 0, 422, "priority"),
        ("priority", 11, 422, "priority"),
        ("priority", "high", 422, "priority"),
        ("callback_url", "ftp://example.org/x", 422, "callback_url"),
        ("unheard_of", 1, 422, None),
        ("parameters", {"image_enhance": {"scale_factor": 0}}, 422, "scale_factor"),
        ("parameters", {"image_enhance": {"scale_factor": 5}}, 422, "scale_factor"),
        ("parameters", {"image_enhance": {"scale_factor": 2.5}}, 422, "scale_factor"),
        ("parameters", {"image_enhance": {"denoise_strength": 1.1}}, 422, "denoise_strength"),
        ("parameters", {"image_enhance": {"model": "no-such"}}, 422, "model"),
        ("parameters", {"image_enhance": {"sharpen": True}}, 422, "image_enhance"),
        ("parameters", {"output": {"format": "bmp"}}, 422, "format"),
        ("parameters", {"output": {"quality": 0}}, 422, "quality"),
    ],
)
async def test_a_request_that_breaks_a_rule_is_told_which(
    api: Api, photo: bytes, member: str, value: Any, status: int, field: str | None
) -> None:
    body = {"file_path": await api.upload(photo), "workflow": "nas-photo-processing"}
    answer = await api.http.post("/api/v1/media:process", json=body | {member: value})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert problem["status"] == status
    assert problem["code"]
    assert len(answer.content) < 4000
    if field is None:
        assert member in problem["detail"]
    else:
        assert field in problem["field"], problem


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
async def test_a_body_that_is_no_json_object_is_refused(api: Api, body: bytes) -> None:
    answer = await api.http.post(
        "/api/v1/media:process", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == PROBLEM


@pytest.mark.parametrize("path", ["../x.jpg", "a//b.jpg", "results/x.jpg", "a\x00.jpg", "x" * 2000])
async def test_an_upload_goes_nowhere_else(api: Api, photo: bytes, path: str) -> None:
    answer = await api.http.post("/api/v1/media", content=photo, params={"path": path})
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == "path"


async def test_an_upload_replaces_no_file(api: Api, photo: bytes, word: str) -> None:
    for expected in (201, 409):
        answer = await api.http.post(
            "/api/v1/media", files={"file": photo}, data={"path": f"/album/{word}.jpg"}
        )
        assert answer.status_code == expected, answer.text
    await api.finished(await api.process(f"/album/{word}.jpg"))


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
async def test_an_animation_is_refused_on_both_ways_in(
    api: Api, bucket: Any, image: pyvips.Image, word: str, suffix: str
) -> None:
    film = image.join(image.invert(), "vertical").copy()
    film.set_type(pyvips.GValue.gint_type, "page-height", image.height)
    film.set_type(pyvips.GValue.array_int_type, "delay", [100, 100])
    file = encoded(film, suffix)
    answer = await api.http.post("/api/v1/media", content=file)
    assert (answer.status_code, answer.json()["code"]) == (422, "animated_picture")
    await bucket.put_object(Bucket="nereid", Key=f"films/{word}{suffix}", Body=file)
    assert await failure(api, f"films/{word}{suffix}") == "animated_picture"


async def test_files_that_others_put_into_the_bucket_are_looked_at_too(
    api: Api, bucket: Any, word: str
) -> None:
    for name, content, code in (
        ("bomb.png", BOMB, "picture_too_large"),
        ("text.jpg", b"Dear diary", "unsupported_media_type"),
        ("empty.jpg", b"", "unsupported_media_type"),
        ("large.jpg", bytes(LARGEST_UPLOAD_BYTES + 1), "file_too_large"),
    ):
        await bucket.put_object(Bucket="nereid", Key=f"{word}/{name}", Body=content)
        assert await failure(api, f"{word}/{name}") == code


async def test_a_file_that_is_gone_when_its_turn_comes_fails_at_once(
    api: Api, bucket: Any, photo: bytes, word: str
) -> None:
    key = f"{word}.jpg"
    await bucket.put_object(Bucket="nereid", Key=key, Body=photo)
    large = pyvips.Image.black(1600, 1200, bands=3) + 90  # two of it keep both slots busy
    busy_path = await api.upload(encoded(large.cast("uchar"), ".jpg"))
    busy = [await api.process(busy_path) for _ in range(2)]
    for task_id in busy:
        await api.first(task_id, lambda event: event.name == "processing")
    waiting = await api.process(key)
    await bucket.delete_object(Bucket="nereid", Key=key)
    for task_id in busy:
        await api.http.post(f"/api/v1/media/processingTasks/{task_id}:cancel")
    row = await api.finished(waiting)
    assert (row["status"], row["attempts"]) == ("failed", 1)
    assert row["error"]["code"] == "file_not_found"


async def test_noise_of_any_kind_never_stops_the_worker(api: Api, bucket: Any, word: str) -> None:
    random = np.random.default_rng(5)
    heads = [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\0\1\0\0WEBPVP8 ",
        b"II*\0",
        b"GIF89a",
    ]
    for number, head in enumerate(heads):
        key = f"{word}/{number}"
        content = head + random.bytes(2000)
        await bucket.put_object(Bucket="nereid", Key=key, Body=content)
        row = await api.finished(await api.process(key))
        assert row["status"] == "failed"
        assert row["attempts"] == 1
        assert row["error"]["code"] != "internal_error"


JPEG = b"Content-Type: image/jpeg\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
RAW_BODIES: dict[str, bytes] = {
    "shorter than told": JPEG + b"Content-Length: 5000\r\n\r\n\xff\xd8\xff",
    "chunks without an end": JPEG + CHUNKED + b"\r\n5\r\n\xff\xd8\xff\xe0\x00\r\n",
    "a chunk of no number": JPEG + CHUNKED + b"\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a chunk below nothing": JPEG + CHUNKED + b"\r\n-5\r\nabc\r\n0\r\n\r\n",
    "a chunk without end of line": JPEG + CHUNKED + b"\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "a chunk beyond all memory": JPEG + CHUNKED + b"\r\nffffffffffffffff\r\nabc",
    "a size of no number": JPEG + b"Content-Length: many\r\n\r\nabc",
    "a size below nothing": JPEG + b"Content-Length: -1\r\n\r\nabc",
    "a form without a boundary": FORM.replace(b"; boundary=b", b"")
    + b"Content-Length: 3\r\n\r\nabc",
    "a form of another boundary": FORM + b"Content-Length: 16\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n",
    "a form that ends in a header": FORM + b"Content-Length: 25\r\n\r\n--b\r\nContent-Disposition",
    "a form without names": FORM + b"Content-Length: 18\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n.",
    "a form of headers alone": FORM
    + b"Content-Length: 200005\r\n\r\n--b\r\n"
    + b"A: b\r\n" * 33_333
    + b"\r\n",
    "an endless header in a form": FORM
    + b"Content-Length: 200005\r\n\r\n--b\r\nA: "
    + b"x" * 199_997,
    "a form of a thousand parts": FORM
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"".join(
        b"%x\r\n%s\r\n" % (len(part), part)
        for part in [b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n'] * 1000
    )
    + b"0\r\n\r\n",
    "noise": bytes(range(256)) * 40,
    "a request without an end": b"X-Half: ",
}
"""What follows the first lines of an upload, over a socket that is closed for writing then."""


async def raw_answer(url: str, request: bytes) -> bytes:
    """What comes back until the gateway closes."""
    host, _, port = url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        with suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
            writer.write_eof()
        async with asyncio.timeout(60):
            with suppress(ConnectionError):
                return await reader.read()
        return b""
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_body_that_breaks_http_is_refused_or_cut_off(api: Api, system: Nereid) -> None:
    stored = sorted((system.data / "s3" / "nereid").rglob("*"))
    for name, body in RAW_BODIES.items():
        for path in ("/api/v1/media", "/api/v1/translate_audio", "/api/v1/frames?camera_id=gate"):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY.format('me')}\r\n"
            answer = await raw_answer(system.url, head.encode() + body)
            status = answer[:12].decode("latin-1")
            assert not answer or status.startswith("HTTP/1.1 4"), (name, path, answer[:300])
    assert sorted((system.data / "s3" / "nereid").rglob("*")) == stored
    assert list((system.data / "scratch").glob("*/*")) == []
    assert (await api.http.get("/health/live")).status_code == 200
