from __future__ import annotations

import base64
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from functions._kit.letters import MAX_PAYLOAD_BYTES
from functions._kit.messages import new_id, now
from functions.media.contracts import MediaJob
from functions.tasks.contracts import (
    DeadLetter,
    Status,
    Step,
    TaskError,
    TaskEvent,
    event_subject,
)

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/deadletters"


@pytest_asyncio.fixture
async def admin(world: World) -> httpx.AsyncClient:
    """A caller who may read and write what is the system's."""
    return await world.caller("admin", "system:read", "system:write")


async def bury(
    world: World, payload: bytes, function: str = "alerts.detect", subject: str = "frames.door"
) -> str:
    """A letter; returns its id."""
    letter = DeadLetter(
        subject=subject,
        function=function,
        code="picture_unreadable",
        message="no picture",
        attempts=2,
        at=now(),
        payload=payload,
    )
    receipt = await world.stream.publish(f"dead.{function}", letter)
    return str(receipt.sequence)


async def failed_job(world: World) -> MediaJob:
    """A job of a task that has failed at its second step."""
    task = await world.add_task("alice", callback_url="https://example.org/hook")
    await world.tell(task, Status.FAILED, error=TaskError(code="too_slow", message="too slow"))
    return MediaJob(
        task=task,
        steps=(Step(function="media.thumbnail", share=0.1), Step(function="media.more", share=0.1)),
        done=0.8,
        result={"file_path": "results/old/large.jpg"},
        file_path="photos/cat.jpg",
        capability="upscale.realesrgan-x4plus",
        scale_factor=4,
        denoise_strength=0.25,
        format=None,
        quality=77,
        keep_metadata=False,
        lossless=True,
    )


async def test_a_letter_is_shown_with_its_reason_and_content(
    world: World, admin: httpx.AsyncClient
) -> None:
    letter_id = await bury(world, b'{"key":"frames/a.jpg"}')
    answer = await admin.get(f"{PATH}/{letter_id}")
    assert answer.status_code == 200
    body = answer.json()
    assert body.pop("at").endswith("Z")
    assert body == {
        "letter_id": letter_id,
        "function": "alerts.detect",
        "subject": "frames.door",
        "code": "picture_unreadable",
        "message": "no picture",
        "attempts": 2,
        "size": 22,
        "payload": {"key": "frames/a.jpg"},
        "payload_base64": None,
    }
    assert (await admin.get(PATH)).json()["items"] == [answer.json()]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe", b'{"cut": "sho', b"[" * 100_000, b'"\xff"', b"{} {}", b"\0"],
    ids=lambda p: repr(p[:12]),
)
async def test_what_is_no_json_comes_as_base64(
    world: World, admin: httpx.AsyncClient, payload: bytes
) -> None:
    body = (await admin.get(f"{PATH}/{await bury(world, payload)}")).json()
    assert body["payload"] is None
    assert base64.b64decode(body["payload_base64"]) == payload
    assert body["size"] == len(payload)


@pytest.mark.parametrize("payload", ["null", "12345678901234567890123", '"é\\u0000"', "[[1], {}]"])
async def test_any_json_comes_as_it_is(
    world: World, admin: httpx.AsyncClient, payload: str
) -> None:
    answer = await admin.get(f"{PATH}/{await bury(world, payload.encode())}")
    assert f'"payload":{payload},' in answer.text
    assert answer.json()["payload_base64"] is None


async def test_a_list_leaves_long_payloads_to_their_letters(
    world: World, admin: httpx.AsyncClient
) -> None:
    payload = msgspec.json.encode({"long": "x" * 100_000})
    letter_id = await bury(world, payload)
    (item,) = (await admin.get(PATH)).json()["items"]
    assert (item["payload"], item["payload_base64"], item["size"]) == (None, None, len(payload))
    one = (await admin.get(f"{PATH}/{letter_id}")).json()
    assert one["payload"] == {"long": "x" * 100_000}


