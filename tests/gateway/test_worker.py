"""The worker over a real JetStream: leases, attempts, sickness, cancelling, priorities."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from functions._kit.consume import Envelope, Run, consume
from functions._kit.errors import (
    JobFailed,
    OutOfMemory,
    QueueFull,
    RetryJob,
    StillLoading,
    Unavailable,
)
from functions._kit.fakes import FakeAlertStore
from functions._kit.messages import Message, new_id, now
from functions._kit.policy import Policy
from functions._kit.ports import AlertFilter
from functions.alerts.contracts import Alert, Box
from functions.tasks.contracts import (
    DeadLetter,
    Job,
    Status,
    Step,
    Task,
    TaskEvent,
    event_subject,
    final_id,
    job_subject,
    read_event,
)
from gateway.adapters.jetstream import JetStream, StreamLimits, connect, ensure_streams
from gateway.registry import Function
from gateway.worker import Worker, health
from gateway.worker.delivery import SPENT
from gateway.worker.handler import HEALTHY_FAILURES, LOSSES, Handler


def random_word() -> str:
    """A word that no other test uses."""
    return "".join(random.choices(string.ascii_lowercase, k=12))


Handle = Callable[[Any, Any], Awaitable[Any]]


@dataclass
class House:
    """A worker's surroundings in one test."""

    stream: JetStream
    scratch: Path
    well: bool = True
    answered: int = 0
    told: list[dict[str, str]] = field(default_factory=list)
    drain_s: float = 5.0
    name: str = field(default_factory=lambda: f"test.{random_word()}")

    def function(
        self, handle: Handle, message: type = Job, stream: str = "jobs", **policy: Any
    ) -> Function:
        """A function of the test's own, on a subject that no other test uses."""

        async def handler(job: Any, run: Any) -> Any:
            return await handle(job, run)

        handler.__annotations__ = {"job": message, "run": Run}
        if "batch" in policy:
            handler.__annotations__ = {"job": list[message], "run": Run}  # type: ignore[valid-type]
        settings: dict[str, Any] = {"bands": True, "backoff_s": (0.05,)} | policy
        consumer = consume(f"{stream}.{self.name}", policy=Policy(**settings))(handler)
        return Function(self.name, "a test", [], [consumer])

    @asynccontextmanager
    async def working(self, *functions: Function) -> AsyncIterator[None]:
        """A worker that runs `functions` during the block."""

        async def is_well() -> bool:
            return self.well

        worker = Worker(
            functions,
            {},
            self.stream,
            {"triton": is_well},
            scratch=self.scratch,
            drain_s=self.drain_s,
            answered={"triton": lambda: self.answered},
            tell=lambda sick: self.told.append(dict(sick)),
        )
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(worker.run(stop, ready))
        await ready.wait()
        try:
            yield
        finally:
            stop.set()
            await running

    async def send(self, priority: int = 5, *further: Step) -> Job:
        """Publish a job of this test's function."""
        task = Task(
            task_id=new_id(), client_id="c", workflow="w", priority=priority, created_at=now()
        )
        job = Job(task=task, steps=(Step(function=self.name, share=0.5), *further))
        await self.stream.publish(job_subject(self.name, priority), job, message_id=task.task_id)
        return job

    async def events(self, job: Job) -> list[TaskEvent]:
        """All events of a task, up to its final one."""
        found: list[TaskEvent] = []
        async for record in self.stream.follow(event_subject(job.task.task_id)):
            found.append(msgspec.json.decode(record.data, type=TaskEvent))
            if found[-1].status.final:
                return found
        raise AssertionError

    async def first(self, subject: str) -> bytes:
        """The first message that comes on `subject`."""
        async with asyncio.timeout(60):
            while (record := await self.stream.last(subject)) is None:
                await asyncio.sleep(0.01)
        return record.data

    async def left(self) -> int:
        """Jobs of this test's function that the queue still holds."""
        info = await self.stream.client.jetstream().stream_info(
            "JOBS", subjects_filter=f"jobs.{self.name}.*"
        )
        return sum((info.state.subjects or {}).values())


