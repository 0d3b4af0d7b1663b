"""The table of tasks in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec

from functions._kit.errors import Unavailable
from functions._kit.messages import now
from functions._kit.ports import Page, Unheard
from functions.tasks.contracts import Status, TaskEvent, TaskRow

CLAIM_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a row holds beside what is asked for: see `Unheard`."""

    heard_at: datetime
    job: bytes | None = None
    sequence: int = 0
    resends: int = 0


class FakeTaskStore:
    """Answers as `TaskTable` does. `clock` says how old Idempotency-Keys and last words are."""

    def __init__(self, clock: Callable[[], datetime] = now) -> None:
        self.sick = False
        self.clock = clock
        self._rows: dict[str, TaskRow] = {}
        self._kept: dict[str, _Kept] = {}
        self._claims: dict[tuple[str, str], tuple[datetime, bytes, str]] = {}

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """See `TaskStore.record`."""
        self._check_health()
        for event in events:
            task_id = event.task.task_id
            before = self._rows.get(task_id)
            kept = self._kept.get(task_id, _Kept(self.clock()))
            if before is None or not _is_behind(before, event):
                self._rows[task_id] = _moved(before, event)
            elif before.status.final or kept.job is not None or event.waits_for is None:
                continue
            self._kept[task_id] = _heard(kept, event, self.clock())

    async def finished_by(self, event_ids: Sequence[str]) -> list[TaskRow]:
        """See `TaskStore.finished_by`."""
        self._check_health()
        return [row for row in self._rows.values() if row.final_event_id in set(event_ids)]

    async def unheard(self, *, silent_s: float, after: str | None, limit: int) -> list[Unheard]:
        """See `TaskStore.unheard`."""
        self._check_health()
        before = self.clock() - timedelta(seconds=silent_s)
        found = [
            Unheard(self._rows[task_id], kept.job, kept.sequence, kept.resends)
            for task_id, kept in sorted(self._kept.items())
            if kept.job is not None and kept.heard_at < before and task_id > (after or "")
        ]
        return found[:limit]

    async def resent(self, task_id: str, *, sequence: int, resends: int) -> None:
        """See `TaskStore.resent`."""
        self._check_health()
        if (kept := self._kept.get(task_id)) is not None and kept.job is not None:
            self._kept[task_id] = _Kept(self.clock(), kept.job, sequence, resends)

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


def _is_behind(row: TaskRow, event: TaskEvent) -> bool:
    return row.status.final or event.status.rank < row.status.rank


def _heard(kept: _Kept, event: TaskEvent, moment: datetime) -> _Kept:
    if event.status.final:
        return _Kept(moment)
    if event.waits_for is None:
        return _Kept(moment, kept.job, kept.sequence, kept.resends)
    job, sequence = bytes(event.waits_for.payload), event.waits_for.sequence
    if job == kept.job:  # told once more
        return _Kept(moment, job, max(sequence, kept.sequence), kept.resends)
    return _Kept(moment, job, sequence)


def _moved(row: TaskRow | None, event: TaskEvent) -> TaskRow:
    """`row` as it is after `event`."""
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
