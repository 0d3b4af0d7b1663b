"""What a worker counts, by a real JetStream: every way that a message may end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest_asyncio
from prometheus_client import CollectorRegistry

from functions._kit.errors import JobFailed, RetryJob, Unavailable
from functions._kit.messages import Message, new_id, now
from functions.alerts.contracts import Alert, Box
from functions.tasks.contracts import (
    Job,
    Status,
    Task,
    TaskEvent,
    event_subject,
    final_id,
    job_subject,
)
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.worker import Worker
from gateway.worker.metrics import ENDS, MOST_WORKFLOWS, WorkMetrics
from tests.gateway.test_worker import House, until_empty


class Counting(House):
    """A house whose workers count in a registry of the test's own."""

    def __init__(self, stream: JetStream, scratch: Path) -> None:
        super().__init__(stream, scratch)
        self.registry = CollectorRegistry()

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def ends(self) -> dict[str, float]:
        """Messages by how they ended, those that never happened left out."""
        found = {
            end: self.value("nereid_messages_total", function=self.name, outcome=end)
            for end in ENDS
        }
        return {end: count for end, count in found.items() if count}

    def runs(self) -> set[str]:
        return {
            sample.labels["outcome"]
            for family in self.registry.collect()
            if family.name == "nereid_handler_duration_seconds"
            for sample in family.samples
        }

    async def run(self, function: Any, *jobs: Job) -> None:
        """Work until the jobs' tasks are over and the queue is empty."""

        async def is_well() -> bool:
            return self.well

        worker = Worker(
            [function],
            {},
            self.stream,
            {"triton": is_well},
            scratch=self.scratch,
            drain_s=self.drain_s,
            metrics=WorkMetrics(self.registry),
        )
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(worker.run(stop, ready))
        await ready.wait()
        async with asyncio.timeout(60):
            for job in jobs:
                await self.events(job)
            await until_empty(self)
        stop.set()
        await running


@pytest_asyncio.fixture
async def house(nats_url: str, tmp_path: Path) -> AsyncIterator[Counting]:
    client = await connect(nats_url, name="test")
    await ensure_streams(client, StreamLimits())
    yield Counting(JetStream(client), tmp_path)
    await client.close()


async def test_a_job_that_is_done_tells_its_wait_its_run_and_its_attempts(house: Counting) -> None:
    async def handle(job: Job, run: Any) -> None:
        busy = house.value("nereid_worker_slots_busy", function=house.name, kind="ordinary")
        assert busy == 1

    await house.run(house.function(handle, concurrency=3, express=2), await house.send())
    name = house.name
    assert house.ends() == {"done": 1}
    assert house.runs() == {"completed"}
    assert house.value("nereid_queue_wait_seconds_count", function=name, band="normal") == 1
    assert house.value("nereid_queue_wait_seconds_count", function=name, band="high") == 0
    assert house.value("nereid_message_attempts_sum", function=name) == 1
    assert house.value("nereid_task_queued_seconds_count", workflow="w") == 1
    assert house.value("nereid_worker_slots", function=name, kind="ordinary") == 3
    assert house.value("nereid_worker_slots", function=name, kind="express") == 2
    assert house.value("nereid_worker_slots_busy", function=name, kind="ordinary") == 0


async def test_attempts_and_dead_letters_are_told(house: Counting) -> None:
    async def handle(job: Job, run: Any) -> None:
        raise RetryJob("hiccup", "not now")

    await house.run(house.function(handle, attempts=3), await house.send())
    assert house.ends() == {"retried": 2, "dead_lettered": 1}
    assert house.runs() == {"failed"}
    assert house.value("nereid_message_attempts_sum", function=house.name) == 3
    assert house.value("nereid_message_attempts_count", function=house.name) == 1
    assert house.value("nereid_task_queued_seconds_count", workflow="w") == 1, "waited once"