@pytest_asyncio.fixture
async def house(nats_url: str, tmp_path: Path) -> AsyncIterator[House]:
    client = await connect(nats_url, name="test")
    await ensure_streams(client, StreamLimits())
    yield House(JetStream(client), tmp_path)
    await client.close()


async def until_empty(house: House) -> None:
    async with asyncio.timeout(60):
        while await house.left():
            await asyncio.sleep(0.01)


async def test_a_job_runs_once_and_its_events_tell_its_life(house: House) -> None:
    async def handle(job: Job, run: Run) -> dict[str, int]:
        run.progress(0.5)
        assert run.scratch.is_dir()
        return {"answer": 42}

    async with house.working(house.function(handle)):
        events = await house.events(await house.send())
        await until_empty(house)
    assert [e.status for e in events] == [Status.PROCESSING, Status.COMPLETED]
    assert events[-1].result == {"answer": 42}
    assert events[-1].progress == 1.0
    assert {e.attempts for e in events} == {1}
    assert list(house.scratch.iterdir()) == []


async def test_progress_is_told_while_the_handler_works(house: House) -> None:
    told = asyncio.Event()

    async def handle(job: Job, run: Run) -> None:
        run.progress(0.5)
        await told.wait()

    async with house.working(house.function(handle)):
        job = await house.send()
        async for record in house.stream.follow(event_subject(job.task.task_id)):
            event = msgspec.json.decode(record.data, type=TaskEvent)
            if event.progress == 0.25:  # half of a step that makes half of the task
                break
        told.set()
        assert (await house.events(job))[-1].status is Status.COMPLETED


async def test_a_finished_step_passes_the_task_and_its_result_on(house: House) -> None:
    async def handle(job: Job, run: Run) -> dict[str, int]:
        return {"first": 1}

    other = f"{house.name}x"
    async with house.working(house.function(handle)):
        job = await house.send(9, Step(function=other, share=0.5))
        sent = await house.first(job_subject(other, 9))
        await until_empty(house)
    following = msgspec.json.decode(sent, type=Job)
    told = await house.stream.last(event_subject(job.task.task_id))
    place = await house.stream.last(job_subject(other, 9))
    assert told is not None
    assert place is not None
    kept = msgspec.json.decode(told.data, type=TaskEvent).waits_for
    assert kept is not None
    assert (bytes(kept.payload), kept.sequence) == (sent, place.sequence)
    assert following.result == {"first": 1}
    assert following.done == 0.5
    assert [step.function for step in following.steps] == [other]


async def test_a_job_at_fault_fails_at_once_with_its_code(house: House) -> None:
    runs = 0

    async def handle(job: Job, run: Run) -> None:
        nonlocal runs
        runs += 1
        raise JobFailed("corrupt_picture", "it ends early")

    async with house.working(house.function(handle)):
        final = (await house.events(await house.send()))[-1]
        await until_empty(house)
    assert (final.status, final.error and final.error.code) == (Status.FAILED, "corrupt_picture")
    assert runs == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(RetryJob("flaky", "perhaps later"), "flaky"), (ZeroDivisionError(), "internal_error")],
)
async def test_attempts_are_spent_and_then_the_job_is_a_dead_letter(
    house: House, error: Exception, code: str
) -> None:
    seen: list[int] = []

    async def handle(job: Job, run: Run) -> None:
        seen.append(run.attempt)
        raise error

    async with house.working(house.function(handle, attempts=3)):
        job = await house.send()
        final = (await house.events(job))[-1]
        letter = msgspec.json.decode(await house.first(f"dead.{house.name}"), type=DeadLetter)
        await until_empty(house)
    assert seen == [1, 2, 3]
    assert (final.status, final.error and final.error.code) == (Status.FAILED, code)
    assert (letter.code, letter.attempts) == (code, 3)
    assert msgspec.json.decode(letter.payload, type=Job) == job


async def test_a_sick_backend_spends_no_attempt_however_long_it_is_away(house: House) -> None:
    tries = 0
    house.well = False

    async def handle(job: Job, run: Run) -> int:
        nonlocal tries
        tries += 1
        if not house.well:
            raise Unavailable("triton", "away")
        return {"attempt": run.attempt}  # type: ignore[return-value]

    async with house.working(house.function(handle, attempts=1, ack_wait_s=1.0)):
        job = await house.send()
        while tries == 0:
            await asyncio.sleep(0.01)
        await asyncio.sleep(2.5)  # longer than the lease, and than all the attempts' backoff
        house.well = True
        final = (await house.events(job))[-1]
    assert final.status is Status.COMPLETED
    assert final.result == {"attempt": 1}
    assert tries == 2


