"""How a task looks from outside, and who may look."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from functions._kit.damage import damage_of
from functions._kit.errors import NotFound
from functions._kit.http import Principal, valid_task_id
from functions._kit.messages import Answer
from functions._kit.ports import Objects, TaskStore
from functions.tasks.contracts import Status, TaskError, TaskRow


class TaskView(Answer, frozen=True, kw_only=True):
    """A task as its client sees it."""

    task_id: str
    status: Status
    progress: float
    workflow: str
    priority: int
    attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: dict[str, Any] | None
    error: TaskError | None


async def own_task(store: TaskStore, principal: Principal, task_id: str) -> TaskRow:
    """The caller's task. Raises `NotFound` for one that is absent or another client's."""
    row = await store.get(valid_task_id(task_id))
    if row is None or principal.sees not in {None, row.task.client_id}:
        raise NotFound("task_not_found", f"no task {task_id[:64]!r}", field="task_id")
    return row


def view(row: TaskRow, result: dict[str, Any] | None) -> TaskView:
    """`row` without what is nobody's business."""
    return TaskView(
        task_id=row.task.task_id,
        status=row.status,
        progress=round(row.progress, 4),
        workflow=row.task.workflow,
        priority=row.task.priority,
        attempts=row.attempts,
        created_at=row.task.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        result=result,
        error=row.error,
    )


async def with_urls(
    result: dict[str, Any] | None, objects: Objects, lifetime_s: int
) -> dict[str, Any] | None:
    """`result` with a presigned `url` beside every `file_path` in it.

    Where the object is gone or not as long as `size` says, `url` is None and `error` says why.
    """
    if result is None:
        return None
    lists = {name: value for name, value in result.items() if isinstance(value, list)}
    url, filled = await asyncio.gather(
        _url(result, objects, lifetime_s),
        asyncio.gather(*(_filled(value, objects, lifetime_s) for value in lists.values())),
    )
    return {**result, **url, **dict(zip(lists, filled, strict=True))}


async def _url(result: dict[str, Any], objects: Objects, lifetime_s: int) -> dict[str, Any]:
    if "file_path" not in result:
        return {}
    key = result["file_path"]
    damage = await damage_of(objects, key, result.get("size"))
    if damage is not None:
        return {"url": None, "error": damage}
    return {"url": await objects.presign(key, expires_s=lifetime_s)}


async def _filled(items: list[Any], objects: Objects, lifetime_s: int) -> list[Any]:
    parts = [item if isinstance(item, dict) else None for item in items]
    full = await asyncio.gather(*(with_urls(part, objects, lifetime_s) for part in parts))
    return [item if part is None else part for item, part in zip(items, full, strict=True)]
