"""The life of a task around its handler: events, progress, cancelling, the next step, the end."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from nats.aio.msg import Msg

from functions._kit.errors import Unavailable
from functions._kit.messages import new_id, now
from functions.tasks.contracts import (
    Job,
    KeptJob,
    Status,
    TaskError,
    TaskEvent,
    event_subject,
    final_id,
    job_id,
    job_subject,
    read_event,
)
from gateway.adapters.background import end
from gateway.adapters.jetstream import JetStream

T = TypeVar("T")

log = logging.getLogger(__name__)

TELL_S = 0.25
"""Progress that has changed is told this often ..."""
REPEAT_S = 1.0
"""... and progress that has not, this often, so that a watcher sees life."""


class Attempt:
    """One attempt at a task's step: the `Run` that its handler gets."""

    def __init__(self, job: Job, attempt: int, scratch: Path, stream: JetStream) -> None:
        self.job = job
        self.attempt = attempt
        self.scratch = scratch
        self._stream = stream
        self._fraction = 0.0

    def progress(self, fraction: float) -> None:
        """See `Run.progress`."""
        self._fraction = max(self._fraction, min(1.0, fraction))

    @property
    def overall(self) -> float:
        """The task's progress: earlier steps, and this one's share so far."""
        return min(1.0, self.job.done + self.job.steps[0].share * self._fraction)

    def event(self, status: Status, **facts: Any) -> TaskEvent:
        """A fact about the task, now."""
        task_id = self.job.task.task_id
        return TaskEvent(
            event_id=final_id(task_id) if status.final else new_id(),
            task=self.job.task,
            status=status,
            at=now(),
            progress=1.0 if status is Status.COMPLETED else self.overall,
            attempts=self.attempt,
            **facts,
        )

    async def tell(self, event: TaskEvent) -> None:
        """Publish `event`; of several final ones the stream keeps the first."""
        await self._stream.publish(
            event_subject(event.task.task_id),
            event,
            message_id=event.event_id if event.status.final else None,
        )

    async def run_until_over(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run `work`, telling its progress, and stop it when somebody else ends the task.

        Raises `TaskOver` then: a client has cancelled it, or an earlier delivery finished it.
        """
        subject = event_subject(self.job.task.task_id)
        running: asyncio.Future[T] | None = None
        over = False

        async def hear(message: Msg) -> None:
            nonlocal over
            if _is_final(message.data):
                over = True
                if running is not None:
                    running.cancel()

        listening = await self._stream.client.subscribe(subject, cb=hear)
        telling: asyncio.Task[None] | None = None
        try:
            last = await self._stream.last(subject)
            if over or (last is not None and _is_final(last.data)):
                raise TaskOver
            await self.tell(self.event(Status.PROCESSING))
            # progress comes often and is no step of its own: it stays out of the task's trace
            telling = asyncio.create_task(self._keep_telling(), context=Context())
            running = asyncio.ensure_future(work())
            if over:
                running.cancel()
            return await _stopped_with_us(running)
        except asyncio.CancelledError:
            if over:
                raise TaskOver from None
            raise
        finally:
            if telling is not None:
                await end(telling)
            if not self._stream.client.is_closed:
                await listening.unsubscribe()

    async def _keep_telling(self) -> None:
        told, quiet_s = self.overall, 0.0
        while True:
            await asyncio.sleep(TELL_S)
            quiet_s += TELL_S
            if self.overall == told and quiet_s < REPEAT_S:
                continue
            told, quiet_s = self.overall, 0.0
            try:
                await self.tell(self.event(Status.PROCESSING))
            except Unavailable as error:
                log.debug("progress of %s was not told: %s", self.job.task.task_id, error)

    async def finish(self, answer: Any) -> None:
        """Pass the task to its next step, or publish that it is complete."""
        result = self.job.result | (msgspec.to_builtins(answer) or {})
        step, *rest = self.job.steps
        if not rest:
            await self.tell(self.event(Status.COMPLETED, result=result))
            return
        following = msgspec.structs.replace(
            self.job, steps=tuple(rest), done=self.job.done + step.share, result=result
        )
        receipt = await self._stream.publish(
            job_subject(rest[0].function, self.job.task.priority),
            following,
            message_id=job_id(following),
        )
        payload = msgspec.Raw(msgspec.json.encode(following))
        kept = KeptJob(payload=payload, sequence=receipt.sequence)
        await self.tell(self.event(Status.PROCESSING, waits_for=kept))

    async def fail(self, code: str, message: str) -> None:
        """Publish that the task has failed for good."""
        await self.tell(self.event(Status.FAILED, error=TaskError(code=code, message=message)))


def _is_final(data: bytes) -> bool:
    event = read_event(data)
    return event is not None and event.status.final


class TaskOver(Exception):
    """The task has reached its final state without us."""


async def _stopped_with_us(running: asyncio.Future[T]) -> T:
    try:
        return await running
    finally:
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def scratch_folder(root: Path) -> AsyncIterator[Path]:
    """A folder that is gone afterwards."""
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=root))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
