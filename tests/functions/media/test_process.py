from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from functions._kit.errors import Unavailable
from functions._kit.fakes.inference import DEFAULT_MODELS
from functions.media.contracts import PUBLISHED_SCALES

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/media:process"
BODY: dict[str, Any] = {"file_path": "photos/cat.jpg", "workflow": "nas-photo-processing"}
HUGE = "x" * 1_000_000
WORKFLOWS = (
    "available: nas-photo-processing, professional-photo-processing; "
    "planned: document-processing-pipeline, video-thumbnail-generation"
)


@pytest_asyncio.fixture(autouse=True)
async def _a_photo_in_the_bucket(world: World, photo: bytes) -> None:
    for key in ("photos/cat.jpg", "Übung #1 100%?.jpg"):
        world.objects.add(key, photo, "image/jpeg")


def enhance(**fields: Any) -> dict[str, Any]:
    return {"parameters": {"image_enhance": fields}}


def output(**fields: Any) -> dict[str, Any]:
    return {"parameters": {"output": fields}}


async def test_a_task_is_taken_and_says_where_it_is(world: World, alice: httpx.AsyncClient) -> None:
    answer = await alice.post(PATH, json=BODY)
    assert answer.status_code == 202
    body = answer.json()
    url = f"/api/v1/media/processingTasks/{body['task_id']}"
    assert body == {"task_id": body["task_id"], "status": "queued", "status_url": url}
    assert answer.headers["location"] == url
    seen = (await alice.get(url)).json()
    assert (seen["status"], seen["progress"], seen["attempts"]) == ("queued", 0, 0)
    (job,) = world.jobs()
    assert job["task"]["task_id"] == body["task_id"]
    assert job["task"]["client_id"] == "alice"
    assert (job["capability"], job["scale_factor"], job["quality"]) == ("upscale.x2", 2, 90)
    assert [step["function"] for step in job["steps"]] == ["media.upscale", "media.thumbnail"]
    assert sum(step["share"] for step in job["steps"]) == pytest.approx(1)
    (event,) = world.jobs(f"events.task.{body['task_id']}")
    assert event["status"] == "queued"


@pytest.mark.parametrize(
    ("priority", "band"),
    [(1, "low"), (3, "low"), (4, "normal"), (7, "normal"), (8, "high"), (10, "high")],
)
async def test_a_priority_is_a_subject(
    world: World, alice: httpx.AsyncClient, priority: int, band: str
) -> None:
    assert (await alice.post(PATH, json=BODY | {"priority": priority})).status_code == 202
    assert len(world.stream.records(f"jobs.media.upscale.{band}")) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"capability": "upscale.x2", "lossless": False, "format": None}),
        (enhance(scale_factor=1), {"capability": "upscale.x2", "scale_factor": 1}),
        (enhance(scale_factor=3), {"capability": "upscale.x3", "scale_factor": 3}),
        (enhance(scale_factor=4, denoise_strength=0.5), {"denoise_strength": 0.5}),
        (enhance(model="realesrgan-x4plus"), {"capability": "upscale.realesrgan-x4plus"}),
        ({"workflow": "professional-photo-processing"}, {"lossless": True}),
        (
            {"workflow": "professional-photo-processing"},
            {"capability": "upscale.realesrgan-x4plus"},
        ),
        (
            {"workflow": "professional-photo-processing", **output(format="jpeg", quality=80)},
            {"lossless": False, "format": "jpeg", "quality": 80},
        ),
        (output(keep_metadata=False), {"keep_metadata": False}),
        ({"file_path": "/photos/cat.jpg"}, {"file_path": "photos/cat.jpg"}),
        ({"file_path": "Übung #1 100%?.jpg"}, {"file_path": "Übung #1 100%?.jpg"}),
    ],
)
async def test_the_job_holds_what_was_asked(
    world: World, alice: httpx.AsyncClient, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    answer = await alice.post(PATH, json=BODY | changes)
    assert answer.status_code == 202, answer.text
    (job,) = world.jobs()
    # what is None is left out of a message
    assert {name: job.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        (enhance(scale_factor=0), "parameters.image_enhance.scale_factor"),
        (enhance(scale_factor=5), "parameters.image_enhance.scale_factor"),
        (enhance(scale_factor=2.5), "parameters.image_enhance.scale_factor"),
        (enhance(denoise_strength=1.01), "parameters.image_enhance.denoise_strength"),
        (enhance(denoise_strength=-0.1), "parameters.image_enhance.denoise_strength"),
        (enhance(model=HUGE), "parameters.image_enhance.model"),
        (enhance(blur=1), "parameters.image_enhance"),
        (output(format="bmp"), "parameters.output.format"),
        (output(quality=0), "parameters.output.quality"),
        (output(quality=101), "parameters.output.quality"),
        ({"priority": 0}, "priority"),
        ({"priority": 11}, "priority"),
        ({"workflow": HUGE}, "workflow"),
        ({"workflow": ""}, "workflow"),
        ({"file_path": HUGE}, "file_path"),
        ({"file_path": ""}, "file_path"),
        ({"callback_url": "https://x.test/" + HUGE}, "callback_url"),
        ({"parameters": None}, "parameters"),
        ({"surprise": 1}, "body"),
    ],
    ids=lambda value: str(value)[:50],
)
async def test_what_breaks_a_rule_is_refused_with_its_field(
    world: World,
    alice: httpx.AsyncClient,
    assert_problem: AssertProblem,
    changes: dict[str, Any],
    where: str,
) -> None:
    answer = await alice.post(PATH, json=BODY | changes)
    assert_problem(answer, 422, "invalid_request", where)
    assert not world.jobs()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a":' * 900])
