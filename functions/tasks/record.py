"""events.task.*: facts about tasks go into the database, many in one statement."""

from __future__ import annotations

from functions._kit.consume import consume
from functions._kit.policy import Policy
from functions._kit.ports import Stream, TaskStore
from functions.tasks.contracts import WEBHOOK_SUBJECT, TaskEvent, WebhookJob


@consume(
    "events.task.*",
    policy=Policy(batch=100, linger_s=0.0, attempts=5, timeout_s=60.0),
)
async def record(events: list[TaskEvent], store: TaskStore, stream: Stream) -> None:
    """Write what came, then order the webhooks of tasks that ended by it.

    Nothing lingers: while one batch is written the next one gathers, so batches grow with the
    load by themselves and a single event is in the table within milliseconds. A crash between
    the commit and the acknowledgement repeats both, and repeating changes nothing.
    """
    await settle(events, store, stream)


async def settle(events: list[TaskEvent], store: TaskStore, stream: Stream) -> None:
    """Write `events`, and order the webhooks of tasks that ended by them."""
    await store.record(events)
    finals = [e.event_id for e in events if e.status.final and e.task.callback_url is not None]
    if not finals:
        return
    for row in await store.finished_by(finals):
        await stream.publish(
            WEBHOOK_SUBJECT, WebhookJob(row=row), message_id=f"{row.task.task_id}:webhook"
        )
