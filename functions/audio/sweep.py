"""jobs.audio.sweep: conversions whose time is over, and recordings that nobody waits for."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta

from functions._kit.consume import Tick, consume
from functions._kit.left_behind import STEP, messages_in_letters, waiting_since
from functions._kit.policy import Policy
from functions._kit.ports import DeadLetters, Limits, ObjectInfo, Objects, Stream, TaskStore
from functions.audio.contracts import (
    CONVERTED_PREFIX,
    INCOMING_PREFIX,
    TRANSCRIBE,
    AudioJob,
)

REMOVE_AFTER = timedelta(hours=1)
"""No recording that came later is looked at: its task may be on its way."""
JOBS = f"jobs.{TRANSCRIBE.function}.>"


@consume("jobs.audio.sweep", policy=Policy(every_s=600.0, timeout_s=1800.0, attempts=3))
async def sweep(
    tick: Tick,
    objects: Objects,
    store: TaskStore,
    stream: Stream,
    dead_letters: DeadLetters,
    limits: Limits,
) -> None:
    """Remove old conversions, the oldest of too many, and recordings of tasks that have ended."""
    found = [info async for info in objects.list(CONVERTED_PREFIX)]
    for keys in _steps(_too_old_or_too_many(found, tick.at, limits)):
        await objects.delete(keys)
    async for key in _left_behind(tick.at, objects, store, stream, dead_letters):
        await objects.delete([key])


def _too_old_or_too_many(found: list[ObjectInfo], at: datetime, limits: Limits) -> list[str]:
    """Keys of what has outlived its time, and of the oldest beyond the limit in bytes."""
    oldest = at - timedelta(seconds=limits.audio_cache_lifetime_s)
    room_bytes = limits.audio_cache_bytes
    gone = []
    for info in sorted(found, key=lambda info: info.modified_at or oldest, reverse=True):
        room_bytes -= info.size_bytes
        if room_bytes < 0 or (info.modified_at or oldest) <= oldest:
            gone.append(info.key)
    return gone


def _steps(keys: list[str]) -> Iterable[list[str]]:
    return (keys[at : at + STEP] for at in range(0, len(keys), STEP))


async def _left_behind(
    at: datetime,
    objects: Objects,
    store: TaskStore,
    stream: Stream,
    dead_letters: DeadLetters,
) -> AsyncIterator[str]:
    """Recordings whose task has ended, or that never became one."""
    # a job that waits may not have a row yet
    before = min(at, await waiting_since(JOBS, stream, at)) - REMOVE_AFTER
    kept: frozenset[str] | None = None
    async for info in objects.list(INCOMING_PREFIX):
        if info.modified_at is None or info.modified_at >= before:
            continue
        if await _is_over(info.key.removeprefix(INCOMING_PREFIX), store):
            kept = await _in_letters(dead_letters) if kept is None else kept
            if info.key not in kept:
                yield info.key


async def _is_over(task_id: str, store: TaskStore) -> bool:
    try:
        row = await store.get(str(uuid.UUID(task_id)))
    except ValueError:
        return True  # no task has such an id
    return row is None or row.status.final


async def _in_letters(dead_letters: DeadLetters) -> frozenset[str]:
    """The recordings that somebody may yet send again."""
    jobs = messages_in_letters(dead_letters, TRANSCRIBE.function, AudioJob)
    return frozenset([job.source_key.removeprefix("/") async for job in jobs])
