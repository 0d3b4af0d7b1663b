"""What becomes of tasks whose job is gone from its queue without a word."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest

from functions._kit.consume import Tick
from functions._kit.errors import Unavailable
from functions._kit.messages import new_id, now
from functions._kit.ports import Receipt, Record
from functions._kit.submit import new_task, submit
from functions.tasks.contracts import (
    WEBHOOK_SUBJECT,
    Job,
    KeptJob,
    Status,
    Step,
    Task,
    TaskEvent,
    event_subject,
    job_subject,
)
from functions.tasks.sweep import MOST_RESENDS, SILENT_S, sweep

if TYPE_CHECKING:
    from tests.functions.conftest import World

FIRST, SECOND = Step(function="test.first", share=0.9), Step(function="test.second", share=0.1)
SUBJECT = job_subject(FIRST.function, 5)


class TestJob(Job, frozen=True, kw_only=True):
    """With a field that the sweeper knows nothing of."""

    __test__ = False
    word: str = "kept"


class Night:
    """A world whose clock can be put forward."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ahead = timedelta()
        world.store.clock = self.now

    def now(self) -> datetime:
        return now() + self.ahead

    async def passes(self, *, seconds: float = SILENT_S + 1) -> None:
        """Time goes by, then the clock strikes."""
        self.ahead += timedelta(seconds=seconds)
        await sweep.handler(Tick(at=self.now()), store=self.world.store, stream=self.world.stream)

    async def submit(self, *, callback_url: str | None = None) -> Task:
        task = new_task(new_id(), "alice", "test", 5, callback_url)
        job = TestJob(task=task, steps=(FIRST, SECOND))
        await submit(self.world.stream, self.world.store, job)
        return task

    def queue(self, subject: str = SUBJECT) -> list[Record]:
        return self.world.stream.records(subject)

    def lose(self, subject: str = SUBJECT) -> None:
        """The queue's oldest message is gone, done or not; its id stays known."""
        assert self.world.stream.remove("jobs", self.queue(subject)[0].sequence)

    async def status(self, task: Task) -> Status:
        row = await self.world.store.get(task.task_id)
        assert row is not None
        return row.status


@pytest.fixture
def night(make_world: Callable[..., World]) -> Night:
    return Night(make_world())


async def test_a_job_that_its_queue_has_lost_is_sent_again_as_it_was(night: Night) -> None:
    task = await night.submit()
    (sent,) = night.queue()
    night.lose()
    await night.passes(seconds=SILENT_S - 5)
    assert night.queue() == []
    await night.passes()
    (again,) = night.queue()
    assert again.data == sent.data
    assert msgspec.json.decode(again.data, type=TestJob).word == "kept"
    assert await night.status(task) is Status.QUEUED
    for _ in range(5):
        await night.passes()
    assert night.queue() == [again], "it is in its queue now"


async def test_a_task_that_waits_for_hours_is_left_alone(night: Night) -> None:
    for _ in range(3):
        await night.submit()
    waiting = night.queue()
    night.lose()  # the first is done, or lost
    for _ in range(10):
        await night.passes(seconds=3600)
        assert night.queue()[:2] == waiting[1:]
    assert len(night.queue()) == 3


async def test_a_job_is_sent_again_though_its_queue_was_made_anew_and_is_never_empty(
    night: Night,
) -> None:
    """Sequences begin at 1 then, and that of the lost job is yet to come."""
    lost = await night.submit()
    await night.world.store.resent(lost.task_id, sequence=1000, resends=0)
    night.world.stream.forget(SUBJECT)
    await night.submit()
    await night.passes()
    sent = [msgspec.json.decode(r.data)["task"]["task_id"] for r in night.queue()]
    assert sent[1:] == [lost.task_id]


async def test_a_task_in_work_is_left_alone(night: Night) -> None:
    task = await night.submit()
    night.lose()
    night.ahead += timedelta(seconds=SILENT_S + 1)
    await night.world.tell(task, Status.PROCESSING, progress=0.5)
    await night.passes(seconds=0)
    assert night.queue() == []


async def test_a_task_whose_recorder_is_behind_is_left_alone(night: Night) -> None:
    task = await night.submit()
    night.lose()
    heard = TaskEvent(event_id=new_id(), task=task, status=Status.PROCESSING, at=now())
    await night.world.stream.publish(event_subject(task.task_id), heard)
    night.ahead += timedelta(seconds=SILENT_S + 1)
    tick = Tick(at=now())  # the event is younger than a minute by this clock
    await sweep.handler(tick, store=night.world.store, stream=night.world.stream)
    assert night.queue() == []


async def test_an_end_that_was_never_recorded_is_recorded_and_told(night: Night) -> None:
    task = await night.submit(callback_url="https://hooks.example.org/nereid")
    night.lose()
    done = TaskEvent(
        event_id=f"{task.task_id}:final", task=task, status=Status.COMPLETED, at=now(), result={}
    )
    await night.world.stream.publish(event_subject(task.task_id), done, message_id=done.event_id)
    await night.passes()
    assert await night.status(task) is Status.COMPLETED
    assert night.queue() == []
    assert len(night.queue(WEBHOOK_SUBJECT)) == 1


