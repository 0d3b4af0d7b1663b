"""What cannot be looked at ends at once, each with its reason."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import msgspec
import pytest

from functions._kit.errors import JobFailed, NereidError, RequestError
from functions.alerts.contracts import Frame

if TYPE_CHECKING:
    from tests.functions.alerts.conftest import Yard

NOON = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
PERSON = 0
Picture = Callable[..., bytes]


async def code_of(yard: Yard, frame: Frame, *, subject: str = "frames.gate") -> str:
    """The reason for which the frame ends; it is one that no retry can mend."""
    before = (dict(yard.objects.contents), yard.stream.records("events.>"))
    with pytest.raises(NereidError) as caught:
        await yard.detect(frame, subject=subject)
    assert isinstance(caught.value, JobFailed | RequestError), "it would be tried again"
    assert caught.value.message
    assert len(caught.value.message) < 1000
    after = (dict(yard.objects.contents), yard.stream.records("events.>"))
    assert after == before
    assert yard.counted() == {}
    assert yard.tally.frames_in_hand("gate") == 0
    return caught.value.code


def png(width: int, height: int) -> bytes:
    """A PNG of this size by its header, with hardly any pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + packed + chunk(b"IEND", b"")


def huge_jpeg(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", 20_000, 20_000) + jpeg[at + 4 :]


async def test_a_picture_that_cannot_be_read_says_why(
    yard: Yard, jpeg: bytes, picture: Picture
) -> None:
    cases = {
        "half a JPEG": (jpeg[: len(jpeg) // 2], "corrupt_picture"),
        "a JPEG's first bytes": (jpeg[:30], "corrupt_picture"),
        "a damaged PNG": (png(640, 480), "corrupt_picture"),
        "words": (b"no picture at all", "unsupported_media_type"),
        "nothing": (b"", "unsupported_media_type"),
        "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_media_type"),
        "1 x 1": (picture(1, 1), "picture_too_small"),
        "15 x 480": (picture(15, 480), "picture_too_small"),
        "20,000 x 20,000 PNG": (png(20_000, 20_000), "picture_too_large"),
        "20,000 x 20,000 JPEG": (huge_jpeg(jpeg), "picture_too_large"),
    }
    codes = {}
    for what, (content, _) in cases.items():
        key = yard.put("frames/gate/bad.jpg", content)
        codes[what] = await code_of(yard, Frame(key=key, captured_at=NOON))
    assert codes == {what: code for what, (_, code) in cases.items()}


async def test_sixteen_pixels_are_enough(yard: Yard, picture: Picture) -> None:
    await yard.detect(yard.frame(picture(16, 16)))
    assert yard.counted() == {"frames": 1}


async def test_more_bytes_than_the_limit_are_not_read(yard: Yard, jpeg: bytes) -> None:
    yard.limits = replace(yard.limits, max_frame_bytes=len(jpeg))
    await yard.detect(yard.frame(jpeg))
    yard.tally.sums.clear()
    yard.limits = replace(yard.limits, max_frame_bytes=len(jpeg) - 1)
    assert await code_of(yard, yard.frame(jpeg)) == "file_too_large"


@pytest.mark.parametrize(
    "content_type",
    ["text/html", "application/json", "application/pdf", "audio/wav", "video/mp4", "Text/Plain"],
)
async def test_an_object_that_is_declared_to_be_no_picture_is_none(
    yard: Yard, jpeg: bytes, content_type: str
) -> None:
    key = yard.put("cctv/1.jpg", jpeg, content_type)
    assert await code_of(yard, Frame(key=key, captured_at=NOON)) == "wrong_content_type"


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg", "image/png", "", "application/octet-stream", "binary/octet-stream"],
)
async def test_a_store_that_does_not_know_is_no_reason(
    yard: Yard, jpeg: bytes, content_type: str
) -> None:
    await yard.detect(Frame(key=yard.put("cctv/1.jpg", jpeg, content_type), captured_at=NOON))
    assert yard.counted() == {"frames": 1}


@pytest.mark.parametrize(
    ("key", "client_id"),
    [
        ("uploads/bob/1.jpg", None),
        ("uploads/bob/1.jpg", "alice"),
        ("uploads/alice/1.jpg", None),
        ("uploads/alicette/1.jpg", "alice"),
        ("uploads/1.jpg", ""),
        ("/uploads/bob/1.jpg", "alice"),
        ("results/0198/0.png", "alice"),
        ("alerts/2026-05-04/gate/1.jpg", "alice"),
        ("frames/door/1.jpg", "alice"),
        ("frames/gateway/1.jpg", "alice"),
        ("frames/1.jpg", "alice"),
    ],
)
async def test_what_belongs_to_others_is_not_looked_at(
    yard: Yard, jpeg: bytes, key: str, client_id: str | None
) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    yard.put(key.removeprefix("/"), jpeg)
    frame = Frame(key=key, captured_at=NOON, client_id=client_id)
    assert await code_of(yard, frame) == "key_not_allowed"
    assert yard.stream.records("jobs.>") == []


@pytest.mark.parametrize("client_id", ["alice", None])
async def test_keys_of_ones_own_and_keys_of_nobody_are_looked_at(
    yard: Yard, jpeg: bytes, client_id: str | None
) -> None:
    keys = ["cctv/1.jpg", "1.jpg", "frames/gate/1.jpg", "framesets/1.jpg"]
    keys += ["uploads/alice/1.jpg"] if client_id else []
    for key in keys:
        await yard.detect(Frame(key=yard.put(key, jpeg), captured_at=NOON, client_id=client_id))
    assert yard.counted() == {"frames": len(keys)}
    assert yard.discarded() == ["frames/gate/1.jpg"]


@pytest.mark.parametrize(
    "key",
    [
        "", "/", "..", "frames/gate/../door/1.jpg", "uploads/alice/../bob/1.jpg", "a//b", "a/./b",
        "//uploads/bob/1.jpg", "frames\\door", "a\nb", "a\0b", "k" * 1025,
    ],
)  # fmt: skip
async def test_a_key_that_could_mean_another_place_is_refused(yard: Yard, key: str) -> None:
    frame = Frame(key=key, captured_at=NOON, client_id="alice")
    assert await code_of(yard, frame) == "invalid_file_path"


@pytest.mark.parametrize("camera_id", ["", "a b", "Tür", "a/b", "..", "x" * 65, "a.b", "a\n"])
async def test_a_subject_without_a_cameras_id_is_refused(
    yard: Yard, jpeg: bytes, camera_id: str
) -> None:
    assert await code_of(yard, yard.frame(jpeg), subject=f"frames.{camera_id}") == (
        "invalid_camera_id"
    )


@pytest.mark.parametrize(
    "captured_at",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
        datetime(2200, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))),
    ],
)
async def test_an_absurd_time_is_refused(yard: Yard, jpeg: bytes, captured_at: datetime) -> None:
    frame = msgspec.structs.replace(yard.frame(jpeg), captured_at=captured_at)
    assert await code_of(yard, frame) == "invalid_captured_at"


@pytest.mark.parametrize(
    "captured_at", [datetime(1970, 1, 1, tzinfo=UTC), datetime(2199, 12, 31, tzinfo=UTC)]
)
async def test_the_first_and_the_last_day_are_taken(
    yard: Yard, jpeg: bytes, captured_at: datetime
) -> None:
    yard.inference.sees = [(0, 0, 64, 48, 0.9, PERSON)]
    await yard.detect(msgspec.structs.replace(yard.frame(jpeg), captured_at=captured_at))
    assert [alert.captured_at for alert in yard.alerts()] == [captured_at]


@pytest.mark.parametrize(
    "message",
    [
        b'{"key": "a", "captured_at": "2026-05-04T12:00:00"}',  # whose noon?
        b'{"key": "a", "captured_at": "yesterday"}',
        b'{"captured_at": "2026-05-04T12:00:00Z"}',
        b'{"key": 7}',
        b"[]",
        b"\xff",
    ],
)
def test_a_message_that_is_no_frame_cannot_be_read(message: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        msgspec.json.decode(message, type=Frame)
