"""The record of every task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from functions.tasks.contracts import Status, TaskEvent, TaskRow


@dataclass(frozen=True, slots=True)
class Page:
    """Tasks, newest first, and the cursor of the next page."""

    rows: list[TaskRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Unheard:
    """A task that has not ended and of which nothing was heard lately, and the job it waits for."""

    row: TaskRow
    job: bytes
    sequence: int
    """Where the job lies in its queue; 0 where that is not known."""
    resends: int
    """How often it was sent again."""


class TaskStore(Protocol):
    """The record of every task: a table of PostgreSQL."""

    async def record(self, events: Sequence[TaskEvent]) -> None:
        """Bring rows up to date with `events`, in one statement.

        Rows only move forward; an event that is late or repeated changes nothing. The job that an
        event names is kept until the task ends.
        """
        ...

    async def finished_by(self, event_ids: Sequence[str]) -> list[TaskRow]:
        """The rows that one of these final events has ended."""
        ...

    async def unheard(self, *, silent_s: float, after: str | None, limit: int) -> list[Unheard]:
        """Up to `limit` tasks that wait for a job, with no event recorded for `silent_s`.

        In the order of their ids, above `after`.
        """
        ...

    async def resent(self, task_id: str, *, sequence: int, resends: int) -> None:
        """Note where the job of a task lies now, and how often it was sent again.

        That counts as a word of the task.
        """
        ...

    async def get(self, task_id: str) -> TaskRow | None:
        """One task, or None."""
        ...

    async def page(
        self,
        *,
        client_id: str | None,
        status: Status | None,
        workflow: str | None,
        cursor: str | None,
        limit: int,
    ) -> Page:
        """Tasks, newest first; of one client, or of all where `client_id` is None."""
        ...

    async def claim(
        self, client_id: str, key: str, fingerprint: bytes, task_id: str
    ) -> tuple[bytes, str]:
        """Take an Idempotency-Key for `task_id`, for 24 hours.

        Returns the fingerprint and task id that hold the key now: ours, or an earlier request's.
        """
        ...

    async def healthy(self) -> bool:
        """Whether the database answers now."""
        ...