async def test_pages_follow_one_another_newest_first(
    world: World, admin: httpx.AsyncClient
) -> None:
    ids = [await bury(world, b"{}") for _ in range(7)]
    found: list[str] = []
    query: dict[str, Any] = {"limit": "3"}
    for size in (3, 3, 1):
        page = (await admin.get(PATH, params=query)).json()
        assert len(page["items"]) == size
        found += [item["letter_id"] for item in page["items"]]
        await bury(world, b"{}")  # a new one shifts no page
        query["cursor"] = page["next_cursor"]
    assert found == ids[::-1]
    assert query["cursor"] is None


async def test_a_page_that_is_just_full_is_the_last(world: World, admin: httpx.AsyncClient) -> None:
    for _ in range(2):
        await bury(world, b"{}")
    page = (await admin.get(PATH, params={"limit": 2})).json()
    assert (len(page["items"]), page["next_cursor"]) == (2, None)


async def test_the_letters_of_one_function(world: World, admin: httpx.AsyncClient) -> None:
    await bury(world, b"{}")
    mine = await bury(world, b"{}", function="media.upscale")
    page = (await admin.get(PATH, params={"function": "media.upscale"})).json()
    assert [item["letter_id"] for item in page["items"]] == [mine]
    assert (await admin.get(PATH, params={"function": "media.absent"})).json()["items"] == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"function": "alerts.*"}, "function"),
        ({"function": ">"}, "function"),
        ({"function": "alerts"}, "function"),
        ({"function": ""}, "function"),
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "many"}, "limit"),
    ],
)
async def test_a_query_that_breaks_a_rule_is_refused(
    admin: httpx.AsyncClient, assert_problem: AssertProblem, query: dict[str, str], field: str
) -> None:
    assert_problem(await admin.get(PATH, params=query), 422, "invalid_request", field)
    if field == "function":
        answer = await admin.delete(PATH, params=query)
        assert_problem(answer, 422, "invalid_request", field)


@pytest.mark.parametrize("cursor", ["x", "-1", "0", "1.5", "¹", "9" * 20])
async def test_a_cursor_that_was_never_given_is_refused(
    admin: httpx.AsyncClient, assert_problem: AssertProblem, cursor: str
) -> None:
    answer = await admin.get(PATH, params={"cursor": cursor})
    assert_problem(answer, 400, "invalid_cursor", "cursor")


@pytest.mark.parametrize("letter_id", ["999", "0", "x", "-1", "¹", "9" * 30, "1e3"])
async def test_a_letter_that_is_not_there_is_not_found(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem, letter_id: str
) -> None:
    await bury(world, b"{}")
    url = f"{PATH}/{letter_id}"
    for answer in (
        await admin.get(url),
        await admin.delete(url),
        await admin.post(f"{url}:resend"),
    ):
        assert_problem(answer, 404, "letter_not_found", "letter_id")