async def test_a_body_that_is_no_request_is_refused(
    alice: httpx.AsyncClient, assert_problem: AssertProblem, body: bytes
) -> None:
    answer = await alice.post(PATH, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}
    assert_problem(answer, answer.status_code, "invalid_request", answer.json().get("field"))


async def test_a_body_of_many_megabytes_is_refused_before_it_is_read(
    alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 64 << 20:
            sent += 1 << 16
            yield b" " * (1 << 16)

    answer = await alice.post(PATH, content=endless())
    assert_problem(answer, 413, "body_too_large")
    assert sent <= 2 << 20


@pytest.mark.parametrize(
    "path",
    ["..", "../cat.jpg", "photos/../cat.jpg", "photos/..", "a//b", "a/", "//a", "./a", "a/./b",
     "/", "nul\0.jpg", "line\n.jpg", "back\\slash.jpg", "del\x7f", "ü" * 600],
    ids=repr,
)  # fmt: skip
async def test_a_path_that_means_another_place_is_refused(
    alice: httpx.AsyncClient, assert_problem: AssertProblem, path: str
) -> None:
    answer = await alice.post(PATH, json=BODY | {"file_path": path})
    assert_problem(answer, 422, "invalid_file_path", "file_path")


async def test_an_unknown_workflow_is_refused_with_all_that_there_are(
    alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    answer = await alice.post(PATH, json=BODY | {"workflow": "make-it-nice"})
    assert_problem(answer, 422, "unknown_workflow", "workflow")
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unprocessable Entity",
        "status": 422,
        "code": "unknown_workflow",
        "detail": f"there is no workflow 'make-it-nice'; {WORKFLOWS}",
        "field": "workflow",
    }


@pytest.mark.parametrize("workflow", ["document-processing-pipeline", "video-thumbnail-generation"])
async def test_a_planned_workflow_is_refused_and_says_so(
    alice: httpx.AsyncClient, assert_problem: AssertProblem, workflow: str
) -> None:
    answer = await alice.post(PATH, json=BODY | {"workflow": workflow})
    body = assert_problem(answer, 422, "workflow_not_available", "workflow")
    assert body["detail"] == f"workflow '{workflow}' is planned and not built yet; {WORKFLOWS}"


async def test_an_absent_file_is_not_found(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    answer = await alice.post(PATH, json=BODY | {"file_path": "photos/dog.jpg"})
    assert_problem(answer, 404, "file_not_found", "file_path")
    assert not world.jobs()


async def test_an_unknown_model_is_refused_with_all_that_there_are(
    alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    answer = await alice.post(PATH, json=BODY | enhance(model="nope"))
    body = assert_problem(answer, 422, "unknown_model", "parameters.image_enhance.model")
    assert all(name in body["detail"] for name in PUBLISHED_SCALES)


async def test_a_model_of_ones_own_is_taken_at_any_scale(
    world: World, alice: httpx.AsyncClient
) -> None:
    world.inference._models["mine"] = DEFAULT_MODELS["realesrgan-x4plus"]
    changes = enhance(model="mine", scale_factor=4)
    assert (await alice.post(PATH, json=BODY | changes)).status_code == 202


async def test_a_scale_beyond_the_model_is_refused(
    alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    changes = enhance(model="realesr-animevideov3-x2", scale_factor=3)
    answer = await alice.post(PATH, json=BODY | changes)
    assert_problem(answer, 422, "scale_not_supported", "parameters.image_enhance.scale_factor")


PRIVATE = [
    "http://127.0.0.1/", "http://localhost:8080/", "http://LOCALHOST/", "http://localhost./",
    "http://a.localhost/", "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://0.0.0.0/",
    "http://10.1.2.3/", "http://172.16.0.1/", "http://192.168.0.1/", "http://169.254.169.254/",
    "http://100.64.0.1/", "http://[fe80::1]/", "http://[fd00::1]/", "http://[::]/",
    "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[::127.0.0.1]/",
    "http://224.0.0.1/", "http://LocalHost./",
]  # fmt: skip


@pytest.mark.parametrize("url", PRIVATE)
async def test_a_private_callback_url_is_refused_unless_allowed(
    make_world: Callable[..., World], assert_problem: AssertProblem, photo: bytes, url: str
) -> None:
    for allowed in (False, True):
        world = make_world(allow_private_callbacks=allowed)
        world.objects.contents["photos/cat.jpg"] = photo
        world.objects._types["photos/cat.jpg"] = "image/jpeg"
        caller = await world.caller("alice", "media:write")
        answer = await caller.post(PATH, json=BODY | {"callback_url": url})
        if allowed:
            assert answer.status_code == 202
            assert world.jobs()[0]["task"]["callback_url"] == url
        else:
            body = assert_problem(answer, 422, "invalid_callback_url", "callback_url")
            assert "NEREID_ALLOW_PRIVATE_CALLBACKS" in body["detail"]


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x.test/", "//x.test", "x.test", "http://", "http:///path", "http://x.test:0/",
     "http://x.test:99999/", "http://x.test:a/", "http://[::1/", "http://user:pass@x.test/",
     "file:///etc/passwd", "javascript:alert(1)", "http://x.test/\0", "http://x.test/a b",
     "http://x.test/\r\nX: y", "http://127.1/",
     "http://2130706433/", "http://0x7f000001/", "http://017700000001/", "http://1.2.3.4./",
     "http://x\u0000.test/", "http://user@x.test/", "http://0X7F.1/", "http://127.0x1/",
     "http://\uff11\uff12\uff17.0.0.1/", "http://\u2460\u2461\u2466.1/"],
    ids=repr,
)  # fmt: skip
async def test_a_callback_url_that_can_never_be_called_is_refused(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem, url: str
) -> None:
    answer = await alice.post(PATH, json=BODY | {"callback_url": url})
    assert_problem(answer, 422, "invalid_callback_url", "callback_url")
    assert not world.jobs()


async def test_a_public_callback_url_is_taken(world: World, alice: httpx.AsyncClient) -> None:
    url = "https://hooks.example.org:8443/nereid?user=a%20b"
    assert (await alice.post(PATH, json=BODY | {"callback_url": url})).status_code == 202
    assert world.jobs()[0]["task"]["callback_url"] == url


async def test_the_same_key_and_body_is_the_same_task(
    world: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    key = {"Idempotency-Key": "once"}
    first = await alice.post(PATH, json=BODY, headers=key)
    again = await alice.post(PATH, json=BODY, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["location"] == first.headers["location"]
    assert len(world.jobs()) == 1
    theirs = await bob.post(PATH, json=BODY, headers=key)
    assert theirs.json()["task_id"] != first.json()["task_id"]


async def test_the_same_key_with_another_body_is_refused(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    key = {"Idempotency-Key": "once"}
    await alice.post(PATH, json=BODY, headers=key)
    answer = await alice.post(PATH, json=BODY | {"priority": 6}, headers=key)
    assert_problem(answer, 409, "idempotency_key_reused", "Idempotency-Key")
    assert len(world.jobs()) == 1


async def test_a_key_that_comes_again_hours_later_starts_nothing(
    world: World, alice: httpx.AsyncClient
) -> None:
    """The stream knows message ids for an hour or two, a key holds for a day."""
    key = {"Idempotency-Key": "once"}
    first = (await alice.post(PATH, json=BODY, headers=key)).json()
    for subject in ("jobs.>", "events.>"):
        world.stream.forget(subject)
    assert (await alice.post(PATH, json=BODY, headers=key)).json() == first
    assert not world.jobs()


async def test_a_key_whose_first_request_was_lost_is_taken_up(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    key = {"Idempotency-Key": "once"}
    world.stream.sick = True
    assert_problem(await alice.post(PATH, json=BODY, headers=key), 503, "queue_unavailable")
    world.stream.sick = False
    assert (await alice.post(PATH, json=BODY, headers=key)).status_code == 202
    assert len(world.jobs()) == 1


@pytest.mark.parametrize("key", ["", "k" * 256])
async def test_a_key_has_1_to_255_characters(
    alice: httpx.AsyncClient, assert_problem: AssertProblem, key: str
) -> None:
    answer = await alice.post(PATH, json=BODY, headers={"Idempotency-Key": key})
    assert_problem(answer, 422, "invalid_request", "Idempotency-Key")


async def test_no_task_is_promised_before_it_is_durable(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.stream.sick = True
    answer = await alice.post(PATH, json=BODY)
    assert_problem(answer, 503, "queue_unavailable")
    assert answer.headers["retry-after"] == "5"
    world.stream.sick = False
    assert (await alice.get("/api/v1/media/processingTasks")).json()["items"] == []


async def test_a_full_queue_says_when_to_come_back(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.stream.max_messages["jobs"] = 1
    assert (await alice.post(PATH, json=BODY)).status_code == 202
    answer = await alice.post(PATH, json=BODY)
    assert_problem(answer, 503, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    assert len((await alice.get("/api/v1/media/processingTasks")).json()["items"]) == 1


async def test_a_sick_database_does_not_lose_a_task(world: World, alice: httpx.AsyncClient) -> None:
    world.store.sick = True
    answer = await alice.post(PATH, json=BODY)
    assert answer.status_code == 202
    task_id = answer.json()["task_id"]
    assert len(world.jobs()) == len(world.jobs(f"events.task.{task_id}")) == 1


async def test_a_durable_job_is_promised_even_if_its_event_fails(
    world: World, alice: httpx.AsyncClient
) -> None:
    publish = world.stream.publish

    async def jobs_only(subject: str, *args: Any, **names: Any) -> Any:
        if subject.startswith("events."):
            raise Unavailable("queue", "gone between two messages")
        return await publish(subject, *args, **names)

    world.stream.publish = jobs_only  # type: ignore[method-assign]
    assert (await alice.post(PATH, json=BODY)).status_code == 202
    assert len(world.jobs()) == 1


async def test_a_sick_bucket_is_no_missing_file(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.objects.sick = True
    assert_problem(await alice.post(PATH, json=BODY), 503, "s3_unavailable")


async def test_a_sick_triton_refuses_no_model(world: World, alice: httpx.AsyncClient) -> None:
    world.inference.sick = True
    assert (await alice.post(PATH, json=BODY | enhance(model="mine"))).status_code == 202
