"""GET /api/v1/media/processingTasks/{task_id}/events: a task's life, live (SSE)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import msgspec
from litestar import Response, get
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, HeaderParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage

from functions._kit.errors import Unavailable
from functions._kit.http import Port, Principal
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Limits, Objects, Record, Stream, TaskStore
from functions._kit.sse import HEARTBEAT, position, with_heartbeats
from functions.tasks._view import own_task, with_urls
from functions.tasks.contracts import (
    STATUS_PATH,
    TASK_READERS,
    TaskEvent,
    TaskRow,
    event_subject,
    read_event,
)


@get(
    STATUS_PATH + "{task_id:str}/events",
    summary="Follow a task",
    media_type="text/event-stream",
    responses={204: ResponseSpec(None, description="All has been seen, to the final event")},
    opt={"policy": HttpPolicy(scope=TASK_READERS, timeout_s=None)},
)
async def events(
    task_id: FromPath[str],
    principal: Port[Principal],
    store: Port[TaskStore],
    stream: Port[Stream],
    objects: Port[Objects],
    limits: Port[Limits],
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
) -> ServerSentEvent | Response[None]:
    """Events from the first, or after `Last-Event-ID`, until the final one.

    The ids are the stream's sequence numbers, so a client that comes back misses nothing. One
    that has seen the final event gets 204, which tells an EventSource not to come back again.
    """
    row = await own_task(store, principal, task_id)
    subject = event_subject(row.task.task_id)
    last = await stream.last(subject)
    if last is None and row.status.final:
        return ServerSentEvent(_only(row, objects, limits))
    over = row.status.final or (last is not None and _is_final(last))
    after = position(last_event_id)
    if last is not None and after >= last.sequence:
        if over:
            return Response(None, status_code=204)
        after = last.sequence
    until = last.sequence if last is not None and over else None
    following = _follow(stream.follow(subject), after, until, store, objects, limits)
    return ServerSentEvent(following)


def _is_final(record: Record) -> bool:
    event = read_event(record.data)
    return event is not None and event.status.final


async def _follow(
    records: AsyncIterator[Record],
    after: int,
    until: int | None,
    store: TaskStore,
    objects: Objects,
    limits: Limits,
) -> AsyncIterator[ServerSentEventMessage]:
    """From behind `after` to the final event, or `until` where that is known to be the last.

    What a client has seen already is read as well: it shall not see its task go back.
    """
    highest, rank = -1.0, 0
    async for record in with_heartbeats(records):
        if record is None:
            yield HEARTBEAT
            continue
        event = read_event(record.data)
        # a quick worker was heard before the gateway's own "queued"
        if event is not None and event.status.rank >= rank:
            rank = event.status.rank
            # a second run after a crash begins again at 0; the client never sees it go back
            highest = max(highest, event.progress)
            if record.sequence > after:
                if event.status.final:
                    # the recorder may be a moment behind; a status asked for next shall agree
                    with contextlib.suppress(Unavailable):
                        await store.record([event])
                yield ServerSentEventMessage(
                    id=record.sequence,
                    event=event.status.value,
                    data=await _payload(event, highest, objects, limits),
                )
            if event.status.final:
                return
        if record.sequence == until:
            return


async def _payload(event: TaskEvent, progress: float, objects: Objects, limits: Limits) -> str:
    body: dict[str, Any] = {
        "task_id": event.task.task_id,
        "status": event.status,
        "progress": round(progress, 4),
        "attempts": event.attempts,
        "at": event.at,
    }
    if event.result is not None:
        body["result"] = await with_urls(event.result, objects, limits.url_lifetime_s)
    if event.error is not None:
        body["error"] = event.error
    return msgspec.json.encode(body).decode()


async def _only(
    row: TaskRow, objects: Objects, limits: Limits
) -> AsyncIterator[ServerSentEventMessage]:
    """The final event of a task whose events the stream has let go."""
    event = TaskEvent(
        event_id=row.final_event_id or "",
        task=row.task,
        status=row.status,
        at=row.finished_at or row.task.created_at,
        progress=row.progress,
        attempts=row.attempts,
        result=row.result,
        error=row.error,
    )
    yield ServerSentEventMessage(
        event=event.status.value, data=await _payload(event, row.progress, objects, limits)
    )
