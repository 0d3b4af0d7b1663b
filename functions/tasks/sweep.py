"""jobs.tasks.sweep: tasks of which nobody has heard, because their queue has lost them."""

from __future__ import annotations

import logging
from datetime import timedelta

import msgspec

from functions._kit.consume import Tick, consume
from functions._kit.errors import NereidError, QueueFull, Unavailable
from functions._kit.left_behind import STEP
from functions._kit.messages import NO_JSON
from functions._kit.policy import Policy
from functions._kit.ports import Record, Stream, TaskStore, Unheard
from functions._kit.submit import publish_end
from functions.tasks.contracts import (
    Job,
    Status,
    TaskError,
    event_subject,
    job_id,
    job_subject,
    read_event,
)
from functions.tasks.record import settle

SILENT_S = 60.0
"""A task in work is heard every second; one that waits is silent, and still in its queue."""
MOST_RESENDS = 3

log = logging.getLogger(__name__)

_decode_job = msgspec.json.Decoder(Job).decode


@consume("jobs.tasks.sweep", policy=Policy(every_s=30.0, timeout_s=600.0, attempts=3))
async def sweep(tick: Tick, store: TaskStore, stream: Stream) -> None:
    """Send again what has left its queue without a word, or fail it where that did not help."""
    after: str | None = None
    while some := await store.unheard(silent_s=SILENT_S, after=after, limit=STEP):
        queues = _Queues(stream)
        for one in some:
            try:
                await _look_after(one, tick, queues, store, stream)
            except NereidError as error:  # a full queue is full for its own tasks alone
                if isinstance(error, Unavailable) and not isinstance(error, QueueFull):
                    raise
                log.warning("task %s waits for the next sweep: %s", _task_id(one), error)
            except Exception:
                log.exception("task %s could not be looked after", _task_id(one))
        after = some[-1].row.task.task_id


def _task_id(one: Unheard) -> str:
    return one.row.task.task_id


async def _look_after(
    one: Unheard, tick: Tick, queues: _Queues, store: TaskStore, stream: Stream
) -> None:
    try:
        job = _decode_job(one.job)
    except NO_JSON as error:
        await _fail(one, f"its job cannot be read: {error}", store, stream)
        return
    subject = job_subject(job.steps[0].function, job.task.priority)
    if one.sequence and await queues.hold(subject, one.sequence):
        return  # it waits, or somebody has it in hand
    last = await stream.last(event_subject(job.task.task_id))
    event = None if last is None else read_event(last.data)
    if event is not None and event.status.final:
        await settle([event], store, stream)
    elif last is None or not _is_fresh(last, tick):
        await _send_again(one, job, subject, store, stream)


def _is_fresh(last: Record, tick: Tick) -> bool:
    """Whether the task was heard of, and the table does not know as yet."""
    return last.stored_at is not None and last.stored_at > tick.at - timedelta(seconds=SILENT_S)


async def _send_again(
    one: Unheard, job: Job, subject: str, store: TaskStore, stream: Stream
) -> None:
    """A task whose job is done twice has one result all the same."""
    resends = one.resends
    message_id = job_id(job)
    if one.sequence:
        resends += 1
    if resends:  # SPARE may have taken the last one, which then is looked for by its own id
        message_id = f"{message_id}:again:{resends}"
    if resends > MOST_RESENDS:
        why = f"its job was sent again {MOST_RESENDS} times, and no worker was heard of it"
        await _fail(one, why, store, stream)
        return
    receipt = await stream.publish(subject, msgspec.Raw(one.job), message_id=message_id)
    if not one.sequence and receipt.sequence and not receipt.duplicate:
        resends += 1  # else its place is known now and nothing was sent, or SPARE has it still
    if resends > one.resends:
        log.warning("task %s had left its queue unheard: sent again", job.task.task_id)
    await store.resent(job.task.task_id, sequence=receipt.sequence, resends=resends)


async def _fail(one: Unheard, why: str, store: TaskStore, stream: Stream) -> None:
    row = one.row
    error = TaskError(code="job_lost", message=f"{why}; send the request again")
    event, first = await publish_end(
        stream,
        row.task,
        Status.FAILED,
        progress=row.progress,
        attempts=row.attempts,
        error=error,
    )
    if first:
        await settle([event], store, stream)


class _Queues:
    """Where each subject's messages begin and end, asked for once."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._spans: dict[str, tuple[int, int]] = {}

    async def hold(self, subject: str, sequence: int) -> bool:
        """Whether a message may be there: the queue is not past it, nor ends before it."""
        if subject not in self._spans:
            oldest, last = await self._stream.oldest(subject), await self._stream.last(subject)
            self._spans[subject] = (
                (oldest.sequence, last.sequence)
                if oldest is not None and last is not None
                else (1, 0)
            )
        begin, end = self._spans[subject]
        return begin <= sequence <= end