async def test_a_bad_job_a_slow_one_and_one_that_is_over_end_differently(house: Counting) -> None:
    slow = asyncio.Event()

    async def handle(job: Job, run: Any) -> None:
        if job.task.priority == 9:
            raise JobFailed("bad", "undecodable")
        if not slow.is_set():
            slow.set()
            await asyncio.sleep(60)

    over = await house.send(priority=1)
    done = TaskEvent(
        event_id=final_id(over.task.task_id), task=over.task, status=Status.CANCELLED, at=now()
    )
    await house.stream.publish(event_subject(over.task.task_id), done, message_id=done.event_id)
    bad = await house.send(priority=9)
    late = await house.send(priority=5)
    await house.run(house.function(handle, timeout_s=0.2), over, bad, late)
    assert house.ends() == {"failed": 1, "retried": 1, "done": 1, "over": 1}
    assert house.runs() == {"failed", "too_slow", "completed"}


async def test_a_sick_backend_is_told_and_costs_no_attempt(house: Counting) -> None:
    house.well = False
    asked = asyncio.Event()

    async def handle(job: Job, run: Any) -> None:
        if not asked.is_set():
            asked.set()
            raise Unavailable("triton", "away")

    async def heal() -> None:
        while not house.value("nereid_backend_sick", backend="triton"):
            await asyncio.sleep(0.01)
        house.well = True

    healing = asyncio.create_task(heal())
    await house.run(house.function(handle), await house.send())
    await healing
    assert house.ends() == {"done": 1}
    assert house.runs() == {"unavailable", "completed"}
    assert house.value("nereid_message_attempts_sum", function=house.name) == 1
    assert house.value("nereid_backend_sick", backend="triton") == 0


async def test_an_unreadable_message_is_a_dead_letter(house: Counting) -> None:
    async def handle(job: Job, run: Any) -> None:
        raise AssertionError

    await house.stream.publish_bytes(job_subject(house.name, 5), b"no json")
    await house.run(house.function(handle))
    assert house.ends() == {"dead_lettered": 1}
    assert house.runs() == set()


async def test_what_a_stopping_worker_gives_back_is_told(house: Counting) -> None:
    house.drain_s = 0
    begun = asyncio.Event()

    async def handle(job: Job, run: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    function = house.function(handle)
    worker = Worker(
        *([function], {}, house.stream, {}),
        scratch=house.scratch,
        drain_s=0,
        metrics=WorkMetrics(house.registry),
    )
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    await house.send()
    await begun.wait()
    stop.set()
    await running
    assert house.ends() == {"handed_back": 1}
    assert house.runs() == {"cancelled"}
    assert house.value("nereid_message_attempts_count", function=house.name) == 0


class Fact(Message, frozen=True, kw_only=True):
    """A fact of the test's own."""

    number: int


def test_recorded_facts_are_counted_once_and_by_what_they_are() -> None:
    registry = CollectorRegistry()
    work = WorkMetrics(registry)

    async def record(facts: Any, run: Any) -> None: ...

    record.__annotations__ = {}
    function = House.function(House(None, Path()), record, Fact, "jobs")  # type: ignore[arg-type]
    metrics = work.of(function.name, function.consumers[0])
    task = Task(task_id=new_id(), client_id="c", workflow="w", priority=5, created_at=now())
    box = Box(x=0, y=0, width=1, height=1)
    alert = Alert(
        alert_id=new_id(),
        camera_id="yard",
        label="cat",
        score=0.9,
        box=box,
        captured_at=now(),
        created_at=now(),
        model="m",
        model_version="1",
        frame_key="k",
    )
    kept = Alert(
        **{name: getattr(alert, name) for name in Alert.__struct_fields__[:-1]}, image_key="i"
    )
    events = [
        TaskEvent(event_id=new_id(), task=task, status=status, at=now())
        for status in (Status.QUEUED, Status.PROCESSING, Status.CANCELLED)
    ]
    metrics.recorded([*events, alert, kept, Fact(number=1)])
    labels = {"workflow": "w", "status": "cancelled"}
    assert registry.get_sample_value("nereid_tasks_recorded_total", labels) == 1
    assert registry.get_sample_value("nereid_task_duration_seconds_count", labels) == 1
    assert registry.get_sample_value("nereid_alerts_recorded_total") == 1


def test_workflows_that_strangers_make_up_fill_no_memory() -> None:
    work = WorkMetrics(CollectorRegistry())
    names = {work.workflow(f"w{number}") for number in range(10 * MOST_WORKFLOWS)}
    assert len(names) == MOST_WORKFLOWS + 1
    assert "other" in names
    assert work.workflow("w0") == "w0"