async def test_a_job_that_is_lost_again_and_again_fails_its_task(night: Night) -> None:
    task = await night.submit(callback_url="https://hooks.example.org/nereid")
    for _ in range(MOST_RESENDS):
        night.lose()
        await night.passes()
        assert len(night.queue()) == 1
    night.lose()
    await night.passes()
    row = await night.world.store.get(task.task_id)
    assert row is not None
    assert row.error is not None
    assert (row.status, row.error.code) == (Status.FAILED, "job_lost")
    assert len(night.queue(WEBHOOK_SUBJECT)) == 1
    await night.passes()
    assert night.queue() == []
    events = night.world.stream.records(event_subject(task.task_id))
    assert [msgspec.json.decode(e.data)["status"] for e in events] == ["queued", "failed"]


async def test_a_job_that_cannot_be_read_fails_its_task_and_holds_up_no_other(
    night: Night,
) -> None:
    broken = new_task(new_id(), "alice", "test", 5, None)
    await night.world.tell(broken, Status.QUEUED, waits_for=KeptJob(payload=msgspec.Raw(b"[]")))
    await night.submit()
    night.lose()
    await night.passes()
    row = await night.world.store.get(broken.task_id)
    assert row is not None
    assert row.error is not None
    assert (row.status, row.error.code) == (Status.FAILED, "job_lost")
    assert "cannot be read" in row.error.message
    assert len(night.queue()) == 1


async def test_a_job_whose_place_is_not_known_is_looked_for_before_it_is_sent_again(
    night: Night,
) -> None:
    """It was taken by SPARE, and has been moved on since, or not."""
    task = await night.submit()
    (sent,) = night.queue()
    row = await night.world.store.unheard(silent_s=-1, after=None, limit=1)
    await night.world.store.resent(task.task_id, sequence=0, resends=0)
    await night.passes()
    assert night.queue() == [sent]
    (known,) = await night.world.store.unheard(silent_s=-1, after=None, limit=1)
    assert (known.sequence, known.resends) == (row[0].sequence, 0)

    night.world.stream.forget(SUBJECT)  # with its id: it never came there
    await night.world.store.resent(task.task_id, sequence=0, resends=0)
    await night.passes()
    assert [record.data for record in night.queue()] == [sent.data]


async def test_a_job_sent_again_that_spare_takes_is_sent_once_more_under_no_other_id(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    await night.submit()
    night.lose()
    stream = night.world.stream
    spared: dict[str, tuple[str, msgspec.Raw]] = {}

    async def spare(subject: str, message: msgspec.Raw, *, message_id: str) -> Receipt:
        spared[message_id] = (subject, message)
        return Receipt(0, duplicate=False)

    with monkeypatch.context() as patched:
        patched.setattr(stream, "publish", spare)
        for _ in range(MOST_RESENDS + 1):
            await night.passes()
    for message_id, (subject, message) in spared.items():  # moved on
        await stream.publish(subject, message, message_id=message_id)
    await night.passes()
    (again,) = night.queue()
    (known,) = await night.world.store.unheard(silent_s=-1, after=None, limit=1)
    assert (known.sequence, known.resends) == (again.sequence, 1)


async def test_what_is_no_event_among_a_tasks_events_holds_up_nobody(night: Night) -> None:
    garbled = await night.submit()
    await night.submit()
    night.lose()
    night.lose()
    await night.world.stream.publish_bytes(event_subject(garbled.task_id), b"no event")
    await night.passes()
    assert len(night.queue()) == 2


async def test_a_full_queue_holds_up_its_own_tasks_alone(night: Night) -> None:
    await night.submit()
    night.lose()
    broken = new_task(new_id(), "alice", "test", 5, None)
    await night.world.tell(broken, Status.QUEUED, waits_for=KeptJob(payload=msgspec.Raw(b"[]")))
    night.world.stream.max_messages["jobs"] = 0
    await night.passes()
    assert await night.status(broken) is Status.FAILED
    del night.world.stream.max_messages["jobs"]
    await night.passes(seconds=0)
    assert len(night.queue()) == 1


async def test_the_second_steps_job_is_sent_again_and_not_the_firsts(night: Night) -> None:
    task = await night.submit()
    night.lose()
    job = TestJob(task=task, steps=(SECOND,), done=0.9)
    subject = job_subject(SECOND.function, 5)
    receipt = await night.world.stream.publish(subject, job, message_id=f"{task.task_id}:second")
    kept = KeptJob(payload=msgspec.Raw(msgspec.json.encode(job)), sequence=receipt.sequence)
    await night.world.tell(task, Status.PROCESSING, waits_for=kept)
    await night.passes()
    assert len(night.queue(subject)) == 1
    night.lose(subject)
    await night.passes()
    assert len(night.queue(subject)) == 1
    assert night.queue() == []


async def test_a_sick_queue_ends_the_sweep_and_the_next_goes_on(night: Night) -> None:
    await night.submit()
    night.lose()
    night.world.stream.sick = True
    with pytest.raises(Unavailable):
        await night.passes()
    night.world.stream.sick = False
    await night.passes(seconds=0)
    assert len(night.queue()) == 1
