"""What was accepted and what clients were told, and what was found at the end: plain facts."""

from __future__ import annotations

import msgspec


class TaskEntry(msgspec.Struct, kw_only=True):
    """A task that was answered with 202."""

    task_id: str
    kind: str
    accepted_at: float
    callback: bool = False
    size: tuple[int, int] | None = None
    """Of the picture that must come out."""
    words: str = ""
    """With which the transcript must begin."""
    polled: list[str] = []
    """Its states as GET told them, each change once."""
    streamed: list[str] | None = None
    """Its states as its events told them, where they were followed."""


class FrameEntry(msgspec.Struct, kw_only=True):
    """A frame by its time of capture; without a 202 it may be there, or not."""

    captured_at: str
    number: int
    labels: tuple[str, ...]
    """What must be seen in it."""
    accepted: bool = False


class Ledger(msgspec.Struct, kw_only=True):
    """What clients know."""

    tasks: dict[str, TaskEntry] = {}
    frames: dict[str, FrameEntry] = {}
    accepted_at: list[float] = []
    """The moments of all 202s."""
    unsure_tasks: int = 0
    """Requests that were given up without a 202; each may have become a task all the same."""
    conversions: int = 0
    refusals: dict[str, int] = {}
    broken_answers: list[str] = []
    """Answers that no client should get, such as a 500."""
    heard: dict[str, int] = {}
    """How often each task's webhook was taken by its receiver."""
    old_alerts: list[str] = []
    """Alerts that were there before anybody followed them."""
    streamed_alerts: dict[str, int] = {}
    """How often each alert came to whoever followed them."""
    forged: int = 0
    """Webhooks whose signature was wrong."""


class Row(msgspec.Struct, kw_only=True):
    """A task as the system tells it at the end."""

    status: str
    error: str = ""
    result: str = "ok"
    """What is wrong with it, or "ok"."""


class Finding(msgspec.Struct, kw_only=True):
    """An alert as the system tells it at the end."""

    alert_id: str
    captured_at: str
    label: str
    image: str = "ok"
    """What is wrong with it, or "ok"."""


class Size(msgspec.Struct, kw_only=True):
    """How much a part holds."""

    memory_mb: float
    handles: int
    tasks: int | None = None
    """Of the event loop, where it has one."""


class Found(msgspec.Struct, kw_only=True):
    """What is there at the end."""

    rows: dict[str, Row] = {}
    finals: dict[str, int] = {}
    """Final events of each task in EVENTS."""
    results: dict[str, int] = {}
    """Result files of each task in the bucket."""
    alerts: list[Finding] = []
    facts: dict[str, int] = {}
    """Facts of each alert in EVENTS."""
    letters: list[str] = []
    waiting: dict[str, int] = {}
    """Messages that the queues still hold."""


class Processes(msgspec.Struct, kw_only=True):
    """What became of the processes."""

    before: dict[str, Size] = {}
    after: dict[str, Size] = {}
    killed: list[str] = []
    """Parts that were asked to end and had to be killed."""
    left: list[str] = []
    """Processes that outlived everything."""
