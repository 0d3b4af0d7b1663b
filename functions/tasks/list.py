"""GET /api/v1/media/processingTasks: the caller's tasks, newest first."""

from __future__ import annotations

import uuid
from typing import Annotated

from litestar import get
from litestar.params import FromQuery, QueryParameter

from functions._kit.cursors import invalid_cursor
from functions._kit.http import Port, Principal
from functions._kit.messages import Answer
from functions._kit.policy import HttpPolicy
from functions._kit.ports import TaskStore
from functions.tasks._view import TaskView, view
from functions.tasks.contracts import STATUS_PATH, TASK_READERS, Status


class TaskPage(Answer, frozen=True, kw_only=True):
    """Tasks, and the cursor that the next page begins after."""

    items: list[TaskView]
    next_cursor: str | None


@get(
    STATUS_PATH.rstrip("/"),
    summary="Your tasks, newest first",
    opt={"policy": HttpPolicy(scope=TASK_READERS)},
)
async def list_tasks(
    principal: Port[Principal],
    store: Port[TaskStore],
    status: FromQuery[Status | None] = None,
    workflow: Annotated[str | None, QueryParameter(max_length=100)] = None,
    cursor: Annotated[str | None, QueryParameter(max_length=36)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
) -> TaskPage:
    """One page. Results carry no URLs here; ask for the task itself."""
    if cursor is not None:
        cursor = _valid_cursor(cursor)
    page = await store.page(
        client_id=principal.sees, status=status, workflow=workflow, cursor=cursor, limit=limit
    )
    return TaskPage(
        items=[view(row, row.result) for row in page.rows], next_cursor=page.next_cursor
    )


def _valid_cursor(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise invalid_cursor() from None
