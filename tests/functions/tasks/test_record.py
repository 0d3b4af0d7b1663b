from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from functions._kit.errors import QueueFull, Unavailable
from functions._kit.fakes import FakeStream, FakeTaskStore
from functions._kit.messages import new_id, now
from functions.tasks.contracts import (
    WEBHOOK_SUBJECT,
    Status,
    Task,
    TaskEvent,
    event_subject,
    final_id,
)
from functions.tasks.record import record

if TYPE_CHECKING:
    from tests.functions.conftest import World

URL = "https://hooks.example.org/nereid"


def task(callback_url: str | None = URL) -> Task:
    return Task(
        task_id=new_id(),
        client_id="alice",
        workflow="nas-photo-processing",
        priority=5,
        created_at=now(),
        callback_url=callback_url,
    )


def event(of: Task, status: Status) -> TaskEvent:
    event_id = final_id(of.task_id) if status.final else new_id()
    return TaskEvent(event_id=event_id, task=of, status=status, at=now())


async def recorded(world: World, *events: TaskEvent) -> None:
    await record.handler(list(events), world.store, world.stream)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.CANCELLED])
async def test_a_final_state_orders_one_webhook_however_often_it_comes(
    world: World, status: Status
) -> None:
    of = task()
    await recorded(world, event(of, Status.QUEUED), event(of, Status.PROCESSING))
    assert not world.jobs(WEBHOOK_SUBJECT)
    for _ in range(3):
        await recorded(world, event(of, status))
    await recorded(world, event(of, Status.PROCESSING))
    (job,) = world.jobs(WEBHOOK_SUBJECT)
    assert job["row"]["status"] == status.value
    assert job["row"]["task"]["callback_url"] == URL


async def test_a_task_without_a_callback_orders_none(world: World) -> None:
    of = task(callback_url=None)
    await recorded(world, event(of, Status.COMPLETED))
    assert not world.jobs()


async def test_of_two_final_states_the_first_is_told(world: World) -> None:
    of = task()
    await recorded(world, event(of, Status.CANCELLED), event(of, Status.COMPLETED))
    (job,) = world.jobs(WEBHOOK_SUBJECT)
    assert job["row"]["status"] == "cancelled"


async def test_a_batch_writes_every_task_and_orders_every_webhook(world: World) -> None:
    tasks = [task() for _ in range(30)]
    await recorded(world, *(event(of, Status.QUEUED) for of in tasks))
    await recorded(world, *(event(of, Status.COMPLETED) for of in tasks))
    told = {job["row"]["task"]["task_id"] for job in world.jobs(WEBHOOK_SUBJECT)}
    assert told == {of.task_id for of in tasks}


async def test_a_crash_between_table_and_webhook_loses_neither() -> None:
    """The worker repeats a batch that was not acknowledged."""
    store, stream, of = FakeTaskStore(), FakeStream(), task()
    stream.sick = True
    with pytest.raises(Unavailable):
        await record.handler([event(of, Status.COMPLETED)], store, stream)
    row = await store.get(of.task_id)
    assert row is not None
    assert row.status is Status.COMPLETED
    stream.sick = False
    await record.handler([event(of, Status.COMPLETED)], store, stream)
    assert len(stream.records(WEBHOOK_SUBJECT)) == 1


async def test_a_webhook_that_finds_no_room_is_ordered_later() -> None:
    store, stream = FakeTaskStore(), FakeStream(max_messages={"jobs": 0})
    done = event(task(), Status.COMPLETED)
    with pytest.raises(QueueFull):
        await record.handler([done], store, stream)
    stream.max_messages.clear()
    await record.handler([done], store, stream)
    assert len(stream.records(WEBHOOK_SUBJECT)) == 1


async def test_a_sick_table_loses_nothing() -> None:
    store, stream, of = FakeTaskStore(), FakeStream(), task()
    store.sick = True
    with pytest.raises(Unavailable) as caught:
        await record.handler([event(of, Status.COMPLETED)], store, stream)
    assert caught.value.backend == "database"
    assert not stream.records("jobs.>")
    assert await stream.last(event_subject(of.task_id)) is None
