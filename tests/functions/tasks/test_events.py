from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from functions._kit import sse
from functions.tasks.contracts import Status, TaskError, event_subject

if TYPE_CHECKING:
    from functions.tasks.contracts import Task
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
WAIT_S = 60


def url(task: Task) -> str:
    return f"/api/v1/media/processingTasks/{task.task_id}/events"


def parsed(text: str) -> list[dict[str, Any]]:
    """The events of a stream (WHATWG HTML, 9.2.6), comments left out."""
    found = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        lines = [line.split(": ", 1) for line in block.split("\n") if line and line[0] != ":"]
        fields: dict[str, Any] = dict(lines)
        if fields:
            fields["data"] = json.loads(fields["data"])
            found.append(fields)
    return found


async def follow(
    caller: httpx.AsyncClient, task: Task, *, last: str | None = None
) -> list[dict[str, Any]]:
    """All events until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": last}
    async with asyncio.timeout(WAIT_S):
        answer = await caller.get(url(task), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return parsed(answer.text)


async def live(world: World, task: Task) -> None:
    """A task's whole life."""
    await world.tell(task, Status.PROCESSING, progress=0.1, attempts=1)
    await world.tell(task, Status.PROCESSING, progress=0.6, attempts=1)
    await world.tell(task, Status.COMPLETED, attempts=1, progress=1.0, result={"file_path": "a b"})


async def test_a_follower_hears_the_whole_life_and_then_silence(
    world: World, alice: httpx.AsyncClient
) -> None:
    world.objects.add("a b", b"picture", "image/png")
    task = await world.add_task()
    following = asyncio.create_task(follow(alice, task))
    await asyncio.sleep(0)
    await live(world, task)
    heard = await following
    assert [(e["event"], e["data"]["progress"]) for e in heard] == [
        ("queued", 0), ("processing", 0.1), ("processing", 0.6), ("completed", 1),
    ]  # fmt: skip
    assert [int(e["id"]) for e in heard] == sorted({int(e["id"]) for e in heard})
    assert {e["data"]["task_id"] for e in heard} == {task.task_id}
    assert heard[-1]["data"]["result"] == {
        "file_path": "a b",
        "url": "http://objects.invalid/bucket/a%20b?expires=86400",
    }
    assert heard[0]["data"] == {
        "task_id": task.task_id,
        "status": "queued",
        "progress": 0.0,
        "attempts": 0,
        "at": heard[0]["data"]["at"],
    }


async def test_one_who_comes_back_misses_nothing_and_hears_nothing_twice(
    world: World, alice: httpx.AsyncClient
) -> None:
    task, other = await world.add_task(), await world.add_task()
    await live(world, other)
    await live(world, task)
    whole = await follow(alice, task)
    for seen in range(1, len(whole)):
        assert await follow(alice, task, last=whole[seen - 1]["id"]) == whole[seen:]


async def test_one_who_comes_back_does_not_see_the_task_go_back(
    world: World, alice: httpx.AsyncClient
) -> None:
    task = await world.add_task()
    await world.tell(task, Status.PROCESSING, progress=0.4, attempts=1)
    await world.tell(task, Status.QUEUED)
    await world.tell(task, Status.PROCESSING, progress=0.1, attempts=2)
    await world.tell(task, Status.COMPLETED, attempts=2, progress=1.0)
    whole = await follow(alice, task)
    assert [(e["event"], e["data"]["progress"]) for e in whole] == [
        ("queued", 0), ("processing", 0.4), ("processing", 0.4), ("completed", 1),
    ]  # fmt: skip
    for seen in (1, 2, 3):
        assert await follow(alice, task, last=whole[seen - 1]["id"]) == whole[seen:]


@pytest.mark.parametrize(
    "garbage", [b"", b"null", b"{", b"\xff\xfe", b'{"event_id":7}', b"[" * 10_000]
)
async def test_garbage_among_the_events_is_passed_over(
    world: World, alice: httpx.AsyncClient, garbage: bytes
) -> None:
    task = await world.add_task()
    subject = event_subject(task.task_id)
    await world.stream.publish(subject, msgspec.Raw(garbage))
    await world.tell(task, Status.PROCESSING, progress=0.5, attempts=1)
    await world.stream.publish(subject, msgspec.Raw(garbage))
    await world.tell(task, Status.COMPLETED, attempts=1, progress=1.0)
    heard = await follow(alice, task)
    assert [e["event"] for e in heard] == ["queued", "processing", "completed"]
    await world.stream.publish(subject, msgspec.Raw(garbage))
    assert await follow(alice, task, last=heard[1]["id"]) == heard[2:]


