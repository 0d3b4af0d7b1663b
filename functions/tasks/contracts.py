"""Tasks: what takes time, from the 202 to its final state. Shared by every domain."""

from __future__ import annotations

import logging
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from functions._kit.messages import NO_JSON, Answer, Message, Word

log = logging.getLogger(__name__)


class Status(StrEnum):
    """A task only moves forward: queued, processing, then one final state."""

    QUEUED = "queued"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def rank(self) -> int:
        """0 queued, 1 processing, 2 final."""
        return {"queued": 0, "processing": 1}.get(self.value, 2)

    @property
    def final(self) -> bool:
        """Whether nothing can follow."""
        return self.rank == 2


class TaskError(Message, frozen=True, kw_only=True):
    """Why a task failed: a stable word and a sentence."""

    code: str
    message: str


class Step(Message, frozen=True, kw_only=True):
    """One function on a task's way, and the share of the task's progress that it makes."""

    function: Annotated[str, Meta(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)+$(?!\n)")]
    share: Annotated[float, Meta(ge=0, le=1)]


class Task(Message, frozen=True, kw_only=True):
    """What is fixed about a task from its first moment."""

    task_id: Word
    client_id: str
    workflow: str
    priority: int
    created_at: datetime
    callback_url: str | None = None


class Job(Message, frozen=True, kw_only=True):
    """A task at one of its steps, on `jobs.<function>.<band>`. Domains add their own fields."""

    task: Task
    steps: Annotated[tuple[Step, ...], Meta(min_length=1)]
    """This step first, then those still to come."""
    done: float = 0.0
    """Share of the task that earlier steps have finished."""
    result: dict[str, Any] = msgspec.field(default_factory=dict)
    """What earlier steps have found; each step's answer is added."""


class KeptJob(Message, frozen=True, kw_only=True):
    """The job that a task waits for, kept so that it can be sent again if its queue loses it."""

    payload: msgspec.Raw
    """A `Job` as it was published, in JSON."""
    sequence: int = 0
    """Where it lies in its queue; 0 where that is not known."""


class TaskEvent(Message, frozen=True, kw_only=True):
    """A fact about a task, on `events.task.<id>`."""

    event_id: str
    task: Task
    status: Status
    at: datetime
    progress: float = 0.0
    attempts: int = 0
    result: dict[str, Any] | None = None
    error: TaskError | None = None
    waits_for: KeptJob | None = None
    """With the event that begins a step."""


def read_event(data: bytes) -> TaskEvent | None:
    """The event, or None for what is none: whoever reads on behind it would end here, too."""
    try:
        return _decode_event(data)
    except NO_JSON as error:
        log.warning("a message among a task's events is none: %s", error)
        return None


_decode_event = msgspec.json.Decoder(TaskEvent).decode


class TaskRow(Message, frozen=True, kw_only=True):
    """A task as the database has it."""

    task: Task
    status: Status
    progress: float
    attempts: int
    started_at: datetime | None = None
    finished_at: datetime | None = None
    result: dict[str, Any] | None = None
    error: TaskError | None = None
    final_event_id: str | None = None


class TaskAccepted(Answer, frozen=True, kw_only=True):
    """The answer to a request that became a task."""

    task_id: str
    status: Status
    status_url: str


class WebhookJob(Message, frozen=True, kw_only=True):
    """A final state to be told to the task's callback_url."""

    row: TaskRow


class DeadLetter(Message, frozen=True, kw_only=True):
    """A job that ran out of attempts, or a message that nobody can read."""

    subject: str
    function: str
    code: str
    message: str
    attempts: int
    at: datetime
    payload: bytes


WEBHOOK_SUBJECT = "jobs.tasks.webhook"
STATUS_PATH = "/api/v1/media/processingTasks/"
TASK_OWNERS = ("media:write", "audio:write")
"""Scopes of those who begin tasks. Which tasks a caller sees is another question."""
TASK_READERS = ("media:read", "audio:write")
HIGH, NORMAL, LOW = "high", "normal", "low"


def band(priority: int) -> str:
    """The subject's last word for a priority of 1 (least) to 10."""
    return HIGH if priority >= 8 else NORMAL if priority >= 4 else LOW


def job_subject(function: str, priority: int) -> str:
    """Where a job of `function` is published."""
    return f"jobs.{function}.{band(priority)}"


def job_id(job: Job) -> str:
    """The message id of a job: each step of a task is in the queue once."""
    task_id = job.task.task_id
    return f"{task_id}:{job.steps[0].function}" if job.done else task_id


def event_subject(task_id: str) -> str:
    """Where a task's events are published."""
    return f"events.task.{task_id}"


def final_id(task_id: str) -> str:
    """The message id that all final events of a task share: the stream keeps the first."""
    return f"{task_id}:final"
