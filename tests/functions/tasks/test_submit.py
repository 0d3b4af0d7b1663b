"""How a request becomes a task while parts of the system are away."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from functions._kit import submit as module
from functions._kit.errors import Unavailable
from functions._kit.fakes import FakeStream, FakeTaskStore
from functions._kit.messages import new_id
from functions._kit.ports import Receipt
from functions._kit.submit import new_task, submit
from functions.tasks.contracts import Job, Status, Step, Task, event_subject


class WithoutEvents(FakeStream):
    """Takes jobs, and gives no answer to events."""

    async def publish(
        self,
        subject: str,
        message: msgspec.Struct | msgspec.Raw,
        *,
        message_id: str | None = None,
    ) -> Receipt:
        if subject.startswith("events."):
            await asyncio.Event().wait()
        return await super().publish(subject, message, message_id=message_id)


def job() -> Job:
    task = new_task(new_id(), "alice", "test", 5, None)
    return Job(task=task, steps=(Step(function="test.first", share=1.0),))


async def status(store: FakeTaskStore, task: Task) -> Status | None:
    row = await store.get(task.task_id)
    return row.status if row is not None else None


async def test_a_task_is_accepted_and_in_the_table_though_its_event_finds_no_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "EVENT_WAIT_S", 0.05)
    stream, store, new = WithoutEvents(), FakeTaskStore(), job()
    accepted = await submit(stream, store, new)
    assert accepted.task_id == new.task.task_id
    assert await status(store, new.task) is Status.QUEUED
    assert len(stream.records("jobs.>")) == 1


async def test_a_task_is_accepted_without_the_table_and_its_event_keeps_the_job() -> None:
    stream, store, new = FakeStream(), FakeTaskStore(), job()
    store.sick = True
    await submit(stream, store, new)
    (event,) = stream.records(event_subject(new.task.task_id))
    (sent,) = stream.records("jobs.>")
    kept = msgspec.json.decode(event.data)["waits_for"]
    assert kept == {"payload": msgspec.json.decode(sent.data), "sequence": sent.sequence}


async def test_a_queue_that_takes_nothing_makes_no_task() -> None:
    stream, store, new = FakeStream(), FakeTaskStore(), job()
    stream.sick = True
    with pytest.raises(Unavailable):
        await submit(stream, store, new)
    assert await status(store, new.task) is None