async def test_one_who_has_heard_the_end_is_told_not_to_come_back(
    world: World, alice: httpx.AsyncClient
) -> None:
    task = await world.add_task()
    await live(world, task)
    last = (await follow(alice, task))[-1]["id"]
    async with asyncio.timeout(WAIT_S):
        answer = await alice.get(url(task), headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "0", "nonsense", "-1", "1.5", "²", "\N{BENGALI DIGIT ONE}"])
async def test_an_id_that_is_none_of_ours_begins_at_the_beginning(
    world: World, alice: httpx.AsyncClient, last: str
) -> None:
    task = await world.add_task()
    await live(world, task)
    async with asyncio.timeout(WAIT_S):
        answer = await alice.get(url(task), headers={b"last-event-id": last.encode()})
    assert parsed(answer.text)[0]["event"] == "queued"


@pytest.mark.parametrize("last", ["99999999", "9" * 19, "9" * 5000])
async def test_an_id_of_the_future_hangs_nobody_for_ever(
    world: World, alice: httpx.AsyncClient, last: str
) -> None:
    task = await world.add_task()
    following = asyncio.create_task(follow(alice, task, last=last))
    done, _ = await asyncio.wait({following}, timeout=0.05)
    assert not done
    await world.tell(task, Status.CANCELLED)
    assert [e["event"] for e in await following] == ["cancelled"]


async def test_a_failure_says_why(world: World, alice: httpx.AsyncClient) -> None:
    task = await world.add_task()
    error = TaskError(code="corrupt_picture", message="line\nbreaks: and data: too\r\n\r\nid: 7")
    await world.tell(task, Status.FAILED, error=error)
    last = (await follow(alice, task))[-1]
    assert last["event"] == "failed"
    assert last["data"]["error"] == {"code": error.code, "message": error.message}


async def test_progress_never_falls_back_when_a_job_runs_again(
    world: World, alice: httpx.AsyncClient
) -> None:
    task = await world.add_task()
    for progress in (0.5, 0.0, 0.2, 0.7):
        await world.tell(task, Status.PROCESSING, progress=progress, attempts=1)
    await world.tell(task, Status.CANCELLED, progress=0.1)
    heard = [e["data"]["progress"] for e in await follow(alice, task)]
    assert heard == [0, 0.5, 0.5, 0.5, 0.7, 0.7]


async def test_a_task_whose_events_are_forgotten_still_has_its_end(
    world: World, alice: httpx.AsyncClient
) -> None:
    task = await world.add_task()
    await live(world, task)
    world.stream.forget(event_subject(task.task_id))
    (only,) = await follow(alice, task)
    assert only["event"] == "completed"
    assert only["data"]["progress"] == 1
    assert only["data"]["result"]["file_path"] == "a b"


async def test_a_quiet_stream_shows_that_it_lives(
    world: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.02)
    task = await world.add_task()

    async def end_later() -> None:
        await asyncio.sleep(1)
        await world.tell(task, Status.CANCELLED)

    ending = asyncio.create_task(end_later())
    async with asyncio.timeout(WAIT_S):
        answer = await alice.get(url(task))
    await ending
    assert answer.text.count(": still here") >= 3
    assert [e["event"] for e in parsed(answer.text)] == ["queued", "cancelled"]


async def test_followers_of_one_task_hear_the_same(
    world: World, alice: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    task = await world.add_task()
    following = [asyncio.create_task(follow(caller, task)) for caller in (alice, operator) * 3]
    await asyncio.sleep(0)
    await live(world, task)
    first, *others = await asyncio.gather(*following)
    assert len(first) == 4
    assert all(other == first for other in others)


async def test_a_sick_queue_is_no_silent_stream(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    task = await world.add_task()
    world.stream.sick = True
    assert_problem(await alice.get(url(task)), 503, "queue_unavailable")