async def test_a_message_goes_where_it_came_from_and_its_letter_is_gone(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    payload = b'{"key" : "frames/a.jpg", "unknown": 1}'
    letter_id = await bury(world, payload)
    answer = await admin.post(f"{PATH}/{letter_id}:resend")
    assert answer.status_code == 202
    assert answer.json() == {
        "letter_id": letter_id,
        "subject": "frames.door",
        "task_id": None,
        "status_url": None,
    }
    assert [record.data for record in world.stream.records("frames.>")] == [payload]
    again = await admin.post(f"{PATH}/{letter_id}:resend")
    assert_problem(again, 404, "letter_not_found", "letter_id")
    assert len(world.stream.records("frames.>")) == 1


async def test_what_nobody_could_read_is_sent_as_it_is(
    world: World, admin: httpx.AsyncClient
) -> None:
    letter_id = await bury(world, b"\xff{", "media.upscale", "jobs.media.upscale.low")
    assert (await admin.post(f"{PATH}/{letter_id}:resend")).status_code == 202
    assert [r.data for r in world.stream.records("jobs.media.upscale.low")] == [b"\xff{"]


async def test_a_fact_about_a_task_begins_no_task(world: World, admin: httpx.AsyncClient) -> None:
    """The letter of a recorder: its payload has a task, and is an event."""
    task = await world.add_task()
    event = TaskEvent(event_id=new_id(), task=task, status=Status.PROCESSING, at=now())
    subject = event_subject(task.task_id)
    letter_id = await bury(world, msgspec.json.encode(event), "tasks.record", subject)
    answer = await admin.post(f"{PATH}/{letter_id}:resend")
    assert (answer.json()["task_id"], answer.json()["subject"]) == (None, subject)
    assert world.jobs() == []


async def test_a_job_begins_a_new_task_at_the_step_where_the_old_one_failed(
    world: World, admin: httpx.AsyncClient
) -> None:
    job = await failed_job(world)
    payload = msgspec.json.encode(job)
    subject = "jobs.media.thumbnail.normal"
    letter_id = await bury(world, payload, "media.thumbnail", subject)
    answer = await admin.post(f"{PATH}/{letter_id}:resend")
    assert answer.status_code == 202
    body = answer.json()
    assert (body["letter_id"], body["subject"]) == (letter_id, subject)
    assert body["status_url"].endswith(body["task_id"])
    (record,) = world.stream.records("jobs.>")
    assert record.subject == subject
    sent = msgspec.json.decode(record.data, type=MediaJob)
    assert body["task_id"] == sent.task.task_id != job.task.task_id
    assert sent.task.created_at > job.task.created_at
    same = {"task_id": job.task.task_id, "created_at": job.task.created_at}
    assert msgspec.structs.replace(sent.task, **same) == job.task
    assert msgspec.structs.replace(sent, task=job.task) == job
    alice = await world.caller("alice", "media:read")
    status = (await alice.get(body["status_url"])).json()
    assert (status["status"], status["workflow"]) == ("queued", job.task.workflow)
    old = (await alice.get(f"/api/v1/media/processingTasks/{job.task.task_id}")).json()
    assert old["status"] == "failed"
    assert await world.dead_letters.get(int(letter_id)) is None


async def test_fields_of_a_job_that_this_version_does_not_know_are_kept(
    world: World, admin: httpx.AsyncClient
) -> None:
    job = msgspec.to_builtins(await failed_job(world))
    job |= {"newer": {"nested": [1]}, "class": 5, "no identifier": 1, "result": {"a": 1}}
    subject = "jobs.media.thumbnail.normal"
    letter_id = await bury(world, msgspec.json.encode(job), "media.thumbnail", subject)
    assert (await admin.post(f"{PATH}/{letter_id}:resend")).status_code == 202
    (sent,) = world.jobs()
    assert (sent["newer"], sent["result"]) == ({"nested": [1]}, {"a": 1})


async def test_a_repeated_resend_after_a_crash_begins_no_second_task(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    job = await failed_job(world)
    subject = "jobs.media.thumbnail.normal"
    letter_id = await bury(world, msgspec.json.encode(job), "media.thumbnail", subject)
    remove = world.dead_letters.remove

    async def crash(number: int) -> bool:
        raise ZeroDivisionError(number)

    world.dead_letters.remove = crash  # type: ignore[method-assign]
    failed = await admin.post(f"{PATH}/{letter_id}:resend")
    assert_problem(failed, 500, "internal_error")
    world.dead_letters.remove = remove  # type: ignore[method-assign]
    answer = await admin.post(f"{PATH}/{letter_id}:resend")
    assert answer.status_code == 202
    (sent,) = world.jobs()
    assert sent["task"]["task_id"] == answer.json()["task_id"]


async def test_a_cut_letter_cannot_be_sent_again(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    long = msgspec.json.encode({"task": "x" * MAX_PAYLOAD_BYTES})
    letter_id = await bury(world, long[:MAX_PAYLOAD_BYTES])
    answer = await admin.post(f"{PATH}/{letter_id}:resend")
    assert_problem(answer, 409, "letter_cut", "letter_id")
    assert world.stream.records("frames.>") == []
    assert (await admin.get(f"{PATH}/{letter_id}")).json()["size"] == MAX_PAYLOAD_BYTES
    just = msgspec.json.encode("x" * (MAX_PAYLOAD_BYTES - 2))
    assert (await admin.post(f"{PATH}/{await bury(world, just)}:resend")).status_code == 202


@pytest.mark.parametrize("content", [b"{not a letter", b'{"subject":"\xff"}', b"[" * 5000])
async def test_what_is_no_letter_is_shown_and_can_only_be_removed(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem, content: bytes
) -> None:
    receipt = await world.stream.publish_bytes("dead.alerts.detect", content)
    url = f"{PATH}/{receipt.sequence}"
    body = (await admin.get(url)).json()
    assert (body["code"], body["function"]) == ("unreadable_letter", "alerts.detect")
    assert base64.b64decode(body["payload_base64"]) == content
    answer = await admin.post(f"{url}:resend")
    assert_problem(answer, 409, "letter_without_origin", "letter_id")
    assert (await admin.delete(url)).status_code == 204


async def test_a_full_queue_takes_nothing_and_the_letter_stays(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    world.stream.max_messages["frames"] = 0
    letter_id = await bury(world, b"{}")
    answer = await admin.post(f"{PATH}/{letter_id}:resend")
    assert_problem(answer, 503, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    assert (await admin.get(f"{PATH}/{letter_id}")).status_code == 200


@pytest.mark.parametrize("suffix", ["", ":", ":remove", ":resend:resend", ":RESEND"])
async def test_there_is_no_other_action(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem, suffix: str
) -> None:
    letter_id = await bury(world, b"{}")
    answer = await admin.post(f"{PATH}/{letter_id}{suffix}")
    assert_problem(answer, 404, "not_found", "letter_id")
    assert (await admin.get(f"{PATH}/{letter_id}")).status_code == 200


async def test_a_letter_is_removed_once(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    letter_id, kept = await bury(world, b"{}"), await bury(world, b"{}")
    answer = await admin.delete(f"{PATH}/{letter_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    again = await admin.delete(f"{PATH}/{letter_id}")
    assert_problem(again, 404, "letter_not_found", "letter_id")
    assert [i["letter_id"] for i in (await admin.get(PATH)).json()["items"]] == [kept]


async def test_all_letters_are_removed_or_those_of_one_function(
    world: World, admin: httpx.AsyncClient
) -> None:
    for function in ("alerts.detect", "alerts.detect", "alerts.keep", "media.upscale"):
        await bury(world, b"{}", function=function)
    answer = await admin.delete(PATH, params={"function": "alerts.detect"})
    assert (answer.status_code, answer.json()) == (200, {"removed": 2})
    left = (await admin.get(PATH)).json()["items"]
    assert [item["function"] for item in left] == ["media.upscale", "alerts.keep"]
    assert (await admin.delete(PATH)).json() == {"removed": 2}
    assert (await admin.get(PATH)).json() == {"items": [], "next_cursor": None}


async def test_who_may_read_may_not_write(
    world: World, operator: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    letter_id = await bury(world, b"{}")
    assert (await operator.get(f"{PATH}/{letter_id}")).status_code == 200
    for answer in (
        await operator.post(f"{PATH}/{letter_id}:resend"),
        await operator.delete(f"{PATH}/{letter_id}"),
        await operator.delete(PATH),
    ):
        assert_problem(answer, 403, "scope_missing", "scope")


async def test_while_the_queue_is_away_nothing_is_promised(
    world: World, admin: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    letter_id = await bury(world, b"{}")
    world.stream.sick = True
    for answer in (
        await admin.get(PATH),
        await admin.get(f"{PATH}/{letter_id}"),
        await admin.post(f"{PATH}/{letter_id}:resend"),
        await admin.delete(f"{PATH}/{letter_id}"),
        await admin.delete(PATH),
    ):
        assert_problem(answer, 503, "queue_unavailable")


async def test_the_interface_describes_each_action_at_its_own_path(
    described: httpx.AsyncClient,
) -> None:
    paths = (await described.get("/schema/openapi.json")).json()["paths"]
    assert set(paths[PATH]) == {"get", "delete"}
    assert set(paths[PATH + "/{letter_id}"]) == {"get", "delete"}
    assert set(paths[PATH + "/{letter_id}:resend"]) == {"post"}
