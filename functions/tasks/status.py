"""GET /api/v1/media/processingTasks/{task_id}: where a task is, and its result."""

from __future__ import annotations

from litestar import get
from litestar.params import FromPath

from functions._kit.http import Port, Principal
from functions._kit.policy import HttpPolicy
from functions._kit.ports import Limits, Objects, TaskStore
from functions.tasks._view import TaskView, own_task, view, with_urls
from functions.tasks.contracts import STATUS_PATH, TASK_READERS


@get(
    STATUS_PATH + "{task_id:str}",
    summary="A task's status and result",
    opt={"policy": HttpPolicy(scope=TASK_READERS)},
)
async def status(
    task_id: FromPath[str],
    principal: Port[Principal],
    store: Port[TaskStore],
    objects: Port[Objects],
    limits: Port[Limits],
) -> TaskView:
    """The task's row; URLs in its result are made now and hold for a day."""
    row = await own_task(store, principal, task_id)
    return view(row, await with_urls(row.result, objects, limits.url_lifetime_s))
