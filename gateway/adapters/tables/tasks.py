"""The port `TaskStore`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from functions._kit.ports import Page, Unheard
from functions.tasks.contracts import KeptJob, Status, Task, TaskError, TaskEvent, TaskRow
from gateway.adapters.tables.database import Database
from gateway.adapters.tables.json_text import json_text

_RECORD = """
INSERT INTO tasks AS t (task_id, client_id, workflow, priority, status, rank, progress, attempts,
                        created_at, started_at, finished_at, callback_url, result, error,
                        final_event_id, job, job_sequence)
SELECT * FROM unnest(
    %(task_id)s::uuid[], %(client_id)s::text[], %(workflow)s::text[], %(priority)s::smallint[],
    %(status)s::text[], %(rank)s::smallint[], %(progress)s::real[], %(attempts)s::int[],
    %(created_at)s::timestamptz[], %(started_at)s::timestamptz[], %(finished_at)s::timestamptz[],
    %(callback_url)s::text[], %(result)s::jsonb[], %(error)s::jsonb[], %(final_event_id)s::text[],
    %(job)s::bytea[], %(job_sequence)s::bigint[])
ON CONFLICT (task_id) DO UPDATE SET
    status = CASE WHEN excluded.rank >= t.rank THEN excluded.status ELSE t.status END,
    rank = greatest(t.rank, excluded.rank),
    progress = greatest(t.progress, excluded.progress),
    attempts = greatest(t.attempts, excluded.attempts),
    started_at = least(t.started_at, excluded.started_at),
    finished_at = excluded.finished_at,
    result = excluded.result,
    error = excluded.error,
    final_event_id = excluded.final_event_id,
    job = CASE WHEN excluded.rank < 2 THEN coalesce(excluded.job, t.job) END,
    job_sequence = CASE WHEN coalesce(excluded.job, t.job) = t.job
        THEN greatest(t.job_sequence, excluded.job_sequence) ELSE excluded.job_sequence END,
    resends = CASE WHEN coalesce(excluded.job, t.job) = t.job THEN t.resends ELSE 0 END,
    heard_at = now()
WHERE t.rank < 2 AND (excluded.rank >= t.rank OR (t.job IS NULL AND excluded.job IS NOT NULL))
"""
_COLUMNS = """task_id, client_id, workflow, priority, status, progress, attempts, created_at,
    started_at, finished_at, callback_url, result, error, final_event_id"""


class TaskTable:
    """One row a task."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """See `TaskStore.record`."""
        rows = [_row(group) for group in _by_task(events)]
        if not rows:
            return
        # one order in every process, so that two of them never wait for each other in a ring
        rows.sort(key=lambda row: row["task_id"])
        await self._database.fetch(_RECORD, {name: [row[name] for row in rows] for name in rows[0]})

    async def finished_by(self, event_ids: Sequence[str]) -> list[TaskRow]:
        """See `TaskStore.finished_by`."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM tasks WHERE task_id = ANY(%s::uuid[]) "
            "AND final_event_id = ANY(%s)",
            [[event_id.partition(":")[0] for event_id in event_ids], list(event_ids)],
        )
        return [_task_row(row) for row in found]

    async def unheard(self, *, silent_s: float, after: str | None, limit: int) -> list[Unheard]:
        """See `TaskStore.unheard`."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS}, job, job_sequence, resends FROM tasks "
            "WHERE rank < 2 AND job IS NOT NULL "
            "AND heard_at < now() - make_interval(secs => %(silent_s)s) "
            "AND (%(after)s::uuid IS NULL OR task_id > %(after)s) "
            "ORDER BY task_id LIMIT %(limit)s",
            {"after": after, "silent_s": silent_s, "limit": limit},
        )
        return [
            Unheard(_task_row(row), bytes(row["job"]), row["job_sequence"], row["resends"])
            for row in found
        ]

    async def resent(self, task_id: str, *, sequence: int, resends: int) -> None:
        """See `TaskStore.resent`."""
        await self._database.fetch(
            "UPDATE tasks SET job_sequence = %s, resends = %s, heard_at = now() "
            "WHERE task_id = %s AND rank < 2",
            [sequence, resends, task_id],
        )

    async def get(self, task_id: str) -> TaskRow | None:
        """See `TaskStore.get`."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM tasks WHERE task_id = %s", [task_id]
        )
        return _task_row(found[0]) if found else None

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
        wanted = {
            "client_id = %s": client_id,
            "status = %s": status.value if status else None,
            "workflow = %s": workflow,
            "task_id < %s": cursor,
        }
        given = {clause: value for clause, value in wanted.items() if value is not None}
        where = " AND ".join(given) or "TRUE"
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM tasks WHERE {where} ORDER BY task_id DESC LIMIT %s",
            [*given.values(), limit + 1],
        )
        rows = [_task_row(row) for row in found[:limit]]
        return Page(rows, rows[-1].task.task_id if len(found) > limit else None)

    async def claim(
        self, client_id: str, key: str, fingerprint: bytes, task_id: str
    ) -> tuple[bytes, str]:
        """See `TaskStore.claim`."""
        async with self._database.transaction() as connection:
            await connection.execute(
                """INSERT INTO idempotency_keys AS k (client_id, key, fingerprint, task_id)
                   VALUES (%s, %s, %s, %s)
                   ON CONFLICT (client_id, key) DO UPDATE
                   SET fingerprint = excluded.fingerprint, task_id = excluded.task_id,
                       created_at = now()
                   WHERE k.created_at < now() - interval '24 hours'""",
                [client_id, key, fingerprint, task_id],
            )
            cursor = await connection.execute(
                "SELECT fingerprint, task_id FROM idempotency_keys "
                "WHERE client_id = %s AND key = %s",
                [client_id, key],
            )
            (row,) = await cursor.fetchall()
        return bytes(row["fingerprint"]), str(row["task_id"])

    async def healthy(self) -> bool:
        """See `TaskStore.healthy`."""
        return await self._database.healthy()