async def test_a_load_that_fails_late_ends_who_waits_for_it_and_holds_nobody_else(
    house: House,
) -> None:
    failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    house.well = False  # it is not asked
    tries = 0

    async def handle(job: Job, run: Run) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise StillLoading("still loading", lambda: asyncio.shield(failing))

    async with house.working(house.function(handle, concurrency=2)):
        waiting = await house.send()
        while tries == 0:
            await asyncio.sleep(0.01)
        other = await house.send()
        assert (await house.events(other))[-1].status is Status.COMPLETED
        failing.set_exception(JobFailed("model_not_loadable", "broken"))
        final = (await house.events(waiting))[-1]
    assert final.error is not None
    assert (final.error.code, tries) == ("model_not_loadable", 2)
    assert house.told == []


async def test_a_job_that_fails_a_healthy_backend_again_and_again_spends_its_attempts(
    house: House,
) -> None:
    async def handle(job: Job, run: Run) -> None:
        raise Unavailable("triton", "out of memory, because of this job")

    async with house.working(house.function(handle, attempts=1)):
        final = (await house.events(await house.send()))[-1]
    assert final.status is Status.FAILED
    assert final.error is not None
    assert final.error.code == "triton_unavailable"


def cancelled(job: Job) -> TaskEvent:
    return TaskEvent(
        event_id=final_id(job.task.task_id), task=job.task, status=Status.CANCELLED, at=now()
    )


async def test_a_running_task_stops_when_it_is_cancelled(house: House) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def handle(job: Job, run: Run) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with house.working(house.function(handle)):
        job = await house.send()
        await started.wait()
        event = cancelled(job)
        await house.stream.publish(
            event_subject(job.task.task_id), event, message_id=event.event_id
        )
        await stopped.wait()
        await until_empty(house)
        assert (await house.events(job))[-1].status is Status.CANCELLED


async def test_a_task_cancelled_while_it_waits_never_runs(house: House) -> None:
    ran: list[str] = []

    async def handle(job: Job, run: Run) -> None:
        ran.append(job.task.task_id)

    job = await house.send()
    event = cancelled(job)
    await house.stream.publish(event_subject(job.task.task_id), event, message_id=event.event_id)
    async with house.working(house.function(handle)):
        await until_empty(house)
    assert ran == []


async def test_of_two_final_events_the_first_is_kept(house: House) -> None:
    async def handle(job: Job, run: Run) -> None:
        event = cancelled(job)
        receipt = await house.stream.publish(
            event_subject("elsewhere" + job.task.task_id), event, message_id=event.event_id
        )
        assert not receipt.duplicate

    async with house.working(house.function(handle)):
        job = await house.send()
        await until_empty(house)
    last = await house.stream.last(event_subject(job.task.task_id))
    assert last is not None
    assert msgspec.json.decode(last.data, type=TaskEvent).status is Status.PROCESSING


async def test_a_job_longer_than_its_lease_stays_with_its_worker(house: House) -> None:
    runs = 0

    async def handle(job: Job, run: Run) -> dict[str, int]:
        nonlocal runs
        runs += 1
        await asyncio.sleep(5)  # the work itself: two and a half leases long
        return {"runs": runs}

    async with house.working(house.function(handle, ack_wait_s=2.0, concurrency=2)):
        final = (await house.events(await house.send()))[-1]
    assert final.result == {"runs": 1}


