"""POST /api/v1/media/processingTasks/{task_id}:cancel: stop a task, running or waiting."""

from __future__ import annotations

from litestar import post
from litestar.params import FromPath

from functions._kit.errors import Conflict, NotFound
from functions._kit.http import Port, Principal
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Stream, TaskStore
from functions._kit.submit import publish_end
from functions.tasks._view import TaskView, own_task, view
from functions.tasks.contracts import (
    STATUS_PATH,
    TASK_OWNERS,
    Status,
    TaskEvent,
    TaskRow,
    event_subject,
    read_event,
)


@post(
    STATUS_PATH + "{task_id:str}",
    status_code=200,
    summary="Cancel a task",
    opt={"policy": HttpPolicy(scope=TASK_OWNERS), "openapi_suffix": ":cancel"},
)
async def cancel(
    task_id: FromPath[str],
    principal: Port[Principal],
    stream: Port[Stream],
    store: Port[TaskStore],
) -> TaskView:
    """Publish the final event; a worker that runs the task hears it and stops at once.

    All final events of a task share one message id, so either this one or the worker's is kept.
    """
    bare, colon, verb = task_id.partition(":")
    if not colon or verb != "cancel":
        raise NotFound("not_found", "the only action on a task is ':cancel'", field="task_id")
    row = await own_task(store, principal, bare)
    if row.status is Status.CANCELLED:
        return view(row, row.result)
    if row.status.final:
        raise _finished(row)
    event, first = await publish_end(
        stream, row.task, Status.CANCELLED, progress=row.progress, attempts=row.attempts
    )
    if not first:
        event = await _earlier_cancel(stream, row)
    await store.record([event])
    return view(await own_task(store, principal, bare), None)


async def _earlier_cancel(stream: Stream, row: TaskRow) -> TaskEvent:
    """The final event that the stream kept, if it is a cancel too.

    Another request's, or this one's when it came before and the table was away.
    """
    last = await stream.last(event_subject(row.task.task_id))
    kept = read_event(last.data) if last is not None else None
    if kept is None or kept.status is not Status.CANCELLED:
        raise _finished(row)
    return kept


def _finished(row: TaskRow) -> Conflict:
    return Conflict(
        "task_already_finished",
        f"task {row.task.task_id} has reached its final state; nothing is left to cancel",
        field="task_id",
    )
