from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from functions._kit.messages import now
from functions.alerts import detect
from functions.alerts.contracts import Frame

if TYPE_CHECKING:
    from tests.functions.alerts.conftest import Yard
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/frames"
pytestmark = pytest.mark.usefixtures("empty_scratch")


@pytest_asyncio.fixture
async def camera(world: World) -> httpx.AsyncClient:
    """A caller who may send frames, and nothing else."""
    return await world.caller("camera-1", "frames:write")


def waiting(world: World) -> list[tuple[str, Frame]]:
    """Subject and content of every frame in the stream."""
    return [
        (record.subject, msgspec.json.decode(record.data, type=Frame))
        for record in world.stream.records("frames.>")
    ]


@pytest.mark.parametrize("way", ["raw", "form"])
async def test_a_frame_is_durable_when_it_is_accepted(
    world: World, camera: httpx.AsyncClient, jpeg: bytes, way: str
) -> None:
    before = now()
    sent: dict[str, Any] = (
        {"content": jpeg, "headers": {"content-type": "text/plain"}}  # content decides
        if way == "raw"
        else {"files": {"file": ("x.txt", jpeg, "text/plain")}}
    )
    answer = await camera.post(PATH, params={"camera_id": "gate_1-B"}, **sent)
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert set(body) == {"frame_id", "camera_id", "captured_at"}
    assert body["camera_id"] == "gate_1-B"
    ((subject, frame),) = waiting(world)
    assert subject == "frames.gate_1-B"
    key = f"frames/gate_1-B/{body['frame_id']}.jpg"
    assert (frame.key, frame.client_id) == (key, "camera-1")
    captured_at = datetime.fromisoformat(body["captured_at"])
    assert before <= captured_at <= now()
    assert frame.captured_at == captured_at
    assert world.objects.contents == {key: jpeg}
    info = await world.objects.head(key)
    assert info is not None
    assert info.content_type == "image/jpeg"


async def test_what_was_accepted_can_be_looked_at(
    world: World, camera: httpx.AsyncClient, yard: Yard, picture: Callable[..., bytes]
) -> None:
    yard.objects = world.objects
    yard.inference.sees = [(0, 0, 64, 48, 0.9, 0)]
    for suffix in (".jpg", ".png", ".webp"):
        content = picture(64, 48, suffix)
        await camera.post(PATH, params={"camera_id": "gate"}, content=content)
    for _, frame in waiting(world):
        await yard.detect(frame)
    assert [key.rpartition(".")[2] for key in world.objects.contents] == ["jpg", "png", "webp"]
    assert yard.counted()["frames"] == 3


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T12:00:00.123456+05:30", "2026-01-31T06:30:00.123456+00:00"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00+00:00"),
    ],
)
async def test_the_time_of_capture_is_the_senders(
    world: World, camera: httpx.AsyncClient, jpeg: bytes, text: str, utc: str
) -> None:
    params = {"camera_id": "gate", "captured_at": text}
    answer = await camera.post(PATH, params=params, content=jpeg)
    assert answer.status_code == 202, answer.text
    ((_, frame),) = waiting(world)
    assert frame.captured_at == datetime.fromisoformat(utc)
    assert datetime.fromisoformat(answer.json()["captured_at"]) == frame.captured_at


@pytest.mark.parametrize(
    ("params", "status", "code", "field"),
    [
        ({"camera_id": ""}, 422, "invalid_camera_id", "camera_id"),
        ({"camera_id": "a b"}, 422, "invalid_camera_id", "camera_id"),
        ({"camera_id": "a.b"}, 422, "invalid_camera_id", "camera_id"),
        ({"camera_id": ">"}, 422, "invalid_camera_id", "camera_id"),
        ({"camera_id": "../x"}, 422, "invalid_camera_id", "camera_id"),
        ({"camera_id": "Tür"}, 422, "invalid_camera_id", "camera_id"),
        ({"camera_id": "a\n"}, 422, "invalid_camera_id", "camera_id"),
        ({"camera_id": "x" * 65}, 422, "invalid_request", "camera_id"),
        ({"captured_at": "2026-01-31T12:00:00"}, 400, "time_without_zone", "captured_at"),
        ({"captured_at": "yesterday"}, 422, "invalid_request", "captured_at"),
        ({"captured_at": "1969-12-31T23:59:59Z"}, 422, "invalid_captured_at", "captured_at"),
        ({"captured_at": "2200-01-01T00:00:00Z"}, 422, "invalid_captured_at", "captured_at"),
        ({"captured_at": "9999-12-31T23:59:59-14:00"}, 422, "invalid_captured_at", "captured_at"),
        ({"captured_at": "0001-01-01T00:00:00+14:00"}, 422, "invalid_captured_at", "captured_at"),
    ],
)
async def test_what_a_frame_cannot_say_is_refused_with_its_field(
    world: World,
    camera: httpx.AsyncClient,
    jpeg: bytes,
    assert_problem: AssertProblem,
    params: dict[str, str],
    status: int,
    code: str,
    field: str,
) -> None:
    answer = await camera.post(PATH, params={"camera_id": "gate"} | params, content=jpeg)
    assert_problem(answer, status, code, field)
    assert (waiting(world), world.objects.contents) == ([], {})