async def test_the_job_of_a_worker_that_died_comes_again(house: House) -> None:
    async def handle(job: Job, run: Run) -> dict[str, int]:
        return {"attempt": run.attempt}

    function = house.function(handle, ack_wait_s=1.0, bands=False)
    async with house.working(function):
        pass  # makes the durable consumer
    task = Task(task_id=new_id(), client_id="c", workflow="w", priority=5, created_at=now())
    job = Job(task=task, steps=(Step(function=house.name, share=1.0),))
    await house.stream.publish(f"jobs.{house.name}", job, message_id=task.task_id)
    taken = await house.stream.client.jetstream().pull_subscribe_bind(
        house.name.replace(".", "_"), stream="JOBS"
    )
    await taken.fetch(1)  # by somebody who never says another word
    async with house.working(function):
        final = (await house.events(job))[-1]
    assert final.result == {"attempt": 2}


@pytest.mark.parametrize("lost", [2 + LOSSES - 1, 2 + LOSSES])
async def test_a_job_outlives_some_lost_workers_and_is_given_up_when_it_loses_more(
    house: House, lost: int
) -> None:
    async def handle(job: Job, run: Run) -> None:
        pass

    task = Task(task_id=new_id(), client_id="c", workflow="w", priority=5, created_at=now())
    job = Job(task=task, steps=(Step(function=house.name, share=1.0),))
    await house.stream.publish_bytes(
        job_subject(house.name, 5), msgspec.json.encode(job), headers={SPENT: str(lost)}
    )
    async with house.working(house.function(handle, attempts=2)):
        *_, final = await house.events(job)
        await until_empty(house)
    given_up = lost == 2 + LOSSES
    assert final.status is (Status.FAILED if given_up else Status.COMPLETED)
    if given_up:
        assert final.error is not None
        assert final.error.code == "worker_lost"
        await house.first(f"dead.{house.name}")


async def test_a_stopping_worker_finishes_what_it_has(house: House) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def handle(job: Job, run: Run) -> dict[str, str]:
        started.set()
        await go.wait()
        return {"done": "yes"}

    async with house.working(house.function(handle)):
        job = await house.send()
        await started.wait()
        asyncio.get_running_loop().call_later(0.2, go.set)
    assert (await house.events(job))[-1].result == {"done": "yes"}


async def test_a_job_handed_back_at_the_end_spends_no_attempt(house: House) -> None:
    started = asyncio.Event()

    async def never(job: Job, run: Run) -> None:
        started.set()
        await asyncio.Event().wait()

    async def handle(job: Job, run: Run) -> dict[str, int]:
        return {"attempt": run.attempt}

    house.drain_s = 0.1
    async with house.working(house.function(never, attempts=1)):
        job = await house.send()
        await started.wait()
    async with house.working(house.function(handle, attempts=1)):
        final = (await house.events(job))[-1]
    assert final.result == {"attempt": 1}


async def test_a_high_task_overtakes_a_backlog_and_a_low_one_is_not_starved(house: House) -> None:
    order: list[int] = []

    async def handle(job: Job, run: Run) -> None:
        order.append(job.task.priority)

    for _ in range(20):
        await house.send(1)
    for _ in range(20):
        await house.send(10)
    async with house.working(house.function(handle, concurrency=1)):
        await until_empty(house)
    first = order[:20]
    assert first.count(10) >= 15
    assert first.count(1) >= 2
    assert len(order) == 40


async def test_an_express_slot_takes_a_high_task_while_all_others_are_busy(house: House) -> None:
    go = asyncio.Event()

    async def handle(job: Job, run: Run) -> None:
        if job.task.priority < 8:
            await go.wait()

    async with house.working(house.function(handle, concurrency=1, express=1)):
        slow = await house.send(1)
        await house.send(1)
        assert (await house.events(await house.send(9)))[-1].status is Status.COMPLETED
        go.set()
        await house.events(slow)


@pytest.mark.parametrize("data", [b"\xff{not json", b'{"task": "\xff"}', b"", b"[" * 5000])
async def test_a_message_that_nobody_can_read_is_a_dead_letter(house: House, data: bytes) -> None:
    async def handle(job: Job, run: Run) -> None:
        raise AssertionError

    subject = f"jobs.{house.name}.normal"
    async with house.working(house.function(handle)):
        await house.stream.publish_bytes(subject, data)
        letter = msgspec.json.decode(await house.first(f"dead.{house.name}"), type=DeadLetter)
        await until_empty(house)
    assert (letter.code, letter.payload) == ("unreadable", data)


class Fact(Message, frozen=True, kw_only=True):
    number: int


