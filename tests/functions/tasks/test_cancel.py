from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from functions._kit.messages import new_id, now
from functions.tasks.contracts import Status, TaskEvent, event_subject, final_id

if TYPE_CHECKING:
    from tests.functions.conftest import World

AssertProblem = Callable[..., dict[str, Any]]
PATH = "/api/v1/media/processingTasks"


@pytest.mark.parametrize("running", [False, True])
async def test_a_task_is_cancelled_for_all_to_hear(
    world: World, alice: httpx.AsyncClient, *, running: bool
) -> None:
    task = await world.add_task()
    if running:
        await world.tell(task, Status.PROCESSING, progress=0.25, attempts=1)
    answer = await alice.post(f"{PATH}/{task.task_id}:cancel")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["progress"]) == ("cancelled", 0.25 if running else 0)
    assert body["finished_at"] is not None
    assert (await alice.get(f"{PATH}/{task.task_id}")).json() == body
    last = await world.stream.last(event_subject(task.task_id))
    assert last is not None
    assert b'"status":"cancelled"' in last.data


async def test_cancelling_again_changes_nothing(world: World, alice: httpx.AsyncClient) -> None:
    task = await world.add_task()
    first = await alice.post(f"{PATH}/{task.task_id}:cancel")
    events = len(world.stream.records("events.>"))
    again = await alice.post(f"{PATH}/{task.task_id}:cancel")
    assert (again.status_code, again.json()) == (200, first.json())
    assert len(world.stream.records("events.>")) == events


async def test_many_cancel_at_once_and_all_see_it_cancelled(
    world: World, alice: httpx.AsyncClient
) -> None:
    task = await world.add_task()
    url = f"{PATH}/{task.task_id}:cancel"
    answers = await asyncio.gather(*(alice.post(url) for _ in range(5)))
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.json()["status"] for answer in answers} == {"cancelled"}


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED])
async def test_a_finished_task_cannot_be_cancelled(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem, status: Status
) -> None:
    task = await world.add_task()
    await world.tell(task, status)
    answer = await alice.post(f"{PATH}/{task.task_id}:cancel")
    assert_problem(answer, 409, "task_already_finished", "task_id")
    assert (await alice.get(f"{PATH}/{task.task_id}")).json()["status"] == status.value


async def test_a_task_that_finished_a_moment_ago_is_finished(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    """The worker's final event is in the stream and not yet in the table."""
    task = await world.add_task()
    event_id = final_id(task.task_id)
    done = TaskEvent(event_id=event_id, task=task, status=Status.COMPLETED, at=now())
    await world.stream.publish(event_subject(task.task_id), done, message_id=event_id)
    answer = await alice.post(f"{PATH}/{task.task_id}:cancel")
    assert_problem(answer, 409, "task_already_finished", "task_id")
    assert (await alice.get(f"{PATH}/{task.task_id}")).json()["status"] == "queued"


async def test_a_cancel_whose_row_was_not_written_can_be_repeated(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    task = await world.add_task()
    url = f"{PATH}/{task.task_id}:cancel"
    record = world.store.record

    async def sick(_: object) -> None:
        world.store.sick = True
        await record([])

    world.store.record = sick  # type: ignore[assignment, method-assign]
    assert_problem(await alice.post(url), 503, "database_unavailable")
    world.store.sick = False
    world.store.record = record  # type: ignore[method-assign]
    answer = await alice.post(url)
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_an_unheard_cancel_is_not_promised(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    task = await world.add_task()
    world.stream.sick = True
    answer = await alice.post(f"{PATH}/{task.task_id}:cancel")
    assert_problem(answer, 503, "queue_unavailable")
    assert (await alice.get(f"{PATH}/{task.task_id}")).json()["status"] == "queued"


@pytest.mark.parametrize("suffix", ["", ":", ":stop", ":cancel:cancel", ":CANCEL"])
async def test_there_is_no_other_action(
    world: World, alice: httpx.AsyncClient, assert_problem: AssertProblem, suffix: str
) -> None:
    task = await world.add_task()
    answer = await alice.post(f"{PATH}/{task.task_id}{suffix}")
    assert_problem(answer, 404, "not_found", "task_id")


async def test_an_operator_cancels_anothers_task(world: World, operator: httpx.AsyncClient) -> None:
    task = await world.add_task("alice")
    answer = await operator.post(f"{PATH}/{task.task_id}:cancel")
    assert answer.json()["status"] == "cancelled"


async def test_an_unknown_task_cannot_be_cancelled(
    alice: httpx.AsyncClient, assert_problem: AssertProblem
) -> None:
    answer = await alice.post(f"{PATH}/{new_id()}:cancel")
    assert_problem(answer, 404, "task_not_found", "task_id")
