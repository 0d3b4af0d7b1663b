"""What was accepted against what is there: each broken promise as a count and a sentence."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise

from chaos.ledger import Found, Ledger, Processes, Size, TaskEntry

RANKS = {"queued": 0, "processing": 1, "completed": 2, "failed": 2, "cancelled": 2}
FINAL = {name for name, rank in RANKS.items() if rank == 2}
VIOLATIONS = (
    "lost", "stuck", "failed", "doubled", "wrong", "gone", "backwards", "untold", "dead",
    "broken", "leaked", "killed",
)  # fmt: skip
"""In the order of the line. Any of them above 0 is a failed run."""
MEMORY_FACTOR, MEMORY_MB = 1.5, 80.0
HANDLES = 48
TASKS = 24
"""A part may grow from its first quiet moment to its last by so much, whatever it lived through."""

Violation = tuple[str, str]
"""One of `VIOLATIONS`, and a sentence."""


def judge(ledger: Ledger, found: Found, processes: Processes) -> list[Violation]:
    """Every violation there is."""
    return [
        *_tasks(ledger, found),
        *_frames(ledger, found),
        *_alerts(ledger, found),
        *_promises(ledger, found),
        *_processes(processes),
    ]


def counts(violations: Sequence[Violation]) -> dict[str, int]:
    """How many of each."""
    seen = Counter(name for name, _ in violations)
    return {name: seen[name] for name in VIOLATIONS}


def _tasks(ledger: Ledger, found: Found) -> Iterator[Violation]:
    for task in ledger.tasks.values():
        name = f"task {task.task_id} ({task.kind})"
        row = found.rows.get(task.task_id)
        if row is None:
            yield "lost", f"{name} was accepted and is not there"
            continue
        if row.status not in FINAL:
            yield "stuck", f"{name} is {row.status} at the end"
        elif row.status != "completed":
            yield "failed", f"{name} is {row.status}: {row.error}"
        elif row.result != "ok":
            yield "wrong", f"{name}: {row.result}"
        if (finals := found.finals.get(task.task_id, 0)) > 1:
            yield "doubled", f"{name} has {finals} final events"
        if (results := found.results.get(task.task_id, 0)) > 1:
            yield "doubled", f"{name} has {results} results"
        if row.status in FINAL and task.callback and not ledger.heard.get(task.task_id):
            yield "untold", f"{name} is {row.status} and its webhook was never delivered"
        yield from _backwards(name, task, row.status)
    strangers = set(found.rows) - set(ledger.tasks)
    if len(strangers) > ledger.unsure_tasks:
        yield (
            "doubled",
            (
                f"{len(strangers)} tasks are nobody's, and {ledger.unsure_tasks} requests "
                f"were given up: {', '.join(sorted(strangers)[:5])}"
            ),
        )


def _backwards(name: str, task: TaskEntry, end: str) -> Iterator[Violation]:
    for how, told in (("GET", [*task.polled, end]), ("its events", task.streamed or [])):
        for before, after in pairwise(told):
            final = before in FINAL and after != before
            if final or RANKS[after] < RANKS[before]:
                yield "backwards", f"{name} went from {before} to {after} by {how}"
    if task.streamed is not None:
        finals = sum(status in FINAL for status in task.streamed)
        if finals > 1:
            yield "doubled", f"{name} told {finals} final events to one follower"
        if finals == 0 and end in FINAL:
            yield "lost", f"{name} is {end} and never told its follower so"


def _alerts(ledger: Ledger, found: Found) -> Iterator[Violation]:
    ids = Counter(alert.alert_id for alert in found.alerts)
    for alert in found.alerts:
        if alert.image != "ok":
            yield "gone", f"alert {alert.alert_id}: {alert.image}"
    for alert_id, count in ids.items():
        if count > 1:
            yield "doubled", f"alert {alert_id} is there {count} times"
    for alert_id, count in found.facts.items():
        if count > 1:
            yield "doubled", f"alert {alert_id} was told {count} times"
    for alert_id, count in ledger.streamed_alerts.items():
        if count > 1:
            yield "doubled", f"alert {alert_id} came {count} times to one follower"
    for alert_id in set(ids) - set(ledger.old_alerts) - set(ledger.streamed_alerts):
        yield "lost", f"alert {alert_id} never came to its follower"


def _frames(ledger: Ledger, found: Found) -> Iterator[Violation]:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for alert in found.alerts:
        seen[alert.captured_at][alert.label] += 1
    for captured_at in set(seen) - set(ledger.frames):
        yield "doubled", f"an alert of {captured_at}, when no frame was taken"
    for frame in ledger.frames.values():
        labels, wanted = seen[frame.captured_at], Counter(frame.labels)
        name = f"frame {frame.number} of {frame.captured_at}"
        if extra := labels - wanted:
            yield "doubled", f"{name} has too many alerts: {dict(extra)}"
        missing = wanted - labels
        if missing and (frame.accepted or labels):  # half of them is never right
            yield "lost", f"{name} lacks alerts: {dict(missing)}"


def _promises(ledger: Ledger, found: Found) -> Iterator[Violation]:
    for letter in found.letters:
        yield "dead", f"a dead letter: {letter}"
    for queue, count in found.waiting.items():
        if count:
            yield "stuck", f"{queue} still holds {count} messages"
    for answer in ledger.broken_answers:
        yield "broken", answer
    if ledger.forged:
        yield "wrong", f"{ledger.forged} webhooks were signed wrongly"


def _processes(processes: Processes) -> Iterator[Violation]:
    for name in processes.killed:
        yield "killed", f"{name} did not end within its grace period"
    for name in processes.left:
        yield "leaked", f"a process was left behind: {name}"
    for name in sorted({*processes.before, *processes.after}):
        before, after = processes.before.get(name), processes.after.get(name)
        if before is None or after is None:
            yield "leaked", f"{name} could not be measured"
            continue
        if (before.tasks is None) != (after.tasks is None):
            yield "leaked", f"{name}: its asyncio tasks could not be measured"
        for what, was, now, limit in _grown(before, after):
            if now > limit:
                yield "leaked", f"{name}: {what} grew from {was:g} to {now:g} (limit {limit:g})"


def _grown(before: Size, after: Size) -> Iterator[tuple[str, float, float, float]]:
    memory = before.memory_mb
    yield "memory in MB", memory, after.memory_mb, memory * MEMORY_FACTOR + MEMORY_MB
    yield "file handles", before.handles, after.handles, before.handles + HANDLES
    if before.tasks is not None and after.tasks is not None:
        yield "asyncio tasks", before.tasks, after.tasks, before.tasks + TASKS