async def test_a_batch_is_handled_at_once_and_one_by_one_when_that_fails(house: House) -> None:
    batches: list[list[int]] = []

    async def handle(facts: list[Fact], run: Run) -> None:
        batches.append([fact.number for fact in facts])
        if len(batches) == 1:
            raise RuntimeError("once")

    for number in range(7):
        await house.stream.publish(f"jobs.{house.name}", Fact(number=number))
    function = house.function(handle, Fact, batch=5, bands=False)
    async with house.working(function):
        async with asyncio.timeout(60):
            while {n for batch in batches[1:] for n in batch} != set(range(7)):
                await asyncio.sleep(0.01)
    assert batches[0] == [0, 1, 2, 3, 4]
    assert await house.left() == 0


async def test_a_bad_message_of_a_batch_is_a_dead_letter_and_holds_back_no_other(
    house: House,
) -> None:
    written: list[int] = []

    async def handle(facts: list[Fact], run: Run) -> None:
        if any(fact.number == 2 for fact in facts):
            raise ValueError("2")
        written.extend(fact.number for fact in facts)

    for number in range(5):
        await house.stream.publish(f"jobs.{house.name}", Fact(number=number))
    async with house.working(house.function(handle, Fact, batch=5, bands=False, attempts=2)):
        letter = msgspec.json.decode(await house.first(f"dead.{house.name}"), type=DeadLetter)
    assert sorted(written) == [0, 1, 3, 4]
    assert msgspec.json.decode(letter.payload, type=Fact).number == 2


async def test_a_fact_handed_back_at_the_end_is_not_told_twice(house: House) -> None:
    started = asyncio.Event()
    seen: list[int] = []

    async def never(facts: list[Fact], run: Run) -> None:
        started.set()
        await asyncio.Event().wait()

    async def handle(facts: list[Fact], run: Run) -> None:
        seen.extend(fact.number for fact in facts)

    subject = f"events.{house.name}"
    house.drain_s = 0.1
    async with house.working(house.function(never, Fact, "events", batch=5, bands=False)):
        await house.stream.publish(subject, Fact(number=7))
        await started.wait()
    async with house.working(house.function(handle, Fact, "events", batch=5, bands=False)):
        async with asyncio.timeout(60):
            while not seen:
                await asyncio.sleep(0.01)
    info = await house.stream.client.jetstream().stream_info("EVENTS", subjects_filter=subject)
    assert seen == [7]
    assert info.state.subjects == {subject: 1}


