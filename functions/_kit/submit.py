"""How an HTTP function turns a request into a task."""

from __future__ import annotations

import asyncio
import hashlib
import logging

import msgspec

from functions._kit.errors import Conflict, Unavailable
from functions._kit.messages import new_id, now
from functions._kit.ports import Stream, TaskStore
from functions.tasks.contracts import (
    STATUS_PATH,
    Job,
    KeptJob,
    Status,
    Task,
    TaskAccepted,
    TaskError,
    TaskEvent,
    event_subject,
    final_id,
    job_id,
    job_subject,
)

log = logging.getLogger(__name__)

EVENT_WAIT_S = 1.0
CALL_OFF_S = 5.0
"""How long an answer that nobody waits for may take to cancel its task."""


async def claim_task_id(
    store: TaskStore, client_id: str, key: str | None, body: msgspec.Struct
) -> str:
    """A new task's id, or the id that the same Idempotency-Key gave before.

    Raises `Conflict` (code `idempotency_key_reused`) where the key came with another body.
    """
    task_id = new_id()
    if key is None:
        return task_id
    fingerprint = hashlib.sha256(msgspec.json.encode(body)).digest()
    held, task_id = await store.claim(client_id, key, fingerprint, task_id)
    if held != fingerprint:
        raise Conflict(
            "idempotency_key_reused",
            "Idempotency-Key was used with another body in the last 24 hours; send a new key",
            field="Idempotency-Key",
        )
    return task_id


async def accepted_before(store: TaskStore, task_id: str) -> TaskAccepted | None:
    """The answer to a repeated Idempotency-Key, or None where the first request was not taken.

    A row is only written once the job is durable, and the stream forgets message ids long before
    the key is free again.
    """
    return None if await store.get(task_id) is None else _accepted(task_id)


async def submit(stream: Stream, store: TaskStore, job: Job) -> TaskAccepted:
    """Publish `job`; return when it is durable.

    The job comes first: from then on it cannot be lost. The queued event lets the recorder make
    the row even if this process dies now; the row written here lets the caller see it at once.
    Both keep the job, which `tasks.sweep` sends again should its queue lose it. Repeating all of
    it changes nothing.
    """
    task = job.task
    subject = job_subject(job.steps[0].function, task.priority)
    receipt = await stream.publish(subject, job, message_id=job_id(job))
    payload = msgspec.Raw(msgspec.json.encode(job))
    queued = TaskEvent(
        event_id=f"{task.task_id}:queued",
        task=task,
        status=Status.QUEUED,
        at=now(),
        waits_for=KeptJob(payload=payload, sequence=receipt.sequence),
    )
    await asyncio.gather(_tell(stream, queued), _write(store, queued))
    return _accepted(task.task_id)


async def _tell(stream: Stream, queued: TaskEvent) -> None:
    """The caller waits for the event a moment only: its stream may have lost its leader."""
    subject = event_subject(queued.task.task_id)
    try:
        async with asyncio.timeout(EVENT_WAIT_S):
            await stream.publish(subject, queued, message_id=queued.event_id)
    except (Unavailable, TimeoutError) as error:
        log.warning("task %s is queued, which was not told: %r", queued.task.task_id, error)


async def _write(store: TaskStore, queued: TaskEvent) -> None:
    try:
        await store.record([queued])
    except Unavailable as error:
        log.warning("task %s is queued; its row comes later: %s", queued.task.task_id, error)


def _accepted(task_id: str) -> TaskAccepted:
    return TaskAccepted(task_id=task_id, status=Status.QUEUED, status_url=STATUS_PATH + task_id)


def new_task(
    task_id: str, client_id: str, workflow: str, priority: int, callback_url: str | None
) -> Task:
    """The fixed facts of a task that begins now."""
    return Task(
        task_id=task_id,
        client_id=client_id,
        workflow=workflow,
        priority=priority,
        created_at=now(),
        callback_url=callback_url,
    )


async def publish_end(
    stream: Stream,
    task: Task,
    status: Status,
    *,
    progress: float = 0.0,
    attempts: int = 0,
    error: TaskError | None = None,
) -> tuple[TaskEvent, bool]:
    """Publish how `task` has ended; the event, and whether it is the task's first final one."""
    event = TaskEvent(
        event_id=final_id(task.task_id),
        task=task,
        status=status,
        at=now(),
        progress=progress,
        attempts=attempts,
        error=error,
    )
    receipt = await stream.publish(event_subject(task.task_id), event, message_id=event.event_id)
    return event, not receipt.duplicate


async def call_off(stream: Stream, store: TaskStore, task: Task) -> None:
    """Cancel a task that nobody waits for any more; one that is over stays as it is.

    Raises nothing: where the queue is away, the task goes on, and that is logged.
    """
    try:
        async with asyncio.timeout(CALL_OFF_S):
            event, first = await publish_end(stream, task, Status.CANCELLED)
            if first:
                await store.record([event])
    except (Unavailable, TimeoutError) as error:
        log.warning("task %s goes on, though nobody waits for it: %s", task.task_id, error)
