"""A job that JetStream has lost is sent again from PostgreSQL: both of them real."""

from __future__ import annotations

import random
import string
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta

import msgspec
import pytest
import pytest_asyncio

from functions._kit.consume import Tick
from functions._kit.messages import new_id, now
from functions._kit.submit import new_task, submit
from functions.tasks.contracts import (
    Job,
    Status,
    Step,
    TaskEvent,
    event_subject,
    job_subject,
    read_event,
)
from functions.tasks.record import record
from functions.tasks.sweep import SILENT_S, sweep
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.adapters.tables import TaskTable, open_database
from gateway.adapters.tables.database import Database
from gateway.worker.delivery import Delivery


@dataclass(frozen=True, slots=True)
class House:
    stream: JetStream
    database: Database
    store: TaskTable
    subject: str

    async def submit(self) -> Job:
        task = new_task(new_id(), "alice", "test", 5, None)
        function = self.subject.removeprefix("jobs.").removesuffix(".normal")
        job = Job(task=task, steps=(Step(function=function, share=1.0),))
        await submit(self.stream, self.store, job)
        return job

    async def lose(self, sequence: int) -> None:
        await self.stream.client.jetstream().delete_msg("JOBS", sequence)

    async def minute_later(self) -> None:
        """All has been silent for long, then the clock strikes."""
        await self.database.fetch("UPDATE tasks SET heard_at = heard_at - interval '5 minutes'")
        later = now() + timedelta(seconds=5 * SILENT_S)
        await sweep.handler(Tick(at=later), store=self.store, stream=self.stream)

    async def place(self) -> int:
        """The sequence of the only job in the queue."""
        assert await self.stream.count(self.subject) == 1
        found = await self.stream.last(self.subject)
        assert found is not None
        return found.sequence


@pytest_asyncio.fixture
async def house(nats_url: str, database_url: str) -> AsyncIterator[House]:
    client = await connect(nats_url, name="test")
    await ensure_streams(client, StreamLimits())
    async with open_database(database_url) as database:
        word = "".join(random.choices(string.ascii_lowercase, k=16))
        subject = job_subject(f"test.{word}", 5)
        yield House(JetStream(client), database, TaskTable(database), subject)
    await client.close()


async def test_a_job_that_is_lost_is_sent_again_once_and_ends_its_keeping(house: House) -> None:
    job = await house.submit()
    first = await house.place()
    await house.minute_later()
    assert await house.place() == first, "it waits"
    await house.lose(first)
    await house.minute_later()
    again = await house.place()
    assert again > first
    sent = await house.stream.last(house.subject)
    assert sent is not None
    assert msgspec.json.decode(sent.data, type=Job) == job
    await house.minute_later()
    assert await house.place() == again

    ended = TaskEvent(
        event_id=f"{job.task.task_id}:final", task=job.task, status=Status.COMPLETED, at=now()
    )
    await record.handler([ended], house.store, house.stream)
    await house.lose(again)
    await house.minute_later()
    assert await house.stream.count(house.subject) == 0
    (row,) = await house.database.fetch("SELECT job FROM tasks")
    assert row["job"] is None


async def test_a_place_that_spare_could_not_tell_is_found_out(house: House) -> None:
    job = await house.submit()
    place = await house.place()
    await house.store.resent(job.task.task_id, sequence=0, resends=0)
    await house.minute_later()
    assert await house.place() == place
    (kept,) = await house.store.unheard(silent_s=-1, after=None, limit=1)
    assert (kept.sequence, kept.resends) == (place, 0)


async def test_an_end_that_the_table_has_missed_is_recorded(house: House) -> None:
    job = await house.submit()
    await house.lose(await house.place())
    ended = TaskEvent(
        event_id=f"{job.task.task_id}:final", task=job.task, status=Status.CANCELLED, at=now()
    )
    subject = event_subject(job.task.task_id)
    await house.stream.publish(subject, ended, message_id=ended.event_id)
    await house.minute_later()
    row = await house.store.get(job.task.task_id)
    assert row is not None
    assert row.status is Status.CANCELLED
    assert await house.stream.count(house.subject) == 0


@pytest.mark.parametrize("status", [Status.QUEUED, Status.PROCESSING])
async def test_a_job_that_a_stopping_worker_handed_back_is_known_where_it_lies(
    house: House, status: Status
) -> None:
    job = await house.submit()
    first, told = await house.place(), event_subject(job.task.task_id)
    event = TaskEvent(event_id=new_id(), task=job.task, status=status, at=now(), progress=0.25)
    await house.stream.publish(told, event)
    await record.handler([event], house.store, house.stream)
    js = house.stream.client.jetstream()
    taking = await js.pull_subscribe(house.subject, stream="JOBS")
    (message,) = await taking.fetch(1, timeout=60)
    assert await Delivery(message).hand_back(house.stream)
    await js.delete_consumer("JOBS", (await taking.consumer_info()).name)

    last = await house.stream.last(told)
    assert last is not None
    moved = read_event(last.data)
    assert moved is not None
    assert (moved.status, moved.progress) == (status, 0.25)
    await record.handler([moved], house.store, house.stream)
    await house.minute_later()
    assert await house.place() > first, "one, where it was handed back to"