async def test_of_a_batch_only_what_is_not_done_is_handed_back(house: House) -> None:
    started = asyncio.Event()
    seen: list[int] = []

    async def stuck(facts: list[Fact], run: Run) -> None:
        if len(facts) > 1:
            raise ValueError("one by one, please")
        if facts[0].number == 1:
            started.set()
            await asyncio.Event().wait()
        seen.append(facts[0].number)

    async def handle(facts: list[Fact], run: Run) -> None:
        seen.extend(fact.number for fact in facts)

    house.drain_s = 0.1
    for number in range(3):
        await house.stream.publish(f"jobs.{house.name}", Fact(number=number))
    async with house.working(house.function(stuck, Fact, batch=3, bands=False)):
        await started.wait()
    async with house.working(house.function(handle, Fact, batch=3, bands=False)):
        async with asyncio.timeout(60):
            while len(seen) < 3:
                await asyncio.sleep(0.01)
    assert seen == [0, 1, 2]
    assert await house.left() == 0


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes and looks follow one another quickly."""
    monkeypatch.setattr(health, "WAITS_S", (0.01,))
    monkeypatch.setattr(health, "WATCH_S", 0.01)


@pytest.mark.usefixtures("impatient")
async def test_a_lack_of_memory_spends_no_attempt_while_nobody_is_served(house: House) -> None:
    tries = 0

    async def handle(job: Job, run: Run) -> dict[str, int]:
        nonlocal tries
        tries += 1
        if tries <= 3 * HEALTHY_FAILURES:
            raise OutOfMemory("triton", "CUDA out of memory")
        house.answered += 1
        return {"attempt": run.attempt}

    async with house.working(house.function(handle, attempts=1)):
        final = (await house.events(await house.send()))[-1]
        await until_told(house, {})
    assert (final.status, final.result) == (Status.COMPLETED, {"attempt": 1})
    assert tries == 3 * HEALTHY_FAILURES + 1
    assert house.told == [{"triton": "CUDA out of memory"}, {}]


@pytest.mark.usefixtures("impatient")
async def test_a_lack_of_memory_that_meets_one_job_alone_spends_its_attempts(house: House) -> None:
    tries = 0

    async def handle(job: Job, run: Run) -> None:
        nonlocal tries
        tries += 1
        house.answered += 1  # others get their answers meanwhile
        raise OutOfMemory("triton", "CUDA out of memory")

    async with house.working(house.function(handle, attempts=1)):
        final = (await house.events(await house.send()))[-1]
    assert final.status is Status.FAILED
    assert (final.error and final.error.code) == "triton_unavailable"
    assert tries == HEALTHY_FAILURES


@pytest.mark.usefixtures("impatient")
async def test_a_full_queue_spends_no_attempt(house: House) -> None:
    tries = 0

    async def handle(job: Job, run: Run) -> dict[str, int]:
        nonlocal tries
        tries += 1
        if tries <= 3 * HEALTHY_FAILURES:
            raise QueueFull("the queue is full; try again later")
        return {"attempt": run.attempt}

    async with house.working(house.function(handle, attempts=1)):
        final = (await house.events(await house.send()))[-1]
    assert (final.status, final.result) == (Status.COMPLETED, {"attempt": 1})
    assert tries == 3 * HEALTHY_FAILURES + 1


@pytest.mark.usefixtures("impatient")
async def test_jobs_wait_side_by_side_for_memory_and_all_are_done(house: House) -> None:
    """Eight frames at once, and a backend that has no memory for a while."""
    tries, done = 0, 0

    async def handle(job: Fact, run: Run) -> None:
        nonlocal tries, done
        tries += 1
        if tries <= 100:
            raise OutOfMemory("triton", "CUDA out of memory")
        house.answered += 1
        done += 1

    for number in range(20):
        await house.stream.publish(f"frames.{house.name}", Fact(number=number))
    function = house.function(handle, Fact, "frames", bands=False, concurrency=8, attempts=1)
    async with house.working(function), asyncio.timeout(60):
        while done < 20:
            await asyncio.sleep(0.01)
    assert (tries, done) == (120, 20)
    assert await house.stream.last(f"dead.{house.name}") is None
    assert house.told[-1] == {}


async def until_told(house: House, sick: dict[str, str]) -> None:
    async with asyncio.timeout(60):
        while not house.told or house.told[-1] != sick:
            await asyncio.sleep(0.01)


async def test_a_backend_that_is_away_is_told_of_and_taken_back(house: House) -> None:
    house.well = False

    async def handle(job: Job, run: Run) -> None:
        if not house.well:
            raise Unavailable("triton", "it is away")

    async with house.working(house.function(handle)):
        job = await house.send()
        await until_told(house, {"triton": "it is away"})
        house.well = True
        assert (await house.events(job))[-1].status is Status.COMPLETED
    assert house.told == [{"triton": "it is away"}, {}]


def with_envelope(house: House, seen: list[Envelope], outcome: list[Exception]) -> Function:
    """A function that remembers its envelopes, and raises what is left of `outcome`."""

    async def handler(fact: Fact, envelope: Envelope) -> None:
        seen.append(envelope)
        if outcome:
            raise outcome.pop(0)

    policy = Policy(backoff_s=(0.05,), attempts=5)
    consumer = consume("frames.*", policy=policy)(handler)
    return Function(house.name, "a test", [], [replace(consumer, subject=f"frames.{house.name}")])


async def test_an_envelope_says_where_a_message_came_from_when_and_how_often(
    house: House,
) -> None:
    seen: list[Envelope] = []
    before = now()
    subject = f"frames.{house.name}"
    await house.stream.publish(subject, Fact(number=1))
    function = with_envelope(house, seen, [RetryJob("flaky", "x"), ZeroDivisionError()])
    async with house.working(function), asyncio.timeout(60):
        while await house.stream.count(subject):
            await asyncio.sleep(0.01)
    assert [envelope.attempt for envelope in seen] == [1, 2, 3]
    assert {envelope.subject for envelope in seen} == {subject}
    (stored_at,) = {envelope.stored_at for envelope in seen}
    assert before <= stored_at <= now()
    assert stored_at.tzinfo is not None


async def test_a_sick_backend_shows_in_no_envelope(house: House) -> None:
    seen: list[Envelope] = []
    subject = f"frames.{house.name}"
    await house.stream.publish(subject, Fact(number=1))
    function = with_envelope(house, seen, [Unavailable("triton", "away")] * 2)
    async with house.working(function), asyncio.timeout(60):
        while await house.stream.count(subject):
            await asyncio.sleep(0.01)
    assert len(seen) == 3
    assert len(set(seen)) == 1
    assert seen[0].attempt == 1


async def test_frames_are_handled_side_by_side(house: House) -> None:
    together = asyncio.Barrier(8)
    done: list[int] = []

    async def handle(fact: Fact, run: Run) -> None:
        await together.wait()
        done.append(fact.number)

    for number in range(16):
        await house.stream.publish(f"frames.{house.name}", Fact(number=number))
    function = house.function(handle, Fact, "frames", bands=False, concurrency=8)
    async with house.working(function), asyncio.timeout(60):
        while await house.stream.count(f"frames.{house.name}"):
            await asyncio.sleep(0.01)
    assert sorted(done) == list(range(16))


async def test_one_unreadable_alert_holds_up_no_other_of_its_batch(house: House) -> None:
    store = FakeAlertStore()
    batches: list[int] = []

    async def record(alerts: list[Alert], run: Run) -> None:
        batches.append(len(alerts))
        await store.record(alerts)

    subject = f"events.{house.name}"
    for number in range(9):
        if number == 4:
            await house.stream.publish_bytes(subject, b'{"alert_id": "no more than that"}')
        await house.stream.publish(subject, an_alert(number))
    function = house.function(record, Alert, "events", batch=100, linger_s=0.5, bands=False)
    async with house.working(function):
        letter = msgspec.json.decode(await house.first(f"dead.{house.name}"), type=DeadLetter)
        async with asyncio.timeout(60):
            while sum(batches) < 9:
                await asyncio.sleep(0.01)
    page = await store.page(AlertFilter(), cursor=None, limit=100)
    assert len(page.rows) == 9
    assert batches == [9]
    assert letter.code == "unreadable"
    assert letter.payload == b'{"alert_id": "no more than that"}'


def an_alert(number: int) -> Alert:
    return Alert(
        alert_id=new_id(),
        camera_id="gate",
        label="person",
        score=0.9,
        box=Box(x=0, y=0, width=1, height=1),
        captured_at=now(),
        created_at=now(),
        model="m",
        model_version="1",
        frame_key=f"frames/gate/{number}.jpg",
    )


async def test_a_message_that_the_worker_itself_stumbles_on_is_put_away_in_the_end(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    async def unused(job: Any, run: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Handler, "_handle", stumble)
    async with house.working(house.function(unused, attempts=2)):
        await house.send()
        letter = msgspec.json.decode(await house.first(f"dead.{house.name}"), type=DeadLetter)
        assert (letter.code, letter.attempts) == ("internal_error", 2)
        async with asyncio.timeout(60):
            while await house.left():
                await asyncio.sleep(0.01)


async def test_garbage_among_a_tasks_events_ends_no_task(house: House) -> None:
    async def work(job: Any, run: Any) -> dict[str, str]:
        return {"answer": "yes"}

    task = Task(task_id=new_id(), client_id="c", workflow="w", priority=5, created_at=now())
    await house.stream.publish_bytes(event_subject(task.task_id), b"\xff{")
    job = Job(task=task, steps=(Step(function=house.name, share=1.0),))
    await house.stream.publish(job_subject(house.name, 5), job, message_id=task.task_id)
    async with house.working(house.function(work)), asyncio.timeout(60):
        async for record in house.stream.follow(event_subject(task.task_id)):
            event = read_event(record.data)
            if event is not None and event.status.final:
                assert event.result == {"answer": "yes"}
                break
