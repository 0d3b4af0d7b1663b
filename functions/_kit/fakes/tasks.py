"""The table of tasks in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from functions._kit.errors import Unavailable
from functions._kit.messages import now
from functions._kit.ports import Page
from functions.tasks.contracts import Status, TaskEvent, TaskRow

CLAIM_LIFETIME = timedelta(hours=24)


class FakeTaskStore:
    """Answers as `TaskTable` does. `clock` says when an Idempotency-Key is a day old."""

    def __init__(self, clock: Callable[[], datetime] = now) -> None:
        self.sick = False
        self.clock = clock
        self._rows: dict[str, TaskRow] = {}
        self._claims: dict[tuple[str, str], tuple[datetime, bytes, str]] = {}

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """See `TaskStore.record`."""
        self._check_health()
        for event in events:
            task_id = event.task.task_id
            self._rows[task_id] = _moved(self._rows.get(task_id), event)

    async def finished_by(self, event_ids: Sequence[str]) -> list[TaskRow]:
        """See `TaskStore.finished_by`."""
        self._check_health()
        return [row for row in self._rows.values() if row.final_event_id in set(event_ids)]

    async def get(self, task_id: str) -> TaskRow | None:
        """See `TaskStore.get`."""
        self._check_health()
        return self._rows.get(task_id)

    async def page(
        self,
        *,
        client_id: str | None,
        status: Status | None,
        workflow: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page:
        """See `TaskStore.page`."""
        self._check_health()
        found = [
            row
            for task_id, row in sorted(self._rows.items(), reverse=True)
            if client_id in {None, row.task.client_id}
            and status in {None, row.status}
            and workflow in {None, row.task.workflow}
            and (cursor is None or task_id < cursor)
        ]
        rows = found[:limit]
        return Page(rows, rows[-1].task.task_id if len(found) > limit else None)

    async def claim(
        self, client_id: str, key: str, fingerprint: bytes, task_id: str
    ) -> tuple[bytes, str]:
        """See `TaskStore.claim`."""
        self._check_health()
        held = self._claims.get((client_id, key))
        if held is None or held[0] < self.clock() - CLAIM_LIFETIME:
            held = self._claims[client_id, key] = (self.clock(), fingerprint, task_id)
        return held[1], held[2]

    async def healthy(self) -> bool:
        """Whether it is not `sick`."""
        return not self.sick

    def _check_health(self) -> None:
        if self.sick:
            raise Unavailable("database", "PostgreSQL cannot be reached: the fake is sick")


def _moved(row: TaskRow | None, event: TaskEvent) -> TaskRow:
    """`row` as it is after `event`, which a row that is further along ignores."""
    if row is not None and (row.status.final or event.status.rank < row.status.rank):
        return row
    row = row or TaskRow(task=event.task, status=event.status, progress=0.0, attempts=0)
    starts = [row.started_at, event.at if event.status is Status.PROCESSING else None]
    return msgspec.structs.replace(
        row,
        status=event.status,
        progress=1.0 if event.status is Status.COMPLETED else max(row.progress, event.progress),
        attempts=max(row.attempts, event.attempts),
        started_at=min((at for at in starts if at is not None), default=None),
        finished_at=event.at if event.status.final else None,
        result=event.result,
        error=event.error,
        final_event_id=event.event_id if event.status.final else None,
    )