def _by_task(events: Sequence[TaskEvent]) -> list[list[TaskEvent]]:
    groups: dict[str, list[TaskEvent]] = {}
    for event in events:
        groups.setdefault(event.task.task_id, []).append(event)
    return list(groups.values())


def _row(events: list[TaskEvent]) -> dict[str, Any]:
    """What the events of one task amount to: one statement may touch a row once only.

    A late event counts for nothing, here as in the table.
    """
    kept = _kept(events)
    events = list(_forward(events))
    last = events[-1]
    started = [e.at for e in events if e.status is Status.PROCESSING]
    return {
        "task_id": last.task.task_id,
        "client_id": last.task.client_id,
        "workflow": last.task.workflow,
        "priority": last.task.priority,
        "status": last.status.value,
        "rank": last.status.rank,
        "progress": 1.0 if last.status is Status.COMPLETED else max(e.progress for e in events),
        "attempts": max(e.attempts for e in events),
        "created_at": last.task.created_at,
        "started_at": min(started) if started else None,
        "finished_at": last.at if last.status.final else None,
        "callback_url": last.task.callback_url,
        "result": json_text(last.result) if last.result is not None else None,
        "error": json_text(last.error) if last.error is not None else None,
        "final_event_id": last.event_id if last.status.final else None,
        "job": bytes(kept.payload) if kept is not None and not last.status.final else None,
        "job_sequence": kept.sequence if kept is not None else 0,
    }


def _kept(events: list[TaskEvent]) -> KeptJob | None:
    """The job of the furthest step; a worker may be heard before the gateway's own "queued"."""
    naming = [event for event in reversed(events) if event.waits_for is not None]
    return max(naming, key=lambda event: event.status.rank).waits_for if naming else None


def _forward(events: list[TaskEvent]) -> Iterator[TaskEvent]:
    """The events that move the task on, up to its first final one."""
    rank = 0
    for event in events:
        if event.status.rank >= rank:
            rank = event.status.rank
            yield event
        if event.status.final:
            return


def _task_row(row: dict[str, Any]) -> TaskRow:
    return TaskRow(
        task=Task(
            task_id=str(row["task_id"]),
            client_id=row["client_id"],
            workflow=row["workflow"],
            priority=row["priority"],
            created_at=row["created_at"],
            callback_url=row["callback_url"],
        ),
        status=Status(row["status"]),
        progress=row["progress"],
        attempts=row["attempts"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        result=row["result"],
        error=msgspec.convert(row["error"], TaskError) if row["error"] else None,
        final_event_id=row["final_event_id"],
    )
