"""A backup while tasks come, run and end: whatever the moment, each ends after a restore, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from functions._kit.errors import Unavailable
from functions._kit.messages import new_id, now
from functions.tasks.contracts import (
    Job,
    Status,
    Step,
    Task,
    TaskEvent,
    event_subject,
    final_id,
    job_subject,
)
from gateway.adapters.background import end
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.adapters.keyvalue import ensure_buckets
from gateway.adapters.tables import TaskTable, open_database
from gateway.backup.making import make
from gateway.backup.manifest import read_manifest
from gateway.backup.restoring import restore
from gateway.backup.streams import read
from gateway.embedded import EmbeddedServers

STEPS = ("media.upscale", "media.thumbnail")
EVENTS, JOBS = "tasks_record", "jobs_worker"
BEFORE, WAITING = 40, 150
AT_ONCE = 20
ASK_S = 30.0
T = TypeVar("T")


async def patiently(work: Callable[[], Awaitable[T]]) -> T:
    """Do what may be repeated until it is done: the machine is busy, not the system at fault."""
    while True:
        with suppress(Unavailable):
            return await work()
        await asyncio.sleep(0.05)


class System:
    """What gateway, workers and recorder do with the streams and the table, and no more."""

    def __init__(self, client: Client, table: TaskTable) -> None:
        self.client = client
        self.stream = JetStream(client)
        self.js: JetStreamContext = client.jetstream(timeout=ASK_S)
        self.table = table
        self.accepted: list[str] = []
        self.ended = 0

    async def tell(self, task: Task, status: Status) -> None:
        event_id = final_id(task.task_id) if status.final else new_id()
        event = TaskEvent(event_id=event_id, task=task, status=status, at=now())
        subject = event_subject(task.task_id)
        await patiently(lambda: self.stream.publish(subject, event, message_id=event_id))

    async def submit(self) -> None:
        task = Task(
            task_id=new_id(), client_id="me", workflow="photo", priority=5, created_at=now()
        )
        steps = tuple(Step(function=name, share=0.5) for name in STEPS)
        await self.publish(Job(task=task, steps=steps))
        await self.tell(task, Status.QUEUED)
        self.accepted.append(task.task_id)

    async def publish(self, job: Job) -> None:
        name = job.steps[0].function
        subject, message_id = job_subject(name, 5), f"{job.task.task_id}:{name}"
        await patiently(lambda: self.stream.publish(subject, job, message_id=message_id))

    async def accept(self) -> None:
        while True:
            if len(self.accepted) - self.ended < WAITING + AT_ONCE:
                await self.submit()
            else:
                await asyncio.sleep(0.01)

    async def work(self) -> None:
        """A job's successor or its task's end is published before the job is acknowledged."""
        jobs = await self.js.pull_subscribe("jobs.>", durable=JOBS, stream="JOBS")
        while True:
            with suppress(nats.errors.TimeoutError):
                await asyncio.gather(*map(self.run, await jobs.fetch(AT_ONCE, timeout=1)))

    async def run(self, message: Msg) -> None:
        job = msgspec.json.decode(message.data, type=Job)
        if not await self.is_over(job.task):
            rest = job.steps[1:]
            if rest:
                await self.publish(msgspec.structs.replace(job, steps=rest))
            else:
                await self.tell(job.task, Status.COMPLETED)
                self.ended += 1
        await message.ack_sync(timeout=ASK_S)

    async def is_over(self, task: Task) -> bool:
        last = await patiently(lambda: self.stream.last(event_subject(task.task_id)))
        return last is not None and msgspec.json.decode(last.data, type=TaskEvent).status.final

    async def record(self) -> None:
        events = await self.js.pull_subscribe("events.task.*", durable=EVENTS, stream="EVENTS")
        while True:
            with suppress(nats.errors.TimeoutError):
                messages = await events.fetch(AT_ONCE, timeout=1)
                decode = msgspec.json.Decoder(TaskEvent).decode
                facts = [decode(message.data) for message in messages]
                await patiently(partial(self.table.record, facts))
                await asyncio.gather(*(message.ack_sync(timeout=ASK_S) for message in messages))

    async def idle(self) -> None:
        """Return when no job is left and every fact is recorded."""
        async with asyncio.timeout(240):
            while (await self.js.stream_info("JOBS")).state.messages:
                await asyncio.sleep(0.05)
            while True:
                info = await self.js.consumer_info("EVENTS", EVENTS)
                if not info.num_pending and not info.num_ack_pending:
                    return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield
    finally:
        for task in tasks:
            assert not task.done(), task
        await end(*tasks)


@asynccontextmanager
async def client_of(servers: EmbeddedServers) -> AsyncIterator[Client]:
    client = await connect(servers.nats.url, name="test")
    try:
        yield client
    finally:
        await client.close()


@pytest.mark.timeout(600)
async def test_a_backup_under_traffic_loses_no_accepted_task_and_ends_none_twice(
    tmp_path: Path,
) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    async with (
        EmbeddedServers(tmp_path / "first", want={"nats", "postgres"}) as servers,
        client_of(servers) as client,
        client_of(servers) as other,
        open_database(servers.postgres.url) as database,
    ):
        await ensure_streams(client, StreamLimits())
        await ensure_buckets(client, 1)
        first = System(client, TaskTable(database))
        for _ in range(WAITING):  # so that reading them takes as long as some need to end
            await first.submit()
        async with running(first.accept(), first.accept(), first.work(), first.record()):
            async with asyncio.timeout(240):
                while first.ended < BEFORE:
                    await asyncio.sleep(0.01)
            before, ended = list(first.accepted), first.ended
            await make(
                backup,
                client=other,
                database_url=servers.postgres.url,
                secrets=None,
                version="test",
                say=lambda _: None,
            )
        assert len(first.accepted) > len(before)
        assert first.ended > ended

    async with (
        EmbeddedServers(tmp_path / "second", want={"nats", "postgres"}) as servers,
        client_of(servers) as client,
    ):
        await restore(
            backup,
            read_manifest(backup),
            client=client,
            database_url=servers.postgres.url,
            limits=StreamLimits(),
            overwrite=False,
            say=lambda _: None,
        )
        async with open_database(servers.postgres.url) as database:
            second = System(client, TaskTable(database))
            async with running(second.work(), second.record()):
                await second.idle()
            rows = await database.fetch("SELECT task_id, status FROM tasks")
        states = {str(row["task_id"]): row["status"] for row in rows}
        assert set(before) <= set(states) <= set(first.accepted)
        assert set(states.values()) == {"completed"}
        ends: Counter[str] = Counter()
        async for message in read(client.jetstream(), "EVENTS"):
            event = msgspec.json.decode(message.data, type=TaskEvent)
            ends[event.task.task_id] += event.status.final
        assert set(ends.values()) == {1}