async def test_a_frame_of_no_camera_is_refused(
    world: World, camera: httpx.AsyncClient, jpeg: bytes, assert_problem: AssertProblem
) -> None:
    answer = await camera.post(PATH, content=jpeg)
    assert_problem(answer, 422, "invalid_request", "camera_id")
    assert (waiting(world), world.objects.contents) == ([], {})


async def test_a_camera_id_of_64_letters_is_taken(camera: httpx.AsyncClient, jpeg: bytes) -> None:
    answer = await camera.post(PATH, params={"camera_id": "x" * 64}, content=jpeg)
    assert answer.status_code == 202


async def test_what_is_no_picture_is_refused_at_once(
    world: World, camera: httpx.AsyncClient, jpeg: bytes, assert_problem: AssertProblem
) -> None:
    huge = jpeg.index(b"\xff\xc0") + 5
    small = jpeg[:huge] + b"\x00\x01\x00\x01" + jpeg[huge + 4 :]  # 1 x 1
    bomb = jpeg[:huge] + b"\x4e\x20\x4e\x20" + jpeg[huge + 4 :]  # 20,000 x 20,000
    for content, status, code in (
        (b"", 422, "empty_body"),
        (b"no picture", 415, "unsupported_media_type"),
        (jpeg[:40], 422, "corrupt_picture"),
        (small, 422, "picture_too_small"),
        (bomb, 422, "picture_too_large"),
    ):
        answer = await camera.post(PATH, params={"camera_id": "gate"}, content=content)
        assert_problem(answer, status, code, "file")
    other = {"picture": ("x.jpg", jpeg[:100])}
    answer = await camera.post(PATH, params={"camera_id": "gate"}, files=other)
    assert_problem(answer, 422, "file_missing", "file")
    assert (waiting(world), world.objects.contents) == ([], {})


async def test_more_bytes_than_a_frame_may_have_are_refused(
    make_world: Callable[..., World], jpeg: bytes, assert_problem: AssertProblem
) -> None:
    world = make_world(max_frame_bytes=len(jpeg))
    camera = await world.caller("camera-1", "frames:write")
    params = {"camera_id": "gate"}
    assert (await camera.post(PATH, params=params, content=jpeg)).status_code == 202
    longer = jpeg + b"\0"

    async def pieces() -> Any:
        yield longer[:100]
        yield longer[100:]

    for content in (longer, pieces()):
        answer = await camera.post(PATH, params=params, content=content)
        assert_problem(answer, 413, "body_too_large", "file")
    assert len(world.objects.contents) == 1


async def test_a_full_queue_says_when_to_come_back_and_leaves_nothing_behind(
    world: World, camera: httpx.AsyncClient, jpeg: bytes, assert_problem: AssertProblem
) -> None:
    world.stream.max_messages["frames"] = 1
    params = {"camera_id": "gate"}
    assert (await camera.post(PATH, params=params, content=jpeg)).status_code == 202
    answer = await camera.post(PATH, params=params, content=jpeg)
    assert_problem(answer, 503, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    assert len(world.objects.contents) == len(waiting(world)) == 1


async def test_a_sick_queue_is_503_and_the_picture_stays_for_a_message_that_may_have_arrived(
    world: World, camera: httpx.AsyncClient, jpeg: bytes, assert_problem: AssertProblem
) -> None:
    world.stream.sick = True
    answer = await camera.post(PATH, params={"camera_id": "gate"}, content=jpeg)
    assert_problem(answer, 503, "queue_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert len(world.objects.contents) == 1


async def test_a_sick_store_is_503_and_nothing_is_in_the_stream(
    world: World, camera: httpx.AsyncClient, jpeg: bytes, assert_problem: AssertProblem
) -> None:
    world.objects.sick = True
    answer = await camera.post(PATH, params={"camera_id": "gate"}, content=jpeg)
    assert_problem(answer, 503, "s3_unavailable")
    assert waiting(world) == []


async def test_a_camera_needs_the_database_and_triton_for_nothing(
    world: World, camera: httpx.AsyncClient, jpeg: bytes
) -> None:
    world.alert_store.sick = world.inference.sick = world.values.sick = True
    answer = await camera.post(PATH, params={"camera_id": "gate"}, content=jpeg)
    assert answer.status_code == 202


def test_frames_over_http_and_over_nats_are_one_pipeline() -> None:
    assert detect.detect.subject == "frames.*"
    assert detect.detect.policy.concurrency > 1
